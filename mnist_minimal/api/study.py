"""A study as people hold it: its trials as a table, drawn, loaded and compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal.api.files import load
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import Builder
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study as Paths
from mnist_minimal.trial import FAILED, Trial

if TYPE_CHECKING:
    import keras
    import pandas
    from matplotlib.axes import Axes

    from mnist_minimal.analysis.samples import Sample
    from mnist_minimal.analysis.statistics import MeanDifference, Superiority


class Study:
    """All trials of one model by one recipe on one data set: what `run_trials` returns and `read_trials` reads.

    It looks into the study's CSV whenever it is asked, so that it knows of the trials that another process adds.

    Attributes:
        paths: Where its files lie.

    Example:
        >>> import mnist_minimal as mm
        >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
        >>> len(study), list(study.dataframe()["seed"])
        (2, [0, 1])
    """

    def __init__(self, paths: Paths, build: Builder | None = None) -> None:
        self.paths, self._build = paths, build

    @property
    def name(self) -> str:
        """The study's name, which its files begin with."""
        return self.paths.name

    @property
    def trials(self) -> list[Trial]:
        """All trials in the order in which they ended, those that failed or were stopped early among them."""
        return ledger.read(self.paths.csv)

    def __len__(self) -> int:
        """How many trials are finished."""
        return len(ledger.finished(self.trials))

    def failed(self) -> dict[int, str]:
        """The seeds whose trials failed and have come to no end since, and why.

        Example:
            >>> import mnist_minimal as mm
            >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> study.failed()
            {}
        """
        trials = self.trials
        done = {trial.seed for trial in ledger.done(trials)}
        return {trial.seed: trial.reason for trial in trials if trial.status == FAILED and trial.seed not in done}

    def __repr__(self) -> str:
        from mnist_minimal.analysis.tables import study_table

        finished, failed = len(self), len(self.failed())
        head = f"{self.name}: {finished} finished {'trial' if finished == 1 else 'trials'}"
        head += f"{f', {failed} failed' if failed else ''} ({self.paths.csv})"
        return f"{head}\n{study_table(self.trials)}".rstrip()

    def dataframe(self) -> "pandas.DataFrame":
        """One row a trial, the columns those of the CSV: `mnist_minimal.trial.Trial` says what each is.

        Example:
            >>> import mnist_minimal as mm
            >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> bool((study.dataframe()["params"] == 697).all())
            True
        """
        return ledger.frame(self.paths.csv)

    def history(self, seed: int) -> "pandas.DataFrame":
        """A trial's figures, one row an epoch: loss and accuracy, those of the monitored images, and learning rate.

        Raises:
            UserError: if there is none, or it is damaged.

        Example:
            >>> import mnist_minimal as mm
            >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> list(study.history(0)["epoch"])
            [1]
        """
        from mnist_minimal.study import history

        path, recorded = self.paths.history(seed), {trial.seed: trial for trial in self.trials}
        if seed not in recorded and not history.exists(path):
            raise UserError(f"{self.name}: found no trial of seed {seed!r}, expected one of {_some(recorded)}")
        return history.read_history(path)

    def plot(self, measure: str = "test", ax: "Axes | None" = None) -> "Axes":
        """Draws how the trials' accuracies are distributed.

        Args:
            measure: "test" for the kept models' on the test set, "saved" for the last epochs' on the monitored images,
                "best" for the best epochs' on them.
            ax: Where to draw; new axes where it is None.

        Returns:
            The axes, on which more can be drawn.

        Raises:
            UserError: if no trial is finished.

        Example:
            >>> import mnist_minimal as mm
            >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> study.plot().get_xlabel().startswith("accuracy")
            True
        """
        from mnist_minimal.analysis.figures import histogram

        sample = self._sample(measure)
        return histogram({self.name: sample.accuracies}, sample.images or self.trials[0].test_size, ax)

    def load(self, seed: int, custom_objects: Mapping[str, Any] | None = None) -> "keras.Model":
        """A trial's kept model.

        Args:
            seed: The trial's seed.
            custom_objects: As `mnist_minimal.load` takes them.

        Raises:
            UserError: if there is no such trial, or its file can't be read; where the model was not kept, saying how it
                is trained again.

        Example:
            >>> import mnist_minimal as mm
            >>> study = mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> study.load(1).count_params()
            697
        """
        done = {trial.seed: trial for trial in ledger.done(self.trials)}
        if seed not in done:
            raise UserError(f"{self.name}: found no finished trial of seed {seed!r}, expected one of {_some(done)}")
        builders = {self.name: self._build} if self._build else None
        return load(self.paths.out / done[seed].weights, builders, custom_objects)

    def compare(self, other: "Study", measure: str = "test", mix: bool = False) -> "Comparison":
        """What may be said of the difference between this study and another.

        Args:
            other: The other study.
            measure: As of `plot`.
            mix: Whether to compare them even where data sets, protocols, or one model's recipes or caps on the epochs
                differ; the text then says what does.

        Raises:
            UserError: if one has no finished trial; if the studies are not alike, named by what differs.

        Example:
            >>> import mnist_minimal as mm
            >>> options = dict(runs=2, data="digits", epochs=1, out="my-trials", progress=False)
            >>> first, other = mm.run_trials("sep697", **options), mm.run_trials("sep997", **options)
            >>> found = first.compare(other)
            >>> found.means.difference.low < found.means.difference.value < found.means.difference.high
            True
        """
        from mnist_minimal.analysis.comparison import compare_pairs, notes
        from mnist_minimal.analysis.samples import differences, named
        from mnist_minimal.analysis.statistics import difference_of_means, superiority
        from mnist_minimal.analysis.tables import MEASURE_NAMES, MEASURES_EXPLAINED, sample_table

        if not isinstance(other, Study):
            raise UserError(
                f"found a {type(other).__name__} to compare with, expected a study; read one with read_trials(path)"
            )
        samples = [self._sample(measure), other._sample(measure)]
        unlike = differences(samples)
        if unlike and not mix:
            raise UserError(f"these studies are not alike: {named(unlike)}; compare others, or say mix=True")
        words = [
            sample_table(samples, f"accuracy, {MEASURE_NAMES[measure]}"),
            MEASURES_EXPLAINED,
            *compare_pairs(samples),
            *notes(samples, unlike),
        ]
        accuracies = [sample.accuracies for sample in samples]
        return Comparison(difference_of_means(*accuracies), superiority(*accuracies), "\n\n".join(words))

    def _sample(self, measure: str) -> "Sample":
        from mnist_minimal.analysis.samples import read_sample

        if measure not in ledger.MEASURES:
            raise UserError(f"found measure {measure!r}, expected one of {', '.join(ledger.MEASURES)}")
        return read_sample(self.paths.csv, measure, self.name)


@dataclass(frozen=True)
class Comparison:
    """What may be said of two studies.

    Attributes:
        means: The difference of their means, the first's minus the other's, with its interval and Welch's t test.
        order: How probably a trial of the first is above one of the other, with Mann and Whitney's test.
        text: Both in a table and in words.
    """

    means: "MeanDifference"
    order: "Superiority"
    text: str

    def __repr__(self) -> str:
        return self.text


def read_trials(path: str | Path) -> Study:
    """A study that is recorded already.

    Args:
        path: Its CSV, such as "runs/sep997.csv", or that without the ".csv".

    Raises:
        UserError: if there is none, or it is damaged.

    Example:
        >>> import mnist_minimal as mm
        >>> mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False).paths.csv.name
        'sep697-digits.csv'
        >>> len(mm.read_trials("my-trials/sep697-digits.csv"))
        2
    """
    given = Path(path).expanduser()
    csv = given if given.suffix == ".csv" else given.with_name(f"{given.name}.csv")
    if not csv.is_file():
        folder = given if given.is_dir() else csv.parent
        there = ", ".join(str(found) for found in ledger.find(folder)) if folder.is_dir() else ""
        raise UserError(f"{csv}: found no file of this name, expected the CSV of a study (there: {there or 'none'})")
    study = Study(Paths.at(csv))
    _ = study.trials
    return study


def _some(seeds: Mapping[int, Trial]) -> str:
    shown = ", ".join(map(str, sorted(seeds)[:10]))
    return f"{shown}, ..." if len(seeds) > 10 else shown or "none yet"
