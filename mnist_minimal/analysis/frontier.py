"""Parameters against accuracy: what every study came to, and which networks no smaller one is as good as.

Accuracies count in one of two ways, which are not to be mixed. As the sources count them, the test set may have chosen
the epoch; and there is what a study comes to that has met the test set once, with weights that it did not choose.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from mnist_minimal.analysis.monitored import monitors_test_set
from mnist_minimal.analysis.published import PUBLISHED, published_accuracies
from mnist_minimal.analysis.statistics import TARGET, share_reaching, summarize
from mnist_minimal.analysis.summaries import StudySummary, compared
from mnist_minimal.analysis.tables import MEASURE_NAMES, markdown, sd_cell, share_cell, trial_count
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.recipes import PUBLISHED_RECIPES
from mnist_minimal.study import identity

# What the trials of an entry are of: a published network by its published recipe, one by another recipe, any other
# network; or runs that were published.
Kind = Literal["recipe", "retrained", "network", "published"]


class _HasParams(Protocol):
    @property
    def params(self) -> int: ...


Counted = TypeVar("Counted", bound=_HasParams)


@dataclass(frozen=True)
class Entry:
    """Trials of one network by one recipe, or published runs.

    Attributes:
        name: The study's name.
        network: The network's, short enough to be written beside others.
        params: Number of trainable parameters.
        accuracies: One of each finished trial, on the test set, in [0, 1]; at least one.
        kind: What they are of.
        measure: Which accuracy it is, of `ledger.MEASURES`.
        stopped, failed: How many trials were stopped early, and how many failed.
    """

    name: str
    network: str
    params: int
    accuracies: tuple[float, ...]
    kind: Kind
    measure: str = "test"
    stopped: int = 0
    failed: int = 0

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def best(self) -> float:
        """The highest accuracy."""
        return max(self.accuracies)


# What an entry is ranked by.
MEAN: Callable[[Entry], float] = operator.attrgetter("mean")
BEST: Callable[[Entry], float] = operator.attrgetter("best")


def as_sources_count(summaries: Sequence[StudySummary]) -> list[Entry]:
    """The studies on MNIST under the protocol "source": the best epoch's accuracy where the test set is monitored.

    Where a recipe monitors other images it is the kept model's.
    """
    found = [summary for summary in summaries if summary.dataset == "mnist" and summary.protocol == "source"]
    return [_entry(summary, "best" if "best" in summary.measures else "test") for summary in found]


def chosen_without_test_set(summaries: Sequence[StudySummary]) -> list[Entry]:
    """The studies on MNIST of which the test set chose nothing, by the accuracy of the kept model.

    Those under the protocol "holdout", and those whose recipe monitors images of the training set.
    """
    found = [each for each in summaries if each.dataset == "mnist"]
    return [_entry(each, "test") for each in found if not monitors_test_set(each.paths, each.trials[0])]


def published_runs() -> list[Entry]:
    """The single runs that were published of each network, by the accuracy that its source quotes first.

    Of sep997 they are 223; of others one, or the best of several.
    """
    found = []
    for model, params in PARAMETERS.items():
        single = [each.accuracy for each in compared(model, PUBLISHED) if each.of != "mean"]
        accuracies = published_accuracies(model) or single
        measure = compared(model, PUBLISHED)[0].measure
        found.append(Entry(f"{model}, published", model, params, tuple(accuracies), "published", measure))
    return found


def frontier(entries: Iterable[Counted], accuracy: Callable[[Counted], float]) -> list[Counted]:
    """Those that no other has at most as many parameters as and an accuracy as high, by rising parameters."""
    found: list[Counted] = []
    for entry in sorted(entries, key=lambda each: (each.params, -accuracy(each))):
        if not found or accuracy(entry) > accuracy(found[-1]):
            found.append(entry)
    return found


def fewest_parameters(entries: Iterable[Entry], accuracy: Callable[[Entry], float]) -> int | None:
    """The fewest parameters with an accuracy of 99 % or more; None where there is none."""
    return min((entry.params for entry in entries if accuracy(entry) >= TARGET), default=None)


def frontier_table(entries: Sequence[Entry], width: int | None = None) -> str:
    """All entries, those that come to less too, by their parameters and names, as `tables.markdown`.

    The last column says whose mean, and whose best run, no smaller network reaches.
    """
    of_mean, of_best = frontier(entries, MEAN), frontier(entries, BEST)
    reached = f"at least {TARGET:.0%} (95 %)"
    rows = [["study", "parameters", "accuracy", "n", "failed", "mean", "sd", reached, "best run", "on the frontier"]]
    for entry in sorted(entries, key=lambda each: (each.params, each.name)):
        found = summarize(entry.accuracies)
        on = [name for name, those in (("mean", of_mean), ("best run", of_best)) if entry in those]
        rows.append(
            [
                f"`{entry.name}`",
                f"{entry.params:,}",
                MEASURE_NAMES[entry.measure],
                trial_count(found.n, entry.stopped),
                str(entry.failed),
                f"{found.mean:.5f}",
                sd_cell(found),
                share_cell(share_reaching(entry.accuracies, stopped=entry.stopped)),
                f"{found.best:.4f}",
                ", ".join(on),
            ]
        )
    return markdown(rows, width)


def _entry(summary: StudySummary, measure: str) -> Entry:
    kind: Kind = "network"
    if summary.model in PUBLISHED_RECIPES:
        kind = "recipe" if identity.by_own_recipe(summary.paths, summary.model) else "retrained"
    return Entry(
        name=summary.name,
        network=summary.model.rpartition("/")[2].removeprefix("search:").partition("_")[0],
        params=summary.params,
        accuracies=tuple(summary.accuracies(measure)),
        kind=kind,
        measure=measure,
        stopped=len(summary.stopped),
        failed=len(summary.failed),
    )
