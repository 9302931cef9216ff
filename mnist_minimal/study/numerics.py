"""The bits that a study's trials have: which version of the core's, and whether they can be had again."""

from collections.abc import Sequence

from mnist_minimal.errors import UserError
from mnist_minimal.study import identity, ledger
from mnist_minimal.study.study import Study
from mnist_minimal.training.core import NUMERICS
from mnist_minimal.trial import Trial


def recorded(study: Study, rows: Sequence[Trial]) -> int | str | None:
    """The version of the bits with which a study's trials were trained, or why they are unverified.

    Args:
        study: The study.
        rows: Its trials.

    Returns:
        As its JSON has it; 0 for trials of the core by a version that recorded none; None where there are no trials of
        the core, or Keras trains.
    """
    native = any(trial.trainer == "native" for trial in rows)
    return identity.read(study).get("numerics", 0 if native else None)


def check(study: Study, begun: int | str | None, wanted: int | str | None) -> None:
    """Refuses a study whose trials have other bits than those to come.

    Args:
        study: The study.
        begun: What `recorded` gives.
        wanted: What `training.trainers.numerics` gives here.

    Raises:
        UserError: saying which they have and which they would have.
    """
    if begun != wanted:
        words = [found if isinstance(found, str) else f"numerics {found}" for found in (begun, wanted)]
        raise UserError(
            f"{study.json}: this study was trained with {words[0]}, and now it would be {words[1]}; rows of different "
            "bits do not mix: train all of them with another --out"
        )


def unverifiable(study: Study, rows: Sequence[Trial]) -> str:
    """Why the trials of a study can't be verified by this version, or "" where they can, as far as its files tell.

    Args:
        study: The study.
        rows: Its trials.

    Raises:
        UserError: if its JSON is damaged.
    """
    facts = identity.read(study)
    if not isinstance(facts.get("recipe"), dict):
        return "no JSON tells the recipe"
    trainers = {trial.trainer for trial in ledger.done(rows)}
    if "keras" in trainers:
        return "Keras trained it, whose bits depend on the machine"
    # Those of JAX are compared with the core's within a tolerance.
    bits = NUMERICS if "jax" in trainers else recorded(study, rows)
    if isinstance(bits, str):
        return bits
    if bits != NUMERICS:
        return f"its bits are those of numerics {bits}, and this version has numerics {NUMERICS}"
    if isinstance(by_keras := facts.get("initial_weights"), list):
        return f"Keras drew initial weights of it ({', '.join(map(str, by_keras))})"
    if facts.get("callbacks"):
        return f"it was trained with callbacks of the user's own ({', '.join(map(str, facts['callbacks']))})"
    return ""
