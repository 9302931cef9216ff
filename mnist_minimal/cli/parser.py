"""The parser that every command begins with."""

import argparse
import difflib
import re
import sys
import warnings
from contextvars import ContextVar
from typing import Any, NoReturn

from mnist_minimal.errors import plain

# Whether `--debug` was given; `run` has to know even where a command fails before it has its options.
debug: ContextVar[bool] = ContextVar("debug", default=False)


class Debug(argparse.Action):
    """The option `--debug`."""

    def __call__(self, *_: Any) -> None:
        debug.set(True)
        warnings.simplefilter("default")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes its options by their full names alone.

    What an abbreviation means would change with every option that is added.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        # It quotes arguments, which may have line ends in them.
        super().error(plain(message))


class CommandParser(Parser):
    """A command's parser, which names the option that an unknown one resembles."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Before the others, which may lack one that is required just because its name is not right.
        for argument in sys.argv[1:] if args is None else args:
            if argument == "--":
                break
            name = argument.partition("=")[0]
            if re.fullmatch(r"--[a-z-]+", name) and name not in self._option_string_actions:
                longer = [option for option in self._option_string_actions if option.startswith(name)]
                similar = longer or difflib.get_close_matches(name, self._option_string_actions, 1)
                meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
                self.error(f"expected one of the options that --help lists, found {name}{meant}")
        return super().parse_known_args(args, namespace)


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Adds the option that shows what an error otherwise hides."""
    parser.add_argument("--debug", action=Debug, nargs=0, help="show the traceback of an error, and warnings")


def command_parser(description: str | None, name: str | None = None) -> argparse.ArgumentParser:
    """A command's parser, with the options that all commands have.

    Args:
        description: What the command does, its lines as they are to be printed.
        name: The name of its module in this package; None for a script.
    """
    parser = CommandParser(
        prog=name and f"python -m mnist_minimal.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(parser)
    return parser
