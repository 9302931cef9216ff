"""Parameters against accuracy: what every study came to, and which networks no smaller one is as good as.

Accuracies count in one of two ways, which are not to be mixed. As the sources count them, the test set may have chosen
the epoch; and there is what a study comes to whose weights the test set did not choose.
"""

import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from mnist_minimal.analysis.monitored import chooses_by_monitored, validation_share
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

SOURCES, BLIND = "As the sources count: best epoch on the test set", "Nothing chosen by the test set: kept weights"


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
        # The doubles of 0.989, 0.99 and 0.991 come to a little less than 0.99, which these do not.
        return round(statistics.fmean(self.accuracies), 12)

    @property
    def best(self) -> float:
        """The highest accuracy."""
        return max(self.accuracies)


# What an entry is ranked by.
MEAN: Callable[[Entry], float] = operator.attrgetter("mean")
BEST: Callable[[Entry], float] = operator.attrgetter("best")


@dataclass(frozen=True)
class Counting:
    """Trials by one way of counting.

    Attributes:
        said: How it counts, in a line.
        entries: The studies, at least one.
        published: Published runs by the same way.
    """

    said: str
    entries: list[Entry]
    published: list[Entry]

    @property
    def on_average(self) -> Entry | None:
        """The fewest parameters with a mean of 99 % or more.

        One trial has no mean to speak of, and where the worse ones were stopped that of the others is not the model's.
        """
        return _fewest([each for each in self.entries if len(each.accuracies) > 1 and not each.stopped], MEAN)

    @property
    def in_best_run(self) -> Entry | None:
        """The fewest parameters with a trial at 99 % or more."""
        return _fewest(self.entries, BEST)

    def runs(self, entry: Entry) -> int:
        """How many trials there are of the network of an entry, those that were stopped early among them."""
        alike = [each for each in self.entries if (each.params, each.network) == (entry.params, entry.network)]
        return sum(len(each.accuracies) + each.stopped for each in alike)


def ways_of_counting(summaries: Sequence[StudySummary], finalists: Sequence[Entry] = ()) -> list[Counting]:
    """What studies on MNIST, and the finalists of searches, come to, by each way of counting that has any of them."""
    found = (
        Counting(SOURCES, as_sources_count(summaries), published_runs()),
        Counting(BLIND, [*chosen_without_test_set(summaries), *finalists], []),
    )
    return [counting for counting in found if counting.entries]


def compared_networks(summaries: Sequence[StudySummary], finalists: Sequence[Entry] = ()) -> list[Counting]:
    """`ways_of_counting` of two networks or more; [] of one alone, of which there are no fewest parameters."""
    found = ways_of_counting(summaries, finalists)
    networks = {(entry.params, entry.network) for counting in found for entry in counting.entries}
    return found if len(networks) > 1 else []


def as_sources_count(summaries: Sequence[StudySummary]) -> list[Entry]:
    """The studies on MNIST under the protocol "source": the best epoch's accuracy where the test set is monitored.

    Where a recipe monitors other images it is the kept model's.
    """
    found = [summary for summary in summaries if summary.dataset == "mnist" and summary.protocol == "source"]
    return [_entry(summary, "best" if "best" in summary.measures else "test") for summary in found]


def chosen_without_test_set(summaries: Sequence[StudySummary]) -> list[Entry]:
    """The studies on MNIST of which the test set chose nothing, by the accuracy of the kept model.

    Those under the protocol "holdout", those whose recipe monitors images of the training set, and those whose recipe
    takes a course that does not depend on what is monitored.
    """
    found = [each for each in summaries if each.dataset == "mnist"]
    # Where nothing is known of the recipe, it may have monitored the test set.
    return [
        _entry(each, "test")
        for each in found
        if each.protocol == "holdout"
        or validation_share(each.paths, each.model)
        or not chooses_by_monitored(each.paths, each.model)
    ]


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


def standings(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """All entries, by their parameters and names, each with what of it no smaller network reaches.

    That is "mean", "best run", both or "".
    """
    frontiers = (("mean", frontier(entries, MEAN)), ("best run", frontier(entries, BEST)))
    ordered = sorted(entries, key=lambda each: (each.params, each.name))
    return [(entry, ", ".join(name for name, those in frontiers if entry in those)) for entry in ordered]


def frontier_table(entries: Sequence[Entry], width: int | None = None) -> str:
    """All entries, those that come to less too, by their parameters and names, as `tables.markdown`.

    The last column says whose mean, and whose best run, no smaller network reaches.
    """
    reached = f"at least {TARGET:.0%} (95 %)"
    rows = [["study", "parameters", "accuracy", "n", "failed", "mean", "sd", reached, "best run", "on the frontier"]]
    for entry, standing in standings(entries):
        found = summarize(entry.accuracies)
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
                standing,
            ]
        )
    return markdown(rows, width)


def _fewest(entries: Iterable[Entry], accuracy: Callable[[Entry], float]) -> Entry | None:
    """That of the fewest parameters with an accuracy of 99 % or more, of several the one with the highest."""
    reached = [entry for entry in entries if accuracy(entry) >= TARGET]
    return min(reached, key=lambda entry: (entry.params, -accuracy(entry)), default=None)


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
