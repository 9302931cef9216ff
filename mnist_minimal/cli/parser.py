"""The parser that every command begins with."""

import argparse
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
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        # It quotes arguments, which may have line ends in them.
        super().error(plain(message))


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Adds the option that shows what an error otherwise hides."""
    parser.add_argument("--debug", action=Debug, nargs=0, help="show the traceback of an error, and warnings")


def command_parser(description: str | None, name: str | None = None) -> argparse.ArgumentParser:
    """A command's parser, with the options that all commands have.

    Args:
        description: What the command does, its lines as they are to be printed.
        name: The name of its module in this package; None for a script.
    """
    parser = Parser(
        prog=name and f"python -m mnist_minimal.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(parser)
    return parser
