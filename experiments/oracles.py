"""Keras as the oracle of the trainers, in double precision where single would not do; and images to train on.

The tests of the trainers and `experiments/parity.py` hold the trainers against what is here.
"""

import keras
import numpy as np

from mnist_minimal.models import MODELS
from mnist_minimal.training.chain import Chain

LEARNING_RATE = 1e-4


def images(count: int, shape: tuple[int, int, int] = (28, 28, 1), seed: int = 0) -> np.ndarray:
    """uint8 images, half of each dark, as digits are."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, *shape))
    return np.where(random.random((count, *shape)) < 0.5, pixels, 0).astype(np.uint8)


def patterns(count: int, shape: tuple[int, int, int] = (28, 28, 1), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images that show their label, uint8, and the labels: there is something to learn."""
    random = np.random.default_rng(seed)
    y = labels(count, seed=seed)
    shown = images(10, shape, seed=99)[y].astype(np.float64)
    return np.clip(shown + random.normal(0, 40, shown.shape), 0, 255).astype(np.uint8), y


def labels(count: int, classes: int = 10, seed: int = 0) -> np.ndarray:
    """Random classes, uint8 (count,)."""
    return np.random.default_rng(seed + 1).integers(0, classes, count).astype(np.uint8)


def without_dropout(model: keras.Model) -> keras.Model:
    """The same model and weights, with all dropout rates 0."""
    seen: dict[str, keras.layers.Layer] = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in seen:
            config = layer.get_config()
            if "rate" in config:
                config["rate"] = 0.0
            seen[layer.name] = type(layer).from_config(config)
        return seen[layer.name]

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def randomise(model: keras.Model, seed: int = 3) -> keras.Model:
    """Moves biases, scales and moving statistics away from where they start, so that they can be seen to be used."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.path.split("/")[-1] in ("bias", "beta", "gamma", "moving_mean", "moving_variance"):
            variable.assign(np.asarray(variable) + random.uniform(0.02, 0.2, variable.shape))
    return model


def chain(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None, instruction_set: str | None = None
) -> Chain:
    """The model as the core trains it, by default by plain SGD with the best instruction set."""
    return Chain(model, optimizer or keras.optimizers.SGD(0.1), instruction_set)


def keras_gradients(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The mean loss in training and its gradient for each variable, by TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        probabilities = model(x.astype(np.float32), training=True)
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, probabilities))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    return float(loss), {v.path: g.numpy() for v, g in zip(variables, gradients, strict=True)}


def in_double(model: keras.Model) -> keras.Model:
    """The same model and weights in float64."""
    seen: dict[str, keras.layers.Layer] = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name not in seen:
            # An operation that is no layer, as a sum, has the type of what it is given.
            options = {"dtype": "float64"} if isinstance(layer, keras.Layer) else {}
            seen[layer.name] = type(layer).from_config({**layer.get_config(), **options})
        return seen[layer.name]

    pixels = keras.Input(model.input_shape[1:], dtype="float64")
    copy = keras.models.clone_model(model, input_tensors=pixels, clone_function=clone)
    copy.set_weights([weights.astype(np.float64) for weights in model.get_weights()])
    return copy


def cross_entropy(y: np.ndarray, probabilities: object) -> object:
    """The mean over the batch, without the bounds that Keras' own puts on probabilities."""
    chosen = keras.ops.take_along_axis(probabilities, y.astype(np.int64)[:, np.newaxis], axis=1)
    return -keras.ops.mean(keras.ops.log(chosen))


def gradients_in_double(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Those of the mean loss in training, by TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x.astype(np.float64), training=True))
    return [gradient.numpy() for gradient in tape.gradient(loss, [v.value for v in model.trainable_variables])]


def after_steps(
    name: str, draw: int, steps: int
) -> tuple[keras.Model, keras.Model, list[np.ndarray], list[np.ndarray]]:
    """The model after the core's steps, of eight images each, and after those in double precision, and what moved.

    The optimizer has momentum: Adam divides a gradient by its size, so a bias whose gradient is 0 follows rounding.
    """
    keras.utils.set_random_seed(draw)
    model = randomise(without_dropout(MODELS[name]()))
    start = [variable.numpy() for variable in model.trainable_variables]
    reference = in_double(model)
    velocities = [np.zeros(weights.shape) for weights in start]
    x, y = patterns(steps * 8, seed=draw)
    for batch in np.split(np.arange(len(x)), steps):
        gradients = gradients_in_double(reference, x[batch], y[batch])
        for variable, velocity, gradient in zip(reference.trainable_variables, velocities, gradients, strict=True):
            velocity *= 0.9
            velocity -= LEARNING_RATE * gradient
            variable.assign_add(velocity)
    ours = chain(model, keras.optimizers.SGD(LEARNING_RATE, momentum=0.9))
    ours.network.train(x, y, np.arange(len(x)), batch_size=8, seed=0, epoch=0, learning_rates=LEARNING_RATE)
    ours.to_keras()
    moved, expected = (
        [variable.numpy() - before for variable, before in zip(trained.trainable_variables, start, strict=True)]
        for trained in (model, reference)
    )
    return model, reference, moved, expected
