"""Faults that are really caused: what was finished is there exactly once, and the same command goes on.

Each test notes how many faults it caused, how many of them the job survived (in the end all is as an undisturbed job
leaves it) and how many finished trials were lost; `python -m pytest tests/study/test_faults.py` prints a table of them.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_minimal.study import ledger
from mnist_minimal.training import core
from tests.disturbances import AtStep, Edit, FillDisk, KillHalfwayThroughARow, ReadOnly, Signal, Unprivileged, kill
from tests.jobs import Job, differences

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

# A fault at every step of a job takes minutes; at some of them, seconds.
some_and_all = pytest.mark.parametrize(
    "stride", [pytest.param(40, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)

every_other_step = pytest.mark.parametrize("stride", [pytest.param(2, id="every other", marks=pytest.mark.slow)])

OPTIONS = ("--runs", "2", "--epochs", "2", "--trainer", "native")


class Count:
    """Counts the faults of a test as they are caused."""

    def __init__(self, undisturbed: Job) -> None:
        self.undisturbed = undisturbed
        self.caused = self.survived = self.lost = 0
        self.what: list[str] = []

    def goes_on(self, job: Job, before: list[ledger.Trial], disturb: Callable[[], None] | None = None) -> str:
        """Gives the command again, looks at what is there then, and gives what was printed.

        Args:
            job: The job that met a fault.
            before: Its finished trials when the fault came.
            disturb: As of `Job.start`.
        """
        self.caused += 1
        status, output = job.run(disturb)
        assert "Traceback" not in output, output
        found = differences(job, self.undisturbed, before) if status == 0 else [f"status {status}: {output}"]
        self.survived += not found
        self.lost += sum(trial not in job.rows() for trial in before)
        self.what += found
        return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Job:
    job = Job(tmp_path_factory.mktemp("undisturbed"), OPTIONS)
    status, output = job.run()
    assert status == 0, output
    return job


@pytest.fixture
def count(request, undisturbed) -> Iterator[Count]:
    """Counts this test's faults for the table, and fails it unless each was survived and none lost a trial."""
    count = Count(undisturbed)
    yield count
    request.node.user_properties.append(("faults", (count.caused, count.survived, count.lost)))
    assert (count.survived, count.lost) == (count.caused, 0), count.what


@pytest.fixture
def new_job(tmp_path) -> Callable[[], Job]:
    """Jobs like the undisturbed one, each in a folder of its own."""

    def job() -> Job:
        return Job(Path(tempfile.mkdtemp(dir=tmp_path)), OPTIONS)

    return job


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


def rows(job: Job) -> list[ledger.Trial]:
    return job.rows() if job.csv.exists() else []


def one_error(output: str, *said: str) -> None:
    """Asserts that a job ended with one plain line that says all this."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert all(text in errors[0] for text in said), errors[0]
    assert "Traceback" not in output
    assert "Exception ignored" not in output


@some_and_all
def test_kill_before_every_step_that_changes_a_file(count, new_job, stride):
    for step in itertools.count(1, stride):
        job = new_job()
        status, output = job.run(AtStep(step, kill))
        if status == 0:
            break
        assert status == -signal.SIGKILL, output
        count.goes_on(job, rows(job))
    # The folder, the JSON, and for each trial two checkpoints, the model and the row at least.
    assert count.caused * stride > 15


@pytest.mark.parametrize("row", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_kill_halfway_through_a_row(count, new_job, row):
    job = new_job()
    status, _ = job.run(KillHalfwayThroughARow(row))
    assert status == -signal.SIGKILL
    assert not job.csv.read_bytes().endswith(b"\n")
    count.goes_on(job, rows(job))
    assert len(job.csv.with_name(f"{job.csv.name}.torn").read_text().splitlines()) == 1


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_while_a_model_is_written(count, new_job, kills):
    in_writing = 0
    for attempt in range(kills):
        job = new_job()
        running = job.start()
        temporary = job.study / f".{attempt % 2}.h5"
        while not temporary.exists() and running.process.is_alive():
            pass
        time.sleep(random.uniform(0, 0.02))
        running.process.kill()
        running.ended()
        in_writing += temporary.exists()
        count.goes_on(job, rows(job))
        assert not temporary.exists()
    print(f"{in_writing} of {count.caused} kills left a part of a model")


@every_other_step
def test_full_disk_at_every_step_that_changes_a_file(count, new_job, small_disk, stride):
    for step in itertools.count(1, stride):
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
    assert count.caused * stride > 15


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to do without root's rights")
@every_other_step
def test_output_folder_made_read_only_at_every_step(count, new_job, stride):
    # The first steps make the folders.
    for step in itertools.count(4, stride):
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
    assert count.caused * stride > 15


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


@pytest.mark.parametrize("moments", [pytest.param(1, id="once"), pytest.param(2, id="twice", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "change",
    [
        windows_line_ends,
        pytest.param(quoted_by_a_spreadsheet, marks=pytest.mark.slow),
        cut_in_the_last_row,
        pytest.param(without_the_last_row, marks=pytest.mark.slow),
        pytest.param(nothing, marks=pytest.mark.slow),
    ],
)
def test_csv_edited_into_one_that_can_be_read(count, new_job, change, moments):
    for name, number in MOMENTS[:moments]:
        job = new_job()
        status, output = job.run(AtStep(number, Edit(job.csv, change), name, ("replace",)))
        assert status == 0, output
        # What the editor left of the first trial is kept; what it took away is trained again, to the same bits.
        count.goes_on(job, rows(job))


@pytest.mark.parametrize("moments", [pytest.param(1, id="once"), pytest.param(2, id="twice", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(other_columns, marks=pytest.mark.slow),
        a_word_for_a_number,
        pytest.param(bytes_that_are_no_text, marks=pytest.mark.slow),
    ],
)
def test_csv_edited_into_one_that_is_none(count, new_job, change, moments):
    for name, number in MOMENTS[:moments]:
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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("1.checkpoint.npz", flipped),
        ("1.csv", cut),
        *(
            pytest.param(name, change, marks=pytest.mark.slow)
            for name in ("1.checkpoint.npz", "1.csv", "1.h5")
            for change in (cut, flipped, nothing)
        ),
    ],
)
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
    for change in (cut, flipped, nothing):
        job = new_job()
        assert job.run()[0] == 0
        model, whole, before = job.study / "0.h5", (job.study / "0.h5").read_bytes(), rows(job)
        Edit(model, change)()
        finished = run_python("-m", "mnist_minimal.evaluate", "--dataset", "digits", model)
        assert finished.returncode == 1
        (line,) = (line for line in finished.stderr.splitlines() if str(model) in line)
        assert "expected" in line
        assert "Traceback" not in finished.stderr
        model.write_bytes(whole)
        count.goes_on(job, before)


@pytest.mark.parametrize("others", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_a_study_that_another_job_is_training_is_refused_until_that_ends(count, new_job, others):
    job = replace(new_job(), options=("--runs", "2", "--epochs", "200", "--trainer", "native"))
    running = job.start()
    while not (job.study / "0.csv").exists():
        assert running.process.is_alive()
        time.sleep(0.01)
    folders = [Path(tempfile.mkdtemp(dir=job.folder)) for _ in range(others)]
    for status, output in (replace(job, folder=folder, out=job.results).run() for folder in folders):
        assert status == 2
        one_error(output, f"process {running.process.pid} on ", "is training this study", "another folder with --out")
    # Whoever dies gives the study away.
    running.process.kill()
    running.ended()
    job = replace(new_job(), out=job.results)
    (job.results / "sep997-digits.json").unlink()
    for checkpoint in job.study.glob("*.checkpoint.npz"):
        checkpoint.unlink()
    count.goes_on(job, rows(job))


CLOCK = """
#include <time.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The day before yesterday by every clock that tells the date. */
static const long BACK = 2 * 86400;

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec -= BACK;
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.slow
def test_clock_set_back(count, new_job, run_python, tmp_path):
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or not compiler:
        pytest.skip("needs Linux and a C compiler to set a process's clock back")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "clock.c"], check=True)
    job = new_job()
    assert job.run(AtStep(1, kill, "1.checkpoint.npz", ("replace",)))[0] == -signal.SIGKILL
    before = rows(job)
    model = ("--model", "sep997", "--dataset", "digits")
    finished = run_python("-m", "mnist_minimal.trials", *model, "--out", job.results, *OPTIONS, LD_PRELOAD=str(library))
    assert finished.returncode == 0, finished.stderr
    first, second = job.rows()
    assert second.finished_at < first.finished_at
    count.goes_on(job, [*before, second])


# A network that does harm in the training of about half of the seeds, as long as a file is there.
FRAGILE = """
import random
from pathlib import Path

import keras
import numpy as np

from mnist_minimal.recipes import RECIPES as PUBLISHED


class Fragile(keras.layers.Layer):
    def call(self, pixels, training=False):
        if training and self.drawn < 0.5 and Path("armed").exists():
            {harm}
        return pixels


def net():
    fragile = Fragile()
    # Before Keras draws from it.
    fragile.drawn = random.random()
    layers = [keras.layers.AveragePooling2D(4), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Rescaling(1 / 255), fragile, *layers])


RECIPES = {{"net": PUBLISHED["sep997"]}}
"""


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param(
            "return pixels * float('nan')",
            "DivergedError: the training loss became nan in epoch 1",
            id="loss that is no number",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "np.ones(2**50)",
            "Exception encountered when calling Fragile.call()",
            id="no memory",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_harm_in_some_trials_of_many(new_job, request, harm, reason):
    job = replace(new_job(), model="fragile:net", options=("--runs", "4", "--epochs", "1"))
    (job.folder / "fragile.py").write_text(FRAGILE.format(harm=harm))
    (job.folder / "armed").touch()
    harmed = {seed for seed in range(4) if random.Random(seed).random() < 0.5}
    status, output = job.run()
    assert status == 1, output
    assert "Traceback" not in output
    before = [trial for trial in rows(job) if trial.status == "finished"]
    assert {trial.seed for trial in before} == set(range(4)) - harmed
    assert {trial.seed for trial in rows(job) if reason in trial.reason} == harmed
    (job.folder / "armed").unlink()
    status, output = job.run()
    assert status == 0, output
    finished = [trial for trial in rows(job) if trial.status == "finished"]
    assert [trial.seed for trial in finished] == list(range(4))
    lost = sum(trial not in finished for trial in before)
    request.node.user_properties.append(("faults", (len(harmed), len(harmed), lost)))
    assert lost == 0


DIVERGING = """
from dataclasses import replace

from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES as PUBLISHED, AdamW

net = MODELS["sep997"]
RECIPES = {"net": replace(PUBLISHED["sep997"], optimizer=AdamW(learning_rate=1e38, weight_decay=0.0))}
"""


def test_training_in_the_core_that_diverges_for_every_seed(new_job, request):
    job = replace(new_job(), model="diverging:net", options=("--runs", "5", "--epochs", "2"))
    (job.folder / "diverging.py").write_text(DIVERGING)
    status, output = job.run()
    assert status == 2
    one_error(output, "3 trials in a row failed", "the training loss became")
    assert [trial.seed for trial in rows(job)] == [0, 1, 2]
    status, output = job.run()
    assert status == 1
    assert {trial.seed for trial in rows(job) if trial.status == "failed"} == set(range(5))
    assert "0 finished trials, 5 failed" in output
    request.node.user_properties.append(("faults", (5, 5, 0)))


@pytest.mark.parametrize(
    ("number", "jobs", "stride"),
    [
        pytest.param(number, jobs, 4, marks=pytest.mark.slow)
        for number, jobs in ((signal.SIGINT, "1"), (signal.SIGTERM, "2"), (signal.SIGHUP, "1"))
    ],
)
def test_signals_at_every_other_step(count, new_job, number, jobs, stride):
    for step in itertools.count(2, stride):
        job = replace(new_job(), options=(*OPTIONS, "--jobs", jobs))
        status, output = job.run(AtStep(step, Signal(number)))
        if status == 0:
            break
        assert status == 130, output
        # In other words where nothing was begun yet.
        assert "topped" in output
        assert "Traceback" not in output
        count.goes_on(job, rows(job))
    assert count.caused * stride > 15


def children(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found] + [each for child in found for each in children(int(child))]


def trainers(running) -> list[int]:
    """The processes in which Keras trains for a job; empty as long as they are not there."""
    return [
        child for child in children(running.process.pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def undisturbed_by_keras(tmp_path_factory) -> Job:
    job = Job(tmp_path_factory.mktemp("keras"), (*OPTIONS[:-1], "keras"))
    status, output = job.run()
    assert status == 0, output
    return job


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to find the processes of a job")
@pytest.mark.parametrize("whose", ["job's", "trial's"])
def test_kill_of_one_of_the_processes_in_which_keras_trains(request, new_job, undisturbed_by_keras, whose):
    job = replace(new_job(), options=(*undisturbed_by_keras.options, "--jobs", "2"))
    running = job.start()
    while not (job.study / "1.checkpoint.npz").exists():
        assert running.process.is_alive()
        time.sleep(0.01)
    workers = trainers(running)
    assert len(workers) == 2
    if whose == "job's":
        running.process.kill()
        running.ended()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "the trials go on without their job"
            time.sleep(0.01)
        before = rows(job)
    else:
        os.kill(workers[0], signal.SIGKILL)
        status, output = running.ended()
        assert status in (0, 1), output
        assert "Traceback" not in output
        before = [trial for trial in rows(job) if trial.status == "finished"]
        (failed,) = (trial for trial in rows(job) if trial.status == "failed")
        assert "the trial's process died (exit code -9); too little memory?" in failed.reason
    status, output = job.run()
    assert status == 0, output
    finished = [trial for trial in rows(job) if trial.status == "finished"]
    assert [trial.seed for trial in finished] == [0, 1]
    lost = sum(trial not in finished for trial in before)
    request.node.user_properties.append(("faults", (1, 1, lost)))
    assert lost == 0


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


@pytest.mark.parametrize(
    ("dangling", "stride"),
    [(False, 6), pytest.param(False, 1, marks=pytest.mark.slow), pytest.param(True, 1, marks=pytest.mark.slow)],
)
def test_symbolic_links_in_the_output_folder_lead_nowhere(count, new_job, dangling, stride):
    for name in LINKS[::stride]:
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
