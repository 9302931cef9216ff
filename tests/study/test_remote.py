"""Trials on a cluster's workers: the same rows, histories and models as in this process, from images that were sent."""

import errno
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mnist_minimal as mm
from mnist_minimal.data.choice import ENVIRONMENT_VARIABLE, Choice
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.study import ledger
from mnist_minimal.study.images import find_images
from mnist_minimal.study.job import make_job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.parcel import Parcel
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.remote import make_remote_train, remote
from mnist_minimal.study.remote_slots import RemoteSlots
from mnist_minimal.study.study import Study
from mnist_minimal.training import core
from mnist_minimal.trial import EpochReport, StoppedError
from tests.dask_processes import Cluster, wait_until
from tests.jobs import without_times
from tests.study import test_slots as slots_tests
from tests.study.test_ledger import TRIAL
from tests.study.test_slots_trials import RECIPE as JAX_RECIPE
from tests.study.test_slots_trials import net as jax_net
from tests.whole import whole_only

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

RECIPE = mm.RECIPES["sep997"].replace(batch_size=64, median_stopping=mm.recipes.MedianStopping(2, epoch=2, window=1))


@pytest.fixture
def cluster() -> Iterator[Any]:
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(protocol="tcp", host="127.0.0.1", silence_logs=60, **settings) as cluster:
        yield cluster


def test_a_study_is_the_same_by_a_cluster(cluster, tmp_path, capsys):
    digits = mm.load_data("digits")
    images = (digits.x_train[:300], digits.y_train[:300], digits.x_test, digits.y_test)
    wanted = {"recipe": RECIPE, "runs": 4, "epochs": 3, "data": images}
    here = mm.run_trials("sep997", **wanted, out=tmp_path / "here", progress=False)
    there = mm.run_trials("sep997", **wanted, out=tmp_path / "there", dask=cluster.scheduler_address)
    assert (
        f"The trials go to the Dask cluster at {cluster.scheduler_address}, whose workers have 2 threads now;"
        in capsys.readouterr().out
    )
    assert here.name == there.name
    studies = [Study(tmp_path / name, here.name) for name in ("here", "there")]
    rows = [sorted(map(without_times, ledger.read(study.csv)), key=lambda row: row.seed) for study in studies]
    assert rows[0] == rows[1]
    # The rule has stopped some, which was asked here.
    assert {row.status for row in rows[0]} == {"finished", "stopped"}
    names = [sorted(path.name for path in study.folder.iterdir()) for study in studies]
    assert names[0] == names[1] == sorted(f"{seed}{ending}" for seed in range(4) for ending in (".csv", ".h5"))
    for name in names[0]:
        assert (studies[0].folder / name).read_bytes() == (studies[1].folder / name).read_bytes()


@pytest.mark.slow
@whole_only
def test_a_study_of_jax_goes_to_the_slots_of_workers_of_which_one_is_killed(tmp_path):
    """Each trial once, and close to that of this process; the rule is asked here."""
    pytest.importorskip("jax")
    rule = mm.recipes.MedianStopping(2, epoch=2, window=1)
    wanted = {"recipe": JAX_RECIPE.replace(median_stopping=rule), "runs": 12, "data": "digits", "trainer": "jax"}
    here = mm.run_trials(jax_net, **wanted, jobs=4, out=tmp_path / "here", progress=False)
    killed: list[str] = []

    with Cluster(tmp_path) as cluster, cluster.watched() as training:
        for name in ("a", "b"):
            cluster.start_worker(name)

        def kill() -> None:
            wait_until(lambda: training("a") > 0)
            cluster.signal("a", signal.SIGKILL)
            killed.append("a")

        thread = threading.Thread(target=kill)
        thread.start()
        there = mm.run_trials(jax_net, **wanted, out=tmp_path / "there", dask=str(cluster.file), progress=False)
        thread.join()
    assert killed == ["a"]
    rows = [sorted(ledger.read(study.paths.csv), key=lambda row: row.seed) for study in (here, there)]
    assert [row.seed for row in rows[1]] == list(range(12))
    assert [row.status for row in rows[0]] == [row.status for row in rows[1]]
    assert {row.status for row in rows[0]} == {"finished", "stopped"}
    for seed in range(12):
        one, other = (study.history(seed)["val_loss"].iloc[0] for study in (here, there))
        assert one == pytest.approx(other, rel=1e-3)
        assert there.load(seed).count_params() == here.load(seed).count_params()


def job_of(folder: Path, choice: Choice) -> Any:
    plan = Plan(folder, "sep997", RECIPE, mm.load_data("digits"), choice, 1, 0, 1, None, "source", "native", jobs=1)
    plan.study.folder.mkdir(parents=True)
    return make_job(plan, [])[0], plan.dataset


def test_images_are_read_where_they_are_the_same_and_sent_else(tmp_path):
    job, dataset = job_of(tmp_path, Choice("digits"))
    assert callable(make_remote_train(job, None))
    elsewhere = replace(job, source=Choice("mnist", path=str(tmp_path / "only there.npz")))
    with pytest.raises(SharedMissingError):
        make_remote_train(elsewhere, None)
    other = replace(job, facts=job.facts | {"data": job.facts["data"] | {"x_train": "0" * 64}})
    with pytest.raises(SharedMissingError):
        make_remote_train(other, None)
    shared = remote(job, dataset).shared()
    assert callable(make_remote_train(elsewhere, shared))
    with pytest.raises(mm.UserError, match="expected the images of the study, found others by their SHA-256"):
        make_remote_train(other, shared)


def test_images_that_would_be_downloaded_are_sent(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "mnist.npz"))
    monkeypatch.setattr("mnist_minimal.data.sets.load", lambda choice: pytest.fail("reads or downloads"))
    with pytest.raises(SharedMissingError):
        find_images(Choice("fashion_mnist"), {}, None)


def test_a_model_without_a_row_is_no_row_that_somebody_has_removed(tmp_path, capsys):
    """The coordinator is killed between the model and the row."""
    study = Study(tmp_path, "sep997")
    study.folder.mkdir()
    Parcel(b"history", None, b"model", TRIAL).write(study, 1)
    assert study.weights(1).exists()
    assert not Ledger(study).has_done(1)
    assert capsys.readouterr().err == ""


class Listens:
    """An owner that stops trials of odd seeds when they ask."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []

    def report(self, epoch: EpochReport) -> None:
        self.reports.append(epoch)
        if epoch.seed == 4 and epoch.epoch == 2:
            raise StoppedError

    def ask(self, epoch: EpochReport) -> str:
        return "odd" if epoch.seed % 2 else ""


@pytest.fixture
def remote_slots(tmp_path, monkeypatch) -> Iterator[RemoteSlots]:
    rule = mm.recipes.MedianStopping(2, epoch=3, window=1)
    job = slots_tests.job_in(tmp_path, slots_tests.RECIPE.replace(median_stopping=rule))
    monkeypatch.setattr("mnist_minimal.study.remote_slots.make_slots", lambda jobs, *_: slots_tests.make(jobs[0], 4))
    monkeypatch.setattr("mnist_minimal.study.remote_slots.SECONDS_BETWEEN_LOOKS", 0.1)
    made = RemoteSlots(job, None)
    yield made
    made.close()
    made.thread.join(60)
    assert not made.thread.is_alive()
    # What comes too late is no trial.
    assert made(9, Parcel(), Listens()) == Parcel()


def trained(slots: RemoteSlots, seeds: Sequence[int]) -> list[Parcel | Exception]:
    """What comes of seeds that threads bring side by side."""
    owner = Listens()
    with ThreadPoolExecutor(len(seeds)) as pool:
        futures = [pool.submit(slots, seed, Parcel(), owner) for seed in seeds]
        return [future.exception() or future.result() for future in futures]


def test_slots_of_a_worker_train_what_threads_bring_and_leave_no_file(remote_slots):
    parcels = trained(remote_slots, range(6))
    assert [parcel.trial.seed if parcel.trial else None for parcel in parcels] == [0, 1, 2, 3, None, 5]
    assert [parcel.trial.reason for parcel in parcels if parcel.trial] == ["", "odd", "", "odd", "odd"]
    assert all(parcel.weights and parcel.history for parcel in parcels if parcel.trial)
    assert parcels[4] == Parcel()
    assert list(remote_slots.job.study.folder.iterdir()) == []


def test_a_worker_without_a_gpu_names_its_device(remote_slots):
    jax = pytest.importorskip("jax")
    device = jax.devices()[0]
    expected = f"it has no GPU for JAX and trains on jax {jax.__version__} on {device.device_kind}, up to 4 at once"
    assert remote_slots.notice() == ("" if device.platform == "gpu" else expected)


def test_a_full_disk_of_slots_is_no_failed_trial(remote_slots, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mnist_minimal.saving.template.Template.write", full)
        found = trained(remote_slots, [0, 2])
    assert {type(error) for error in found} == {mm.UserError}
    assert "No space left on device" in str(found[0])
    # With room again it goes on.
    assert trained(remote_slots, [0])[0].trial.status == "finished"


def test_a_parcel_has_what_a_trial_goes_on_from(tmp_path):
    here, there = (Study(tmp_path / name, "sep997") for name in ("here", "there"))
    for study in (here, there):
        study.folder.mkdir(parents=True)
    here.history(1).write_bytes(b"history")
    # A history that no checkpoint knows of is of a trial that starts again.
    assert Parcel.of(here, 1) == Parcel()
    here.checkpoint(1).touch()
    assert Parcel.of(here, 1) == Parcel()
    here.checkpoint(1).write_bytes(b"checkpoint")
    Parcel.of(here, 1).write(there, 1)
    assert [there.history(1).read_bytes(), there.checkpoint(1).read_bytes()] == [b"history", b"checkpoint"]
