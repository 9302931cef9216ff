"""All commands: they start without Keras, end as a shell expects, and stand behind one script."""

import importlib

import pytest

from mnist_minimal.command_line import COMMANDS, main, run
from mnist_minimal.errors import UserError

HEAVY = {"tensorflow", "keras", "pandas", "matplotlib", "scipy", "sklearn", "h5py"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_without_anything_heavy(run_python, command):
    program = f"""
import sys
from mnist_minimal.{command} import main
try:
    main(["--help"])
finally:
    print("heavy:", {HEAVY!r} & set(sys.modules))
"""
    finished = run_python("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert f"usage: python -m mnist_minimal.{command}" in finished.stdout
    assert finished.stdout.strip().endswith("heavy: set()")


def test_reading_a_csv_imports_no_keras(run_python):
    program = """
import sys
from pathlib import Path
from mnist_minimal import ledger
ledger.frame(Path("none.csv"))
print({"tensorflow", "keras"} & set(sys.modules))
"""
    assert run_python("-c", program).stdout.strip() == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_script_and_the_module_are_the_same(run_python, command):
    by_script = run_python("-m", "mnist_minimal", command, "--help")
    assert by_script.returncode == 0, by_script.stderr
    assert by_script.stdout == run_python("-m", f"mnist_minimal.{command}", "--help").stdout


def test_the_script_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)


def test_every_command_has_a_main():
    assert all(callable(importlib.import_module(f"mnist_minimal.{command}").main) for command in COMMANDS)


def raising(error: BaseException):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("expected a, found b; do c"), 2, "error: expected a, found b; do c\n"),
        (PermissionError(13, "Permission denied", "results/x.csv"), 2, "error: results/x.csv: Permission denied\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, error, status, line):
    assert run(raising(error)) == status
    assert capsys.readouterr().err == line


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))
