"""Figures of what trials recorded: distributions, training curves, augmented images, and Keras' diagram of a model.

Every drawing function takes the axes to draw on, or makes its own, and returns them. Nothing here imports Keras but the
model diagram, which is Keras' own.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_minimal import files
from mnist_minimal.analysis.samples import TEST_SIZE, Sample
from mnist_minimal.analysis.tables import MEASURE_NAMES
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.errors import UserError, plain
from mnist_minimal.models.lookup import builder
from mnist_minimal.recipes import Augmentation
from mnist_minimal.study import ledger
from mnist_minimal.study.history import read_history
from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.summaries import StudySummary


# The Okabe-Ito palette, which the colour-blind tell apart, without its yellow, which is lost on white. For print in
# grey the lines and the hatches differ too. Samples take them in turn; 7 colours and 4 lines make 28 different pairs.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

LINES = ("-", "--", "-.", ":")

HATCHES = ("", "////", "....", "\\\\\\\\")

MAX_BINS = 30

# A longer name would leave no room for the picture.
MAX_NAME = 60


def styles() -> Iterator[tuple[str, str, str]]:
    """The colours, lines and hatches of samples, in order and without end."""
    return zip(itertools.cycle(COLORS), itertools.cycle(LINES), itertools.cycle(HATCHES), strict=False)


def label(name: str) -> str:
    """A name of the user's as Matplotlib is to draw it: as it is, not as a formula, and not too long."""
    return plain(name, MAX_NAME).replace("$", r"\$")


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a figure as a PNG, whole or not at all, and gives its path.

    Raises:
        UserError: if the path has another ending or can't be written to.
    """
    with files.output(path, files.PICTURE) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def histogram(accuracies: Mapping[str, Sequence[float]], images: int, ax: "Axes | None" = None) -> "Axes":
    """Draws how often each accuracy occurred; in shares where the samples differ in size.

    An accuracy on so many images is a whole multiple of 1/images. Each bin holds the same number of these values, its
    edges halfway between two of them, so that no bin is fuller only because it covers more values. All samples have the
    same bins.

    Args:
        accuracies: Samples by name, each in [0, 1].
        images: Number of images the accuracies were measured on; the smallest where samples differ. 10,000 for MNIST's
            test set.
        ax: Axes to draw on.
    """
    ax = ax or _new_axes()
    counts = [accuracy * images for sample in accuracies.values() for accuracy in sample]
    low, high = math.floor(min(counts)), math.ceil(max(counts))
    width = max(1, math.ceil((high - low + 1) / MAX_BINS))
    edges = [(edge - 0.5) / images for edge in range(low // width * width, high + width + 1, width)]
    as_shares = len({len(sample) for sample in accuracies.values()}) > 1
    for (name, sample), (color, line, hatch) in zip(accuracies.items(), styles(), strict=False):
        ax.hist(
            sample,
            bins=edges,
            weights=[1 / len(sample)] * len(sample) if as_shares else None,
            histtype="stepfilled",
            facecolor=(color, 0.25),
            edgecolor=color,
            linestyle=line,
            hatch=hatch,
            label=f"{label(name)}, n = {len(sample)}",
        )
    ax.set_xlabel(f"accuracy (bins of {width}/{images:,})")
    ax.set_ylabel("share of trials" if as_shares else "trials")
    ax.legend()
    return ax


def ecdf(accuracies: Mapping[str, Sequence[float]], target: float, ax: "Axes | None" = None) -> "Axes":
    """Draws the share of trials at or below each accuracy.

    Args:
        accuracies: Samples by name, each in [0, 1].
        target: An accuracy to mark.
        ax: Axes to draw on.
    """
    ax = ax or _new_axes()
    for (name, sample), (color, line, _) in zip(accuracies.items(), styles(), strict=False):
        ax.ecdf(sample, color=color, linestyle=line, label=f"{label(name)}, n = {len(sample)}")
    ax.axvline(target, color="0.4", linestyle=":", label=f"{target:.0%}")
    ax.set_xlabel("accuracy")
    ax.set_ylabel("share of trials at or below")
    ax.legend()
    return ax


def best_of_k(accuracies: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Draws the expected best accuracy of k trials over k, and marks the best of all with a circle.

    The band is the 95 % interval of the estimate, drawn as far as a fifth of the trials; beyond, a bootstrap knows too
    little of the highest accuracies (see `statistics.expected_best`).

    Args:
        accuracies: Samples by name, each in [0, 1].
        ax: Axes to draw on.
    """
    from mnist_minimal.analysis.statistics import expected_best

    ax = ax or _new_axes()
    for (name, sample), (color, line, _) in zip(accuracies.items(), styles(), strict=False):
        found, k = expected_best(sample), range(1, len(sample) + 1)
        trusted = max(1, len(sample) // 5)
        ax.fill_between(k[:trusted], found.low[:trusted], found.high[:trusted], color=color, alpha=0.2, linewidth=0)
        best = f"best of {len(sample)}: {max(sample):.4f}"
        ax.plot(k, found.mean, color=color, linestyle=line, label=f"{label(name)}; {best}")
        ax.plot(len(sample), max(sample), "o", color=color, markerfacecolor="none")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlabel("k, number of trials")
    ax.set_ylabel("expected best accuracy of k trials")
    ax.legend(loc="lower right")
    return ax


def selection(source: Sequence[Trial], holdout: Sequence[Trial], ax: "Axes | None" = None) -> "Axes":
    """Draws what choosing the epoch on the test set adds to an accuracy, trial by trial.

    Left, the last and the best epoch of trials that monitored the test set; right, the best epoch of trials that
    monitored held-out images, on those and on the test set. A grey line is a trial; the bars are means with their 95 %
    intervals, hollow where the epoch was chosen on the very images.

    Args:
        source: Finished trials under the protocol "source".
        holdout: Finished trials under the protocol "holdout".
        ax: Axes to draw on.
    """
    from mnist_minimal.analysis.statistics import summarize

    ax = ax or _new_axes()
    columns = (
        ("last epoch:\ntest set", ledger.accuracies(source, "saved"), True),
        ("best epoch:\nthe test set\nthat chose it", ledger.accuracies(source, "best"), False),
        ("best epoch:\nthe held-out images\nthat chose it", ledger.accuracies(holdout, "best"), False),
        ("the same epoch:\ntest set", ledger.accuracies(holdout, "test"), True),
    )
    for left in (0, 2):
        ax.plot([left, left + 1], [columns[left][1], columns[left + 1][1]], color="0.75", linewidth=0.8, zorder=1)
    for column, (_, sample, honest) in enumerate(columns):
        found, color = summarize(sample), COLORS[column // 2]
        ax.errorbar(
            column,
            found.mean,
            yerr=[[found.mean - found.low], [found.high - found.mean]],
            fmt="os"[column // 2],
            color=color,
            markerfacecolor=color if honest else "white",
            capsize=6,
            zorder=2,
        )
        ax.annotate(f"{found.mean:.5f}", (column, found.mean), xytext=(10, 0), textcoords="offset points", va="center")
    ax.set_xticks(range(len(columns)), [name for name, _, _ in columns])
    ax.set_xlim(-0.4, len(columns) - 0.4)
    ax.axvline(1.5, color="0.6", linewidth=0.8)
    ax.set_title(f"source, n = {len(source)}  |  holdout, n = {len(holdout)}")
    ax.set_ylabel("accuracy")
    return ax


def accuracy_curves(history: "pandas.DataFrame", ax: "Axes | None" = None) -> "Axes":
    """Draws training and validation accuracy by epoch, with a line where the learning rate steps down.

    Args:
        history: A trial's history as `read_history` gives it.
        ax: Axes to draw on.
    """
    from matplotlib.ticker import MaxNLocator

    ax = ax or _new_axes()
    ax.plot(history["epoch"], history["accuracy"], color=COLORS[0], label="training (with dropout)")
    ax.plot(history["epoch"], history["val_accuracy"], color=COLORS[1], linestyle="--", label="validation")
    best = history["val_accuracy"].idxmax()
    ax.plot(history["epoch"][best], history["val_accuracy"][best], "o", color=COLORS[1], markerfacecolor="none")
    ax.annotate(
        f"{history['val_accuracy'][best]:.4f}",
        (history["epoch"][best], history["val_accuracy"][best]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
    )
    _mark_learning_rate_steps(history, ax)
    ax.set_xlabel("epoch")
    ax.set_ylabel("accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    low = history[["accuracy", "val_accuracy"]].min(axis=1)
    if len(low) > 10:
        # The first epochs are far below all others and would flatten what matters.
        ax.set_ylim(bottom=float(low.iloc[2]) - 0.002)
    ax.legend(loc="lower right")
    return ax


def learning_rate(history: "pandas.DataFrame", ax: "Axes | None" = None) -> "Axes":
    """Draws the learning rate of each epoch, on a logarithmic axis."""
    ax = ax or _new_axes()
    ax.step(history["epoch"], history["learning_rate"], where="mid", color="0.2")
    ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel("learning rate")
    return ax


def augmentation_grid(
    images: np.ndarray, labels: np.ndarray, augmentation: Augmentation, seed: int, epochs: range
) -> "Figure":
    """Draws the first image of each of the first ten classes as it is, and beside it as it is in some epochs.

    Args:
        images: The training images, uint8 (n, height, width, channels); of 3 channels they are shown in colour.
        labels: Integers (n,).
        augmentation: What the recipe does.
        seed: The trial's seed.
        epochs: The epochs, counted from 0.
    """
    from matplotlib.figure import Figure

    classes, shown = (found[:10] for found in np.unique(labels, return_index=True))
    columns = {"as it is": images[shown]}
    for epoch in epochs:
        changes = draw_changes(augmentation, seed, epoch, images)
        columns[f"epoch {epoch + 1}"] = augment(images[shown], changes[shown], augmentation)
    figure = Figure(figsize=(0.8 * len(columns), 0.8 * len(classes)), layout="constrained")
    axes = figure.subplots(len(classes), len(columns), squeeze=False)
    for column, (title, versions) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize="small")
        for ax, version in zip(axes[:, column], versions, strict=True):
            colour = version.shape[-1] == 3
            ax.imshow(version / 255 if colour else version[..., 0] / 255, cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
    return figure


def draw_samples(samples: Sequence[Sample], measure: str, path: Path) -> None:
    """Writes the histograms, with common bins, and the distribution functions of all samples as a PNG."""
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.statistics import TARGET

    accuracies = {sample.name: sample.accuracies for sample in samples}
    figure = Figure(figsize=(8, 8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    histogram(accuracies, min(sample.images or TEST_SIZE for sample in samples), upper)
    ecdf(accuracies, TARGET, lower)
    figure.suptitle(f"accuracy, {MEASURE_NAMES[measure]}")
    save_figure(figure, path)


def model_diagram(model: str, path: Path) -> None:
    """Writes Keras' diagram of a model as a PNG.

    Raises:
        UserError: if the program `dot` of Graphviz or the package pydot is missing, or the path can't be written to.
    """
    import keras

    try:
        with files.output(path, files.PICTURE) as temporary:
            keras.utils.plot_model(
                builder(model)(),
                str(temporary),
                show_shapes=True,
                show_layer_names=True,
                show_layer_activations=True,
                dpi=96,
            )
    except ImportError as error:
        raise UserError(
            "Keras draws a model with pydot and Graphviz, and found not both; install them with `pip install "
            "mnist_minimal[draw]` and your system's package graphviz"
        ) from error


def draw_distribution(study: "StudySummary", path: Path) -> Path:
    """Draws one study's distribution on the test set as a PNG, and gives its path.

    Raises:
        UserError: if the picture can't be written.
    """
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.statistics import TARGET

    accuracies = {MEASURE_NAMES[measure]: study.accuracies(measure) for measure in study.measures}
    figure = Figure(figsize=(7, 7), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    histogram(accuracies, study.best.test_size, upper)
    ecdf(accuracies, TARGET, lower)
    lower.set_xlabel("accuracy on the test set")
    figure.suptitle(_title(study))
    return save_figure(figure, path)


def draw_study(study: "StudySummary", out: Path) -> list[Path]:
    """Draws one study's distribution on the test set, and the training curves of its best and its median trial.

    Args:
        study: The study.
        out: Folder for the pictures.

    Returns:
        The pictures written: `<study>-distribution.png` and `<study>-curves.png`.

    Raises:
        UserError: if the history of one of the two trials can't be read, or a picture can't be written.
    """
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.summaries import median_trial

    pictures = [draw_distribution(study, out / f"{study.paths.name}-distribution.png")]
    best, median = study.best, median_trial(study.trials)
    shown = [best] if best == median else [best, median]
    figure = Figure(figsize=(6 * len(shown), 6), layout="constrained")
    for column, (name, trial) in enumerate(zip(("best", "median"), shown, strict=False)):
        history = read_history(study.paths.history(trial.seed))
        upper = figure.add_subplot(3, len(shown), (column + 1, column + 1 + len(shown)))
        accuracy_curves(history, upper).set_title(f"{name} of {len(study.trials)} trials: seed {trial.seed}")
        learning_rate(history, figure.add_subplot(3, len(shown), column + 1 + 2 * len(shown), sharex=upper))
    figure.suptitle(_title(study))
    return [*pictures, save_figure(figure, out / f"{study.paths.name}-curves.png")]


def _title(study: "StudySummary") -> str:
    title = f"{label(study.model)} ({study.params} parameters) on {label(study.dataset)}, protocol "
    return title + label(study.protocol) + (f", cut at {study.cut} epochs" if study.cut else "")


def _mark_learning_rate_steps(history: "pandas.DataFrame", ax: "Axes") -> None:
    rates = history["learning_rate"]
    steps = history["epoch"][rates < rates.shift()]
    for number, epoch in enumerate(steps):
        ax.axvline(epoch - 0.5, color="0.6", linestyle=":", label="learning rate steps down" if number == 0 else None)


def _new_axes() -> "Axes":
    from matplotlib import pyplot

    return pyplot.subplots()[1]
