"""The console script `mnist-minimal`, behind which all commands stand."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from mnist_minimal.cli.parser import Parser, add_debug
from mnist_minimal.cli.run import run
from mnist_minimal.version import version

COMMANDS = {
    "trials": "train a model again and again and record every trial",
    "status": "how far trials are, asked from another terminal: done, running, stale, failed, time left",
    "models": "list the published models, what was published of them and what the results say",
    "search": "search for small networks and the recipes to train them by",
    "verify": "train recorded trials again and compare them with what was recorded, bit by bit",
    "merge": "join studies that several machines have trained apart",
    "objectives": "check results against what the sources, where the models were published, wanted of them",
    "teacher": "make the file of a teacher of trained models, for trials --teacher",
    "evaluate": "accuracy, loss and confusion matrix of saved models",
    "compare": "compare studies: a table, tests of each pair, distributions in one picture",
    "plots": "draw the distributions and training curves of recorded trials",
    "augment": "draw what a model's recipe does to its training images",
    "summary": "print a model's layers: shapes, parameters, multiply-accumulates, receptive field",
    "report": "write the results as one HTML page, with a digit to draw",
}


def command_module(name: str) -> ModuleType:
    """The module of a command: the one of its name, but for `models`, which is a package."""
    return importlib.import_module(f"mnist_minimal.{'models.__main__' if name == 'models' else name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """`mnist-minimal COMMAND ...`: the same as `python -m mnist_minimal.COMMAND ...`."""
    parser = Parser(
        prog="mnist-minimal",
        description=sys.modules["mnist_minimal"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "".join(f"  {name:<{max(map(len, COMMANDS))}}  {help}\n" for name, help in COMMANDS.items()),
    )
    add_debug(parser)
    parser.add_argument("--version", action="version", version=f"mnist_minimal {version()}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="the command's own options; try --help"
    )
    parsed = parser.parse_args(arguments)
    return command_module(parsed.command).main(parsed.options)


def console_script() -> int:
    """The entry point of the installed `mnist-minimal`."""
    return run(main)
