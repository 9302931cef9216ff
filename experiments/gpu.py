"""How fast many trials at once are on a GPU: JAX against the core on all processor cores and against Keras' fit.

    python experiments/gpu.py --data mnist.npz --out gpu [--rounds 3] [--only jax-sep997] [--images N] [--small]

It runs part by part, each in a process of its own and for three minutes at most, and writes what each has found to
OUT/parts.csv before the next: the same command takes up what is missing, or failed. Then it prints Markdown. On one
GPU a round takes about half an hour, compilation included. The contenders run in turn, A B A B.

- jax-MODEL-K: K trials of the model at once, by its recipe, as `--trainer jax` trains them: whole epochs of all images
  with the monitored ones, after a first one in which the program is compiled. K = 1, 32, 256 and 1,024 for sep997, 256
  for the other nine.
- core-sep997: the C++ core, as many trials side by side as there are processor cores, one thread each.
- keras-sep997: `--trainer keras` on whatever device the Keras backend has; 100 steps after a warm-up, scaled up.
- trials-1, trials-2, ...: 223 whole trials of sep997 by the published recipe, as `python -m mnist_minimal.trials
  --trainer jax` records them in OUT/trials, with the Kolmogorov-Smirnov distance to the 223 published accuracies.

An epoch's time is that of all trials of the part, and trial-epochs an hour are what it comes to; a whole trial of
sep997 has 80 epochs on average. With --images the parts but those of whole trials have the first N training images and
as large a share of the test images, and an epoch's time is scaled up: for little time on a machine. --small is for a
processor without GPU, to know that all parts run: the digits, a few places, trials of two epochs; about ten minutes on
two cores.

Measured on one H200: experiments/README.md.
"""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_minimal.analysis.published import published_accuracies
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments, positive
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError, plain
from mnist_minimal.recipes import PUBLISHED_RECIPES
from mnist_minimal.study import ledger

SECONDS = 180

# Of a part for the import, the data and the compilation; epochs are run in what is left.
SECONDS_TO_BEGIN = 60

COLUMNS = (
    "part",
    "round",
    "device",
    "at_once",
    "images",
    "compile_seconds",
    "epoch_seconds",
    "images_per_second",
    "remark",
)

PLACES = (1, 32, 256, 1024)
TRIALS = 223


@dataclass(frozen=True)
class Sizes:
    """How large the parts are.

    Attributes:
        places: Trials at once of sep997.
        others: Trials at once of the other models.
        models: The other models.
        trials: Whole trials.
        epochs: The cap on their epochs; 0 for none.
        keras_steps: Steps of Keras that are timed.
    """

    places: tuple[int, ...] = PLACES
    others: int = 256
    models: tuple[str, ...] = tuple(name for name in PUBLISHED_RECIPES if name != "sep997")
    trials: int = TRIALS
    epochs: int = 0
    keras_steps: int = 100


SMALL = Sizes((1, 3), 2, ("small7344",), 4, 2, 10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are missing and prints what all have found."""
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=expanded_path, default=Path("gpu"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="PART", help="the parts whose names begin so")
    parser.add_argument("--images", type=positive, metavar="N", help="time epochs of N training images (default: all)")
    parser.add_argument("--small", action="store_true", help="for a processor: the digits, few places, short trials")
    parser.add_argument("--part", help="one part in this process, as JSON on standard output")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    sizes = SMALL if options.small else Sizes()
    if options.small:
        options.dataset, options.data = "digits", None
    if options.part:
        print(json.dumps(measured(options.part, options, sizes)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(1 if options.small else options.rounds):
        for part in parts(sizes):
            if part.startswith(options.only) and (part, number) not in done(options.out):
                write(options.out, {"part": part, "round": number, **in_a_process(part, options)})
    if "trials".startswith(options.only[:6]):
        whole_trials(options, sizes)
    print(table(options.out))
    print(f"\n{trials_text(options.out)}")
    return 0


def parts(sizes: Sizes) -> list[str]:
    """The parts of a round, in turn."""
    return [
        *(f"jax-sep997-{places}" for places in sizes.places),
        "core-sep997",
        "keras-sep997",
        *(f"jax-{model}-{sizes.others}" for model in sizes.models),
    ]


def done(out: Path) -> set[tuple[str, int]]:
    """The parts that have found something, with their rounds."""
    return {(row["part"], int(row["round"])) for row in rows(out) if not row["remark"]}


def rows(out: Path) -> list[dict[str, str]]:
    """What the parts have found."""
    path = out / "parts.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(out: Path, row: dict[str, Any]) -> None:
    """Adds what a part has found, on disk when this returns."""
    path = out / "parts.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())
    print(f"{row['part']}, round {row['round']}: {row.get('remark') or row.get('epoch_seconds')}", flush=True)


def in_a_process(part: str, options: Any) -> dict[str, Any]:
    """What a part finds, or why it has found nothing."""
    command = [sys.executable, __file__, "--part", part, "--dataset", options.dataset]
    command += ["--data", options.data] if options.data else []
    command += ["--small"] if options.small else []
    command += ["--images", str(options.images)] if options.images else []
    # A test on a processor that others use too is not cut off.
    limit = None if options.small else SECONDS
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"remark": f"not done in {SECONDS} s"}
    if ended.returncode:
        return {"remark": plain(ended.stderr.strip().rpartition("\n")[2], 200)}
    return json.loads(ended.stdout.strip().rpartition("\n")[2])


def measured(part: str, options: Any, sizes: Sizes) -> dict[str, Any]:
    """What a part finds, in this process."""
    from mnist_minimal.data import sets

    contender, model, *places = part.split("-")
    dataset = sets.load(from_arguments(options))
    images = len(dataset.x_train)
    dataset = first_images(dataset, min(options.images or images, images))
    if contender == "jax":
        row = of_jax(model, dataset, int(places[0]))
    elif contender == "core":
        row = of_core(model, dataset)
    else:
        row = of_keras(model, dataset, sizes.keras_steps)
    row["images"] = len(dataset.x_train)
    row["epoch_seconds"] = round(row["epoch_seconds"] * images / row["images"], 4)
    return row


def first_images(dataset: Any, count: int) -> Any:
    """So many of the training images, and as large a share of the test images."""
    tested = len(dataset.x_test) * count // len(dataset.x_train)
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[:count],
        y_train=dataset.y_train[:count],
        x_test=dataset.x_test[:tested],
        y_test=dataset.y_test[:tested],
    )


def timed(epoch: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a first epoch, and of the later ones, their median."""
    began = time.perf_counter()
    epoch()
    first = time.perf_counter() - began
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or time.perf_counter() - began < SECONDS - SECONDS_TO_BEGIN):
        start = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - start)
    return first, sorted(seconds)[len(seconds) // 2]


def found(device: str, at_once: int, images: int, first: float, epoch: float) -> dict[str, Any]:
    """The figures of a part."""
    return {
        "device": device,
        "at_once": at_once,
        "compile_seconds": round(max(0.0, first - epoch), 2),
        "epoch_seconds": round(epoch, 6),
        "images_per_second": round(at_once * images / epoch),
    }


def of_jax(model: str, dataset: Any, places: int) -> dict[str, Any]:
    """Epochs of trials at once by JAX."""
    from mnist_minimal.training.slots import device

    device.require()
    device.keep_tensorflow_off()
    import numpy as np

    from mnist_minimal.data import sets
    from mnist_minimal.models import MODELS
    from mnist_minimal.training.chain import describe, flat
    from mnist_minimal.training.schedules import first_rate
    from mnist_minimal.training.slots.numbers import numbers_of
    from mnist_minimal.training.slots.program import Program

    recipe = PUBLISHED_RECIPES[model]
    description = describe(MODELS[model]())
    program = Program(description.network, recipe, sets.split(dataset, "source", recipe.validation_share))
    weights = [flat(variables) for variables in (description.parameters, description.statistics)]
    state = program.begin(*(np.repeat(array[np.newaxis], places, axis=0) for array in weights))
    numbers, number = numbers_of([recipe] * places), 0
    rates = np.full((places, program.steps), first_rate(recipe), np.float32)

    def epoch() -> None:
        nonlocal state, number
        epochs = np.full(places, number)
        # Its figures are on the host when it returns.
        state, _ = program.epoch(state, np.arange(places), epochs, rates, numbers)
        number += 1

    return found(device.description(places), places, program.images, *timed(epoch))


def of_core(model: str, dataset: Any) -> dict[str, Any]:
    """Epochs of trials by the core, one on each processor core."""
    import joblib

    from mnist_minimal.data import sets
    from mnist_minimal.models import MODELS
    from mnist_minimal.training.core import instruction_set
    from mnist_minimal.training.native_fit import fit

    recipe, at_once = PUBLISHED_RECIPES[model].replace(max_epochs=1, early_stopping=None), joblib.cpu_count()
    splits = sets.split(dataset, "source", recipe.validation_share)
    models = [MODELS[model]() for _ in range(at_once)]

    def epoch() -> None:
        threads = [threading.Thread(target=fit, args=(one, recipe, splits, seed)) for seed, one in enumerate(models)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    device = f"c++ {instruction_set()}, {at_once} at once"
    return found(device, at_once, len(splits.x_train), *timed(epoch))


def of_keras(model: str, dataset: Any, steps: int) -> dict[str, Any]:
    """Steps of `model.fit`, of which the images of an epoch are as many times more."""
    from mnist_minimal.data import sets
    from mnist_minimal.models import MODELS
    from mnist_minimal.training.keras_fit import EpochBatches, backend_description, compile_model

    recipe, built = PUBLISHED_RECIPES[model], MODELS[model]()
    splits = sets.split(dataset, "source", recipe.validation_share)
    compile_model(built, recipe)
    images = min(len(splits.x_train), steps * recipe.batch_size)
    part = dataclasses.replace(splits, x_train=splits.x_train[:images], y_train=splits.y_train[:images])
    batches = EpochBatches(part, recipe, seed=1)
    first, seconds = timed(lambda: built.fit(batches, shuffle=False, verbose=0))
    scale = len(splits.x_train) / images
    return found(backend_description(), 1, len(splits.x_train), first * scale, seconds * scale)


def whole_trials(options: Any, sizes: Sizes) -> None:
    """Trains whole trials in parts, until all are recorded or a part gets no further."""
    folder = options.out / "trials"
    command = [sys.executable, "-m", "mnist_minimal.trials", "--model", "sep997", "--trainer", "jax"]
    command += ["--runs", str(sizes.trials), "--out", str(folder), "--recipe", "sep997", "--dataset", options.dataset]
    command += ["--data", options.data] if options.data else []
    command += ["--epochs", str(sizes.epochs), "--jobs", "2"] if options.small else []
    number, trained = sum(row["part"].startswith("trials-") for row in rows(options.out)), 0
    while len(finished(options.out)) < sizes.trials:
        before, began = len(finished(options.out)), time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=None if options.small else SECONDS - 20)
        except subprocess.TimeoutExpired:
            # What was trained so far is kept, and the next part resumes it.
            process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                # In the middle of a compilation it does not listen; its last checkpoint is half a minute old.
                process.kill()
                _, errors = process.communicate()
        number += 1
        more, seconds = len(finished(options.out)) - before, time.perf_counter() - began
        remark = f"{more} trials in {seconds:.1f} s"
        write(options.out, {"part": f"trials-{number}", "round": 0, "remark": remark})
        if process.returncode not in (0, 130, -signal.SIGKILL):
            raise UserError(f"the trials ended with {plain(errors.strip().rpartition(chr(10))[2], 200)}")
        epochs = sum(len(path.read_bytes().splitlines()) for path in (options.out / "trials").glob("*/*.csv"))
        if process.returncode and epochs == trained:
            raise UserError(f"expected epochs in {SECONDS} s, found none; look at what the device does")
        trained = epochs


def finished(out: Path) -> list[Any]:
    """The whole trials that are recorded."""
    return [
        trial for path in sorted((out / "trials").glob("sep997*.csv")) for trial in ledger.finished(ledger.read(path))
    ]


def table(out: Path) -> str:
    """What the parts have found, the median of the rounds and their range."""
    cells = [["part", "on", "an epoch of all, s", "images/s", "trial-epochs an hour", "compiled in, s"]]
    found = rows(out)
    for part in dict.fromkeys(row["part"] for row in found if not row["part"].startswith("trials-")):
        mine = [row for row in found if row["part"] == part]
        good = sorted((row for row in mine if row["epoch_seconds"]), key=lambda row: float(row["epoch_seconds"]))
        if not good:
            cells.append([part, mine[-1]["remark"], "", "", "", ""])
            continue
        middle = good[len(good) // 2]
        seconds = float(middle["epoch_seconds"])
        spread = f" ({good[0]['epoch_seconds']} to {good[-1]['epoch_seconds']})" if len(good) > 1 else ""
        an_hour = f"{3600 * int(middle['at_once']) / seconds:,.0f}"
        compiled = middle["compile_seconds"]
        cells.append([part, middle["device"], f"{seconds}{spread}", middle["images_per_second"], an_hour, compiled])
    return markdown(cells)


def trials_text(out: Path) -> str:
    """What the whole trials came to."""
    from mnist_minimal.analysis.statistics import kolmogorov_smirnov

    trials = finished(out)
    parts = [row["remark"] for row in rows(out) if row["part"].startswith("trials-")]
    if not trials or not parts:
        return "No whole trials yet."
    seconds = sum(float(remark.split(" in ")[1].removesuffix(" s")) for remark in parts)
    accuracies = [trial.saved_accuracy for trial in trials]
    said = (
        f"{len(trials)} whole trials in {seconds:.0f} s, all of it counted, {3600 * len(trials) / seconds:,.0f} an "
        f"hour; last epoch {sum(accuracies) / len(accuracies):.5f} on average."
    )
    published = published_accuracies("sep997")
    if len(trials) < 2 or trials[0].dataset != "mnist" or not published:
        return said
    test = kolmogorov_smirnov(accuracies, published)
    distance = f"{test.distance:.3f} (p = {test.p_value:.2f})"
    return f"{said} Kolmogorov-Smirnov distance to the {len(published)} published {distance}."


if __name__ == "__main__":
    raise SystemExit(run(main))
