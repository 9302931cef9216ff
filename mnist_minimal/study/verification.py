"""Trials trained again by what a study has recorded, and compared with it bit by bit: row, history and weights.

Those of JAX, which promises no bits, are compared with the core's of the same seed within `study.closeness`.
"""

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.policy import Policy
from mnist_minimal.errors import UserError, plain
from mnist_minimal.files import atomic_write
from mnist_minimal.models.lookup import OWN, Builder
from mnist_minimal.recipes import RECIPES, Recipe
from mnist_minimal.recipes.fields import checked
from mnist_minimal.study import closeness, history, identity, ledger
from mnist_minimal.study.job import Job, make_job
from mnist_minimal.study.numerics import unverifiable
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.policies import Interruption
from mnist_minimal.study.progress import Display
from mnist_minimal.study.runner import engine_of
from mnist_minimal.study.study import Study
from mnist_minimal.study.teaching import TeacherFile, with_teacher
from mnist_minimal.trial import FAILED, STOPPED, EpochReport, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

# What the machine, the day and the package decide; all other columns follow from the seed.
NOT_COMPARED = ("train_seconds", "cpu_seconds", "finished_at", "version", "backend")

# What in a study's JSON decides on no trial; what was set in a recipe follows from it.
NOT_TRAINED_BY = ("study", "set", "versions")

DisplayOf = Callable[[int | None, int, int, Callable[[Trial], str]], Display]


@dataclass(frozen=True)
class Verdict:
    """What came of training a recorded trial again.

    Attributes:
        seed: Its seed.
        same: Whether all that was kept of it came out the same, or of JAX within the tolerance.
        text: What was the same, or what differs first, with what was expected and what was found.
    """

    seed: int
    same: bool
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.text}"


def sampled(study: Study, seeds: Sequence[int], count: int) -> list[int]:
    """So many seeds at random, by the number and the study's name alone, so that anyone gets the same; ascending."""
    return sorted(random.Random(f"{count} {study.name}").sample(sorted(seeds), min(count, len(seeds))))


def verify(
    study: Study,
    seeds: Sequence[int],
    choice: Choice,
    *,
    build: Builder | None,
    teacher: TeacherFile | None,
    jobs: int,
    keep: Path | None,
    say: Callable[[str], None],
    display: DisplayOf,
    interrupted: threading.Event,
) -> list[Verdict]:
    """Trains recorded trials again, in a temporary folder, and compares them with what the study has of them.

    Args:
        study: The study; nothing is written into it.
        seeds: Seeds that are finished or stopped in it, one or more. One that the median stopping rule stopped is
            stopped again where it was: what that is by are the other trials.
        choice: The data set; where it leaves that open, the one that the study recorded.
        build: Builds the model, where its name does not say how.
        teacher: The file of the teacher by which the trials were trained, where there was one.
        jobs: Trials side by side.
        keep: A folder for the models of the trials that came out the same, as SEED.h5; what is there stays.
        say: Gets what the user must know, in sentences.
        display: Makes what shows the job.
        interrupted: Set where the job is to end.

    Returns:
        What came of each, in the order in which they ended.

    Raises:
        UserError: if the study can't be verified, saying why; if a file can't be read or written.
        KeyboardInterrupt: on Ctrl-C.
    """
    from mnist_minimal.data import sets

    rows = ledger.read(study.csv)
    if keep and by_jax(rows):
        raise _refusal(study, "JAX trained it, of whose models none can be had again by the core; leave out --keep")
    if reason := unverifiable(study, rows):
        raise _refusal(study, reason)
    recorded = {trial.seed: trial for trial in ledger.done(rows) if trial.seed in seeds}
    first = recorded[seeds[0]]
    if build is None and first.model not in RECIPES and not OWN.fullmatch(first.model):
        raise _refusal(
            study, f"its model {first.model} is a function of a script or notebook; give it as --model module:function"
        )
    # The images' checksums are compared; their name may be given or not.
    dataset = replace(sets.load(choice.or_recorded(first.dataset)), name=first.dataset)
    jobs = min(jobs, len(seeds))
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mnist_minimal-") as folder:
        job, notice = _job(study, first, dataset, Path(folder), build, teacher, jobs)
        if notice:
            say(notice)
        tolerance = None
        if by_jax(rows):
            monitored = sets.split(dataset, job.protocol, job.recipe.validation_share).y_val
            tolerance = closeness.of_study(rows, len(monitored))
            say(tolerance.words())
        builders = {first.model: build} if build else None
        verdicts: dict[int, Verdict] = {}
        shown = display(len(seeds), 0, jobs, lambda trial: str(verdicts[trial.seed]))
        policies: list[Policy] = [shown, Interruption(interrupted), _RecordedStops(recorded)]
        try:
            with closing(engine_of(job, dataset, len(seeds), say).run(seeds, policies)) as outcomes:
                for outcome in outcomes:
                    seed = outcome.trial.seed
                    verdicts[seed] = _compared(study, job.study, recorded[seed], outcome.trial, builders, tolerance)
                    if keep and verdicts[seed].same and not (kept := keep / f"{seed}.h5").exists():
                        with atomic_write(kept) as temporary:
                            shutil.copyfile(job.study.weights(seed), temporary)
                    for path in (job.study.weights(seed), job.study.history(seed), job.study.checkpoint(seed)):
                        path.unlink(missing_ok=True)
                    for policy in policies:
                        policy.trial_ended(outcome.trial)
        finally:
            shown.close()
    return list(verdicts.values())


def _refusal(study: Study, reason: str) -> UserError:
    return UserError(f"{study.csv}: expected trials that can be verified, found that {reason}")


def _job(
    study: Study,
    first: Trial,
    dataset: "Dataset",
    folder: Path,
    build: Builder | None,
    teacher: TeacherFile | None,
    jobs: int,
) -> tuple[Job, str]:
    """The job by which a study was trained, in another folder, and what the user must know of it.

    Raises:
        UserError: if it can't be had here: other data, another network, a core with other bits.
    """
    facts = identity.read(study)
    recipe = checked({"kind": Recipe.__name__, **facts["recipe"]}, Recipe, f"{study.json}, recipe")
    plan = Plan(
        out=folder,
        model=first.model,
        recipe=with_teacher(recipe, teacher),
        dataset=dataset,
        choice=None,
        runs=None,
        seed=first.seed,
        max_epochs=first.max_epochs,
        until=None,
        protocol=first.protocol,
        # What JAX trained is compared with the core's.
        trainer="native" if first.trainer == "jax" else first.trainer,
        jobs=jobs,
        build=build,
        teacher=teacher,
    )
    again = Study(folder, study.name)
    for one in (plan.study, again):
        one.folder.mkdir(exist_ok=True)
    job, notice = make_job(plan, [])
    left_out = (*NOT_TRAINED_BY, "trainer", "numerics") if first.trainer == "jax" else NOT_TRAINED_BY
    wanted = {name: value for name, value in job.facts.items() if name not in left_out}
    if found := identity.difference(study, wanted):
        raise _refusal(study, f"it was begun with {found}")
    if unknown := sorted(facts.keys() - wanted.keys() - set(left_out)):
        raise _refusal(study, f"it was begun with a {unknown[0]}, of which this command knows nothing")
    return replace(job, study=again), notice


class _RecordedStops(Policy):
    """Stops the trials that the median stopping rule has stopped, and no others.

    Args:
        recorded: The trials by seed.
    """

    def __init__(self, recorded: Mapping[int, Trial]) -> None:
        self.recorded = recorded

    def reason_to_stop(self, report: EpochReport) -> str:
        trial = self.recorded[report.seed]
        return trial.reason if trial.status == STOPPED else ""


def by_jax(rows: Sequence[Trial]) -> bool:
    """Whether JAX trained the trials of a study, which are compared with the core's within a tolerance."""
    return any(trial.trainer == "jax" for trial in ledger.done(rows))


def _compared(
    study: Study,
    again: Study,
    expected: Trial,
    found: Trial,
    builders: Mapping[str, Builder] | None,
    tolerance: "closeness.Tolerance | None",
) -> Verdict:
    """A recorded trial beside the one that was trained again; the history first, in which a difference begins."""
    seed = expected.seed
    if found.status == FAILED:
        return Verdict(seed, False, f"failed: {found.reason}")
    if tolerance:
        paths = study.history(seed), again.history(seed)
        first = [history.read(path) for path in paths] if history.exists(paths[0]) else None
        return Verdict(seed, *tolerance.compare((expected, found), first))
    compared, missing = ["row"], []
    difference = ""
    if history.exists(study.history(seed)):
        compared.append("1 epoch" if found.epochs == 1 else f"{found.epochs} epochs")
        difference = _of_histories(study.history(seed), again.history(seed))
    else:
        missing.append("history")
    difference = difference or difference_of_rows(expected, found)
    if study.weights(seed).is_file():
        compared.append("weights")
        difference = difference or _of_weights(study.weights(seed), again.weights(seed), builders)
    else:
        missing.append("model")
    if difference:
        return Verdict(seed, False, f"differs, {difference}")
    kept = f"; no {' and no '.join(missing)} kept" if missing else ""
    return Verdict(seed, True, f"same {', '.join(compared)}{kept}")


def difference_of_rows(expected: Trial, found: Trial) -> str:
    """The first column that differs, in words, or ""; those of NOT_COMPARED aside."""
    for name in (field.name for field in fields(Trial) if field.name not in NOT_COMPARED):
        before, now = (_written(getattr(trial, name)) for trial in (expected, found))
        if before != now:
            return f"{name}: expected {before}, found {now}"
    return ""


def _written(value: Any) -> Any:
    """A field as the CSV has it, where white space and what a terminal would obey are no longer as they were."""
    return plain(value) if isinstance(value, str) else value


def _of_histories(expected: Path, found: Path) -> str:
    """The first epoch and column that differ, as text, in words, or ""."""
    try:
        history.read(expected)
    except UserError as error:
        return f"history: {error}"
    (names, *before), (columns, *now) = (
        [line.split(",") for line in history.text(path).splitlines()] for path in (expected, found)
    )
    if lacking := [name for name in names if name not in columns]:
        return f"history: expected the column {lacking[0]}, found {', '.join(columns)}"
    for epoch, (row, other) in enumerate(zip(before, now, strict=False), start=1):
        figures = dict(zip(columns, other, strict=True))
        for name, figure in zip(names, row, strict=True):
            if figure != figures[name]:
                return f"epoch {epoch}, {name}: expected {figure}, found {figures[name]}"
    return "" if len(before) == len(now) else f"history: expected {len(before)} epochs, found {len(now)}"


def _of_weights(expected: Path, found: Path, builders: Mapping[str, Builder] | None) -> str:
    """The first array of two saved models that differs, in words, or ""."""
    import numpy as np

    from mnist_minimal.saving.saved_model import load

    try:
        before = load(expected, builders)
    except UserError as error:
        return f"weights: {error}"
    now = load(found, builders)
    shapes, others = ([array.shape for array in model.get_weights()] for model in (before, now))
    if shapes != others:
        return f"weights: expected arrays of the shapes {shapes}, found {others}"
    for variable, array, other in zip(before.weights, before.get_weights(), now.get_weights(), strict=True):
        if array.tobytes() != other.tobytes():
            place = np.flatnonzero(array.ravel() != other.ravel())[:1]
            figures = [f"{values.ravel()[place][0]:.9g}" for values in (array, other)] if place.size else ["0", "-0"]
            return f"weights, {variable.path}: expected {figures[0]}, found {figures[1]}"
    return ""
