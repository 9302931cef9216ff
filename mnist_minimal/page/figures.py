"""The page's figures: drawings of Matplotlib as SVG, in the page's own colours, with a text for screen readers."""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mnist_minimal.analysis import figures
from mnist_minimal.analysis.published import Publication
from mnist_minimal.analysis.statistics import TARGET, Summary, summarize
from mnist_minimal.analysis.summaries import StudySummary, compared, compared_measure
from mnist_minimal.analysis.tables import MEASURE_NAMES
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

BLUE, VERMILION = "#0072B2", "#D55E00"

INK = "#010203"

# What Matplotlib writes, and what the page has in its place: colours that go with a light and with a dark paper.
COLORS = {
    INK: "currentColor",
    "#333333": "currentColor",
    BLUE.lower(): "var(--blue)",
    VERMILION.lower(): "var(--vermilion)",
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text: small, and as sharp as the page's.
    "svg.hashsalt": "mnist_minimal",  # The same figure gives the same bytes.
    "font.size": 10,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}

WIDTH_INCHES = 4.5

# Ours and the published stand this far to either side of a model's column, so that neither covers the other.
ASIDE_POINTS = 4

# Room for a column, as a share of the axes' width; models with about as many parameters are moved apart.
COLUMN = 0.08

# The foot of the plane, as shares of the axes' height: lines from the scale to the columns, above them the names.
LINES, PER_CHARACTER = 0.09, 0.022

MAX_NAME = 16

# The interval of a mean of two trials is so wide that nothing else could be seen beside it; the table has it.
LEAST_FOR_INTERVAL = 3

PERCENT = f"{100 * TARGET:g} %"


def plane(studies: Sequence[StudySummary], publications: Sequence[Publication], description: str) -> str:
    """Every model by its parameters and accuracy, published and ours by the same measure, as SVG.

    Args:
        studies: Studies; those that are not comparable with publications are left out.
        publications: What was published.
        description: What the figure shows, in words.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    comparable = [study for study in studies if study.comparable]
    ours = [(study, summarize(study.accuracies(compared_measure(study, publications)))) for study in comparable]
    models = dict.fromkeys(publication.model for publication in publications)
    theirs = [publication for model in models for publication in compared(model, publications)]
    params = {model: PARAMETERS[model] for model in models} | {study.model: study.params for study in comparable}
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 5), layout="constrained")
        axes = figure.subplots()
        accuracies = [TARGET, *(publication.accuracy for publication in theirs)]
        for _, summary in ours:
            accuracies += [summary.best, summary.mean - _margin(summary), summary.mean + _margin(summary)]
        columns = _set_columns(params, accuracies, axes)
        axes.axhline(TARGET, color="0.5", linestyle=":", linewidth=1)
        axes.annotate(PERCENT, (1, TARGET), xycoords=("axes fraction", "data"), ha="right", va="top")
        _mark_published(theirs, columns, axes)
        aside = dict.fromkeys(columns, 0)
        for place, (study, summary) in enumerate(ours):
            aside[study.model] += ASIDE_POINTS  # Further for another study of the same model.
            style: dict[str, Any] = {"color": BLUE, "transform": _aside(axes, aside[study.model])}
            labels = (None, None) if place else ("our mean, 95 % interval", "our best run")
            x, margin = columns[study.model], _margin(summary)
            axes.errorbar(x, summary.mean, margin or None, fmt="o", capsize=3, label=labels[0], **style)
            axes.plot(x, summary.best, "^", markerfacecolor="none", markersize=7, label=labels[1], **style)
        axes.set_xlabel("trainable parameters")
        axes.set_ylabel("accuracy on the test set")
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "plane", "Parameters and accuracy", description)


def distribution(study: StudySummary, publications: Sequence[Publication], description: str) -> str:
    """How a study's accuracies are distributed, with the published mean, spread and range beside ours, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    accuracies = {MEASURE_NAMES[measure]: study.accuracies(measure) for measure in study.measures}
    published = [
        publication
        for publication in compared(study.model, publications)
        if study.comparable and publication.of == "mean"
    ]
    measure = compared_measure(study, publications)
    name = MEASURE_NAMES[measure if measure in study.measures else study.measures[0]]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 5.6), layout="constrained")
        spread, upper, lower = figure.subplots(3, sharex=True, height_ratios=(1, 2.2, 2.2))
        figures.histogram(accuracies, study.trials[0].test_size, upper)
        upper.set_ylim(top=1.45 * upper.get_ylim()[1])  # Room for the legend above the bars.
        figures.ecdf(accuracies, TARGET, lower)
        ours = summarize(accuracies[name])
        spreads = (ours.mean, ours.sd, min(accuracies[name]), ours.best)
        rows = [(f"ours, n = {ours.n}", BLUE, "o", *spreads)]
        for item in published:
            spreads = (item.accuracy, item.sd or math.nan, item.lowest or item.accuracy, item.highest or item.accuracy)
            rows.append((f"published, n = {item.n}", VERMILION, "s", *spreads))
        for place, (_, color, marker, mean, sd, lowest, highest) in enumerate(rows):
            spread.plot([lowest, highest], [place, place], color=color, linewidth=1, marker="|")
            spread.plot([mean - sd, mean + sd], [place, place], color=color, linewidth=5, alpha=0.45)
            spread.plot(mean, place, color=color, marker=marker)
        spread.set_yticks(range(len(rows)), [row[0] for row in rows])
        spread.set_ylim(len(rows) - 0.4, -0.6)
        lower.xaxis.set_major_locator(MaxNLocator(5))
        spread.set_title(f"{name}: mean, one sd to each side, range")
        return _svg(figure, "distribution", "Distribution of accuracies", description)


def curves(study: StudySummary, trial: Trial, name: str, description: str) -> str:
    """The training curves of one trial of a study, as SVG.

    Args:
        study: The study.
        trial: The trial.
        name: What it is among the trials, as "best".
        description: What the figure shows, in words.

    Raises:
        UserError: if the trial's history can't be read.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        history = figures.read_history(study.paths.history(trial.seed))
        figures.accuracy_curves(history, upper).set_title(f"{name} run, seed {trial.seed}")
        figures.learning_rate(history, lower)
        upper.set_xlabel("")
        return _svg(figure, f"{name}-curves", f"Training curves of the {name} run", description)


def _mark_published(publications: Sequence[Publication], columns: dict[str, float], axes: "Axes") -> None:
    """Means filled and single or best runs open, so that the two are not taken for each other."""
    marks = {"mean": ("s", VERMILION, "published mean"), "best": ("D", "none", "published best run")}
    marks["run"] = ("X", "none", "published, one run")
    for of, (marker, face, label) in marks.items():
        points = [publication for publication in publications if publication.of == of]
        if points:
            axes.plot(
                [columns[point.model] for point in points],
                [point.accuracy for point in points],
                marker,
                color=VERMILION,
                markerfacecolor=face,
                transform=_aside(axes, -ASIDE_POINTS),
                label=label,
            )


def _margin(summary: Summary) -> float:
    """Half the interval of a mean as it is drawn."""
    return summary.high - summary.mean if summary.n >= LEAST_FOR_INTERVAL else 0.0


def _aside(axes: "Axes", points: float) -> "Transform":
    """The axes' coordinates, moved to the right."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _set_columns(params: dict[str, int], accuracies: Sequence[float], axes: "Axes") -> dict[str, float]:
    """Makes a column for each model, its name upright at the foot, with a line from its place on the scale.

    Args:
        params: Numbers of parameters by model, one or more.
        accuracies: What must have room in height.
        axes: Where the columns are made.

    Returns:
        Where on the axis of parameters each model's column stands: where the model does if there is room, else as near
        to that as its neighbours allow.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    left, right = min(params.values()) / 1.5, max(params.values()) * 1.5
    height = max(accuracies) - min(accuracies) or 0.01
    top, foot = max(accuracies) + 0.06 * height, min(accuracies) - 0.08 * height
    names = {model: model if len(model) <= MAX_NAME else f"{model[: MAX_NAME - 1]}…" for model in params}
    share = LINES + PER_CHARACTER * max(map(len, names.values())) + 0.02
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(foot - share / (1 - share) * (top - foot), top)
    # The scale of accuracies ends above the names.
    ticks = MaxNLocator(7, steps=(1, 2, 5, 10)).tick_values(foot, top)
    axes.set_yticks([tick for tick in ticks if foot <= tick <= top])
    axes.spines["left"].set_bounds(foot, top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    models = sorted(params, key=lambda model: params[model])
    places = _apart([math.log(params[model] / left) / math.log(right / left) for model in models])
    columns = {model: left * (right / left) ** place for model, place in zip(models, places, strict=True)}
    for model, place in zip(models, places, strict=True):
        axes.annotate(
            names[model].replace("$", r"\$"),
            xy=(params[model], 0),
            xycoords=("data", "axes fraction"),
            xytext=(place, LINES),
            textcoords="axes fraction",
            rotation="vertical",
            ha="center",
            va="bottom",
            arrowprops={
                "arrowstyle": "-",
                "color": "0.6",
                "linewidth": 0.6,
                "relpos": (0.5, 0),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        axes.axvline(columns[model], ymin=share, color="0.5", alpha=0.2, linewidth=0.6, zorder=0)
    return columns


def _apart(places: Sequence[float]) -> "np.ndarray":
    """Places in [0, 1], in order, moved as little as possible (least squares) to be a column's width from each other.

    With so many that they don't fit, they are as far from each other as they can be.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    ends = (COLUMN / 2, 1 - COLUMN / 2)
    steps = np.arange(len(places)) * min(COLUMN, (ends[1] - ends[0]) / max(len(places) - 1, 1))
    # What is left of each place after its neighbours' widths must not fall; the nearest such sequence is a regression.
    rest = isotonic_regression(np.asarray(places) - steps).x
    return np.clip(rest, ends[0], ends[1] - steps[-1]) + steps


def _svg(figure: "Figure", name: str, title: str, description: str) -> str:
    """A figure as an SVG element to stand in a page beside others.

    Args:
        figure: The figure.
        name: A word that no other figure of the page has; it goes before all ids.
        title: What a screen reader calls the figure.
        description: What it says of the figure.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, name_in_page in COLORS.items():
        svg = svg.replace(color, name_in_page)
    # The width and height in points would be the picture's size; the page gives it one.
    head = re.sub(r' (width|height)="[^"]*pt"', "", svg[: svg.index(">")])
    labels = f'role="img" aria-labelledby="{name}-title {name}-description"'
    texts = (
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    return f"{head} {labels}>{texts}{svg[svg.index('>') + 1 :]}"
