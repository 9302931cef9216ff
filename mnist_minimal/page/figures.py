"""The page's figures: drawings of Matplotlib as SVG, in the page's own colours, with a text for screen readers."""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mnist_minimal import plots
from mnist_minimal.ledger import Trial
from mnist_minimal.page.findings import Finding
from mnist_minimal.page.publication import Publication
from mnist_minimal.statistics import TARGET

if TYPE_CHECKING:
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

# Ours and the published stand this far to either side of a model's place, so that neither covers the other.
ASIDE_POINTS = 4

PERCENT = f"{100 * TARGET:g} %"


def plane(findings: Sequence[Finding], publications: Sequence[Publication], description: str) -> str:
    """Every model by its parameters and accuracy, published and ours, as SVG.

    A mean is that of the accuracies which the model's publication counts: of the last epochs or of the kept ones.

    Args:
        findings: Studies; those that are not comparable with publications are left out.
        publications: What was published.
        description: What the figure shows, in words.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    epochs = {publication.model: publication.epoch for publication in publications}
    comparable = [finding for finding in findings if finding.comparable]
    means = {
        finding.name: finding.last if epochs.get(finding.model) == "last" else finding.kept for finding in comparable
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(TARGET, color="0.5", linestyle=":", linewidth=1)
        axes.annotate(PERCENT, (1, TARGET), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        _mark_published(publications, axes)
        for finding in comparable:
            mean = means[finding.name]
            margin = 0.0 if math.isnan(mean.low) else mean.high - mean.mean
            first = finding is comparable[0]
            axes.errorbar(
                finding.params,
                mean.mean,
                margin,
                fmt="o",
                color=BLUE,
                capsize=4,
                transform=_aside(axes, ASIDE_POINTS),
                label="our mean, 95 % interval" if first else None,
            )
            axes.plot(
                finding.params,
                finding.kept.best,
                "^",
                color=BLUE,
                markerfacecolor="none",
                markersize=7,
                transform=_aside(axes, ASIDE_POINTS),
                label="our best run" if first else None,
            )
        shown = [TARGET, *(publication.accuracy for publication in publications)]
        for finding in comparable:
            mean = means[finding.name]
            shown += [finding.kept.best, mean.mean if math.isnan(mean.low) else mean.low]
        params = {publication.model: publication.params for publication in publications}
        params |= {finding.model: finding.params for finding in comparable}
        _set_range(params, shown, axes)
        axes.set_xlabel("trainable parameters")
        axes.set_ylabel("accuracy on the test set")
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "plane", "Parameters and accuracy", description)


def distribution(finding: Finding, publications: Sequence[Publication], description: str) -> str:
    """How a study's accuracies are distributed, with the published mean, spread and range beside ours, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    saved = [trial.saved_accuracy or 0.0 for trial in finding.trials]
    accuracies = {"saved accuracy": saved, "best accuracy": [trial.best_accuracy or 0.0 for trial in finding.trials]}
    published = [
        publication
        for publication in publications
        if finding.comparable and publication.model == finding.model and publication.of == "mean"
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 5.6), layout="constrained")
        spread, upper, lower = figure.subplots(3, sharex=True, height_ratios=(1, 2.2, 2.2))
        plots.histogram(accuracies, finding.trials[0].test_size, upper)
        upper.set_ylim(top=1.45 * upper.get_ylim()[1])  # Room for the legend above the bars.
        plots.ecdf(accuracies, TARGET, lower)
        rows = [(f"ours, n = {finding.last.n}", BLUE, "o", finding.last.mean, finding.last.sd, min(saved), max(saved))]
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
        spread.set_title("saved accuracy: mean, one sd to each side, range")
        return _svg(figure, "distribution", "Distribution of accuracies", description)


def curves(finding: Finding, trial: Trial, name: str, description: str) -> str:
    """The training curves of one trial of a study, as SVG.

    Args:
        finding: The study.
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
        history = plots.read_history(finding.file(trial.seed, ".csv"))
        plots.accuracy_curves(history, upper).set_title(f"{name} run, seed {trial.seed}")
        plots.learning_rate(history, lower)
        upper.set_xlabel("")
        return _svg(figure, f"{name}-curves", f"Training curves of the {name} run", description)


def _mark_published(publications: Sequence[Publication], axes: "Axes") -> None:
    """Means filled and single or best runs open, so that the two are not taken for each other."""
    marks = {"mean": ("s", VERMILION, "published mean"), "best": ("D", "none", "published best run")}
    marks["run"] = ("X", "none", "published, one run")
    for of, (marker, face, label) in marks.items():
        points = [publication for publication in publications if publication.of == of]
        if points:
            params, accuracies = ([point.params for point in points], [point.accuracy for point in points])
            axes.plot(
                params,
                accuracies,
                marker,
                color=VERMILION,
                markerfacecolor=face,
                transform=_aside(axes, -ASIDE_POINTS),
                label=label,
            )


def _aside(axes: "Axes", points: float) -> "Transform":
    """The axes' coordinates, moved to the right."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _set_range(params: dict[str, int], accuracies: Sequence[float], axes: "Axes") -> None:
    """Makes room for all points, and at the foot for each model's name, upright, moved aside where two would meet."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    left, right = min(params.values()) / 1.5, max(params.values()) * 1.5
    height = max(accuracies) - min(accuracies) or 0.01
    top, foot = max(accuracies) + 0.08 * height, min(accuracies) - 0.12 * height
    # The share of the axes' height that the names take.
    names = 0.06 + 0.027 * max(map(len, params))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(foot - names / (1 - names) * (top - foot), top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    place = -1.0
    for model, number in sorted(params.items(), key=lambda item: item[1]):
        place = max(place + 0.05, math.log(number / left) / math.log(right / left))
        axes.annotate(
            model.replace("$", r"\$"),
            xy=(number, foot),
            xytext=(place, 0.02),
            textcoords="axes fraction",
            rotation="vertical",
            ha="center",
            va="bottom",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6},
        )


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
