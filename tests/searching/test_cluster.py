"""Evaluations by the engine of a Dask cluster, whose workers are threads of this process and evaluate nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import mnist_minimal as mm
from mnist_minimal.data.choice import Choice
from mnist_minimal.engines import dask as engine_module
from mnist_minimal.searching import cluster as cluster_module
from mnist_minimal.searching.cluster import OnCluster
from mnist_minimal.searching.evaluation import Score
from mnist_minimal.training import core
from mnist_minimal.trial import StoppedError

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


@pytest.fixture
def cluster() -> Iterator[Any]:
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(protocol="tcp", host="127.0.0.1", silence_logs=60, **settings) as cluster:
        yield cluster


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def on_cluster(cluster, said) -> Iterator[OnCluster]:
    with distributed.Client(cluster, timeout=20) as client:
        yield OnCluster(client, mm.load_data("digits"), Choice("digits"), said.append)


def by(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Score]) -> None:
    """Has the workers evaluate by a function of seed, fold, test images that are there, and what ends an epoch."""

    def evaluate(candidate, seed, fold, epochs, dataset, probabilities, after_epoch):
        return function(seed, fold, len(dataset.x_test), after_epoch)

    monkeypatch.setattr(cluster_module, "evaluate", evaluate)


def address() -> str:
    return distributed.get_worker().address


def asked(evaluate: OnCluster, seed: int, fold: int | None = 0, look: Callable[[], None] = lambda: None) -> Score:
    return evaluate({}, seed, fold, 3, None, look)


def score_of(seed: int) -> Score:
    return Score(seed, 100, 0.5, 1000, 0.1)


def test_each_thread_gets_the_score_that_it_asked_for_by_all_workers(on_cluster, monkeypatch):
    workers: set[str] = set()

    def evaluate(seed, fold, test_images, after_epoch):
        # What has a fold must not see the test set.
        assert test_images == (297 if fold is None else 0)
        workers.add(address())
        while len(workers) < 2:
            time.sleep(0.01)
        return score_of(seed)

    by(monkeypatch, evaluate)
    with on_cluster, ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda seed: asked(on_cluster, seed, None if seed % 2 else 3), range(12)))
    assert found == [score_of(seed) for seed in range(12)]


def test_a_worker_without_memory_is_left_out(on_cluster, said, monkeypatch):
    bad = sorted(on_cluster.engine.client.nthreads())[0]

    def evaluate(seed, fold, test_images, after_epoch):
        if address() == bad:
            raise MemoryError("no room")
        while not said:
            time.sleep(0.01)
        return score_of(seed)

    by(monkeypatch, evaluate)
    with on_cluster, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda seed: asked(on_cluster, seed), range(4))) == [score_of(seed) for seed in range(4)]
    assert said == [f"Worker {bad} takes no part: MemoryError: no room"]


def test_what_can_not_be_evaluated_is_an_error_in_a_line(on_cluster, monkeypatch):
    def evaluate(seed, fold, test_images, after_epoch):
        if seed:
            return score_of(seed)
        raise ValueError("no\nsense")

    by(monkeypatch, evaluate)
    with on_cluster:
        with pytest.raises(mm.UserError, match=r"can't be evaluated \(ValueError: no sense\); look at the workers"):
            asked(on_cluster, 0)
        assert asked(on_cluster, 1) == score_of(1)


def test_workers_that_can_not_evaluate_end_it(on_cluster, said, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_UNFIT", 0.5)
    monkeypatch.setattr("mnist_minimal.training.trainers.numerics", lambda trainer: "unverified")
    with on_cluster:
        for seed in range(2):
            with pytest.raises(mm.UserError, match="expected a worker that can train these trials, found 2 that can't"):
                asked(on_cluster, seed)
    assert all("expected the bits of numerics 1, found that they are unverified" in line for line in said)
    assert len(said) == 2


def test_an_interrupted_search_ends_its_evaluations_on_the_workers(on_cluster, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def evaluate(seed, fold, test_images, after_epoch):
        try:
            while True:
                begun.set()
                after_epoch()
                time.sleep(0.01)
        except StoppedError:
            ended.set()
            raise

    def look() -> None:
        if begun.is_set():
            raise StoppedError

    by(monkeypatch, evaluate)
    with on_cluster, pytest.raises(StoppedError):
        asked(on_cluster, 0, look=look)
    assert ended.wait(10)


def test_a_worker_that_joins_late_evaluates(cluster, on_cluster, monkeypatch):
    workers: set[str] = set()

    def evaluate(seed, fold, test_images, after_epoch):
        workers.add(address())
        while len(workers) < 3:
            time.sleep(0.01)
        return score_of(seed)

    by(monkeypatch, evaluate)
    with on_cluster, ThreadPoolExecutor(3) as pool:
        scores = pool.map(lambda seed: asked(on_cluster, seed), range(3))
        cluster.scale(3)
        assert list(scores) == [score_of(seed) for seed in range(3)]
