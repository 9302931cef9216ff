"""How fast the C++ core is: against Keras, against the source's own libraries, against a matrix product, on two cores.

    python experiments/benchmark.py --data mnist.npz [--oracle-python oracle-env/bin/python] [--rounds 5] [--models ...]

It takes about 5 minutes for sep997 and sep697, about an hour for all models, and 3 minutes more with
--oracle-python, the Python of the environment that experiments/addons_oracle/oracle.py describes. It prints Markdown.
The contenders run in turn, A B A B, and a ratio is that of neighbours, so that a machine that slows down slows both:
given are its median and, in brackets, its range. Augmentation is in none of the figures; experiments/LOG.md has what it
costs.

- An epoch is all 60,000 images: forward, backward, optimizer. The core runs three whole epochs on one thread, of which
  the third part is given: a first one finds the images gone from the caches after half a minute of another contender.
  Keras and the source's libraries need half a minute for one: they run 100 steps after a warm-up, and their times are
  scaled up.
- CPU seconds are those of all threads.
- Multiply-accumulates are those of the convolutions and dense layers forward, times 3 for forward, the kernels' and the
  inputs' gradients; the gradient of the pixels is counted so too, though nobody computes it. NumPy multiplies two
  float32 matrices of 1024 x 1024 on one thread.

Expected on two shared cores of an AMD EPYC (Zen 3, AVX2), medians and ranges of 7 rounds: an epoch of sep997 in 0.55
(0.54 to 0.63) CPU seconds, 47 (41 to 54) times less than the Keras trainer on Keras 3.15 and TensorFlow 2.21, 40 (28 to
46; 22 rounds) times less than the source's libraries; sep697 in 0.51 (0.47 to 0.56), 54 (49 to 66) times less than with
Keras. sep997 at 0.76 (0.75 to 0.94) of the matrix product's rate. Two trials side by side had 1.96 (1.87 to 2.01) times
the throughput of one, 6 rounds, and 1.4 where other work had the second core.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import Dataset, load, split
from mnist_minimal.models import MODELS
from mnist_minimal.models.counting import layer_table
from mnist_minimal.recipes import RECIPES
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.core import instruction_set
from mnist_minimal.training.keras_fit import EpochBatches, compile_model
from mnist_minimal.training.schedules import first_rate

ORACLE = Path(__file__).parent / "addons_oracle" / "oracle.py"

# Steps of Keras that stand for an epoch, after steps that build and warm up what it needs.
KERAS_STEPS, WARM_UP_STEPS = 100, 20

# In a trial one epoch follows the other; so they do here.
EPOCHS_IN_A_ROW = 3

MATRIX_SIZE, PRODUCTS = 1024, 10


class CoreEpochs:
    """Epochs of one model by its recipe on the core, from fresh weights."""

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.images, self.labels = dataset.x_train, dataset.y_train.astype(np.uint8)
        self.recipe = RECIPES[name]
        model = MODELS[name]()
        compile_model(model, self.recipe)
        self.chain = Chain(model, model.optimizer)
        self.epoch = 0

    def run(self, threads: int = 1) -> None:
        """Trains one epoch of all images."""
        batches = epoch_batches(1, self.epoch, len(self.images), self.recipe.batch_size, drop_remainder=False)
        self.chain.network.train(
            self.images,
            self.labels,
            np.concatenate(batches),
            batch_size=self.recipe.batch_size,
            seed=1,
            epoch=self.epoch,
            learning_rates=first_rate(self.recipe),
            threads=threads,
        )
        self.epoch += 1

    def cpu_seconds(self) -> float:
        """Processor time of one epoch of some in a row."""

        def epochs() -> None:
            for _ in range(EPOCHS_IN_A_ROW):
                self.run()

        return cpu_seconds(epochs) / EPOCHS_IN_A_ROW

    def multiply_accumulates(self) -> int:
        """Of one image, forward."""
        return sum(row.macs or 0 for row in layer_table(self.chain.model))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of all threads while `work` runs."""
    start = time.process_time()
    work()
    return time.process_time() - start


def keras_epoch(name: str, dataset: Dataset, from_arrays: bool) -> Callable[[], float]:
    """A function that runs some steps of `model.fit` and gives the CPU seconds of an epoch.

    The steps are fed as the Keras trainer feeds them, by `EpochBatches`, or from two arrays, which is less work but
    leaves the order of the images to Keras.
    """
    recipe = RECIPES[name]
    model = MODELS[name]()
    compile_model(model, recipe)
    splits = split(dataset, "source")

    def fit(steps: int) -> None:
        images = steps * recipe.batch_size
        part = dataclasses.replace(splits, x_train=splits.x_train[:images], y_train=splits.y_train[:images])
        if from_arrays:
            model.fit(part.x_train.astype(np.float32), part.y_train, batch_size=recipe.batch_size, verbose=0)
        else:
            model.fit(EpochBatches(part, recipe, seed=1), shuffle=False, verbose=0)

    fit(WARM_UP_STEPS)
    steps = min(KERAS_STEPS, len(dataset.x_train) // recipe.batch_size)
    return lambda: cpu_seconds(lambda: fit(steps)) * len(dataset.x_train) / (steps * recipe.batch_size)


def oracle_epoch(python: str, data: str, images: int) -> float:
    """CPU seconds of an epoch of the source's recipe on the source's libraries, fed by its own ImageDataGenerator."""
    done = subprocess.run(
        [python, str(ORACLE), "--time", str(KERAS_STEPS), "--data", data], capture_output=True, text=True, check=True
    )
    measured = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    fed = next(one for one in measured if one["batches"] == "ImageDataGenerator")
    return fed["cpu_seconds"] / KERAS_STEPS * images / RECIPES["sep997"].batch_size


def in_turn(rounds: int, *contenders: Callable[[], float]) -> np.ndarray:
    """What each contender gives, (rounds, contenders), each round all of them one after the other."""
    return np.array([[contender() for contender in contenders] for _ in range(rounds)])


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Median and range of some numbers."""
    return f"{np.median(values):.{digits}g} ({values.min():.{digits}g} to {values.max():.{digits}g})"


def compare_with_keras(name: str, dataset: Dataset, rounds: int) -> list[str]:
    """Two rows of the table: an epoch on the core and with Keras, fed in two ways."""
    core = CoreEpochs(name, dataset)
    core.run()
    times = in_turn(
        rounds,
        core.cpu_seconds,
        keras_epoch(name, dataset, from_arrays=False),
        keras_epoch(name, dataset, from_arrays=True),
    )
    return [
        f"| {name} | {spread(times[:, 0])} | {what} {spread(times[:, i])} | {spread(times[:, i] / times[:, 0])} |"
        for i, what in ((1, "Keras trainer"), (2, "Keras from arrays"))
    ]


def compare_with_oracle(python: str, data: str, dataset: Dataset, rounds: int) -> str:
    """A row of the table: an epoch of sep997 on the core and with the source's libraries."""
    core = CoreEpochs("sep997", dataset)
    core.run()
    times = in_turn(rounds, core.cpu_seconds, lambda: oracle_epoch(python, data, len(dataset.x_train)))
    ratio = times[:, 1] / times[:, 0]
    return f"| sep997 | {spread(times[:, 0])} | the source's libraries {spread(times[:, 1])} | {spread(ratio)} |"


def compare_with_product(name: str, dataset: Dataset, rounds: int) -> str:
    """A row of the table: billions of multiply-accumulates a second, of the core and of NumPy's matrix product."""
    core = CoreEpochs(name, dataset)
    core.run()
    count = 3 * core.multiply_accumulates() * len(dataset.x_train)
    random = np.random.default_rng(0)
    a, b = (random.random((MATRIX_SIZE, MATRIX_SIZE), np.float32) for _ in range(2))

    def multiply() -> None:
        with threadpool_limits(1):
            for _ in range(PRODUCTS):
                a @ b

    multiply()
    rates = in_turn(
        rounds,
        lambda: count / core.cpu_seconds() / 1e9,
        lambda: PRODUCTS * MATRIX_SIZE**3 / cpu_seconds(multiply) / 1e9,
    )
    return f"| {name} | {spread(rates[:, 0])} | {spread(rates[:, 1])} | {spread(rates[:, 0] / rates[:, 1])} |"


def throughput(trials: list[CoreEpochs], epochs: int) -> float:
    """Epochs per second of wall-clock time, each trial on a thread of its own."""

    def run(trial: CoreEpochs) -> None:
        for _ in range(epochs):
            trial.run()

    threads = [threading.Thread(target=run, args=(trial,)) for trial in trials]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return epochs * len(trials) / (time.perf_counter() - start)


def compare_two_jobs(dataset: Dataset, rounds: int) -> str:
    """A row of the table: one trial of sep997 and two side by side."""
    trials = [CoreEpochs("sep997", dataset) for _ in range(2)]
    throughput(trials, 1)
    rates = in_turn(
        rounds, lambda: throughput(trials[:1], EPOCHS_IN_A_ROW), lambda: throughput(trials, EPOCHS_IN_A_ROW)
    )
    return f"| sep997 | {spread(rates[:, 0])} | {spread(rates[:, 1])} | {spread(rates[:, 1] / rates[:, 0])} |"


def compare_two_threads(dataset: Dataset, rounds: int) -> str:
    """A row of the table: one trial of sep997 on one thread and on two."""
    trial = CoreEpochs("sep997", dataset)
    trial.run()

    def epochs_per_second(threads: int) -> float:
        start = time.perf_counter()
        for _ in range(EPOCHS_IN_A_ROW):
            trial.run(threads)
        return EPOCHS_IN_A_ROW / (time.perf_counter() - start)

    rates = in_turn(rounds, lambda: epochs_per_second(1), lambda: epochs_per_second(2))
    return f"| sep997 | {spread(rates[:, 0])} | {spread(rates[:, 1])} | {spread(rates[:, 1] / rates[:, 0])} |"


def resident_megabytes() -> float:
    """Memory that this process has now, in millions of bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_of_a_trial(name: str, dataset: Dataset) -> str:
    """A row of the table: what each of four more trials adds, with their Keras models, after a first one."""
    trials = [CoreEpochs(name, dataset)]
    trials[0].run()
    before = resident_megabytes()
    trials += [CoreEpochs(name, dataset) for _ in range(4)]
    throughput(trials[1:], 1)
    return f"| {name} | {(resident_megabytes() - before) / 4:.1f} |"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Reads the command line and prints the tables as their rows come in."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="NPZ", required=True, help="MNIST in the layout of keras.datasets.mnist")
    parser.add_argument("--oracle-python", metavar="PATH", help="the Python that has TensorFlow 2.15 and its addons")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="times each contender runs (default: %(default)s)")
    arguments = parser.parse_args()
    dataset = load(Choice("mnist", arguments.data))

    def table(*lines: str) -> None:
        for line in lines:
            print(line, flush=True)

    print(
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, Keras "
        f"{keras.__version__} on {keras.backend.backend()}, core with {instruction_set()}; medians of "
        f"{arguments.rounds} rounds.\n"
    )
    table("| an epoch, CPU seconds | core, one thread | other | other / core |", "|---|---|---|---|")
    for name in arguments.models:
        table(*compare_with_keras(name, dataset, arguments.rounds))
    if arguments.oracle_python:
        table(compare_with_oracle(arguments.oracle_python, arguments.data, dataset, arguments.rounds))
    table("", "| 1e9 multiply-accumulates / CPU second | core | NumPy | core / NumPy |", "|---|---|---|---|")
    for name in arguments.models:
        table(compare_with_product(name, dataset, arguments.rounds))
    table("", "| epochs / second | one trial | two side by side | two / one |", "|---|---|---|---|")
    table(compare_two_jobs(dataset, arguments.rounds))
    table("", "| epochs / second | one thread | two threads | two / one |", "|---|---|---|---|")
    table(compare_two_threads(dataset, arguments.rounds))
    table("", "| memory of one more trial side by side | MB |", "|---|---|")
    for name in arguments.models:
        table(memory_of_a_trial(name, dataset))


if __name__ == "__main__":
    main()
