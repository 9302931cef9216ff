"""Figures of what trials recorded: distributions, training curves, augmented images, and Keras' diagram of a model.

Every drawing function takes the axes to draw on, or makes its own, and returns them. Nothing here imports Keras but the
model diagram, which is Keras' own.
"""

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnist_minimal import files
from mnist_minimal.analysis.dots import sampled
from mnist_minimal.analysis.monitored import monitors_test_set
from mnist_minimal.analysis.samples import TEST_SIZE, Sample
from mnist_minimal.analysis.tables import MEASURE_NAMES, share_count
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.errors import UserError, plain
from mnist_minimal.models.lookup import builder
from mnist_minimal.recipes import Augmentation
from mnist_minimal.study import ledger
from mnist_minimal.study.history import exists as history_exists
from mnist_minimal.study.history import read_history
from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.frontier import Counting, Entry
    from mnist_minimal.analysis.summaries import StudySummary


# The Okabe-Ito palette, which the colour-blind tell apart, without its yellow, which is lost on white. For print in
# grey the lines differ too. Samples take them in turn; 7 colours and 4 lines make 28 different pairs.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

LINES = ("-", "--", "-.", ":")

QUIET, FAINT = "0.4", "0.9"

MAX_BINS = 30

# Bars of fewer trials than this would say more of the bins' edges than of the trials; those are dots.
LEAST_FOR_BARS = 30

# How much of a row of the distribution its tallest bar takes; above it stands the row's name.
BAR_SHARE = 0.6

# A longer name would leave no room for the picture.
MAX_NAME, MAX_TITLE = 60, 100

# A title says what was found.
TITLE: dict[str, Any] = {"fontsize": 12, "fontweight": "bold"}

_HEADING: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "weight": "bold"}


def styles() -> Iterator[tuple[str, str]]:
    """The colours and lines of samples, in order and without end."""
    return zip(itertools.cycle(COLORS), itertools.cycle(LINES), strict=False)


def label(name: str, longest: int = MAX_NAME) -> str:
    """A name of the user's as Matplotlib is to draw it: as it is, not as a formula, and not too long."""
    return plain(name, longest).replace("$", r"\$")


def percent(accuracy: float, digits: int = 2) -> str:
    """An accuracy as figures have it: "98.76 %"."""
    return f"{100 * accuracy:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of accuracies in percentage points, without its sign: "0.079 points"."""
    return f"{100 * abs(difference):.3f} points"


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a figure as a PNG, whole or not at all, and gives its path.

    Raises:
        UserError: if the path has another ending or can't be written to.
    """
    with files.output(path, files.PICTURE) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def histogram(accuracies: Mapping[str, Sequence[float]], images: int, ax: "Axes | None" = None) -> "Axes":
    """Draws how often each accuracy occurred, a row for each sample under its name.

    An accuracy on so many images is a whole multiple of 1/images. Each bin holds the same number of these values, its
    edges halfway between two of them, so that no bin is fuller only because it covers more values. All samples have the
    same bins. Bars are as high as their share of a sample's trials, and ticks say how many trials that is; of fewer
    than LEAST_FOR_BARS trials each is a dot. A triangle marks the mean.

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
    first = low // width * width
    edges = np.array([(edge - 0.5) / images for edge in range(first, high + width + 1, width)])
    middles = (edges[1:] + edges[:-1]) / 2
    heights = {name: np.histogram(sample, edges)[0] for name, sample in accuracies.items()}
    tallest = max((found.max() / found.sum() for found in heights.values() if found.sum() >= LEAST_FOR_BARS), default=1)
    ticks: dict[float, str] = {}
    for row, ((name, sample), (color, _)) in enumerate(zip(accuracies.items(), styles(), strict=False)):
        found, base = heights[name], float(-row)
        ax.axhline(base, color="0.75", linewidth=0.8, zorder=3)
        if len(sample) < LEAST_FOR_BARS:
            equal = Counter(sample)
            step = min(BAR_SHARE / max(equal.values()), 0.14)
            at = [(x, base + step * (place + 0.6)) for x, count in equal.items() for place in range(count)]
            ax.plot(*zip(*at, strict=True), "o", color=color, markersize=8, markeredgecolor="white", label=label(name))
        else:
            unit, full = BAR_SHARE / (tallest * len(sample)), found > 0  # The height of one trial; bins with any.
            style: dict[str, Any] = {"color": color, "edgecolor": "white", "label": label(name)}
            ax.bar(middles[full], unit * found[full], np.diff(edges)[full], base, **style)
            ticks |= {base: "0", base + unit * found.max(): f"{found.max():,}"}
        mean = sum(sample) / len(sample)
        ax.plot(mean, base - 0.08, "^", color=color, markersize=7, clip_on=False)
        said = f"{label(name)}: {_trials(len(sample))}, {percent(mean, 3)} on average"
        ax.annotate(said, (0, base + 0.8), xycoords=ax.get_yaxis_transform(), color=color, va="center", weight="bold")
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set_ylim(0.8 - len(accuracies), 1)
    ax.set_ylabel("trials" if ticks else "a dot a trial")
    ax.set_xlabel(f"accuracy (bins of {width}/{images:,})")
    _percent_axis(ax, "x")
    _despine(ax)
    ax.spines["bottom"].set_visible(False)  # Each row has a line of its own.
    return ax


def ecdf(accuracies: Mapping[str, Sequence[float]], target: float, ax: "Axes | None" = None) -> "Axes":
    """Draws the share of trials at or below each accuracy, each line named where it runs.

    Args:
        accuracies: Samples by name, each in [0, 1].
        target: An accuracy to mark.
        ax: Axes to draw on.
    """
    ax = ax or _new_axes()
    ranked = sorted(accuracies, key=lambda name: float(np.mean(accuracies[name])))
    for (name, sample), (color, line) in zip(accuracies.items(), styles(), strict=False):
        ax.ecdf(sample, color=color, linestyle=line, linewidth=2, label=label(name))
        # The lowest sample's line has room to its left, the others' to their right.
        rank = ranked.index(name)
        level = 0.7 - 0.5 * rank / max(1, len(ranked) - 1) if len(ranked) > 1 else 0.5
        left = rank == 0 and len(ranked) > 1
        ax.annotate(
            label(name),
            (float(np.quantile(sample, level)), level),
            xytext=(-8 if left else 8, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=color,
            weight="bold",
        )
    ax.axvline(target, color=QUIET, linestyle=":", linewidth=1)
    ax.annotate(
        f"{100 * target:g} %",
        (target, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(4, -2),
        textcoords="offset points",
        va="top",
        color=QUIET,
    )
    ax.set_xlabel("accuracy")
    ax.set_ylabel("share of trials at or below")
    _percent_axis(ax, "x")
    _percent_axis(ax, "y")
    _despine(ax)
    return ax


def best_of_k(accuracies: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Draws the expected best accuracy of k trials over k, and marks the best of all with a circle.

    The band is the 95 % interval of the estimate, drawn as far as a fifth of the trials; beyond, a bootstrap knows too
    little of the highest accuracies (see `statistics.expected_best`).

    Args:
        accuracies: Samples by name, each in [0, 1].
        ax: Axes to draw on.
    """
    from mnist_minimal.analysis.statistics import expected_best, sizes_of_best

    ax = ax or _new_axes()
    highest = max(accuracies, key=lambda name: max(accuracies[name]))
    for (name, sample), (color, line) in zip(accuracies.items(), styles(), strict=False):
        above = name == highest
        found = expected_best(sample, sizes_of_best(len(sample)))
        trusted = found.sizes <= max(1, len(sample) // 5)
        band = found.sizes[trusted], found.low[trusted], found.high[trusted]
        ax.fill_between(*band, color=color, alpha=0.15, linewidth=0)
        ax.plot(found.sizes, found.mean, color=color, linestyle=line, linewidth=2, label=label(name))
        ax.plot(len(sample), max(sample), "o", color=color, markerfacecolor="white")
        ax.annotate(
            f"{label(name)},\nbest of {len(sample):,}: {percent(max(sample))}",
            (len(sample), max(sample)),
            xytext=(-8, 8) if above else (8, -6),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            color=color,
            weight="bold",
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.margins(y=0.12)
    ax.set_xlabel("number of trials")
    ax.set_ylabel("expected accuracy of the best of them")
    _percent_axis(ax, "y")
    _despine(ax)
    return ax


def selection(source: Sequence[Trial], holdout: Sequence[Trial], ax: "Axes | None" = None) -> "Axes":
    """Draws what choosing the epoch on the test set adds to an accuracy, trial by trial.

    Left, the last and the best epoch of trials that monitored the test set; right, the best epoch of trials that
    monitored held-out images, on those and on the test set. A grey line is a trial; the bars are means with their 95 %
    intervals, hollow where the epoch was chosen on the very images.

    Args:
        source: Finished trials under the protocol "source", two or more.
        holdout: Finished trials under the protocol "holdout", two or more.
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
        ax.plot([left, left + 1], [columns[left][1], columns[left + 1][1]], color="0.82", linewidth=0.8, zorder=1)
    means = []
    for column, (_, sample, honest) in enumerate(columns):
        found, color = summarize(sample), COLORS[column // 2]
        means.append(found.mean)
        ax.errorbar(
            column,
            found.mean,
            yerr=[[found.mean - found.low], [found.high - found.mean]],
            fmt="os"[column // 2],
            color=color,
            markerfacecolor=color if honest else "white",
            markersize=8,
            linewidth=2,
            zorder=2,
        )
        ax.annotate(
            percent(found.mean, 3),
            (column, found.mean),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=color,
            weight="bold",
        )
    ax.set_xticks(range(len(columns)), [name for name, _, _ in columns])
    ax.set_xlim(-0.4, len(columns) - 0.4)
    ax.annotate(f"test set monitored, {_trials(len(source))}", (0.5, 1.01), **_HEADING, color=COLORS[0])
    ax.annotate(f"held-out images monitored, {_trials(len(holdout))}", (2.5, 1.01), **_HEADING, color=COLORS[1])
    gain, loss = means[1] - means[0], means[2] - means[3]
    ax.set_title(
        f"Chosen on the test set, an epoch is {points(gain)} {'above' if gain >= 0 else 'below'} the last one there;\n"
        f"chosen on held-out images, {points(loss)} {'lower' if loss >= 0 else 'higher'} on the test set than on them",
        loc="left",
        pad=24,
        **TITLE,
    )
    ax.set_ylabel("accuracy")
    _percent_axis(ax, "y")
    _despine(ax)
    return ax


def all_curves(
    histories: Mapping[int, "pandas.DataFrame"],
    median: int,
    best: int,
    ax: "Axes | None" = None,
    monitored: str = "monitored images",
) -> "Axes":
    """Draws the monitored accuracy of many trials by epoch: all pale, the median one bold, the best one in colour.

    Args:
        histories: Their histories as `read_history` gives them, by seed, those of the two trials among them.
        median: The seed of the median trial.
        best: The seed of the best trial.
        ax: Axes to draw on.
        monitored: Which images were monitored, as "test set (monitored)".
    """
    ax = ax or _new_axes()
    for history in histories.values():
        ax.plot(history["epoch"], history["val_accuracy"], color="0.5", alpha=0.25, linewidth=0.8, zorder=1)
    shown = [(f"median: seed {median}", histories[median], COLORS[0], 2.2)]
    if best != median:
        shown.insert(0, (f"best kept model: seed {best}", histories[best], COLORS[1], 1.6))
    named = []
    for name, history, color, width in shown:
        ax.plot(history["epoch"], history["val_accuracy"], color=color, linewidth=width, zorder=width)
        said = f"{name}, {percent(history['val_accuracy'].max())}"
        named.append((said, history["epoch"].iloc[-1], history["val_accuracy"].iloc[-1], color))
    middle = histories[median]
    ax.plot(middle["epoch"], middle["accuracy"], color=COLORS[0], linestyle=":", linewidth=1.4)
    named.append(("training accuracy of the median", middle["epoch"].iloc[-1], middle["accuracy"].iloc[-1], COLORS[0]))
    _epoch_axis(ax, [middle])
    _name_lines(ax, named)
    ax.set_ylabel(f"accuracy on the {monitored}")
    return ax


def learning_rate(history: "pandas.DataFrame", ax: "Axes | None" = None, **style: Any) -> "Axes":
    """Draws the learning rate of each epoch, on a logarithmic axis.

    Args:
        history: A trial's history as `read_history` gives it.
        ax: Axes to draw on.
        style: Matplotlib's properties of the line.
    """
    ax = ax or _new_axes()
    ax.step(history["epoch"], history["learning_rate"], where="mid", **{"color": "0.2", **style})
    ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel("learning rate")
    _despine(ax)
    return ax


def augmentation_grid(
    images: np.ndarray, labels: np.ndarray, augmentation: Augmentation, seed: int, epochs: range
) -> "Figure":
    """Draws the first image of each class as it is, and beside it as it is in some epochs.

    Args:
        images: The training images, uint8 (n, side, side, 1).
        labels: Integers (n,).
        augmentation: What the recipe does.
        seed: The trial's seed.
        epochs: The epochs, counted from 0.
    """
    from matplotlib.figure import Figure

    classes, shown = np.unique(labels, return_index=True)
    columns = {"as it is": images[shown]}
    for epoch in epochs:
        changes = draw_changes(augmentation, seed, epoch, images)
        columns[f"epoch {epoch + 1}"] = augment(images[shown], changes[shown], augmentation)
    figure = Figure(figsize=(0.8 * len(columns), 0.8 * len(classes)), layout="constrained")
    axes = figure.subplots(len(classes), len(columns), squeeze=False)
    for column, (title, versions) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize="small")
        for ax, version in zip(axes[:, column], versions, strict=True):
            ax.imshow(version[..., 0], cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
    return figure


# How the kinds of `frontier.Entry` are drawn, and what the legend calls them, in its order.
_KINDS: dict[str, tuple[str, str, str]] = {
    "published": ("x", "0.35", "published run"),
    "recipe": ("o", COLORS[0], "trial, published network and recipe"),
    "retrained": ("D", COLORS[1], "trial, published network, another recipe"),
    "network": ("s", COLORS[2], "trial, another network"),
}

_LINES_OF_FRONTIER = ("mean of a study", "frontier of the means", "frontier of the best runs")

# Widths on the axis of parameters, in powers of ten: the widest column of trials, the narrowest, a trial beside another
# of its accuracy, and what lies between two columns.
_COLUMN, _NARROW_COLUMN, _TRIAL, _BETWEEN_COLUMNS = 0.034, 0.014, 0.006, 0.006

# Inches from one name above the axis to the next, and the width below which the axis has fewer numbers.
_BETWEEN_NAMES, _NARROW = 0.2, 4

# Where the networks' names begin, of the axes' height.
_ABOVE = 1.05

# Fewer published runs than this stand among the trials of their network, and not in a column of their own.
_FEW_RUNS = 10


def parameters_against_accuracy(
    entries: Sequence["Entry"], published: Sequence["Entry"] = (), target: float = 0.99, ax: "Axes | None" = None
) -> "Axes":
    """Draws every trial of every study by its network's parameters, the means, and the frontiers of means and bests.

    Trials of one accuracy stand side by side, and so do studies of about as many parameters, in their order.
    Trials far below all others would squeeze them: of a study's there is a triangle at the lower edge, with the
    accuracy, or how many they are and the lowest.

    Args:
        entries: The studies, by one way of counting.
        published: Published runs by the same.
        target: An accuracy to mark.
        ax: Axes to draw on.
    """
    from mnist_minimal.analysis.frontier import BEST, MEAN, frontier

    ax = ax or _new_axes()
    names, places = _columns([*entries, *(each for each in published if len(each.accuracies) >= _FEW_RUNS)])
    # A tenth of a study may lie below the axis.
    tenths = [float(np.quantile(each.accuracies, 0.1, method="higher")) for each in (*entries, *published)]
    lowest = min(*tenths, target) - 0.0015
    below = []
    for entry in (*published, *entries):
        marker, color, said = _KINDS[entry.kind]
        place = places.get(entry.name)
        if place is None:
            place = next((places[each.name] for each in entries if each.params == entry.params), float(entry.params))
        x, y = _side_by_side(entry.accuracies, place)
        shown = y >= lowest
        if not shown.all():
            below.append((place, color, y[~shown]))
        few = entry.kind == "published" and len(y) < _FEW_RUNS
        style: dict[str, Any] = {"markersize": 2.6, "alpha": 0.6, "color": color}
        if few:
            style = {"markersize": 6.5, "markeredgewidth": 1.8, "color": "0.1"}
        ax.plot(x[shown], y[shown], marker, label=said, zorder=4 if few else 2, **style)
        if entry.kind != "published":
            width = place * 10 ** (_width(entry) * np.array([-0.5, 0.5]))
            if entry.mean >= lowest:
                ax.plot(width, [entry.mean] * 2, color="black", linewidth=1.8, zorder=5, label=_LINES_OF_FRONTIER[0])
    _note_below(ax, below, lowest)
    there = [*places.values(), *(each.params for each in published)]
    low, high = min(there) * 10**-0.05, max(there) * 10**0.05
    for said, line, value in zip(_LINES_OF_FRONTIER[1:], LINES, (MEAN, BEST), strict=False):
        steps = frontier(entries, value)
        # As far as another panel may be drawn.
        ends = [*(each.params for each in steps), 100 * high]
        heights = [*(value(each) for each in steps), value(steps[-1])]
        ax.step(ends, heights, where="post", color="0.45", linestyle=line, linewidth=1.1, zorder=1, label=said)
    ax.axhline(target, color=COLORS[3], linewidth=1, zorder=1)
    ax.annotate(
        f"{100 * target:g} %",
        (1, target),
        xycoords=ax.get_yaxis_transform(),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        color=COLORS[3],
    )
    ax.set_xlim(low, high)
    _parameters_axis(ax, names)
    highest = max(max(each.accuracies) for each in (*entries, *published))
    ax.set_ylim(lowest, highest + 0.04 * (highest - lowest))
    ax.set_ylabel("accuracy on the test set")
    _percent_axis(ax, "y")
    _despine(ax)
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    return ax


def frontiers(countings: Sequence["Counting"], width: float = 7, height: float = 4.8) -> "Figure":
    """Draws `parameters_against_accuracy` by each way of counting, one above the other along one axis of parameters.

    Args:
        countings: The ways of counting, at least one.
        width: Of the figure, in inches.
        height: Of each of its parts, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * len(countings) + 0.6), layout="constrained")
    axes = figure.subplots(len(countings), squeeze=False)[:, 0]
    for counting, ax in zip(countings, axes, strict=True):
        parameters_against_accuracy(counting.entries, counting.published, ax=ax)
        # Above the networks' names.
        ax.set_title(_fewest(counting, int(11.3 * (width - 0.8))), loc="left", pad=68, fontsize=11, fontweight="bold")
    limits = [ax.get_xlim() for ax in axes]
    handles: dict[str, Any] = {}
    for ax in axes:
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    order = [said for said in (*(said for _, _, said in _KINDS.values()), *_LINES_OF_FRONTIER) if said in handles]
    legend = figure.legend(
        [handles[said] for said in order],
        order,
        loc="outside lower left",
        ncols=max(1, int(width / 2.6)),
        fontsize=8,
        frameon=False,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


def _fewest(counting: "Counting", width: int) -> str:
    """A way of counting, and what it says of 99 %, in lines no longer than so many characters."""
    on_average, once = (
        "none" if each is None else f"{each.params:,}" for each in (counting.on_average, counting.in_best_run)
    )
    said = f"Fewest parameters at 99 %: {on_average} on average, {once} in a best run"
    return "\n".join(line for part in (counting.said, said) for line in textwrap.wrap(part, width))


def _columns(entries: Sequence["Entry"]) -> tuple[list[tuple[float, str]], dict[str, float]]:
    """Where the entries stand on an axis of parameters: no nearer to each other than can be read, else where they are.

    Returns:
        The middle and the name of each network, and the place of each entry by its name.
    """
    ordered = sorted(entries, key=lambda each: (each.params, each.network, each.kind != "published", each.name))
    widths = np.array([_width(entry) for entry in ordered])
    nearest = _spread([each.params for each in ordered], (widths[:-1] + widths[1:]) / 2 + _BETWEEN_COLUMNS)
    places = {entry.name: float(10**place) for entry, place in zip(ordered, nearest, strict=True)}
    networks: dict[tuple[int, str], list[float]] = {}
    for entry, place in zip(ordered, nearest, strict=True):
        networks.setdefault((entry.params, entry.network), []).append(float(place))
    return [(10 ** float(np.mean(found)), name) for (_, name), found in networks.items()], places


def _width(entry: "Entry") -> float:
    """That of its column, whose trials of one accuracy stand side by side."""
    return min(_COLUMN, max(_NARROW_COLUMN, _TRIAL * max(Counter(entry.accuracies).values())))


def _spread(places: Sequence[float], apart: np.ndarray) -> np.ndarray:
    """The logarithms nearest, in squares, to those of some rising places, each as far as is said from the next."""
    from scipy.optimize import isotonic_regression

    # Without the spaces they do not fall.
    spaces = np.concatenate([[0], np.cumsum(apart)])
    return isotonic_regression(np.log10(places) - spaces).x + spaces


def _side_by_side(accuracies: Sequence[float], place: float) -> tuple[np.ndarray, np.ndarray]:
    """Places on an axis of parameters around one, and accuracies: those of one accuracy beside each other."""
    counts = Counter(accuracies)
    most = max(counts.values())
    step = min(_COLUMN / most, _TRIAL)
    found = [(step * (k - (count - 1) / 2), y) for y, count in counts.items() for k in range(count)]
    offsets, heights = np.array(found).T
    return place * 10**offsets, heights


def _note_below(ax: "Axes", below: Sequence[tuple[float, str, np.ndarray]], lowest: float) -> None:
    """Says at the lower edge of axes what lies below it: of each study its place, its colour and the accuracies."""
    for number, (place, color, accuracies) in enumerate(sorted(below, key=lambda study: study[0])):
        ax.plot(place, lowest, "v", color=color, markersize=6, clip_on=False, zorder=6)
        ax.annotate(
            f"{len(accuracies)} from {percent(accuracies.min())}" if len(accuracies) > 1 else percent(accuracies[0]),
            (place, lowest),
            # Of neighbours the texts stand one above the other.
            xytext=(6, 3 + 10 * (number % 2)),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )


def _parameters_axis(ax: "Axes", names: Sequence[tuple[float, str]]) -> None:
    """A logarithmic axis of parameters, and the networks' names above it, each with a line to its middle."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    limits, inches = ax.get_xlim(), ax.bbox.width / ax.figure.dpi
    ax.set_xscale("log")
    ax.set_xlim(limits)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if inches > _NARROW else (1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("trainable parameters (logarithmic)")
    across = math.log10(limits[1] / limits[0])
    apart = min(_BETWEEN_NAMES / inches, 1 / len(names)) * across
    above: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "color": QUIET}
    places = _spread([middle for middle, _ in names], np.full(len(names) - 1, apart))
    for place, (middle, name) in zip(places, names, strict=True):
        ax.plot([middle, 10**place], [1, _ABOVE], clip_on=False, linewidth=0.6, **above)
        ax.text(10**place, _ABOVE + 0.01, label(name), rotation=40, rotation_mode="anchor", fontsize=8, **above)


def draw_samples(samples: Sequence[Sample], measure: str, path: Path) -> None:
    """Writes the histograms, with common bins, and the distribution functions of all samples as a PNG."""
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.statistics import TARGET

    accuracies = {sample.name: sample.accuracies for sample in samples}
    figure = Figure(figsize=(8, 4 + 1.3 * len(samples)), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(1.3 * len(samples), 3))
    histogram(accuracies, min(sample.images or TEST_SIZE for sample in samples), upper)
    ecdf(accuracies, TARGET, lower)
    lower.set_xlabel(f"{MEASURE_NAMES[measure]}, {upper.get_xlabel()}")
    upper.set_xlabel("")
    entitle(figure, finding(accuracies))
    save_figure(figure, path)


def finding(accuracies: Mapping[str, Sequence[float]]) -> str:
    """How the means of two samples or more lie, in a sentence; of two also whether they are shown to differ (Welch)."""
    from mnist_minimal.analysis.statistics import difference_of_means

    means = {name: sum(sample) / len(sample) for name, sample in accuracies.items()}
    highest, lowest = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
    if highest == lowest:
        return "All come to the same on average"
    apart = points(means[highest] - means[lowest])
    if len(means) > 2:
        of_all = f"the highest and the lowest of {len(means)}"
        return f"{label(highest)} lies {apart} above {label(lowest)} on average, {of_all}"
    if difference_of_means(accuracies[highest], accuracies[lowest]).p_value >= 0.05:
        return f"{label(highest)} and {label(lowest)} are not shown to differ, {apart} apart on average"
    return f"{label(highest)} lies {apart} above {label(lowest)} on average"


def entitle(figure: "Figure", title: str) -> None:
    """Puts a title over a figure, from its left edge, broken where it would not fit."""
    width = int(figure.get_figwidth() * 9.5)
    figure.suptitle("\n".join(textwrap.wrap(title.replace(" %", "\u00a0%"), width)), x=0.01, ha="left", **TITLE)


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
            "Keras draws a model with pydot and Graphviz, and found not both; install them with `pip install pydot` "
            "and your system's package graphviz"
        ) from error


def draw_distribution(study: "StudySummary", path: Path) -> Path:
    """Draws one study's distribution on the test set as a PNG, and gives its path.

    Raises:
        UserError: if the picture can't be written.
    """
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.statistics import TARGET

    accuracies = {MEASURE_NAMES[measure]: study.accuracies(measure) for measure in study.measures}
    figure = Figure(figsize=(8, 4 + 1.3 * len(accuracies)), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(1.3 * len(accuracies), 3))
    histogram(accuracies, study.best.test_size, upper)
    ecdf(accuracies, TARGET, lower)
    lower.set_xlabel(upper.get_xlabel().replace("accuracy", "accuracy on the test set"))
    upper.set_xlabel("")
    reached = f"{share_count(study.share())} trials reach {100 * TARGET:g} % with the model they keep"
    entitle(figure, f"{reached}; their mean is {percent(study.kept.mean)}")
    upper.set_title(label(study.title, MAX_TITLE), loc="left", color=QUIET)
    return save_figure(figure, path)


def draw_study(study: "StudySummary", out: Path) -> list[Path]:
    """Draws one study's distribution on the test set, and the training curves of its trials, the median one's bold.

    Args:
        study: The study.
        out: Folder for the pictures.

    Returns:
        The pictures written: `<study>-distribution.png` and `<study>-curves.png`.

    Raises:
        UserError: if the history of the best or the median trial can't be read, or a picture can't be written.
    """
    from matplotlib.figure import Figure

    from mnist_minimal.analysis.summaries import median_trial

    pictures = [draw_distribution(study, out / f"{study.paths.name}-distribution.png")]
    best, median = study.best, median_trial(study.trials)
    histories = {trial.seed: read_history(study.paths.history(trial.seed)) for trial in (median, best)}
    for trial in sampled(study.trials):
        if history_exists(study.paths.history(trial.seed)):
            histories.setdefault(trial.seed, read_history(study.paths.history(trial.seed)))
    monitored = "test set (monitored)" if monitors_test_set(study.paths, best) else "held-out images (monitored)"
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    all_curves(histories, median.seed, best.seed, upper, monitored)
    for history in histories.values():
        learning_rate(history, lower, color="0.5", alpha=0.25, linewidth=0.8)
    learning_rate(histories[best.seed], lower, color=COLORS[1], linewidth=1.6)
    learning_rate(histories[median.seed], lower, color=COLORS[0], linewidth=2.4)
    upper.set_xlabel("")
    of_all = f"The median of {_trials(len(study.trials))} is at its best in epoch {median.best_epoch}"
    entitle(figure, f"{of_all}, with {percent(histories[median.seed]['val_accuracy'].max())}")
    drawn = "" if len(histories) == len(study.trials) else f", {len(histories)} of them drawn"
    upper.set_title(label(study.title, MAX_TITLE) + drawn, loc="left", color=QUIET)
    return [*pictures, save_figure(figure, out / f"{study.paths.name}-curves.png")]


def _trials(number: int) -> str:
    return f"{number:,} trial{'' if number == 1 else 's'}"


def _despine(ax: "Axes") -> None:
    """Takes the frame away, and leaves faint lines to read heights by."""
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("0.75")
    ax.tick_params(length=0, colors="0.3")
    ax.grid(axis="x", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)


def _percent_axis(ax: "Axes", which: Literal["x", "y"]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = ax.xaxis if which == "x" else ax.yaxis

    def text(value: float, _: int | None = None) -> str:
        ticks = axis.get_majorticklocs()
        step = 100 * float(ticks[1] - ticks[0]) if len(ticks) > 1 else 0.01
        return f"{100 * value:.{max(0, math.ceil(-math.log10(step) - 1e-9))}f} %"

    axis.set_major_locator(MaxNLocator(7, steps=(1, 2, 5, 10)))
    axis.set_major_formatter(FuncFormatter(text))


def _epoch_axis(ax: "Axes", histories: Sequence["pandas.DataFrame"]) -> None:
    """Epochs in whole numbers; accuracies from where the first few epochs, far below all others, are over."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("epoch")
    ax.set_ylabel("accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest = [history[["accuracy", "val_accuracy"]].min(axis=1) for history in histories if len(history) > 10]
    if lowest:
        highest = max(float(np.max(line.get_ydata())) for line in ax.lines if np.size(line.get_ydata()) > 2)
        bottom = min(float(low.iloc[max(2, len(low) // 12)]) for low in lowest) - 0.002
        ax.set_ylim(bottom, highest + 0.04 * (highest - bottom))
    _percent_axis(ax, "y")
    _despine(ax)
    ax.grid(axis="y", color=FAINT, linewidth=0.8)


def _name_lines(ax: "Axes", named: Sequence[tuple[str, float, float, str]]) -> None:
    """Writes names beside the ends of lines, in the lines' colours, far enough from each other to be read.

    Args:
        ax: The axes.
        named: Of each line its name, the place of its end, and its colour.
    """
    ends = sorted(named, key=lambda line: -line[2])
    right = ax.get_xlim()[1]
    height = 0.0
    for place, (name, epoch, accuracy, color) in enumerate(ends):
        low, high = ax.get_ylim()
        least = 0.06 * (high - low)
        height = accuracy if place == 0 else min(accuracy, height - least)
        ax.annotate(
            name,
            (epoch, accuracy),
            xytext=(right, height),
            textcoords="data",
            va="center",
            color=color,
            weight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.8, "shrinkA": 2, "shrinkB": 2},
        )


def _new_axes() -> "Axes":
    from matplotlib import pyplot

    return pyplot.subplots()[1]
