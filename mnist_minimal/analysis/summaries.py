"""What the studies in a folder found: their trials, read and summarized."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnist_minimal import content, files
from mnist_minimal.analysis.monitored import monitors_test_set
from mnist_minimal.analysis.published import Publication
from mnist_minimal.analysis.statistics import TARGET, Share, Summary, share_reaching, summarize
from mnist_minimal.errors import UserError, plain
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study import identity, ledger
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED, STOPPED, Trial


@dataclass(frozen=True)
class StudySummary:
    """One study and what it says.

    Attributes:
        paths: Where its files lie.
        trials: The finished trials, at least one.
        stopped: Those that a rule of the recipe ended early. Their accuracies are not known: they are censored.
        failed: The failed ones whose seeds came to no other end later.
        kept: Of the accuracies on the test set of the weights that were kept: the best epoch's on the monitored images
            where the recipe restores them, else the last epoch's.
        cut: The cap on the epochs where it is lower than the recipe's, else None.
        label: What it is called where its name alone would not tell it from another, or "".
    """

    paths: Study
    trials: list[Trial]
    stopped: list[Trial]
    failed: list[Trial]
    kept: Summary
    cut: int | None
    label: str = ""

    @property
    def name(self) -> str:
        """The study's name, with its folder where several folders have one of that name."""
        return self.label or self.paths.name

    @property
    def model(self) -> str:
        """The model's name."""
        return self.trials[0].model

    @property
    def params(self) -> int:
        """Number of trainable parameters of the model."""
        return self.trials[0].params

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.trials[0].dataset

    @property
    def protocol(self) -> str:
        """Which images were monitored: "source" or "holdout"."""
        return self.trials[0].protocol

    @property
    def comparable(self) -> bool:
        """Whether these are trials of a published recipe, whole, on MNIST."""
        published = self.model in RECIPES and self.cut is None and identity.by_own_recipe(self.paths, self.model)
        return published and self.dataset == "mnist" and self.protocol == "source"

    @property
    def measures(self) -> tuple[str, ...]:
        """The accuracies on the test set that tell the trials apart, of `ledger.MEASURES`.

        Where the test set is monitored these are the last and the best epoch's, one of which is the kept weights' too.
        Where other images are, or nothing is known of the recipe, only the kept weights' is on the test set.
        """
        return ("saved", "best") if monitors_test_set(self.paths, self.trials[0]) else ("test",)

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose weights the best trial kept, counted from 1; None where nothing is known of the recipe."""
        recipe = identity.recipe(self.paths) or (RECIPES[self.model].as_dict() if self.model in RECIPES else None)
        if recipe is None:
            return None
        return self.best.epochs if recipe.get("early_stopping") is None else self.best.best_epoch

    @property
    def best(self) -> Trial:
        """The trial whose kept weights get the most test images right, of several that with the lowest seed."""
        return max(self.trials, key=lambda trial: (trial.test_correct or 0, -trial.seed))

    def accuracies(self, measure: str) -> list[float]:
        """One accuracy of each finished trial, by "test" or one of `measures`."""
        return ledger.accuracies(self.trials, measure)

    def share(self, measure: str = "test", target: float = TARGET) -> Share:
        """The share of the trials that reach an accuracy, those that were stopped early among them."""
        return share_reaching(self.accuracies(measure), target, len(self.stopped))

    def versions(self) -> dict[str, str]:
        """What the study was begun with, by name; {} where its JSON does not say.

        Raises:
            UserError: if the JSON is damaged.
        """
        versions = identity.read(self.paths).get("versions", {})
        if not isinstance(versions, dict):
            raise UserError(
                f"{self.paths.json}: expected the versions that the study was begun with, found "
                f"{plain(str(versions), 100)}; restore or remove the file"
            )
        return {str(name): str(version) for name, version in versions.items()}


def read_study(study: Study) -> StudySummary:
    """One study.

    Raises:
        UserError: if it has no finished trial, or its CSV is damaged.
    """
    trials = ledger.read(study.csv)
    if not ledger.finished(trials):
        found = "no finished trial in it" if study.csv.exists() else "no such file"
        raise UserError(
            f"{study.csv}: found {found}, expected a CSV with at least one; run mnist_minimal.trials first, or name "
            "another"
        )
    return _summary(study, trials)


def find_studies(*folders: Path) -> list[StudySummary]:
    """The studies with a finished trial whose CSVs lie in some folders, by number of parameters, then by name.

    CSVs with other columns are not of trials and are passed over, as are those whose names begin with a dot.

    Raises:
        UserError: if there is no such study, or a CSV of trials is damaged.
    """
    found = studies_in(folders)
    if not found:
        there = [csv for folder in folders for csv in ledger.find(folder) if csv.is_file()]
        others = [f"{csv.name}, {_kind(csv)}" for csv in there if not ledger.is_ledger(csv)]
        what = f"no CSV of trials but {plain('; '.join(others), 100)}" if others else "no finished trial in it"
        raise UserError(
            f"{' and '.join(map(str, folders))}: found {what}, expected CSVs with finished trials; run "
            "mnist_minimal.trials first, or name the folder with --results"
        )
    return found


def studies_in(folders: Sequence[Path]) -> list[StudySummary]:
    """`find_studies`; [] where there is none."""
    tables = [csv for folder in folders for csv in ledger.find(folder) if ledger.is_ledger(csv)]
    found = [_summary(Study.at(csv), trials) for csv in tables if ledger.finished(trials := ledger.read(csv))]
    names = [summary.name for summary in found]
    found = [
        summary if names.count(summary.name) == 1 else replace(summary, label=str(summary.paths.csv.with_suffix("")))
        for summary in found
    ]
    return sorted(found, key=lambda summary: (summary.params, summary.name))


def _kind(path: Path) -> str:
    """What a file is, in words."""
    return content.described(files.first_bytes(path))[0]


def highlighted(summaries: Sequence[StudySummary]) -> StudySummary:
    """The study to look at closely: the one with the most trials, of several the smallest network's.

    Studies that are comparable with what was published come before others.
    """
    candidates = [summary for summary in summaries if summary.comparable] or list(summaries)
    return max(candidates, key=lambda summary: (len(summary.trials), -summary.params))


def compared(model: str, publications: Sequence[Publication]) -> list[Publication]:
    """The published accuracies of a model that stand beside ours: its first, and what else is by the same measure."""
    found = [publication for publication in publications if publication.model == model]
    return [publication for publication in found if publication.measure == found[0].measure]


def compared_measure(summary: StudySummary, publications: Sequence[Publication]) -> str:
    """Which accuracy of a study stands beside what was published; "test" where nothing was."""
    return next((publication.measure for publication in compared(summary.model, publications)), "test")


def _summary(study: Study, trials: list[Trial]) -> StudySummary:
    finished = ledger.finished(trials)
    first = finished[0]
    full = identity.recipe_epochs(study) or (
        RECIPES[first.model].max_epochs if first.model in RECIPES else first.max_epochs
    )
    ended = {trial.seed for trial in finished}
    stopped = {trial.seed: trial for trial in trials if trial.status == STOPPED}
    # Of a seed that failed several times only the last failure: it was one trial.
    failed = {trial.seed: trial for trial in trials if trial.status == FAILED}
    return StudySummary(
        paths=study,
        trials=finished,
        stopped=[trial for seed, trial in stopped.items() if seed not in ended],
        failed=[trial for seed, trial in failed.items() if seed not in ended | stopped.keys()],
        kept=summarize(ledger.accuracies(finished, "test")),
        cut=first.max_epochs if first.max_epochs < full else None,
    )


def median_trial(trials: Sequence[Trial]) -> Trial:
    """The trial whose best accuracy is the median one, of two the lower."""
    return sorted(trials, key=lambda trial: (trial.best_accuracy or 0, -trial.seed))[(len(trials) - 1) // 2]
