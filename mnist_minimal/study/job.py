"""A job: what all its trials have in common, found out before the first one is trained."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.lookup import Builder, builder
from mnist_minimal.recipes import Recipe
from mnist_minimal.recipes.variation import changes
from mnist_minimal.study import identity, ledger, numerics
from mnist_minimal.study.ownership import check_room
from mnist_minimal.study.plan import Plan
from mnist_minimal.study.study import Study
from mnist_minimal.study.teaching import TeacherFile, check_classes
from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset


@dataclass(frozen=True)
class Job:
    """What all trials of a job have in common; cloudpickle sends it to another process.

    Attributes:
        study: Where the files of its trials lie.
        model: Name of the model.
        dataset: Name of the data set.
        protocol: "source" or "holdout".
        recipe: How the model is trained.
        source: The data set, or where another process finds it.
        trainer: "keras", "native" or "jax".
        max_epochs: The cap on the epochs.
        places: Trials that run side by side; None where the device decides.
        params: Number of trainable parameters of the model.
        test_size: Number of test images.
        facts: What the study was begun with, as its identity has it.
        build: Builds the model, where its name does not say how.
        callbacks: Makes a trial's further Keras callbacks from its seed, or None.
        teacher: The file of the recipe's teacher, or None where it has none.
    """

    study: Study
    model: str
    dataset: str
    protocol: str
    recipe: Recipe
    source: "Choice | Dataset"
    trainer: str
    max_epochs: int
    places: int | None
    params: int
    test_size: int
    facts: dict[str, Any]
    build: Builder | None = None
    callbacks: "Callable[[int], Sequence[keras.callbacks.Callback]] | None" = None
    teacher: TeacherFile | None = None


def data_facts(plan: Plan) -> dict[str, Any]:
    """What is known of a job without Keras: teacher, recipe, what was set in it, the cap on the epochs, checksums."""
    from mnist_minimal.data.sets import checksums

    return {
        **({"teacher": plan.teacher.facts} if plan.teacher else {}),
        "recipe": plan.recipe.as_dict(),
        "set": changes(plan.model, plan.recipe, plan.dataset.name),
        "max_epochs": plan.max_epochs,
        "data": checksums(plan.dataset),
    }


def make_job(plan: Plan, before: Sequence[Trial]) -> tuple[Job, str]:
    """Builds the model once, chooses the trainer, and begins the study's JSON or completes that of an earlier version.

    Args:
        plan: What is asked for, of a study that this process owns.
        before: The trials that are in the study's CSV.

    Returns:
        The job, and what the user must know of the choice of trainer, its bits and the saved models, sentences or "".

    Raises:
        UserError: if the study was begun with another recipe, data set, network, trainer or callbacks, or its trials
            have other bits than the core gives here, named by what differs; if the model is not for such images; if
            the trainer can't train it by the recipe; if Keras has not what the recipe names; if the user's function
            makes no callbacks; if a file can't be written or read; if there is no room for the files of the trials.
    """
    import keras

    from mnist_minimal.models.architecture import layer_facts
    from mnist_minimal.models.counting import trainable_parameters
    from mnist_minimal.saving.saved_model import ROOM, check_size, needs_code
    from mnist_minimal.training import check_images, initial_weights
    from mnist_minimal.training.keras_fit import check_recipe, set_memory_growth
    from mnist_minimal.training.seeding import seeded
    from mnist_minimal.training.slots import device
    from mnist_minimal.training.trainers import choose
    from mnist_minimal.training.trainers import numerics as numerics_of

    study, model, dataset = plan.study, plan.model, plan.dataset
    done = ledger.done(before)
    recorded = recorded_trainer(study, before)
    # Before anything is put on a GPU: JAX needs all of its memory, other processes of the job a part.
    if plan.trainer == "jax" or (plan.trainer == "auto" and recorded == "jax"):
        device.keep_tensorflow_off()
    set_memory_growth()
    check_recipe(plan.recipe)
    # Nothing of it is put on a GPU, which may be JAX's in a moment.
    with seeded(0), keras.device("cpu"):
        built = (plan.build or builder(model))()
    set_dropout(built, plan.recipe.dropout)
    check_images(model, built, dataset)
    check_classes(plan.teacher, model, built.output_shape[-1])
    check_size(built, study.weights(0))
    params = trainable_parameters(built)
    for trial in done:
        if trial.params != params:
            raise UserError(
                f"{study.csv}: seed {trial.seed} was trained with {trial.params:,} parameters, and {model} has "
                f"{params:,} now; restore the model or use another --out"
            )
    chosen, notice = choose(plan.trainer, built, recorded, plan.recipe, plan.runs)
    if chosen == "jax":
        device.keep_tensorflow_off()
    if recorded not in (None, chosen):
        raise UserError(
            f"{study.csv}: this study was begun with trainer {recorded}, and now it would be {chosen}; give the same "
            "--trainer, or another folder with --out"
        )
    layers = layer_facts(json.loads(built.to_json())["config"])
    bits = numerics_of(chosen)
    if done or "numerics" in identity.read(study):
        numerics.check(study, numerics.recorded(study, done), bits)
    if isinstance(bits, str):
        notice += f"{' ' if notice else ''}These trials are {bits}."
    facts = {
        **data_facts(plan),
        "layers": layers,
        "trainer": chosen,
        # Or the arrays that are not, of which nobody can say that they come out the same on another machine.
        "initial_weights": initial_weights.draw(built, 0) or "drawn by mnist_minimal",
        "numerics": bits,
        "callbacks": [type(callback).__qualname__ for callback in _callbacks(plan)],
    }
    # A model's file, and a checkpoint of the weights, the best ones or the sums of an average, and two moments.
    check_room(study, (plan.jobs or 1) * (ROOM + 4 * 5 * built.count_params()))
    identity.record(study, facts)
    job = Job(
        study,
        model,
        dataset.name,
        plan.protocol,
        plan.recipe,
        plan.choice or dataset,
        chosen,
        plan.max_epochs,
        plan.jobs or (None if chosen == "jax" else 1),
        params,
        len(dataset.x_test),
        facts,
        plan.build,
        plan.callbacks,
        plan.teacher,
    )
    if code := needs_code(built):
        notice += (
            f"{' ' if notice else ''}To read the saved models will take code, by --model {model} or in Python by "
            f"`custom_objects`, for: {', '.join(code)}."
        )
    return job, notice


def recorded_trainer(study: Study, trials: Sequence[Trial]) -> str | None:
    """What has trained a study of these rows; None where nothing has."""
    # The JSON of an earlier version does not tell, but the rows do.
    return identity.read(study).get("trainer") or next((trial.trainer for trial in ledger.done(trials)), None)


def _callbacks(plan: Plan) -> "Sequence[keras.callbacks.Callback]":
    """What the user's function makes for the first trial: what is wrong with it would end every trial."""
    import keras

    if plan.callbacks is None:
        return ()
    found = plan.callbacks(plan.seed)
    strangers = (
        [one for one in found if not isinstance(one, keras.callbacks.Callback)]
        if isinstance(found, list | tuple)
        else [found]
    )
    if strangers:
        raise UserError(
            f"callbacks: found that the function gives a {type(strangers[0]).__name__}, expected a list of Keras "
            "callbacks: lambda seed: [keras.callbacks.TerminateOnNaN()]"
        )
    return found
