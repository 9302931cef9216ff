"""Trials trained from Python: a study of many, or one model that writes no file."""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mnist_minimal.api.files import choice_of
from mnist_minimal.api.study import Study
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models import lookup
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.lookup import Builder
from mnist_minimal.recipes import RECIPES, Recipe
from mnist_minimal.study import teaching
from mnist_minimal.study.plan import MAX_SEED, Plan
from mnist_minimal.study.progress import display, silent
from mnist_minimal.study.runner import carry_out
from mnist_minimal.study.sweep import carry_out_all

if TYPE_CHECKING:
    import keras
    import pandas
    from numpy.typing import ArrayLike

    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.training.evaluation import Evaluation

Data: TypeAlias = "str | Path | Dataset | Sequence[ArrayLike]"
Callbacks: TypeAlias = Callable[[int], Sequence["keras.callbacks.Callback"]]


@dataclass(frozen=True)
class Fitted:
    """One trained model.

    Attributes:
        model: The model, with the weights that its recipe keeps.
        history: One row an epoch, as `Study.history` gives it.
        test: What the model makes of the test set: `accuracy`, `loss`, `correct`.
    """

    model: "keras.Model"
    history: "pandas.DataFrame"
    test: "Evaluation"

    def __repr__(self) -> str:
        return f"{self.test.correct} of {self.test.size} test images right after {len(self.history)} epochs"


def run_trials(
    model: str | Builder,
    recipe: str | Recipe | None = None,
    runs: int | None = 10,
    data: Data = "auto",
    *,
    callbacks: Callbacks | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    until: float | None = None,
    protocol: str = "source",
    trainer: str = "auto",
    teacher: str | Path | None = None,
    dataset_name: str | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> Study:
    """Trains a model again and again and records every trial, as `python -m mnist_minimal.trials` does.

    What is recorded already is not trained again. Interrupted (Ctrl-C, a notebook's stop button), the same call
    resumes: it loses at most an epoch of each trial that ran.

    Args:
        model: A published model's name, `module:function`, or a function without arguments that returns a new, built
            Keras model; it may be defined in a notebook's cell.
        recipe: How to train it: a Recipe, or the name of one of RECIPES; None for the model's own.
        runs: How many trials, seeds `seed` to `seed + runs - 1`; None for no end, but for `until`.
        data: A name, a file or a folder as `load_data` takes it; a data set of `load_data`; or the four arrays
            (x_train, y_train, x_test, y_test), also in two pairs as Keras' own sets give them: images uint8
            (n, height, width) or (n, height, width, channels), or divided by 255; labels (n,) of any number of
            classes, or one-hot.
        callbacks: Gives a trial's further Keras callbacks, from its seed; called for each trial, so that none is
            shared. They have no state on disk: a trial with callbacks starts again when it was interrupted. A study
            knows them by their classes alone: give another `out` where you change their arguments. Where the
            core or JAX trains, they are called for epochs and not for batches.
        jobs: Trials side by side; None for one, with "jax" for as many as suit the device. Keras' trials run in
            processes then, as a script must allow for with `if __name__ == "__main__":`.
        out: Folder of the results; None for `runs` in the working folder.
        seed: The first trial's seed, 0 <= seed < 2**32.
        epochs: A cap on the epochs of each trial.
        until: The best accuracy, in (0, 1], at whose first trial the job stops.
        protocol: "source", which monitors the test set as the sources do, or "holdout", which monitors images held out
            of the training set.
        trainer: "native" for the C++ core; "keras"; "jax" for many trials at once on a GPU, or on the processor, which
            takes `pip install mnist-minimal[jax]` and whose trials are not promised to the bit; or "auto": JAX for a
            new study where there is a GPU and many trials are asked for, else the core where it can run the model.
            Once JAX has trained, TensorFlow sees no GPU in this process.
        teacher: A file of `python -m mnist_minimal.teacher`, whose probabilities are part of the targets, by half or by
            the recipe's `teacher.weight`.
        dataset_name: What images that are not MNIST are called in the results.
        dask: The address of the scheduler of a Dask cluster whose workers train the trials, or the file that it
            writes (`--scheduler-file`); "local" for `jobs` workers on this machine, which a script must allow for as
            for Keras' processes. A worker trains one trial a thread; with Keras one, with JAX as many as suit its
            device. The core's trials are the same as without, bit by bit.
        progress: Whether to show it.

    Returns:
        The study, earlier trials of it included.

    Raises:
        UserError: if an argument is not as said; if the study in `out` was begun with another recipe, network or data;
            if its files can't be written or read; or if trials fail one after another.
        KeyboardInterrupt: on Ctrl-C.

    Example:
        >>> import mnist_minimal as mm
        >>> mm.run_trials("sep697", runs=2, data="digits", epochs=1, out="my-trials", progress=False).name
        'sep697-digits'
    """
    name, build = lookup.named(model)
    dataset, choice = _data(data, dataset_name)
    plan = _plan(
        name,
        build,
        _recipe(name, build, recipe, dataset.name),
        dataset,
        choice,
        runs=runs,
        callbacks=callbacks,
        jobs=jobs,
        out=out,
        seed=seed,
        epochs=epochs,
        until=until,
        protocol=protocol,
        trainer=trainer,
        teacher=None if teacher is None else teaching.read(Path(teacher).expanduser()),
        dask=dask,
    )
    study = Study(plan.study, build)
    if not carry_out(plan, print if progress else _nothing, display if progress else silent, threading.Event()):
        _warn_of_failures(study, plan)
    return study


def sweep(
    model: str | Builder,
    recipes: Sequence[str | Recipe],
    runs: int = 16,
    data: Data = "auto",
    *,
    callbacks: Callbacks | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    protocol: str = "source",
    trainer: str = "auto",
    teacher: str | Path | None = None,
    dataset_name: str | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> list[Study]:
    """Trains a model by several recipes, each a study of its own, as `run_trials` does one after the other.

    With trainer "jax" the recipes that differ in numbers alone (learning rate, decay, dropout, ranges of augmentation,
    a teacher's weight, schedule and stopping) are trained side by side, by one compiled program.

    Args:
        model: As of `run_trials`.
        recipes: The recipes, all different.
        runs: How many trials by each, seeds `seed` to `seed + runs - 1`.
        data: As of `run_trials`.
        callbacks: As of `run_trials`.
        jobs: As of `run_trials`; with "jax" those of all recipes together.
        out: As of `run_trials`.
        seed: As of `run_trials`.
        epochs: As of `run_trials`.
        protocol: As of `run_trials`.
        trainer: As of `run_trials`.
        teacher: As of `run_trials`.
        dataset_name: As of `run_trials`.
        dask: As of `run_trials`; the recipes are trained one after the other then.
        progress: As of `run_trials`.

    Returns:
        The studies, in the order of the recipes.

    Raises:
        UserError: if an argument is not as said; or as of `run_trials`.
        KeyboardInterrupt: on Ctrl-C; the same call resumes.

    Example:
        >>> import mnist_minimal as mm
        >>> recipes = [mm.RECIPES["sep697"].replace(**{"optimizer.learning_rate": rate}) for rate in (0.01, 0.03)]
        >>> studies = mm.sweep("sep697", recipes, runs=1, data="digits", epochs=1, out="my-trials", progress=False)
        >>> [len(study) for study in studies]
        [1, 1]
    """
    name, build = lookup.named(model)
    dataset, choice = _data(data, dataset_name)
    if isinstance(recipes, str | Recipe) or not recipes:
        raise UserError(f"found recipes={recipes!r}, expected a list of one or more: [recipe, ...]")
    file = None if teacher is None else teaching.read(Path(teacher).expanduser())
    plans = [
        _plan(
            name,
            build,
            _recipe(name, build, recipe, dataset.name),
            dataset,
            choice,
            runs=_whole("runs", runs, 1),
            callbacks=callbacks,
            jobs=jobs,
            out=out,
            seed=seed,
            epochs=epochs,
            until=None,
            protocol=protocol,
            trainer=trainer,
            teacher=file,
            dask=dask,
        )
        for recipe in recipes
    ]
    fine = carry_out_all(plans, print if progress else _nothing, display if progress else silent, threading.Event())
    studies = [Study(plan.study, build) for plan in plans]
    if not fine:
        for study, plan in zip(studies, plans, strict=True):
            _warn_of_failures(study, plan)
    return studies


def _plan(
    name: str,
    build: Builder | None,
    recipe: Recipe,
    dataset: "Dataset",
    choice: Choice | None,
    *,
    runs: int | None,
    callbacks: Callbacks | None,
    jobs: int | None,
    out: str | Path | None,
    seed: int,
    epochs: int | None,
    until: float | None,
    protocol: str,
    trainer: str,
    teacher: teaching.TeacherFile | None,
    dask: str | None,
) -> Plan:
    """The plan that the arguments make; they are checked."""
    by = teaching.with_teacher(recipe, teacher)
    plan = Plan(
        Path(out or "runs").expanduser(),
        name,
        by,
        dataset,
        choice,
        None if runs is None else _whole("runs", runs, 1),
        _whole("seed", seed, 0, MAX_SEED),
        by.max_epochs if epochs is None else min(_whole("epochs", epochs, 1), by.max_epochs),
        until,
        _one_of("protocol", protocol, ("source", "holdout")),
        _one_of("trainer", trainer, ("auto", "native", "keras", "jax")),
        None if jobs is None else _whole("jobs", jobs, 1),
        build,
        callbacks,
        teacher,
        dask,
    )
    if until is not None and not 0 < until <= 1:
        raise UserError(f"found until={until}, expected an accuracy above 0 and at most 1, such as 0.99")
    if plan.runs and plan.seed + plan.runs > MAX_SEED + 1:
        raise UserError(f"found {runs} runs from seed {seed}, expected seeds up to {MAX_SEED}; lower either")
    if callbacks is not None and not callable(callbacks):
        raise UserError(
            f"found a {type(callbacks).__name__} for callbacks, expected a function that makes new ones for each "
            "trial: callbacks=lambda seed: [...]"
        )
    return plan


def _warn_of_failures(study: Study, plan: Plan) -> None:
    failed = {seed: reason for seed, reason in study.failed().items() if seed in plan.seeds}
    if failed:
        seed, reason = next(iter(failed.items()))
        warnings.warn(f"{len(failed)} of the trials failed, seed {seed}: {reason}", stacklevel=3)


def fit(
    model: "str | Builder | keras.Model",
    recipe: str | Recipe | None = None,
    data: Data = "auto",
    seed: int = 0,
    *,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    epochs: int | None = None,
    protocol: str = "source",
    trainer: str = "auto",
    teacher: str | Path | None = None,
    dataset_name: str | None = None,
) -> Fitted:
    """Trains one model and writes no file: the trial of this seed, as `run_trials` would train it.

    Args:
        model: As of `run_trials`; or a built Keras model, which is then trained from the weights it has; a recipe's
            `dropout` is set in it.
        recipe: As of `run_trials`.
        data: As of `run_trials`.
        seed: The trial's seed, 0 <= seed < 2**32.
        callbacks: Further Keras callbacks.
        epochs: A cap on the epochs.
        protocol: As of `run_trials`.
        trainer: "native", "keras", or "auto" for the core where it can run the model.
        teacher: As of `run_trials`.
        dataset_name: As of `run_trials`.

    Returns:
        The model, its history, and what it makes of the test set.

    Raises:
        UserError: if an argument is not as said, or the trainer can't train the model.

    Example:
        >>> import mnist_minimal as mm
        >>> fitted = mm.fit("sep697", data="digits", epochs=2)
        >>> len(fitted.history), fitted.test.size
        (2, 297)
    """
    import keras
    import pandas

    from mnist_minimal.data import sets
    from mnist_minimal.training import check_images, initial_weights
    from mnist_minimal.training.keras_fit import check_recipe
    from mnist_minimal.training.seeding import seeded
    from mnist_minimal.training.trainers import choose, evaluate_function, fit_function

    _whole("seed", seed, 0, MAX_SEED)
    dataset, _ = _data(data, dataset_name)
    if isinstance(model, keras.Model):
        name, build, trained = model.name, None, lookup.checked(model.name, model)
        by = _recipe(name, lambda: trained, recipe, dataset.name)
    else:
        name, build = lookup.named(model)
        by = _recipe(name, build, recipe, dataset.name)
        with seeded(seed):
            trained = (build or lookup.builder(name))()
        initial_weights.draw(trained, seed)
    file = None if teacher is None else teaching.read(Path(teacher).expanduser())
    by = teaching.with_teacher(by, file)
    if warned := teaching.check(by, file, dataset, _one_of("protocol", protocol, ("source", "holdout"))):
        warnings.warn(warned, stacklevel=2)
    check_recipe(by)
    set_dropout(trained, by.dropout)
    check_images(name, trained, dataset)
    teaching.check_classes(file, name, trained.output_shape[-1])
    chosen, _ = choose(_one_of("trainer", trainer, ("auto", "native", "keras")), trained, None, by)
    splits = teaching.with_targets(sets.split(dataset, protocol, by.validation_share), by, file)
    cap = None if epochs is None else _whole("epochs", epochs, 1)
    found = fit_function(chosen, 1)(trained, by, splits, seed, max_epochs=cap, callbacks=callbacks)
    history = pandas.DataFrame({"epoch": range(1, found.epochs + 1), **found.history})
    return Fitted(trained, history, evaluate_function(chosen, 1)(trained, splits.x_test, splits.y_test))


def _data(data: Data, name: str | None) -> "tuple[Dataset, Choice | None]":
    """A data set, and where another process finds it, if it can."""
    from mnist_minimal.data import sets

    if isinstance(data, sets.Dataset):
        return data, None
    if not isinstance(data, str | Path):
        return sets.of_arrays(data, name), None
    choice = choice_of(data, name)
    dataset = sets.load(choice)
    if dataset.notice:
        warnings.warn(dataset.notice, stacklevel=3)
    # Where the digits took MNIST's place, other processes need not look for it again.
    return dataset, choice.or_recorded(dataset.name)


def _recipe(name: str, build: Builder | None, recipe: str | Recipe | None, dataset: str) -> Recipe:
    """How a model is trained."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        _one_of("recipe", recipe, tuple(RECIPES))
    elif build is not None:
        raise UserError(
            f"{name}: found no recipe, which a model of your own needs; give recipe=, a Recipe or the name of a "
            f"published one: {', '.join(RECIPES)}"
        )
    return lookup.recipe(name, recipe, dataset)


def _whole(name: str, value: int, low: int, high: int | None = None) -> int:
    # NumPy's integers are whole numbers too, and True is none.
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < low or (high is not None and value > high):
        most = "" if high is None else f" to {high}"
        raise UserError(f"found {name}={value!r}, expected a whole number from {low}{most or ' on'}")
    return int(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"found {name}={value!r}, expected one of {', '.join(known)}")
    return value


def _nothing(_: str) -> None:
    """Says nothing."""
