"""All commands: they start without Keras, end as a shell expects, and stand behind one script."""

import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from mnist_minimal.cli import blame
from mnist_minimal.cli.main import COMMANDS, command_module, main
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from tests.conftest import REPOSITORY

HEAVY = {"tensorflow", "keras", "pandas", "matplotlib", "scipy", "sklearn", "h5py"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_without_anything_heavy(run_python, command):
    program = f"""
import sys
from mnist_minimal.cli import blame
from mnist_minimal.cli.main import command_module
try:
    command_module({command!r}).main(["--help"])
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
from typing import Any
from mnist_minimal.study import ledger
ledger.frame(Path("none.csv"))
print({"tensorflow", "keras"} & set(sys.modules))
"""
    assert run_python("-c", program).stdout.strip() == "set()"


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=() if name in ("trials", "models") else pytest.mark.slow) for name in COMMANDS]
)
def test_the_script_and_the_module_are_the_same(run_python, command):
    by_script = run_python("-m", "mnist_minimal", command, "--help")
    assert by_script.returncode == 0, by_script.stderr
    assert by_script.stdout == run_python("-m", f"mnist_minimal.{command}", "--help").stdout


def test_the_script_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for command, does in COMMANDS.items():
        assert f"  {command} " in "".join(line for line in lines if line.endswith(f"  {does}"))


def test_every_command_has_a_main():
    assert all(callable(command_module(command).main) for command in COMMANDS)


def raising(error: BaseException):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("expected a, found b; do c"), 2, "error: expected a, found b; do c\n"),
        (
            PermissionError(13, "Permission denied", "results/x.csv"),
            2,
            "error: results/x.csv: Permission denied; get access to it or choose another place\n",
        ),
        (OSError("odd"), 2, "error: odd; check the names and files that you gave\n"),
        (
            UserError("a name with a\nline end\x1b[31m and \udcff"),
            2,
            "error: a name with a line end\\x1b[31m and \\udcff\n",
        ),
        (MemoryError(), 1, "error: there is not enough memory; end other programs, or do less at once (--jobs)\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_an_error_is_one_line(capsys, error, status, line):
    assert run(raising(error)) == status
    assert capsys.readouterr().err == line


@pytest.fixture
def quiet(monkeypatch, tmp_path_factory):
    """An environment in which nothing of the user's differs from the default."""
    for setting in blame.settings():
        monkeypatch.delenv(setting.partition("=")[0])
    # Those of pytest name files.
    monkeypatch.setattr(sys, "argv", ["mnist-minimal"])
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def dividing(file: Path):
    """A `main` in a file of this name that divides by zero."""
    scope: dict[str, Any] = {}
    exec(compile("def main(arguments):\n    raise ZeroDivisionError('division\\nby zero')\n", str(file), "exec"), scope)
    return scope["main"]


@pytest.mark.usefixtures("quiet")
def test_a_defect_is_one_line_that_says_so(capsys):
    assert run(dividing(blame.PACKAGE / "trials.py")) == 1
    assert capsys.readouterr().err == (
        "error: ZeroDivisionError: division by zero; this is a defect of mnist_minimal: run the command again with "
        "--debug and report what it prints\n"
    )


@pytest.mark.usefixtures("quiet")
def test_what_is_not_as_by_default_is_named_before_a_defect_is_assumed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    (tmp_path / "nets.py").touch()
    assert run(dividing(tmp_path / "nets.py")) == 1
    line = capsys.readouterr().err
    assert "defect" not in line
    assert line.startswith(
        f"error: ZeroDivisionError: division by zero; what is not as by default: {tmp_path}/nets.py, KERAS_BACKEND=jax;"
    )


KERAS_DEFAULTS = (
    '{"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}'
)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("arguments", "variables", "keras_json", "named"),
    [
        (["--model", "mynets:tiny"], {}, "", "mynets:tiny"),
        (["--model=mynets:tiny"], {}, "", "mynets:tiny"),
        (["--data", "/mine"], {}, "", "/mine"),
        (["model.h5"], {}, "", "model.h5"),
        ([], {"MNIST_MINIMAL_DATA": "/mine"}, "", "MNIST_MINIMAL_DATA=/mine"),
        ([], {"MNIST_MINIMAL_SIMD": "avx2"}, "", "MNIST_MINIMAL_SIMD=avx2"),
        ([], {"PYTHONPATH": "/mine"}, "", "PYTHONPATH=/mine"),
        ([], {}, KERAS_DEFAULTS.replace("32", "16"), "keras.json"),
        ([], {}, "{", "keras.json"),
        (["--model", "sep997", "--dataset", "digits"], {"HARMLESS": "1"}, KERAS_DEFAULTS, ""),
    ],
)
def test_whatever_is_the_user_s_own_is_named(capsys, monkeypatch, tmp_path, arguments, variables, keras_json, named):
    monkeypatch.chdir(tmp_path)
    Path("model.h5").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if keras_json:
        Path(".keras").mkdir()
        Path(".keras/keras.json").write_text(keras_json)
    assert run(dividing(blame.PACKAGE / "trials.py"), arguments) == 1
    line = capsys.readouterr().err
    assert ("this is a defect of mnist_minimal" in line) == (not named)
    assert f"what is not as by default: {tmp_path}/.keras/" * (named == "keras.json") in line
    assert named in line


@pytest.mark.parametrize(
    ("error", "line"),
    [(UserError("do c"), "error: do c"), (ZeroDivisionError("odd"), "error: ZeroDivisionError: odd;")],
)
def test_debug_shows_the_traceback_and_the_same_line(capsys, error, line):
    def main(arguments):
        command_parser("A command.").parse_args(arguments)
        raise error

    assert run(main, []) in (1, 2)
    short = capsys.readouterr().err
    assert run(main, ["--debug"]) in (1, 2)
    long = capsys.readouterr().err
    assert short.startswith(line)
    assert long.startswith("Traceback (most recent call last):\n")
    assert long.endswith(short)
    # What one command asked for is not asked for by the next.
    run(main, [])
    assert capsys.readouterr().err == short


def test_every_command_takes_debug_before_and_after_its_name(capsys):
    for arguments in (["--debug", "compare", "a"], ["compare", "a", "--debug"], ["compare", "--debug", "a"]):
        assert run(main, arguments) == 2
        assert capsys.readouterr().err.startswith("Traceback")
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            run(main, [command, "--help"])
        assert "--debug" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trials", "--model", "sep997", "--run", "5"], "--run; did you mean --runs?"),
        # What is then missing is not what is wrong.
        (["trials", "--modle=sep997"], "--modle; did you mean --model?"),
        (["evaluate", "--dat", "digits", "x.h5"], "--dat; did you mean --dataset or --data or --dataset-name?"),
        (["compare", "a", "--qqqq"], "--qqqq\n"),
    ],
)
def test_an_option_is_given_by_its_full_name(capsys, arguments, meant):
    with pytest.raises(SystemExit) as end:
        run(main, arguments)
    assert end.value.code == 2
    assert f"error: expected one of the options that --help lists, found {meant}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "package"),
    [({"KERAS_BACKEND": "nonsense"}, "keras"), ({"KERAS_BACKEND": "torch"}, "keras")],
)
def test_a_package_that_can_not_be_imported_is_named(run_python, environment, package):
    refused = run_python("-m", "mnist_minimal", "summary", "sep997", **environment)
    assert refused.returncode == 1, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: the package {package} can't be imported (")
    assert "KERAS_BACKEND" in line


@pytest.mark.parametrize(
    "fault", ["raise OSError('libcudart.so: cannot\\nopen')", "1 / 0", "import nothing_of_the_kind", "def f(:"]
)
def test_a_file_of_the_users_that_takes_the_place_of_a_package_is_named(run_python, tmp_path, fault):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/scipy.py").write_text(fault)
    (tmp_path / "accuracies.txt").write_text("0.98\n0.99\n")
    (tmp_path / "more.txt").write_text("0.98\n0.99\n")
    path = f"{tmp_path / 'modules'}:{REPOSITORY}"
    refused = run_python("-m", "mnist_minimal", "compare", "accuracies.txt", "more.txt", PYTHONPATH=path)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.endswith(
        f"; {tmp_path}/modules/scipy.py takes the place of the module scipy; rename it, or run the command in another "
        "folder"
    )


def test_warnings_are_kept_for_debugging(capsys):
    def main(arguments):
        command_parser("A command.").parse_args(arguments)
        warnings.warn("a hint to programmers", RuntimeWarning, stacklevel=1)
        return 0

    assert run(main, []) == 0
    assert capsys.readouterr().err == ""
    with pytest.warns(RuntimeWarning, match="a hint"):
        run(main, ["--debug"])


FULL = "error: standard output: No space left on device; all the rest was done; make room or send it elsewhere\n"
PRINTING = "from mnist_minimal.cli.run import run; import sys; sys.exit(run(lambda _: print({}) or 0))"


def test_what_the_terminal_can_not_show_is_escaped(run_python):
    shown = run_python("-c", PRINTING.format(r"'0.98761 \u00b1 \U0001f600 \udcff'"), PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "0.98761 \\xb1 \\U0001f600 \\udcff\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("streams", "status", "errors"),
    [
        ("> /dev/full", 2, FULL),
        ("2> /dev/full", 0, ""),
        (">&- 2>&-", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_streams_that_take_nothing_end_in_a_status(tmp_path, streams, status, errors):
    program = PRINTING.format("'x' * 100_000")
    done = subprocess.run(
        ["bash", "-c", f'{shlex.quote(sys.executable)} -c "$1" {streams}', "bash", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, errors)


def test_no_file_is_opened_under_the_number_of_a_closed_stream(tmp_path):
    program = PRINTING.format(f"open({str(tmp_path / 'results.csv')!r}, 'w').fileno(), file=open(sys.argv[1], 'w')")
    subprocess.run(
        [
            "bash",
            "-c",
            f'{shlex.quote(sys.executable)} -c "$1" "$2" <&- >&- 2>&-',
            "bash",
            program,
            tmp_path / "number",
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=600,
        check=True,
    )
    assert int((tmp_path / "number").read_text()) > 2
