"""What a Dask cluster costs and bears: throughput of one and two workers, bytes a trial, and a thousand workers.

    python experiments/cluster.py [--rounds 3] [--trials 12] [--workers 500] [--fake 2000] [--rows 100000]

It takes about 3 CPU minutes on two cores, needs no MNIST but measures the size of it where it is found, and prints
Markdown. Given are medians and, in brackets, ranges.

- Real trials, of sep997 on the digits for a few epochs, go to a cluster of one worker and to one of two, in turn. A
  job's throughput is that after its first trials, when the workers are warm. Overhead is the CPU time of workers,
  scheduler and coordinator beyond the training itself: the models are built, evaluated, saved and sent; a job without
  a cluster has most of it too, and stands beside it.
- Fake workers are real ones of Dask without their monitors, each of which would look at itself fifty times a second;
  their trials sleep for 1 to 10 milliseconds, report an epoch and give back as many bytes as real ones. Coordinator,
  scheduler and all workers have a process each, which share the processors. The coordinator appends their rows to a
  ledger that has the other rows already.
- A thousand workers are arithmetic with these figures.

experiments/README.md has what came out.
"""

import asyncio
import dataclasses
import logging
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle

from mnist_minimal.cli.options import positive
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data.choice import Choice
from mnist_minimal.engines import dask as engine_module
from mnist_minimal.engines.dask import DaskEngine, Remote, connected
from mnist_minimal.errors import UserError
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study import table
from mnist_minimal.study.images import packed
from mnist_minimal.study.job import Job, make_job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.parcel import Parcel
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.policies import MedianStopping
from mnist_minimal.study.remote import make_remote_train, remote
from mnist_minimal.study.runner import Engine, engine_of
from mnist_minimal.study.study import Study
from mnist_minimal.study.worker import failed_trial
from mnist_minimal.trial import EpochReport, Owner, Trial

if TYPE_CHECKING:
    from distributed import Client

EPOCHS = 4

# CPU seconds of a trial of sep997 on MNIST, and threads of a machine, for the arithmetic.
TRIAL_SECONDS, THREADS, MACHINES = 54.5, 16, 1000


def spread(figures: Sequence[float], digits: int = 3) -> str:
    """A median with its range."""
    return f"{statistics.median(figures):.{digits}g} ({min(figures):.{digits}g} to {max(figures):.{digits}g})"


def digits_job(folder: Path) -> tuple[Job, Plan]:
    """A job of short trials of sep997 on the digits."""
    from mnist_minimal.data import sets

    choice = Choice("digits")
    recipe = RECIPES["sep997"].replace(batch_size=16)
    plan = Plan(folder, "sep997", recipe, sets.load(choice), choice, None, 0, EPOCHS, None, "source", "native", jobs=1)
    plan.study.folder.mkdir(parents=True)
    return make_job(plan, [])[0], plan


def timed(engine: Engine, seeds: range, workers: Callable[[], float]) -> tuple[float, float]:
    """Trials a second after the first ones, and CPU seconds a trial beyond its training."""
    before, ends, trained = time.process_time() + workers(), [], 0.0
    for outcome in engine.run(seeds, []):
        ends.append(time.perf_counter())
        trained += outcome.trial.cpu_seconds or 0
    spent = time.process_time() + workers() - before
    first = engine.places
    return (len(ends) - first) / (ends[-1] - ends[first - 1]), (spent - trained) / len(ends)


def real_trials(rounds: int, trials: int) -> None:
    """Real trials on one and two workers, and without a cluster."""
    with tempfile.TemporaryDirectory() as folder, connected("local", 1) as one, connected("local", 2) as two:
        job, plan = digits_job(Path(folder))
        throughput: dict[int, list[float]] = {1: [], 2: []}
        overhead: dict[int, list[float]] = {0: [], 1: [], 2: []}
        seeds = iter(range(0, 10**6, trials))
        for number in range(rounds + 1):
            for workers, client in ((1, one), (2, two)):
                engine = DaskEngine(client, remote(job, plan.dataset), partial(failed_trial, job), print)
                first = next(seeds)
                found = timed(engine, range(first, first + trials), lambda: sum(client.run(time.process_time).values()))  # noqa: B023
                # In the first round the workers import TensorFlow.
                if number:
                    throughput[workers].append(found[0])
                    overhead[workers].append(found[1])
            local = engine_of(job, plan.dataset, trials, print)
            first = next(seeds)
            _, beyond = timed(local, range(first, first + trials), lambda: 0.0)
            if number:
                overhead[0].append(beyond)
        print(f"| {trials} trials of {EPOCHS} epochs, {rounds} rounds | without a cluster | one worker | two workers |")
        print("|---|---|---|---|")
        print(f"| trials a second, by the clock | | {spread(throughput[1])} | {spread(throughput[2])} |")
        print(f"| CPU s a trial beyond its training | {' | '.join(spread(overhead[n]) for n in (0, 1, 2))} |")
        ratios = [two / one for one, two in zip(throughput[1], throughput[2], strict=True)]
        print(f"\nTwo workers have {spread(ratios)} times the throughput of one.\n")
        sizes(job, first)


def sizes(job: Job, seed: int) -> None:
    """How many bytes go where."""
    from mnist_minimal.data import sets

    trial = failed_trial(job, seed, "")
    back = Parcel.of(job.study, seed, trial)
    print("| bytes | |")
    print("|---|---|")
    print(f"| to a worker, once: the job | {len(cloudpickle.dumps(partial(make_remote_train, job))):,} |")
    try:
        images = packed(sets.load(Choice("mnist")))
        print(f"| to a worker, once, where it has no MNIST: the images | {len(images):,} |")
    except UserError:
        print("| MNIST was not found | |")
    print(f"| to a worker, a trial | {len(cloudpickle.dumps(Parcel())):,} |")
    history = len(back.history or b"")
    print(f"| back, a trial of {EPOCHS} epochs | {len(cloudpickle.dumps(('ended', back))):,} |")
    print(
        f"| of these: model, history | {len(back.weights or b''):,}, {history:,} ({history / EPOCHS:.0f} an epoch) |\n"
    )


ROW = Trial(
    model="sep997",
    params=997,
    dataset="mnist",
    protocol="source",
    trainer="native",
    seed=0,
    epochs=71,
    best_epoch=46,
    saved_accuracy=0.9876,
    best_accuracy=0.9881,
    test_correct=9881,
    test_size=10_000,
    train_seconds=54.5,
    cpu_seconds=54.5,
    finished_at="2026-01-02T03:04:05+00:00",
    version="0.1.0",
    weights="sep997/0.h5",
    max_epochs=200,
    backend="c++ avx2",
)

HISTORY, MODEL = bytes(90 * 71), bytes(58_000)


@dataclass(frozen=True)
class FakeTrain:
    """Trains nothing, in a few milliseconds."""

    shared: bytes | None

    def places(self, threads: int) -> int:
        """One a thread."""
        return threads

    def notice(self) -> str:
        """Nothing."""
        return ""

    def __call__(self, seed: int, parcel: Parcel, owner: Owner) -> Parcel:
        """Gives a row, and as many bytes as a trial does."""
        time.sleep(random.Random(seed).uniform(0.001, 0.01))
        owner.report(EpochReport(seed, 71, 71, 200, 0.98, 0.98))
        return Parcel(HISTORY, None, MODEL, dataclasses.replace(ROW, seed=seed))

    def close(self) -> None:
        """Nothing is left of it."""


# What each worker does again and again for its own sake takes longer than there is where all are in one process; and
# nothing is late there.
QUIET = {
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "300s",
    "distributed.comm.timeouts.tcp": "300s",
    "distributed.scheduler.worker-ttl": None,
}


def serve(file: str, workers: int) -> None:
    """Is the scheduler, where there are to be no workers, or so many fake ones; until it is killed."""
    import dask
    from distributed import Scheduler, Worker

    dask.config.set(QUIET)

    async def schedule() -> None:
        async with Scheduler(host="127.0.0.1", dashboard=False, scheduler_file=file) as scheduler:
            await scheduler.finished()

    async def work() -> None:
        await asyncio.gather(
            *(Worker(scheduler_file=file, nthreads=1, memory_limit=0, dashboard=False) for _ in range(workers))
        )
        await asyncio.Event().wait()

    logging.disable()
    asyncio.run(work() if workers else schedule())


@contextmanager
def fake_cluster(folder: Path, workers: int) -> Iterator[tuple["Client", list[float]]]:
    """A scheduler in a process of its own and fake workers in another; seconds, its CPU seconds and MB to join it."""
    import dask
    from distributed import Client

    dask.config.set(QUIET)
    file = str(folder / "scheduler.json")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=serve, args=(file, count), daemon=True) for count in (0, workers)]
    processes[0].start()
    try:
        with Client(scheduler_file=file, timeout=300) as client:
            before = time.perf_counter(), *client.run_on_scheduler(used)
            processes[1].start()
            client.wait_for_workers(workers)
            after = time.perf_counter(), *client.run_on_scheduler(used)
            yield client, [now - then for now, then in zip(after, before, strict=True)]
    finally:
        for process in processes:
            if process.pid:
                process.kill()
                process.join()


def used() -> tuple[float, float]:
    """CPU seconds of this process, and the MB of memory that it has."""
    import psutil

    return time.process_time(), psutil.Process().memory_info().rss / 1e6


def fake_trials(workers: int, trials: int, rows: int) -> tuple[float, float]:
    """Fake trials on fake workers, into a ledger; CPU seconds a trial of the coordinator and of the scheduler."""
    engine_module.SECONDS_TO_ANSWER = 600
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), "sep997")
        study.folder.mkdir()
        text = "".join(table.format_row(dataclasses.replace(ROW, seed=seed)) for seed in range(rows - trials))
        study.csv.write_text(f"{table.HEADER}\n{text}")
        start = time.process_time()
        ledger = Ledger(study)
        read = time.process_time() - start
        with fake_cluster(Path(folder), workers) as (client, (joined, joining, joined_memory)):
            kept: list[int] = []
            fake = Remote(FakeTrain, lambda: b"", lambda seed: Parcel(), lambda seed, parcel: kept.append(seed))
            engine = DaskEngine(client, fake, lambda seed, reason: dataclasses.replace(ROW, seed=seed), print)
            begun = 0.0
            before = time.thread_time(), time.perf_counter(), *used(), *client.run_on_scheduler(used)
            for outcome in engine.run(range(rows - trials, rows), []):
                if not begun:
                    begun = time.perf_counter() - before[1]
                assert ledger.append(outcome.trial)
            after = time.thread_time(), time.perf_counter(), *used(), *client.run_on_scheduler(used)
        assert sorted(kept) == list(range(rows - trials, rows))
        assert [trial.seed for trial in sorted(ledger.trials(), key=lambda trial: trial.seed)] == list(range(rows))
        write = time.process_time(), time.perf_counter()
        for seed in range(200):
            Parcel(HISTORY, None, MODEL).write(study, seed)
        written = [
            (now - then) / 200 for now, then in zip((time.process_time(), time.perf_counter()), write, strict=True)
        ]
        rule = RECIPES["sep697"].median_stopping
        assert rule is not None
        policy = MedianStopping(rule, study, ledger.trials(), 10_000)
        policy.figures |= {seed: Fraction(9000 + seed % 100) for seed in range(rows)}
        start = time.process_time()
        policy.reason_to_stop(EpochReport(rows - 1, 100, 100, 2000, 0.9, 0.9))
        asked = time.process_time() - start
    spent = [now - then for now, then in zip(after, before, strict=True)]
    own, clock, process, memory, scheduler, scheduler_memory = spent
    own, clock, process, scheduler = (seconds / trials for seconds in (own, clock, process, scheduler))
    print(f"| {trials:,} trials on {workers} fake workers, into a ledger of {rows:,} rows, one run | |")
    print("|---|---|")
    print("| every seed once, every row in the ledger | yes |")
    print(f"| rows a second, by the clock | {1 / clock:.0f} |")
    print(f"| CPU ms a trial: the coordinator's thread, rows among it | {1000 * own:.2f} |")
    print(f"| CPU ms a trial: the coordinator's process, with Dask's client | {1000 * process:.2f} |")
    print(f"| CPU ms a trial: the scheduler | {1000 * scheduler:.2f} |")
    print(f"| CPU ms to write a model and a history to disk | {1000 * written[0]:.2f} |")
    print(f"| the same, ms by the clock | {1000 * written[1]:.2f} |")
    print(f"| CPU s to read the ledger when the job begins | {read:.2f} |")
    print(f"| CPU ms to answer one question of a median stopping rule | {1000 * asked:.0f} |")
    print(f"| s by the clock until all workers had joined, then until the first row | {joined:.1f}, {begun:.1f} |")
    print(f"| CPU ms of the scheduler a worker that joined | {1000 * joining / workers:.1f} |")
    print(f"| MB more of the scheduler once all had joined, at the end | {joined_memory:.0f}, {scheduler_memory:.0f} |")
    print(f"| MB more of the coordinator at the end | {memory:.0f} |\n")
    return process + written[0], scheduler


def thousand(coordinator: float, scheduler: float) -> None:
    """The arithmetic."""
    rate = MACHINES * THREADS / TRIAL_SECONDS
    seconds = max(engine_module.SECONDS_BETWEEN_REPORTS, MACHINES * THREADS / engine_module.REPORTS_A_SECOND)
    print(f"| {MACHINES:,} workers of {THREADS} threads, by arithmetic | |")
    print("|---|---|")
    print(f"| rows a second at the coordinator, {TRIAL_SECONDS} s a trial | {rate:.0f} |")
    print(f"| s between two epochs that a trial reports | {seconds:.0f} |")
    print(
        f"| reports a second, those of first epochs among them, at most | {rate + engine_module.REPORTS_A_SECOND:.0f} |"
    )
    print(f"| share of one core for the coordinator, files among it | {rate * coordinator:.2f} |")
    print(f"| share of one core for the scheduler | {rate * scheduler:.2f} |")
    print(f"| MB a second into the coordinator | {rate * (len(MODEL) + len(HISTORY)) / 1e6:.0f} |")
    print(f"| trials in flight | {MACHINES * THREADS:,} |")
    print(f"| MB of them, if all ended at once | {MACHINES * THREADS * (len(MODEL) + len(HISTORY)) / 1e6:.0f} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all, and prints it."""
    parser = command_parser(__doc__)
    for name, default in (("rounds", 3), ("trials", 12), ("workers", 500), ("fake", 2000), ("rows", 100_000)):
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help="default: %(default)s")
    options = parser.parse_args(arguments)
    thousand(*fake_trials(options.workers, options.fake, options.rows))
    print()
    real_trials(options.rounds, options.trials)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
