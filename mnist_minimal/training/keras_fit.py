"""Training with Keras' own `model.fit`, on any Keras backend, on a GPU where the backend sees one."""

import contextlib
import math
import time
from collections.abc import Sequence

import keras
import numpy as np

from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.models.defaults import keras_defaults
from mnist_minimal.recipes import ByStep, PiecewiseLinear, Plateau, Recipe, Steps
from mnist_minimal.training import DivergedError, Fit, averaging, epochs_to_train, targets
from mnist_minimal.training.checkpoint import Checkpoint, Resumption
from mnist_minimal.training.keras_objects import keras_object
from mnist_minimal.training.optimizers import make_optimizer
from mnist_minimal.training.schedules import StepRates, all_step_rates, scheduled_rate, step_rates

EVALUATION_BATCH_SIZE = 1000


class EpochBatches(keras.utils.PyDataset):
    """The training images in the order of `data.batches`, augmented as the recipe says, again in each epoch."""

    def __init__(self, splits: Splits, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.splits, self.recipe, self.seed = splits, recipe, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Lays out the batches of one epoch, counted from 0, and draws what happens to its images."""
        self.batches = epoch_batches(
            self.seed, epoch, len(self.splits.x_train), self.recipe.batch_size, self.recipe.drop_remainder
        )
        if self.recipe.augmentation:
            self.changes = draw_changes(self.recipe.augmentation, self.seed, epoch, self.splits.x_train)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.batches[step]
        images, labels = self.splits.x_train[chosen], self.splits.y_train[chosen]
        if self.splits.targets is not None:
            labels = targets.with_labels(labels, self.splits.targets[chosen])
        if self.recipe.augmentation:
            return augment(images, self.changes[chosen], self.recipe.augmentation), labels
        return images.astype(np.float32), labels


class EpochRandomness(keras.callbacks.Callback):
    """Makes batches and all that layers draw functions of (seed, epoch), notes the rate, and ends what diverged."""

    def __init__(self, batches: EpochBatches, seed: int) -> None:
        super().__init__()
        self.batches, self.seed = batches, seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.start_epoch(epoch)
        assigned = set()
        # At the end the model itself, for generators that none of its layers holds.
        for position, layer in enumerate([*self.model.layers, self.model]):
            states = [variable for variable in seed_states(layer) if id(variable) not in assigned]
            for index, state in enumerate(states):
                # A spawn key of its own for all but a layer's first generator: no other sequence can be the same.
                spawn_key = (index,) if index else ()
                words = np.random.SeedSequence([self.seed, epoch, position], spawn_key=spawn_key).generate_state(2)
                state.assign(words.astype(state.dtype))
                assigned.add(id(state))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            if not math.isfinite(logs["loss"]):
                raise DivergedError(f"the training loss became {logs['loss']} in epoch {epoch + 1}")
            logs["learning_rate"] = self.learning_rate(epoch)

    def learning_rate(self, epoch: int) -> float:
        """The rate of an epoch's last step, the epoch counted from 0."""
        if isinstance(self.batches.recipe.schedule, ByStep):
            return float(step_rates(self.batches.recipe, epoch, len(self.batches))[-1])
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


def seed_states(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The states of all keras.random.SeedGenerator of a layer and of those within it, in the order of `variables`."""
    return [variable for variable in layer.variables if variable.name == "seed_generator_state"]


def set_memory_growth() -> None:
    """Has TensorFlow take a GPU's memory as it needs it, so that several processes can share the GPU.

    By itself TensorFlow takes all of it. To be called before anything lies on a GPU, a model's weights included: after
    that it changes nothing. Neither does it where another backend trains.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    for gpu in tensorflow.config.get_visible_devices("GPU"):
        # A RuntimeError says that the GPU is in use already.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.experimental.set_memory_growth(gpu, True)


def sees_gpu() -> bool:
    """Whether the Keras backend sees a GPU, on which it then trains."""
    # Where a new tensor lies is the one thing that all backends tell.
    device = str(keras.ops.convert_to_tensor([0.0]).device).lower()
    return "gpu" in device or "cuda" in device


def backend_description() -> str:
    """The Keras backend, its kind of device and Keras' version, such as "tensorflow on cpu, keras 3.15.1"."""
    return f"{keras.backend.backend()} on {'gpu' if sees_gpu() else 'cpu'}, keras {keras.__version__}"


def recipe_callbacks(recipe: Recipe) -> list[keras.callbacks.Callback]:
    """New callbacks for the recipe's schedule and stopping, in the order in which the sources hand them to Keras."""
    callbacks = []
    if isinstance(recipe.schedule, Plateau):
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss",
                mode="min",
                factor=recipe.schedule.factor,
                patience=recipe.schedule.patience,
                min_delta=recipe.schedule.min_delta,
                min_lr=recipe.schedule.min_learning_rate,
            )
        )
    elif isinstance(recipe.schedule, Steps | PiecewiseLinear):
        callbacks.append(keras.callbacks.LearningRateScheduler(lambda epoch: scheduled_rate(recipe, epoch)))
    if recipe.early_stopping:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_accuracy",
                mode="max",
                patience=recipe.early_stopping.patience,
                restore_best_weights=True,
            )
        )
    return callbacks


def keras_callbacks(recipe: Recipe) -> list[keras.callbacks.Callback]:
    """New callbacks for those that the recipe takes from Keras.

    Raises:
        UserError: if Keras has no such callback, or it does not take the arguments.
    """
    return [keras_object(each, keras.callbacks, keras.callbacks.Callback) for each in recipe.callbacks]


def check_recipe(recipe: Recipe) -> None:
    """Makes once what a recipe takes from Keras.

    Raises:
        UserError: if Keras has it not, or it does not take the arguments.
    """
    make_optimizer(recipe)
    keras_callbacks(recipe)


def compile_model(model: keras.Model, recipe: Recipe, rates: StepRates | None = None, by_targets: bool = False) -> None:
    """Compiles the model with a new optimizer of the recipe, cross-entropy over integer labels, and accuracy.

    Args:
        model: A built model.
        recipe: How to train it.
        rates: The learning rates of all steps; None for the optimizer's own.
        by_targets: Whether what is learned are labels and targets, as `targets.with_labels` gives them.
    """
    accuracy = keras.metrics.MeanMetricWrapper(targets.right, name="accuracy") if by_targets else "accuracy"
    # A learning rate would else be a float16 where the user's keras.json says so.
    with keras_defaults():
        model.compile(
            optimizer=make_optimizer(recipe, rates),
            loss=targets.cross_entropy if by_targets else "sparse_categorical_crossentropy",
            metrics=[accuracy],
            # TensorFlow's XLA on a CPU needs eight times as long for an epoch of separable convolutions as no XLA;
            # the other backends are only fast when compiled.
            jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        )


def fit(
    model: keras.Model,
    recipe: Recipe,
    splits: Splits,
    seed: int,
    *,
    max_epochs: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Trains a model from the weights it has, and leaves in it those of the best epoch where the recipe stops early.

    A recipe without early stopping leaves those of its last epoch, as its source does, or the mean of its `averaging`,
    of which `averaging.WeightAverage` says when the model has it.

    The order of the images, their augmentation, and the dropout and whatever else the model's layers draw from a
    keras.random.SeedGenerator follow from the seed and the epoch: the same model, recipe, splits and seed give the same
    bits again on the same machine's CPU, stopped and resumed or not.

    Args:
        model: A built model from pixels (batch, height, width, channels) to class probabilities (batch, classes).
        recipe: How to train it.
        splits: The images; those of `x_val` are monitored.
        seed: The trial's seed, 0 <= seed < 2**64.
        max_epochs: A cap on the recipe's number of epochs, at least 1.
        callbacks: More Keras callbacks, called after the recipe's own; a trial that is resumed has new ones.
        checkpoint: Where the state is kept after every epoch; training is resumed after the epochs it holds.

    Returns:
        The history and what follows from it.

    Raises:
        UserError: if `max_epochs` is less than 1.
        DivergedError: if the training loss is no longer a finite number.
    """
    epochs = epochs_to_train(recipe, max_epochs)
    batches = EpochBatches(splits, recipe, seed)
    rates = all_step_rates(recipe, len(batches)) if isinstance(recipe.schedule, ByStep) else None
    compile_model(model, recipe, rates, by_targets=splits.targets is not None)
    model.optimizer.build(model.trainable_variables)
    recipes_own = recipe_callbacks(recipe)
    first_averaged = averaging.first_step(recipe, len(batches))
    average = [] if first_averaged is None else [averaging.WeightAverage(first_averaged, len(batches))]
    state = checkpoint or Checkpoint()
    y_val = splits.y_val
    if splits.targets is not None:
        y_val = targets.with_labels(y_val, targets.one_hot(y_val, splits.targets.shape[1]))
    cpu_before = time.process_time()

    def optimizer_state() -> list[np.ndarray]:
        own = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
        return own + [array for each in average for array in each.state()]

    def restore_optimizer(arrays: list[np.ndarray]) -> None:
        own = len(model.optimizer.variables)
        for variable, array in zip(model.optimizer.variables, arrays[:own], strict=True):
            variable.assign(array)
        for each in average:
            each.restore(arrays[own:])

    resumption = Resumption(
        state,
        recipes_own,
        optimizer_state,
        restore_optimizer,
        cpu_seconds=lambda: time.process_time() - cpu_before,
    )
    model.fit(
        batches,
        initial_epoch=state.epochs,
        epochs=state.epochs if state.stopped else epochs,
        validation_data=(splits.x_val.astype(np.float32), y_val),
        validation_batch_size=EVALUATION_BATCH_SIZE,
        callbacks=[
            *average,
            EpochRandomness(batches, seed),
            *recipes_own,
            *keras_callbacks(recipe),
            *callbacks,
            resumption,
        ],
        # Keras would visit the batches themselves in an order of its own.
        shuffle=False,
        verbose=0,
    )
    return Fit.from_history(state.history.figures, len(splits.y_val), state.train_seconds, state.cpu_seconds)
