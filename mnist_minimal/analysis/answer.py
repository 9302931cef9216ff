"""The answer to the project's question, as far as some studies give it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mnist_minimal.analysis.statistics import TARGET
from mnist_minimal.analysis.summaries import StudySummary


@dataclass(frozen=True)
class Answer:
    """Which networks reach the target on MNIST's test set with the model they keep, by whole published recipes.

    Attributes:
        counted: The studies that have a part in it, at least one.
        smallest: That of the smallest network of which a trial reached the target, or None.
        surely: That of the smallest whose mean lies above it with its whole 95 % interval, or None.
        best: That with the best trial.
    """

    counted: list[StudySummary]
    smallest: StudySummary | None
    surely: StudySummary | None
    best: StudySummary


def answer(studies: Sequence[StudySummary]) -> Answer | None:
    """The answer; None where no study is comparable with what was published."""
    counted = [study for study in studies if study.comparable]
    if not counted:
        return None
    reached = [study for study in counted if study.share().reached]
    # Where the worse trials were stopped, the mean of the others is not the model's.
    steady = [study for study in counted if study.kept.low >= TARGET and not study.stopped]
    return Answer(
        counted,
        smallest=min(reached, key=lambda study: study.params, default=None),
        surely=min(steady, key=lambda study: study.params, default=None),
        best=max(counted, key=lambda study: study.kept.best),
    )
