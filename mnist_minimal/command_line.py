"""What all commands share: how they end, and the one console script that they stand behind."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from mnist_minimal import __version__
from mnist_minimal.errors import UserError

COMMANDS = {
    "trials": "train a model again and again and record every trial",
    "models": "list the published models, what was published of them and what the results say",
    "objectives": "check results against what the sources wanted of their models",
    "evaluate": "accuracy, loss and confusion matrix of saved models",
    "compare": "compare studies: a table, tests of each pair, distributions in one picture",
    "plots": "draw the distributions and training curves of recorded trials",
    "augment": "draw what a model's recipe does to its training images",
    "summary": "print a model's layers: shapes, parameters, multiply-accumulates, receptive field",
    "report": "write the results as one HTML page, with a digit to draw",
}


def run(main: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command's `main` and turns what the user can mend or has caused into one line and an exit status.

    Returns:
        The command's own status; 2 after a `UserError`; 130 after Ctrl-C, 141 where the reader of the output went away.
    """
    # TensorFlow greets with lines about what its build could have used; its errors come as exceptions anyway.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Python would complain about the closed pipe once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """`mnist-minimal COMMAND ...`: the same as `python -m mnist_minimal.COMMAND ...`."""
    parser = argparse.ArgumentParser(
        prog="mnist-minimal",
        description=sys.modules["mnist_minimal"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "".join(f"  {name:<10}{help}\n" for name, help in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"mnist_minimal {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="the command's own options; try --help"
    )
    parsed = parser.parse_args(arguments)
    command = importlib.import_module(f"mnist_minimal.{parsed.command}")
    return command.main(parsed.options)


def console_script() -> int:
    """The entry point of the installed `mnist-minimal`."""
    return run(main)
