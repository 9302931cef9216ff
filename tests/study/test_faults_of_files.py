"""Faults of files and disks, really caused: what was finished is there exactly once, and the same command goes on.

Each test notes how many faults it caused, how many of them the job survived (in the end all is as an undisturbed job
leaves it) and how many finished trials were lost; the end of a run prints a table of them.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal.training import core
from tests.disturbances import AtStep, Edit, FillDisk, ReadOnly, Unprivileged, kill
from tests.faults import OPTIONS, one_error, rows
from tests.whole import STRIDE, WHOLE, whole_only

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder with 3 MB of room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root's right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_full_disk_at_steps_that_change_a_file(count, new_job, small_disk):
    for step in itertools.count(1, STRIDE):
        job = replace(new_job(), out=small_disk / "results")
        status, output = job.run(AtStep(step, FillDisk(small_disk)))
        full = (small_disk / "fill").exists()
        (small_disk / "fill").unlink(missing_ok=True)
        if not full:
            assert status == 0, output
            break
        # A disk that fills up when nothing more is to be written does no harm.
        if status != 0:
            assert status == 2
            one_error(output, str(small_disk), "No space left on device")
        count.goes_on(job, rows(job))
        shutil.rmtree(job.results)
    assert count.caused * STRIDE > 15


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to do without root's rights")
@pytest.mark.slow
def test_output_folder_made_read_only_at_steps_that_change_a_file(count, new_job):
    # The first steps make the folders.
    for step in itertools.count(4, STRIDE):
        job = new_job()
        status, output = job.run(Unprivileged(AtStep(step, ReadOnly(job.results))))
        if job.results.stat().st_mode & 0o222:
            assert status == 0, output
            break
        before = rows(job)
        if status != 0:
            assert status == 2
            one_error(output, str(job.out), "ermission denied")
        for path in (job.results, *job.results.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        count.goes_on(job, before, Unprivileged())
    assert count.caused * STRIDE > 15


@pytest.mark.slow
def test_output_folder_that_was_read_only_from_the_start(count, small_disk, new_job):
    job = replace(new_job(), out=small_disk / "results")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, output = job.run()
    assert status == 2
    one_error(output, f"{small_disk}/results", "Read-only file system", "choose another folder with --out")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    count.goes_on(job, [])


def windows_line_ends(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def quoted_by_a_spreadsheet(content: bytes) -> bytes:
    lines = content.decode().splitlines()
    return ("\ufeff" + "".join(",".join(f'"{field}"' for field in line.split(",")) + "\r\n" for line in lines)).encode()


def cut_in_the_last_row(content: bytes) -> bytes:
    return content[:-30]


def without_the_last_row(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:-1])


def other_columns(content: bytes) -> bytes:
    return content.replace(b"saved_accuracy", b"accuracy")


def a_word_for_a_number(content: bytes) -> bytes:
    return content.replace(b",native,0,", b",native,zero,")


def bytes_that_are_no_text(content: bytes) -> bytes:
    return content.replace(b",native,", b",\xff\xfe\x00,")


def nothing(content: bytes) -> bytes:
    return b""


# Before which steps of the second trial the CSV is edited: its model, and its first checkpoint.
MOMENTS = [("1.h5", 1), ("1.checkpoint.npz", 1)]


@pytest.mark.parametrize(
    "change", [windows_line_ends, quoted_by_a_spreadsheet, cut_in_the_last_row, without_the_last_row, nothing]
)
@pytest.mark.slow
def test_csv_edited_into_one_that_can_be_read(count, new_job, change):
    for name, number in MOMENTS:
        job = new_job()
        status, output = job.run(AtStep(number, Edit(job.csv, change), name, ("replace",)))
        assert status == 0, output
        # What the editor left of the first trial is kept; what it took away is trained again, to the same bits.
        count.goes_on(job, rows(job))


@pytest.mark.parametrize(
    "change",
    [
        a_word_for_a_number,
        *(pytest.param(change, marks=whole_only) for change in (other_columns, bytes_that_are_no_text)),
    ],
)
@pytest.mark.slow
def test_csv_edited_into_one_that_is_none(count, new_job, change):
    for name, number in MOMENTS:
        job = new_job()
        status, output = job.run(AtStep(number, Edit(job.csv, change), name, ("replace",)))
        assert status == 2
        one_error(output, str(job.out / job.csv.name), "found")
        spoilt = job.csv.read_bytes()
        assert job.run()[0] == 2
        assert job.csv.read_bytes() == spoilt
        # The user fixes it; the second trial, which had come to its end, is not trained a second time.
        job.csv.write_bytes(
            {
                other_columns: spoilt.replace(b",accuracy,", b",saved_accuracy,"),
                a_word_for_a_number: spoilt.replace(b",zero,", b",0,"),
                bytes_that_are_no_text: spoilt.replace(b",\xff\xfe\x00,", b",native,"),
            }[change]
        )
        before = rows(job)
        assert [trial.seed for trial in before] == [0]
        count.goes_on(job, before)


@pytest.mark.slow
def test_csv_written_back_by_another_program_that_had_it_open(count, new_job):
    for _ in range(2):
        job = new_job()
        first = replace(job, options=("--runs", "1", *OPTIONS[2:]))
        assert first.run()[0] == 0
        opened = job.csv.read_bytes()
        before = rows(job)
        with job.csv.open("r+b") as held:
            os.lockf(held.fileno(), os.F_LOCK, 0)
            assert job.run()[0] == 0
        job.csv.write_bytes(opened)
        count.goes_on(job, before)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """With every hundredth byte changed."""
    return bytes(byte ^ 0x5A if index % 100 == 50 else byte for index, byte in enumerate(content))


@pytest.mark.parametrize("name", ["1.checkpoint.npz", "1.csv", "1.h5"])
@pytest.mark.parametrize("change", [cut, flipped, nothing])
@pytest.mark.slow
def test_damaged_files_of_a_trial_that_was_killed(count, new_job, name, change):
    job = new_job()
    # Killed when the second trial's model is there and its row is not.
    status, _ = job.run(AtStep(2, kill, functions=("write",)))
    assert status == -signal.SIGKILL
    Edit(job.study / name, change)()
    before = rows(job)
    assert [trial.seed for trial in before] == [0]
    output = count.goes_on(job, before)
    assert ("; the trial starts again" in output) == (name != "1.h5")
    assert (f"{name}: found " in output) == (name == "1.checkpoint.npz")
    assert ("expected the history 1.csv as it was written, found it changed" in output) == (name == "1.csv")


@pytest.mark.slow
def test_damaged_model_of_a_finished_trial_is_named(count, new_job, run_python):
    job = new_job()
    assert job.run()[0] == 0
    model, whole, before = job.study / "0.h5", (job.study / "0.h5").read_bytes(), rows(job)
    for change in (cut, flipped, nothing):
        Edit(model, change)()
        finished = run_python("-m", "mnist_minimal.evaluate", "--dataset", "digits", model)
        assert finished.returncode == 1
        (line,) = (line for line in finished.stderr.splitlines() if str(model) in line)
        assert "expected" in line
        assert "Traceback" not in finished.stderr
        model.write_bytes(whole)
        count.goes_on(job, before)


LINKS = [
    "sep997-digits",
    "sep997-digits.csv",
    "sep997-digits.json",
    "sep997-digits.csv.lock",
    "sep997-digits/0.h5",
    "sep997-digits/.0.h5",
    "sep997-digits/0.csv",
    "sep997-digits/.0.csv",
    "sep997-digits/0.checkpoint.npz",
    "sep997-digits/.0.checkpoint.npz",
    "sep997-digits/owner.json",
    "sep997-digits/.owner.json",
]


@pytest.mark.parametrize("dangling", [pytest.param(False, marks=whole_only), True])
@pytest.mark.slow
def test_symbolic_links_in_the_output_folder_lead_nowhere(count, new_job, dangling):
    for name in LINKS if WHOLE else LINKS[::3]:
        job = new_job()
        outside, link = job.folder / "outside", job.results / name
        link.parent.mkdir(parents=True)
        if name == "sep997-digits" and not dangling:
            outside.mkdir()
        elif not dangling:
            outside.write_text("another's")
        link.symlink_to(outside)
        status, output = job.run()
        assert "Traceback" not in output, output
        if status != 0:
            assert status == 2
            one_error(output, name)
            link.unlink()
        if dangling:
            assert not outside.exists()
        elif outside.is_dir():
            assert not list(outside.iterdir())
        else:
            assert outside.read_text() == "another's"
        count.goes_on(job, rows(job))
