"""The main job in environments that users have, each of which once ended it or changed its figures: the same bits."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnist_minimal.study import ledger
from tests.conftest import REPOSITORY
from tests.jobs import without_times
from tests.whole import whole_only

JOB = ("--runs", "2", "--epochs", "2", "--out", "out")
OPTIONS = ("--model", "sep697", "--dataset", "digits", *JOB)
KERAS_JSON = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.01, "backend": "tensorflow"}
HIDING = ("random", "copy", "statistics", "tempfile", "queue", "numpy", "keras", "tensorflow", "joblib", "filelock")


@dataclass(frozen=True)
class Environment:
    """What a job inherits.

    Attributes:
        variables: Of the environment.
        before: What the shell does before the command.
        after: What stands behind the command.
        files: Files in the working folder, which is the home as well, by name.
        trainer: The job's trainer, and how many places it has.
        error: What the command says at its end, with status 2; "" where it ends well.
    """

    variables: dict[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    files: dict[str, str] = field(default_factory=dict)
    trainer: tuple[str, ...] = ("--trainer", "native")
    error: str = ""


KERAS = ("--trainer", "keras")
OF_KERAS = {".keras/keras.json": json.dumps(KERAS_JSON)}
SHORT = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
HIDDEN = {f"{name}.py": "raise SystemExit('the wrong module')\n" for name in HIDING}
FULL = "error: standard output: No space left on device"
PYTHON = {"PYTHONHASHSEED": "7", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TZ": "Pacific/Kiritimati"}
TERMINAL = {"TERM": "dumb", "COLUMNS": "1", "LINES": "1", "FORCE_COLOR": "1"}
TENSORFLOW = {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_USE_LEGACY_KERAS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "NVIDIA_TF32_OVERRIDE": "1",
}
ENVIRONMENTS = {
    "all at once": Environment(
        {**NOTEBOOK, **SHORT, **PYTHON, **LOCALE, **TERMINAL, **TENSORFLOW, "TMPDIR": "/nowhere"},
        "umask 027; trap '' HUP INT TERM CHLD; exec nohup",
        "</dev/null >/dev/full",
        {**OF_KERAS, **HIDDEN},
        error=FULL,
    ),
    "notebook": Environment(NOTEBOOK),
    "keras.json": Environment(files=OF_KERAS),
    "keras.json, Keras": Environment(files=OF_KERAS, trainer=KERAS),
    "keras.json, processes": Environment(files=OF_KERAS, trainer=(*KERAS, "--jobs", "2")),
    "cut short": Environment(SHORT),
    "cut short, Keras": Environment(SHORT, trainer=KERAS),
    "cut short, processes": Environment(SHORT, trainer=(*KERAS, "--jobs", "2")),
    "damaged keras.json": Environment(files={".keras/keras.json": "{"}),
    "nohup": Environment(before="exec nohup"),
    "ignored signals": Environment(before="trap '' HUP INT TERM CHLD;"),
    "ignored signals, processes": Environment(before="trap '' HUP INT TERM CHLD;", trainer=(*KERAS, "--jobs", "2")),
    "in the background": Environment(after="& wait $!"),
    "umask 002": Environment(before="umask 002;"),
    "umask 077": Environment(before="umask 077;"),
    "full output": Environment(after=">/dev/full", error=FULL),
    "full output, processes": Environment(after=">/dev/full", error=FULL, trainer=(*KERAS, "--jobs", "2")),
    "full errors": Environment(after="2>/dev/full"),
    "closed output": Environment(after=">&-"),
    "closed streams": Environment(after="<&- >&- 2>&-"),
    "hiding files": Environment(files=HIDDEN),
    "hiding files, processes": Environment(files=HIDDEN, trainer=(*KERAS, "--jobs", "2")),
    # For the first of these all of TensorFlow is compiled once more, which takes a minute.
    "Python": Environment({"PYTHONOPTIMIZE": "2", **PYTHON}),
    "warnings": Environment({"PYTHONWARNINGS": "default"}),
    "warnings as errors": Environment({"PYTHONWARNINGS": "error"}),
    "warnings as errors, processes": Environment({"PYTHONWARNINGS": "error"}, trainer=(*KERAS, "--jobs", "2")),
    "locale": Environment(LOCALE),
    "terminal": Environment(TERMINAL),
    "TensorFlow": Environment(TENSORFLOW),
    "no temporary folder": Environment({"TMPDIR": "/nowhere"}),
    "no home": Environment(before="unset HOME;"),
    "missing home": Environment({"HOME": "/nowhere"}),
    "few descriptors": Environment(before="ulimit -n 64;"),
    "no core files, small stack": Environment(before="ulimit -c 0; ulimit -s 1024;"),
}


def run(folder: Path, environment: Environment) -> subprocess.CompletedProcess[str]:
    for name, content in environment.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    command = shlex.join([sys.executable, "-m", "mnist_minimal.trials", *OPTIONS, *environment.trainer])
    clean = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    return subprocess.run(
        ["bash", "-c", f"{environment.before} {command} {environment.after}"],
        cwd=folder,
        env={**clean, "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), **environment.variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def results(folder: Path) -> dict[str, object]:
    """What a job left, but for times, versions (of a checkout that may be worked in) and how HDF5 lays out a file."""
    study = folder / "out/sep697-digits"
    rows = [replace(without_times(row), version="") for row in ledger.read(study.with_suffix(".csv"))]
    facts = json.loads(study.with_suffix(".json").read_text())
    facts.pop("versions")
    found: dict[str, object] = {"rows": sorted(rows, key=lambda row: row.seed), "json": facts}
    for path in sorted(study.iterdir()):
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                found[path.name] = list(csv.reader(file))
        else:
            assert path.suffix == ".h5", path
            with h5py.File(path) as file:
                arrays: dict[str, bytes] = {}
                file["model_weights"].visititems(
                    lambda name, item, arrays=arrays: (
                        arrays.__setitem__(name, np.asarray(item).tobytes()) if isinstance(item, h5py.Dataset) else None
                    )
                )
                found[path.name] = arrays, json.loads(file.attrs["model_config"])
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """What the job of a trainer leaves in an environment with nothing in it."""
    kept: dict[str, dict[str, object]] = {}

    def of(trainer: str) -> dict[str, object]:
        if trainer not in kept:
            folder = tmp_path_factory.mktemp("quiet")
            done = run(folder, Environment(trainer=("--trainer", trainer)))
            assert done.returncode == 0, done.stderr
            kept[trainer] = results(folder)
        return kept[trainer]

    return of


# Each has another beside it that does the same to the job, or to another trainer's.
LIKE_OTHERS = (
    *("keras.json, Keras", "keras.json, processes", "damaged keras.json", "ignored signals, processes", "nohup"),
    *("full output, processes", "full errors", "closed output", "hiding files, processes", "umask 077"),
    *("warnings", "warnings as errors, processes", "missing home", "cut short, Keras", "umask 002"),
    # These are in "all at once" too.
    *("cut short, processes", "locale", "TensorFlow", "ignored signals", "terminal", "no home"),
    *("notebook", "keras.json", "cut short", "no temporary folder", "hiding files", "full output"),
    # These leave alone what the core computes, and the job's files are tried under faults.
    *("few descriptors", "no core files, small stack", "in the background", "Python"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=whole_only if name in LIKE_OTHERS else []) for name in ENVIRONMENTS]
)
def test_the_bits_are_those_of_a_quiet_environment(tmp_path, quiet, name):
    environment = ENVIRONMENTS[name]
    if "/dev/full" in environment.after and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    if "nohup" in environment.before and not shutil.which("nohup"):
        pytest.skip("needs nohup")
    done = run(tmp_path, environment)
    if environment.error:
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(environment.error)
    else:
        assert done.returncode == 0, done.stderr
    assert results(tmp_path) == quiet(environment.trainer[1])
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("umask", "trainer"),
    [
        pytest.param(0o002, ("--trainer", "native"), marks=whole_only),
        pytest.param(0o077, (*KERAS, "--jobs", "2"), marks=whole_only),
        (0o077, ("--trainer", "native")),
        pytest.param(0o002, (*KERAS, "--jobs", "2"), marks=whole_only),
    ],
)
def test_every_file_of_a_study_is_by_the_umask(tmp_path, umask, trainer):
    done = run(tmp_path, Environment(before=f"umask {umask:03o};", trainer=trainer))
    assert done.returncode == 0, done.stderr
    # The CSV, its lock, the JSON, the picture, the folder; two histories and two models.
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert len(found) == 9
    assert found == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}
