"""A teacher: the mean of the probabilities that trained models give the training images, in a file of its own.

Who learns from it learns what its models have seen. What they were trained on, a student must not be monitored by: a
student that holds images of the training set out is refused a teacher that was trained on any of them. A teacher whose
models stopped, or lowered their rates, by those same images may teach it; the student's monitored accuracies then
flatter it a little, and its accuracy on the test set does not.

A student under the protocol "source" has all training images anyway, and may have any teacher. One that was chosen by
the test set, as under the protocol "source" where a recipe stops early, hands some of that choice on: the student's
accuracies on the test set are no estimate for new images then. That is said, and stands in the study's JSON.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal import content, files
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.models.lookup import Builder
from mnist_minimal.recipes import Recipe, Teacher
from mnist_minimal.study import identity, ledger
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset, Splits

# Room for the probabilities of a hundred classes for 60,000 images, and then some.
MAX_BYTES = 100_000_000
MAX_FACTS_BYTES = 1_000_000

# How far from 1 the sum of an image's probabilities may be.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's file.

    Attributes:
        facts: What it was made of, of JSON's types: `trials`, the seeds by study; their `protocol`; `dataset` and the
            checksums `data` of the training images and labels; `images`, how many training images there are, and
            `trained`, on how many of them, the first ones, the trials were trained; `chosen_by_test_set`, whether
            the test set had a part in how they were trained; `accuracy` and `loss` on the images that they were trained
            on, and `held_out_accuracy`, `held_out_loss` on the others, None where there are none; `version`.
        probabilities: float32 (images, classes), in the order of the data set's training images.
        sha256: The SHA-256 of the file, in hexadecimal digits.
    """

    facts: dict[str, Any]
    probabilities: "np.ndarray"
    sha256: str

    @property
    def trials(self) -> str:
        """What it was made of, in words."""
        return ", ".join(
            f"{study} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"
            for study, seeds in self.facts["trials"].items()
        )


def make(
    studies: Sequence[Study],
    seeds: Sequence[int] | None,
    dataset: "Dataset",
    builders: "dict[str, Builder] | None" = None,
) -> tuple[dict[str, Any], "np.ndarray"]:
    """The facts and the probabilities of a teacher, as `TeacherFile` has them.

    Args:
        studies: The studies of its trials, all under one protocol.
        seeds: The trials' seeds, in every study; None for all finished trials.
        dataset: The images that they were trained on.
        builders: What builds models of the user's own, by name, where their files take code.

    Raises:
        UserError: if there are no such trials, or they were trained on other images, on other numbers of them or under
            different protocols; if it is not known what a study was trained on, or a model can't be read.
    """
    import numpy as np

    from mnist_minimal.data import sets
    from mnist_minimal.saving.saved_model import load
    from mnist_minimal.training.evaluation import probabilities

    checksums = {name: sum_ for name, sum_ in sets.checksums(dataset).items() if name.endswith("_train")}
    chosen = {study: _chosen(study, seeds) for study in studies}
    seen = {study: _seen(study, trials[0].protocol, dataset, checksums) for study, trials in chosen.items()}
    first, *others = seen
    for other in others:
        if seen[other][:2] != seen[first][:2]:
            raise UserError(
                f"expected trials that were trained on the same images, found {_how_trained(seen[first], first)} and "
                f"{_how_trained(seen[other], other)}; make a teacher of either"
            )
    total: Any = 0.0
    files_ = [study.out / trial.weights for study, trials in chosen.items() for trial in trials]
    for path in files_:
        found = probabilities(load(path, builders), dataset.x_train).astype(np.float64)
        if np.ndim(total) and found.shape != total.shape:
            raise UserError(
                f"{path}: expected {total.shape[1]} classes, as of the models before, found {found.shape[1]}; make a "
                "teacher of models with as many classes"
            )
        total = total + found
    mean = (total / len(files_)).astype(np.float32)
    protocol, trained, _ = seen[first]
    facts = {
        "trials": {study.name: [trial.seed for trial in trials] for study, trials in chosen.items()},
        "protocol": protocol,
        "dataset": dataset.name,
        "data": checksums,
        "images": len(mean),
        "trained": trained,
        "chosen_by_test_set": any(by_test_set for _, _, by_test_set in seen.values()),
        **_figures("", mean[:trained], dataset.y_train[:trained]),
        **_figures("held_out_", mean[trained:], dataset.y_train[trained:]),
        "version": version(),
    }
    return facts, mean


def write(path: Path, facts: dict[str, Any], probabilities: "np.ndarray") -> TeacherFile:
    """Writes a teacher's file, whole; what is there is replaced.

    Raises:
        UserError: if it can't be written.
    """
    import numpy as np

    with files.output(path, ".npz") as temporary:
        np.savez(temporary, probabilities=probabilities, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))
    return read(path)


def read(path: Path) -> TeacherFile:
    """A teacher's file.

    Raises:
        UserError: if there is none, it can't be read or is something else.
    """
    import numpy as np

    from mnist_minimal.data import archive

    step = "make one with mnist_minimal.teacher"
    try:
        data = files.read(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: found no such file, expected a teacher's; {step}") from error
    try:
        with archive.opened(data) as npz:
            if archive.member(npz, "facts.npy").file_size > MAX_FACTS_BYTES:
                raise ValueError(f"more than {MAX_FACTS_BYTES:,} bytes of facts")
            facts = json.loads(archive.array(npz, "facts").tobytes())
            shape, dtype = archive.layout(npz, "probabilities")
            if (
                dtype != np.float32
                or len(shape) != 2
                or shape[0] != facts["images"]
                or 4 * math.prod(shape) > MAX_BYTES
            ):
                raise ValueError(f"probabilities of shape {shape} {dtype}")
            found = archive.array(npz, "probabilities")
        if not (0 <= facts["trained"] <= facts["images"] and isinstance(facts["chosen_by_test_set"], bool)):
            raise ValueError("facts that contradict each other")
        if not (np.abs(found.sum(axis=1, dtype=np.float64) - 1) < TOLERANCE).all() or found.min() < 0:
            raise ValueError("probabilities that do not sum up to 1")
        return TeacherFile(facts, found, hashlib.sha256(data).hexdigest())
    except (AttributeError, UserError, *archive.CORRUPT_FILE_ERRORS) as error:
        refusal = content.refusal(data[: content.FIRST_BYTES], "a teacher's file", step, {})
        if refusal.startswith(f"found {content.ZIP},"):
            refusal = f"expected a teacher's file, found another or a damaged one ({one_line(error)}); {step}"
        raise UserError(f"{path}: {refusal}") from error


def with_teacher(recipe: Recipe, teacher: TeacherFile | None) -> Recipe:
    """The recipe with its teacher by the SHA-256 of the file.

    Raises:
        UserError: if the recipe has a teacher and there is no file, or that of another.
    """
    named = recipe.teacher.sha256 if recipe.teacher else ""
    if teacher is None:
        if recipe.teacher is None:
            return recipe
        raise _no_file(recipe.teacher)
    if named not in ("", teacher.sha256):
        raise UserError(
            f"expected the teacher that the recipe names, SHA-256 {named}, found {teacher.sha256}, made of "
            f"{teacher.trials}; give the file of that one"
        )
    return recipe.replace(**{"teacher.sha256": teacher.sha256})


def check(recipe: Recipe, teacher: TeacherFile | None, dataset: "Dataset", protocol: str) -> str:
    """Makes sure that a teacher may teach the student of a recipe.

    Args:
        recipe: How the student is trained.
        teacher: Its teacher, or None.
        dataset: The student's images.
        protocol: The student's protocol.

    Returns:
        What must be known of the student's accuracies, a sentence, or "".

    Raises:
        UserError: if the teacher is of other training images, or has seen some that the student holds out.
    """
    from mnist_minimal.data import sets

    if teacher is None:
        return ""
    facts, checksums = teacher.facts, sets.checksums(dataset)
    if any(facts["data"][name] != checksums[name] for name in ("x_train", "y_train")):
        raise UserError(
            f"expected a teacher of the training images of {dataset.name} ({dataset.origin}), found one of other "
            f"images, those of {facts['dataset']}, made of {teacher.trials}; make one of trials on the same images"
        )
    images = len(dataset.x_train)
    held = sets.held_out(images, protocol, recipe.validation_share)
    if facts["trained"] > images - held:
        raise UserError(
            f"expected a teacher that was trained on none of the last {held:,} training images, by which this student "
            f"(protocol {protocol}) is chosen, found one of trials of protocol {facts['protocol']}, trained on the "
            f"first {facts['trained']:,} of {images:,}: {teacher.trials}; make one of trials under --protocol holdout"
        )
    if facts["chosen_by_test_set"]:
        return (
            f"The test set had a part in how the teacher was trained ({teacher.trials}), so the accuracies of what it "
            "teaches are no estimate for new images."
        )
    return ""


def check_classes(teacher: TeacherFile | None, name: str, classes: int) -> None:
    """Makes sure that a student has its teacher's classes.

    Raises:
        UserError: if it has more or fewer.
    """
    if teacher is not None and teacher.probabilities.shape[1] != classes:
        raise UserError(
            f"{name}: expected a model of {teacher.probabilities.shape[1]} classes, as its teacher has, found one of "
            f"{classes}; make a teacher of models with as many"
        )


def with_targets(splits: "Splits", recipe: Recipe, teacher: TeacherFile | None) -> "Splits":
    """The images of a training with the targets that the recipe makes of the teacher's probabilities and the labels.

    Raises:
        UserError: if the recipe has a teacher and there is no file.
    """
    from mnist_minimal.training.targets import mixed

    if recipe.teacher is None:
        return splits
    if teacher is None:
        raise _no_file(recipe.teacher)
    probabilities = teacher.probabilities[: len(splits.x_train)]
    return dataclasses.replace(splits, targets=mixed(probabilities, splits.y_train, recipe.teacher.weight))


def _no_file(teacher: Teacher) -> UserError:
    named = f", SHA-256 {teacher.sha256}" if teacher.sha256 else ""
    return UserError(
        f"expected the file of the recipe's teacher{named}, found none; give it with --teacher FILE (in Python "
        "teacher=)"
    )


def _chosen(study: Study, seeds: Sequence[int] | None) -> list[Trial]:
    """The trials of a study that have these seeds; all that are finished for None."""
    finished = {trial.seed: trial for trial in ledger.finished(ledger.read(study.csv))}
    missing = [seed for seed in seeds or () if seed not in finished]
    if missing or not finished:
        wanted = f"seed {missing[0]}" if missing else "a seed"
        raise UserError(
            f"{study.csv}: expected a finished trial of {wanted}, found none; train it with mnist_minimal.trials"
        )
    return [finished[seed] for seed in (sorted(finished) if seeds is None else seeds)]


def _seen(study: Study, protocol: str, dataset: "Dataset", checksums: dict[str, str]) -> tuple[str, int, bool]:
    """How the trials of a study saw a data set: protocol, how many training images, and whether the test set chose."""
    from mnist_minimal.data import sets

    begun, recipe = identity.read(study), identity.recipe(study)
    if recipe is None or not isinstance(begun.get("data"), dict):
        raise UserError(
            f"{study.json}: expected the recipe and the checksums of the data by which its trials were trained, found "
            "none; train them with this version"
        )
    if any(begun["data"].get(name) != sum_ for name, sum_ in checksums.items()):
        raise UserError(
            f"{study.json}: expected trials on {dataset.name} ({dataset.origin}), found that they were trained on "
            "other images; give the same data with --data or --dataset"
        )
    held = sets.held_out(len(dataset.x_train), protocol, recipe.get("validation_share", 0.0))
    schedule = recipe.get("schedule")
    chooses = (
        bool(recipe.get("early_stopping") or recipe.get("median_stopping"))
        or bool(recipe.get("callbacks") or begun.get("callbacks"))
        or (isinstance(schedule, dict) and schedule.get("kind") == "Plateau")
    )
    of_its_teacher = isinstance(begun.get("teacher"), dict) and bool(begun["teacher"].get("chosen_by_test_set"))
    return protocol, len(dataset.x_train) - held, (held == 0 and chooses) or of_its_teacher


def _how_trained(seen: tuple[str, int, bool], study: Study) -> str:
    protocol, trained, _ = seen
    return f"{study.name} (protocol {protocol}, {trained:,} training images)"


def _figures(prefix: str, probabilities: "np.ndarray", labels: "np.ndarray") -> dict[str, float | None]:
    """Accuracy and mean cross-entropy of labelled images; None where there are none."""
    import numpy as np

    if not len(labels):
        return {f"{prefix}accuracy": None, f"{prefix}loss": None}
    of_label = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    return {
        f"{prefix}accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        f"{prefix}loss": float(-np.mean(np.log(of_label, dtype=np.float64))),
    }
