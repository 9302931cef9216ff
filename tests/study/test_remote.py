"""Trials on a cluster's workers: the same rows, histories and models as in this process, from images that were sent."""

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mnist_minimal as mm
from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.dask_worker import SharedMissingError
from mnist_minimal.study import ledger
from mnist_minimal.study.job import make_job
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.remote import Parcel, make_remote_train, remote
from mnist_minimal.study.study import Study
from mnist_minimal.training import core
from tests.dask_processes import Cluster, wait_until
from tests.jobs import without_times
from tests.study.test_slots_trials import RECIPE as JAX_RECIPE
from tests.study.test_slots_trials import net as jax_net

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


def test_a_parcel_has_what_a_trial_goes_on_from(tmp_path):
    here, there = (Study(tmp_path / name, "sep997") for name in ("here", "there"))
    for study in (here, there):
        study.folder.mkdir(parents=True)
    here.history(1).write_bytes(b"history")
    # A history that no checkpoint knows of is of a trial that starts again.
    assert Parcel.of(here, 1) == Parcel()
    here.checkpoint(1).write_bytes(b"checkpoint")
    Parcel.of(here, 1).write(there, 1)
    assert [there.history(1).read_bytes(), there.checkpoint(1).read_bytes()] == [b"history", b"checkpoint"]
