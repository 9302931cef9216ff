"""Whatever a user gives a command, it ends in a status and one line that says what to do, never in a traceback."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_minimal import plots
from mnist_minimal.cli.main import COMMANDS, command_module
from mnist_minimal.cli.run import run
from mnist_minimal.study import ledger
from tests.analysis.test_plots import csv as study  # noqa: F401  A study of five trials with histories.
from tests.conftest import REPOSITORY
from tests.study.test_ledger import TRIAL, append_row

MODULE = """
import sys
import keras
from keras import layers

def chain(*inner):
    return keras.Sequential([keras.Input((28, 28, 1)), *inner, layers.Flatten(), layers.Dense(10, "softmax")])

def a_number(): return 3
def ends(): sys.exit(0)
def fails(): raise RuntimeError("no\\nway")
def takes(more): return chain()
value = 3
"""


@pytest.fixture
def folder(study, tmp_path, monkeypatch):  # noqa: F811
    """A place with a study and all that can stand where a file is expected; the commands run in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("file").write_text("hello")
    Path("empty.csv").touch()
    Path("binary.csv").write_bytes(bytes(range(128, 256)) + b"\n")
    Path("folder.csv").mkdir()
    Path("dangling.csv").symlink_to("nowhere")
    os.mkfifo("pipe.csv")
    with open("huge.csv", "wb") as file:
        file.truncate(1 << 40)
    for name in ("accuracies.txt", "accuracies.csv"):
        Path(name).write_text("0.98\n0.99\n")
    Path("user_models.py").write_text(MODULE)
    Path("user_ends.py").write_text("import sys\nsys.exit(0)\n")
    Path("user_broken.py").write_text("def f(:\n")
    Path("user_lacks.py").write_text("import nothing_of_the_kind\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("user_")]:
        del sys.modules[name]


def called(command, arguments, capsys):
    """The status of a command, and the last line of what it says of its errors."""
    main = command_module(command).main
    try:
        status = run(main, arguments)
    except SystemExit as end:
        status = end.code
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = errors.splitlines()
    # Only argparse has more to say: how the command is used.
    assert len(lines) == 1 or lines[0].startswith(("usage:", "left out:"))
    return status, lines[-1]


NO_FILE = "expected a file, found a folder, a pipe or a device; check the name"

NOT_A_CSV = {
    "none.csv": "none.csv: found no such file, expected a CSV .*; run mnist_minimal.trials first, or name another",
    "empty.csv": "empty.csv: found no finished trial in it, expected a CSV with at least one; run",
    "binary.csv": "binary.csv: found bytes of no format .* 80818283, expected a CSV of trials, .*; name another file",
    "folder.csv": f"folder.csv: {NO_FILE}",
    "pipe.csv": f"pipe.csv: {NO_FILE}",
    "dangling.csv": "dangling.csv: found no such file, expected .*; run",
    "huge.csv": "huge.csv: expected a file of at most 2,000,000,000 bytes, found a larger one; check the name",
    "/dev/zero": "/dev/zero: expected the CSV of a study, found a name without .csv; name the file OUT/STUDY.csv",
    "file/x.csv": r"file/x.csv: can't be read \(Not a directory\); get access or name another",
    "file": "file: expected the CSV of a study, found a name without .csv",
    "accuracies.csv": "accuracies.csv: found a text that begins with '0.98', expected a CSV of trials, its first line",
}
MODELS = "expected one of the models .*, or one of your own as module:function"
CASES = [
    *(("plots", [name], complaint) for name, complaint in NOT_A_CSV.items()),
    ("plots", [], "found no CSV of trials in runs, expected one; name one, or run mnist_minimal.trials first"),
    ("plots", ["sep997.csv", "--out", "file"], "file: expected a folder for the pictures, found a file; name another"),
    ("plots", ["sep997.csv", "--out", "pipe.csv"], "pipe.csv: expected a folder for the pictures, found a file"),
    ("plots", ["--diagram", "../../x"], MODELS),
    *(
        ("compare", [name, "sep997.csv"], f"{name}: found no file of this name and no study in runs")
        for name in ("none.csv", "folder.csv", "pipe.csv", "dangling.csv", "/dev/zero", "file/x.csv", "")
    ),
    (
        "compare",
        ["empty.csv", "sep997.csv"],
        "empty.csv: found an empty file, expected the CSV of a .*; name another",
    ),
    (
        "compare",
        ["binary.csv", "sep997.csv"],
        "binary.csv: found bytes of .* 80818283, expected .*; name another",
    ),
    (
        "compare",
        ["huge.csv", "sep997.csv"],
        "huge.csv: expected a file of at most 2,000,000,000 bytes, found a larger one",
    ),
    (
        "compare",
        ["file", "sep997.csv"],
        "file: found a text .*, expected the CSV of a study, or accuracies",
    ),
    ("compare", ["sep997.csv"], "expected two studies or more to compare, found 1; name another"),
    ("compare", ["sep997.csv", "./sep997.csv"], "sep997.csv: expected every study once, found it twice; leave one out"),
    ("compare", ["sep997.csv", "accuracies.txt", "--out", "x.jpg"], "x.jpg: expected a file that ends in .png"),
    ("compare", ["sep997.csv", "accuracies.txt", "--out", ""], r"\.: expected a file that ends in .png"),
    ("compare", ["sep997.csv", "accuracies.txt", "--out", "/dev/null"], "/dev/null: expected a file that ends in .png"),
    ("compare", ["sep997.csv", "accuracies.txt", "--out", "/proc/x.png"], r"/proc/x.png: can't be written \("),
    ("compare", ["sep997.csv", "accuracies.txt", "--out", "file/x.png"], r"file/x.png: can't be written \("),
    *(
        (
            "report",
            ["--results", name],
            f"{name}: found no finished trial in it, expected CSVs with finished trials; run mnist_minimal.tri",
        )
        for name in ("none", "file", "pipe.csv", "folder.csv")
    ),
    ("report", ["--results", ".", "--out", ""], r"\.: expected a file to write, found a folder; name a file in it"),
    ("report", ["--results", ".", "--out", "/dev/full"], "/dev/full: expected a file to write, found a device"),
    ("report", ["--results", ".", "--out", "file/x"], r"file/x: can't be written \(.*; make room or access"),
    ("augment", ["sep997"], "expected a model whose recipe augments its images, found sep997, .* those that do: "),
    ("augment", ["pyramid3762", "--seed", "-1"], "expected a seed from 0 to .* found -1 and 1"),
    ("augment", ["pyramid3762", "--epoch", str(2**64)], "expected .* an epoch from 1 to 1000000000, found 0 and 18"),
    ("augment", ["pyramid3762", "--epoch", "x"], "argument --epoch: invalid int value: 'x'"),
    ("augment", ["pyramid3762", "--out", "x.jpg"], "x.jpg: expected a file that ends in .png"),
    ("augment", ["pyramid3762", "--dataset", "mnist", "--data", "none"], "none: found nothing there, .* check --data"),
    (
        "augment",
        ["user_models:a_number"],
        "user_models:a_number: expected a mnist_minimal.recipes.Recipe .* add it there",
    ),
    ("objectives", [], "expected the names of models, or --all; found neither"),
    ("objectives", ["--all", "sep997"], "expected the names of models, or --all; found both"),
    ("objectives", ["../../x"], "expected models out of .* found '../../x'"),
    ("models", ["extra"], "unrecognized arguments: extra"),
    ("models", ["of\nthree\x1b[31m\nlines"], r"unrecognized arguments: of three\\x1b\[31m lines"),
    ("models", ["--results", "bad"], "bad/sep997.csv, line 2: expected a trial, found 1 fields instead of 21; fix"),
    ("objectives", ["sep997", "--results", "bad"], "bad/sep997.csv, line 2: expected a trial"),
    ("report", ["--results", "bad"], "bad/sep997.csv, line 2: expected a trial"),
    ("summary", [], "one of the arguments MODEL_OR_FILE --model is required"),
    ("summary", ["--model", ""], f"{MODELS}.* found ''"),
    ("summary", ["--model", "../../x"], f"{MODELS}.* found '../../x'"),
    (
        "summary",
        ["file"],
        "file: found a text .*, expected a model saved by Keras .*; name the",
    ),
    (
        "summary",
        ["none.h5"],
        "none.h5: found no file of this name, .*; the models with names are",
    ),
    ("summary", ["user_models:a_number"], "found int; let the function return the model"),
    (
        "summary",
        ["user_models:ends"],
        r"found that the function fails \(SystemExit: 0; user_models.py, line \d+\); fix",
    ),
    ("summary", ["user_models:fails"], r"found that the function fails \(RuntimeError: no way; user_models.py, line"),
    ("summary", ["user_models:takes"], r"found that the function fails \(TypeError: takes\(\) missing 1"),
    ("summary", ["user_models:value"], "expected a function value in .*user_models.py, found int"),
    ("summary", ["user_models:none"], "expected a function none in .*user_models.py, found none"),
    ("summary", ["user_ends:f"], r"user_ends:f: the module can't be imported \(SystemExit: 0; user_ends.py, line 2\)"),
    ("summary", ["user_broken:f"], r"user_broken:f: the module can't be imported \(SyntaxError: .*; fix it"),
    ("summary", ["user_lacks:f"], r"the module can't be imported \(ModuleNotFoundError: No module named 'nothing_of"),
    ("summary", ["user_none:f"], "expected a module user_none, found no user_none; run the command in the folder"),
    ("evaluate", ["x.h5", "--model", "nope"], MODELS),
    (
        "evaluate",
        ["x.h5", "--data", "none.npz"],
        "none.npz: found nothing there, expected an .npz .* check --data",
    ),
    (
        "evaluate",
        ["x.h5", "--data", "folder.csv"],
        "folder.csv: found no train-images-idx3-ubyte or .*, but nothing; expected the four",
    ),
    (
        "evaluate",
        ["x.h5", "--data", "file"],
        "file: found a text that begins with .*, expected an .npz in the layout of keras.datasets.mnist",
    ),
    ("evaluate", ["x.h5", "--dataset", "digits", "--data", "x"], "leave out --data x"),
    ("evaluate", ["none.h5", "--dataset", "digits"], "none.h5: found no file of this name, expected one of a model"),
    (
        "evaluate",
        ["file", "--dataset", "digits"],
        "file: found a text .*, expected a model saved by Keras",
    ),
    ("evaluate", ["folder.csv", "--dataset", "digits"], f"folder.csv: {NO_FILE}"),
    ("evaluate", ["pipe.csv", "--dataset", "digits"], f"pipe.csv: {NO_FILE}"),
    ("trials", [], "the following arguments are required: --model"),
    ("trials", ["--model", "nope"], MODELS),
    ("trials", ["--model", "sep997", "--runs", "0"], "expected a whole number of at least 1, found '0'"),
    ("trials", ["--model", "sep997", "--runs", "\u0661"], "expected a whole number of at least 1, found '\u0661'"),
    ("trials", ["--model", "sep997", "--seed", "4294967296"], "expected a whole number from 0 to 4294967295"),
    (
        "trials",
        ["--model", "sep997", "--seed", "4294967295", "--runs", "2"],
        "expected seeds up to 4294967295, found 2 runs from 4294967295; lower either",
    ),
    ("trials", ["--model", "sep997", "--until", "99"], "expected an accuracy above 0 and at most 1, such as 0.99"),
    ("trials", ["--model", "sep997", "--data", "none"], "none: found nothing there, expected an .npz"),
    ("trials", ["--model", "user_models:fails"], "expected a mnist_minimal.recipes.Recipe as RECIPES"),
    ("trials", ["--model", "sep997", "--dataset", "digits", "--out", "file"], "file.*choose another folder with --out"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "complaint"), CASES, ids=[" ".join([case[0], *case[1]])[:60] for case in CASES]
)
def test_an_error_is_one_line_that_says_what_to_do(folder, capsys, command, arguments, complaint):
    (folder / "bad").mkdir()
    (folder / "bad/sep997.csv").write_text(f"{ledger.HEADER}\ndamaged\n")
    before = sorted(folder.rglob("*"))
    status, line = called(command, arguments, capsys)
    assert status in (1, 2)
    assert re.search(rf"^(error: |python -m mnist_minimal.{command}: error: ).*{complaint}", line), line
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


HISTORY = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n"


@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        (HISTORY, "found the columns epoch,.* and 0 epochs, expected epoch,.* and an epoch or more; restore the file"),
        (
            f"{HISTORY}0,x,0.01,1,0.9,1\n",
            "found a row that is no epoch .*, expected the history of a trial; rest",
        ),
        (f"{HISTORY}0,nan,0.01,1,0.9,1\n", "found nan in accuracy, expected numbers from 0 to 1; restore the file"),
        (
            f"{HISTORY}0,0.9,0.01,1,,1\n",
            "found a row that is no epoch .*, expected the history of a trial; rest",
        ),
        (f"{HISTORY}1e300,0.9,0.01,1,0.9,1\n", "found other epochs than 0, 1, 2, ..., expected each once; restore"),
        (f"{HISTORY}0,0.9,-1,1,0.9,1\n", r"found -1 in learning_rate, expected numbers from 0 to 1e\+06"),
        (f"{HISTORY}0,0.9,inf,1,0.9,1\n", r"found inf in learning_rate, expected numbers from 0 to 1e\+06"),
        (f'{HISTORY}"0,0.9', "found a row that is no epoch .*, expected the history of a trial"),
        (f"{HISTORY}0,0.9,0,1,0.9,1,7,7,7\n" * 2, "found a row that is no epoch"),
    ],
)
def test_a_damaged_history_is_one_line(study, capsys, history, complaint):  # noqa: F811
    (study.with_suffix("") / "4.csv").write_text(history)
    status, line = called("plots", [str(study)], capsys)
    assert status == 2
    assert re.search(rf"^error: .*4\.csv: {complaint}", line), line


def test_a_damaged_history_is_one_line_of_the_report_too(study, capsys):  # noqa: F811
    (study.with_suffix("") / "4.csv").write_text("damaged")
    status, line = called("report", ["--results", str(study.parent)], capsys)
    assert (status, line[:6]) == (2, "error:")
    assert "4.csv: found a text that begins with 'damaged', expected the history of a trial; restore" in line


@pytest.mark.parametrize(
    "loss", ["nan", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("inf", "1e300", "-1"))]
)
def test_a_trial_that_went_astray_is_drawn(study, capsys, loss):  # noqa: F811
    (study.with_suffix("") / "4.csv").write_text(f"{HISTORY}0,0,0,{loss},0,{loss}\n1,0,0,{loss},0,{loss}\n")
    assert run(plots.main, [str(study)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "content", [100_000 * "[", 400 * '{"recipe":' + "1" + 400 * "}", '{"recipe": {"x": NaN}}', "\x00"]
)
def test_a_strange_json_beside_a_csv_is_no_reason_to_fail(study, capsys, monkeypatch, content):  # noqa: F811
    monkeypatch.chdir(study.parent)  # where the picture goes
    study.with_suffix(".json").write_text(content)
    (study.parent / "other.txt").write_text("0.98\n0.99\n")
    main = command_module("compare").main
    assert run(main, [str(study), str(study.parent / "other.txt")]) == 0


# Root may do everything; without these capabilities only what belongs to root.
AS_OTHERS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(AS_OTHERS) and not shutil.which("setpriv"), reason="needs a user other than root, or setpriv")
@pytest.mark.parametrize(
    ("command", "arguments", "complaint"),
    [
        pytest.param(
            "plots",
            ["sep997.csv"],
            r"sep997-distribution\.png: can't be written \(Permission denied\); make room or access",
            marks=pytest.mark.slow,
        ),
        ("report", ["--results", "."], r"closed\.csv: Permission denied; get access to it or choose another place"),
        pytest.param(
            "compare",
            ["sep997.csv", "closed.csv"],
            r"closed\.csv: can't be read \(Permission denied\); get access or name",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "compare",
            ["sep997.csv", "closed/x"],
            r"closed/x: Permission denied; get access|closed/x: .* found neither",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_access_the_error_is_one_line(study, command, arguments, complaint):  # noqa: F811
    shutil.copy(study, study.with_name("closed.csv"))
    (study.parent / "closed").mkdir()
    for path in (study.parent / "closed", study.with_name("closed.csv"), study.parent):
        if AS_OTHERS:
            os.chown(path, 65534, 65534)
        path.chmod(0o555 if path == study.parent else 0)
    home = {"HOME": str(study.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*AS_OTHERS, sys.executable, "-m", f"mnist_minimal.{command}", *arguments],
            cwd=study.parent,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **home},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        study.parent.chmod(0o755)
        (study.parent / "closed").chmod(0o755)
    assert done.returncode == 2
    *left_out, line = done.stderr.splitlines()
    assert all(said.startswith("left out:") for said in left_out), done.stderr
    assert re.search(f"^error: .*({complaint})", line), line


EXTREMES = {"params": 10**12, "test_size": 10**12, "test_correct": 10**12, "max_epochs": 10**12, "cpu_seconds": 1e308}
TEXTS = ("model", "dataset", "protocol", "trainer", "finished_at", "version", "weights", "backend")
STRANGE = "$\\frac$ ../../evil \\ $ __ 漢字 \u202e ^{2} %s {0}" + 500 * "x"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(EXTREMES, id="huge"),
        pytest.param(
            {"params": 1, "test_size": 1, "test_correct": 1, "saved_accuracy": 1e-300, "best_accuracy": 1.0},
            id="one",
            marks=pytest.mark.slow,
        ),
        pytest.param(dict.fromkeys(TEXTS, STRANGE), id="strange"),
        pytest.param(dict.fromkeys(TEXTS, ""), id="nothing", marks=pytest.mark.slow),
    ],
)
def test_whatever_a_valid_row_says_is_drawn(study, capsys, fields):  # noqa: F811
    study.unlink()
    for seed in range(3):
        append_row(study, replace(TRIAL, seed=seed, **fields))
    (study.parent / "other.txt").write_text("0.98\n0.99\n")
    picture = str(study.parent / "both.png")
    for command, arguments in (
        ("plots", [str(study)]),
        ("compare", [str(study), str(study.parent / "other.txt"), "--out", picture]),
        ("report", ["--results", str(study.parent)]),
    ):
        assert run(command_module(command).main, arguments) == 0, capsys.readouterr().err
        errors = capsys.readouterr().err
        assert all(line.startswith("left out:") for line in errors.splitlines()), errors


# What a command does when nothing is wrong with its arguments has tests of its own; here no trial is trained.
NAMES = ["sep997.csv", "file", "none", "folder.csv", "pipe.csv", "dangling.csv", "huge.csv", "binary.csv", "new/x.png"]
words = st.one_of(
    st.sampled_from(
        [*NAMES, "..", "", "-", "--", "x.png", "accuracies.txt", ".", "sep997", "pyramid3762", "a:b", "digits"]
    ),
    st.sampled_from(["-1", "0", "1", "1e9", "nan", "0.99", "\u0661", "1_000", str(2**64), 5000 * "9"]),
    # A shell gives no zero bytes; bytes that are no UTF-8 come as halves of surrogate pairs.
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=8).filter(
        lambda text: not re.fullmatch(r"\.*", text)
    ),
    st.sampled_from(["\udcff", "\udce9.png", "a\nb", "\x1b[31m", 300 * "x"]),
)
OPTIONS = {
    "trials": [
        "--model",
        "--recipe",
        "--runs",
        "--seed",
        "--epochs",
        "--until",
        "--protocol",
        "--trainer",
        "--jobs",
        "--dask",
    ],
    "status": ["--results"],
    "models": ["--results"],
    "objectives": ["--all", "--results"],
    "evaluate": ["--model", "--dataset", "--data", "--dataset-name"],
    "compare": ["--results", "--measure", "--mix", "--out"],
    "plots": ["--out"],
    "augment": ["--seed", "--epoch", "--out", "--data", "--dataset-name"],
    "summary": ["--model"],
    "report": ["--results", "--out", "--data", "--dataset-name"],
    "teacher": ["--results", "--out", "--seeds", "--model", "--data", "--dataset-name"],
    "search": [
        "--max-params",
        "--budget",
        "--target",
        "--epochs",
        "--sampler",
        "--settings",
        "--jobs",
        "--seed",
        "--out",
    ],
    "verify": ["--results", "--seeds", "--sample", "--model", "--jobs", "--keep", "--teacher", "--data"],
    "merge": ["--out"],
}
# What keeps a command from what is long: training, and Keras.
ENDING = {
    "trials": ["--data", "none"],
    "models": ["--results", "bad"],
    "teacher": ["--results", "bad"],
    "verify": ["--results", "bad"],
    "search": ["--data", "none"],
    "objectives": ["--results", "bad"],
    "evaluate": ["--data", "none"],
    "summary": ["--model", "no name"],
    "augment": ["--dataset", "digits"],
    "report": ["--dataset", "digits"],
}


def tree(folder):
    return {path: (path.lstat().st_mode, path.lstat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_arguments_end_in_a_traceback_or_write_elsewhere(folder, capsys, monkeypatch, command):
    main = command_module(command).main
    inside = folder / "inside"
    inside.mkdir()
    for path in [path for path in folder.iterdir() if path != inside]:
        path.rename(inside / path.name)
    (inside / "bad").mkdir()
    for model in ("sep997", "conv18242"):
        (inside / f"bad/{model}.csv").write_text(f"{ledger.HEADER}\ndamaged\n")
    monkeypatch.chdir(inside)
    outside = tree(folder.parent), sorted(Path("/dev").iterdir())

    option = st.sampled_from([*OPTIONS[command], "--debug", "--no-such", "-h"])

    @settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(words | option, max_size=5))
    def sweep(arguments):
        try:
            status = run(main, [*arguments, *ENDING.get(command, [])])
        except SystemExit as end:
            status = end.code
        assert status in (0, 1, 2)
        errors = capsys.readouterr().err
        assert "defect" not in errors
        assert "not as by default" not in errors
        if "--debug" not in arguments:
            assert "Traceback" not in errors
            assert "Warning" not in errors
        if status:
            assert re.search(r"(^|\n)((python -m mnist_minimal.\w+: )?error: |stopped)[^\n]*\n\Z", errors), errors

    sweep()
    after = {path: what for path, what in tree(folder.parent).items() if inside not in path.parents and path != inside}
    assert after == {path: what for path, what in outside[0].items() if inside not in path.parents and path != inside}
    assert sorted(Path("/dev").iterdir()) == outside[1]
