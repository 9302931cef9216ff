"""What would stop a job at its first row is found before its first epoch."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal.errors import UserError
from mnist_minimal.study.ownership import check_room, owned
from mnist_minimal.study.study import Study
from tests.conftest import REPOSITORY
from tests.study.test_ledger import TRIAL, append_row

# Root may do everything; without these capabilities only what belongs to root.
AS_OTHERS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []

OWN = """
import sys
from pathlib import Path
from mnist_minimal.errors import UserError
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.study import Study
try:
    with owned(Study.at(Path(sys.argv[1]))):
        print("owned")
except UserError as error:
    print(error)
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path / "out", "sep997")
    with owned(study):
        append_row(study.csv, TRIAL)
    return study


@pytest.mark.skipif(bool(AS_OTHERS) and not shutil.which("setpriv"), reason="needs a user other than root, or setpriv")
@pytest.mark.parametrize(
    ("closed", "found"),
    [
        ("out/sep997.csv", "out/sep997.csv: can't be written or read (Permission denied); choose another folder"),
        ("out/sep997", "out/sep997: can't be written or read (Permission denied); choose another folder"),
        ("out", "out: can't be written or read (Permission denied); choose another folder"),
        ("", "owned"),
    ],
)
def test_access_is_tried_before_anything_is_trained(study, tmp_path, closed, found):
    path = tmp_path / closed
    if closed:
        if AS_OTHERS:
            os.chown(path, 65534, 65534)
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = subprocess.run(
        [*AS_OTHERS, sys.executable, "-c", OWN, study.csv],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found in done.stdout, done.stderr
    assert {path.name for path in study.out.iterdir()} <= {"sep997", "sep997.csv", "sep997.csv.lock"}
    assert not any(study.folder.iterdir())


def _check_room_without_any(study: Study) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    check_room(study, 100_000)
    with pytest.raises(UserError, match=r"out/sep997: found no room for 5,000,000 bytes, which the models and"):
        check_room(study, 5_000_000)


def test_room_is_tried(study):
    process = multiprocessing.get_context("fork").Process(target=_check_room_without_any, args=(study,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not any(study.folder.iterdir())


def test_a_pipe_is_not_waited_for(study):
    study.csv.write_bytes(study.csv.read_bytes() + b"a row cut sho")
    os.mkfifo(study.torn)
    before = study.csv.read_bytes()
    with pytest.raises(UserError, match=r"sep997\.csv\.torn: the row of a finished trial can't be written"):
        append_row(study.csv, replace(TRIAL, seed=1))
    assert study.csv.read_bytes() == before


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_access_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        study = Study(tmp_path / "out", "sep997")
        with owned(study):
            append_row(study.csv, TRIAL)
            study.csv.write_bytes(study.csv.read_bytes() + b"a row cut sho")
            append_row(study.csv, replace(TRIAL, seed=1))
            for path in (study.csv, study.torn, study.lock, study.owner):
                assert (path.name, oct(path.stat().st_mode & 0o777)) == (path.name, oct(mode))
    finally:
        os.umask(before)
