"""Pictures of a search: the frontier with the published networks, and the importance of each choice."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_minimal.analysis.figures import COLORS, FAINT, QUIET
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.analysis.summaries import studies_in
from mnist_minimal.recipes import PUBLISHED_RECIPES
from mnist_minimal.searching.ledger import Figure, frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def published(folders: Sequence[Path]) -> list[Figure]:
    """The published networks: the best accuracy that was published of each, and the median of our trials if there are.

    Args:
        folders: Where studies are looked for; of several of a model the one with the most trials counts.
    """
    studies = {}
    for summary in sorted(studies_in(folders), key=lambda each: len(each.trials)):
        if summary.dataset == "mnist":
            studies[summary.model] = summary
    found = []
    for model in PUBLISHED_RECIPES:
        best = max(publication.accuracy for publication in PUBLISHED if publication.model == model)
        # Their names end with the count.
        params = int(re.sub(r"\D", "", model))
        median = seeds = None
        if model in studies:
            trials = studies[model].trials
            accuracies = [(trial.test_correct or 0) / trial.test_size for trial in trials]
            median, best, seeds = statistics.median(accuracies), max(best, *accuracies), len(accuracies)
        found.append(Figure(model, params, median, best, seeds, "test set"))
    return found


def draw_frontier(
    judged: Sequence[Figure],
    finalists: Sequence[Figure],
    published: Sequence[Figure],
    target: float,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws parameters against accuracies: dots are medians, whiskers lead to the best.

    Args:
        judged: The candidates that were judged at the highest rung, by images that were held out.
        finalists: The finalists, by the test set.
        published: The published networks, by the test set.
        target: An accuracy to mark.
        ax: Axes to draw on.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

    ax = ax or pyplot.subplots(figsize=(9, 5.5), layout="constrained")[1]
    ax.axhline(target, color=QUIET, linestyle=":", linewidth=1)
    ax.plot([each.params for each in judged], [each.median or 0 for each in judged], ".", color="0.75", zorder=1)
    best = frontier(judged)
    ax.step(
        [each.params for each in best],
        [each.median or 0 for each in best],
        where="post",
        color=COLORS[0],
        # A frontier of one candidate has no line.
        marker="o",
        markersize=3,
        label="frontier of the candidates' medians (held-out images)",
    )
    labelled: list[Figure] = []
    for name, figures, color, marker in (
        ("finalists (test set)", finalists, COLORS[1], "o"),
        ("published networks (test set)", published, COLORS[2], "s"),
    ):
        for place, each in enumerate(figures):
            lowest = each.best if each.median is None else each.median
            ax.plot([each.params] * 2, [lowest, each.best], color=color, linewidth=1.5)
            ax.plot(
                each.params,
                lowest,
                marker,
                color=color,
                markerfacecolor="white" if each.median is None else color,
                label="" if place else name,
            )
            near = [other for other in labelled if _names_meet(each, other)]
            labelled.append(each)
            ax.annotate(
                each.name,
                (each.params, each.best),
                (0, 4 + 9 * len(near)),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=color,
            )
    # The worst candidates would squeeze all others into a line.
    shown = [each.median for each in (*best, *finalists, *published) if each.median is not None]
    if shown:
        low = min(*shown, target)
        ax.set_ylim(low - 0.1 * (1.001 - low), 1.001)
    ax.set_xscale("log")
    ax.set_xlabel("trainable parameters")
    ax.set_ylabel("accuracy: median, and a line to the best seed")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=2))
    ax.grid(color=FAINT)
    ax.legend(loc="lower right", fontsize=8)
    return ax


def _names_meet(one: Figure, other: Figure) -> bool:
    """Whether the names of two would be written over each other."""
    return abs(math.log(one.params / other.params)) < 0.15 and abs(one.best - other.best) < 0.002


def draw_importances(importances: Mapping[str, float], ax: "Axes | None" = None) -> "Axes":
    """Draws the importance of each choice as a bar, the highest on top."""
    from matplotlib import pyplot

    ax = ax or pyplot.subplots(figsize=(7, 6), layout="constrained")[1]
    names = list(importances)[::-1]
    ax.barh(names, [importances[name] for name in names], color=COLORS[0])
    ax.set_xlabel("importance for the accuracy at the lowest rung")
    return ax
