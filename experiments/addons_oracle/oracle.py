"""The source's recipe on the source's own libraries: what tensorflow-addons' AdamW does, written down, and its speed.

TensorFlow Addons ended in May 2024 and does not import beside Keras 3, so this file runs in an environment of its own
(Python 3.9 to 3.11) and imports nothing of this project:

    python3.11 -m venv oracle-env
    oracle-env/bin/pip install -r experiments/addons_oracle/requirements.txt
    oracle-env/bin/python experiments/addons_oracle/oracle.py --record experiments/addons_oracle/recorded.npz
    oracle-env/bin/python experiments/addons_oracle/oracle.py --time 100 --data mnist.npz

--record takes 10 seconds and reads `input.npz`, which `make_input.py` writes and describes. Expected: with weight decay
1e-6 a loss of 2.145539 at the first step and of 1.448948 at the last, with 1e-2 of 2.145539 and 2.207616.
`tests/training/test_addons_oracle.py` holds this project's trainers against what was recorded.

--time 100 takes 20 seconds. Expected on two shared cores of an AMD EPYC, in CPU seconds for the 468 steps of an epoch,
mean and sd of n=5: 22.9 and 3.5 with ImageDataGenerator, 21.9 and 1.6 with arrays.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

INPUT = Path(__file__).with_name("input.npz")

DROPOUT_RATE = 0.1
BATCH_SIZE = 128
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-6
WARM_UP_STEPS = 30


def sep997(dropout_rate: float) -> tf.keras.Model:
    """The source's 997-parameter network, under the layer names of this project's `mnist_minimal.models.sep997`.

    Args:
        dropout_rate: Rate of every dropout layer. The source's is 0.1; with 0 a training step is a function of its
            batch and can be compared.

    Returns:
        A built, uncompiled model from raw pixels, float32 (batch, 28, 28, 1), to probabilities, float32 (batch, 10).
    """
    layers = tf.keras.layers
    pixels = layers.Input((28, 28, 1), name="pixels")
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(7, 3, name="conv1")(x)
    x = layers.LeakyReLU(0.2)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(dropout_rate)(x)
    for position, channels in enumerate((10, 10, 11, 12), start=2):
        x = layers.SeparableConv2D(channels, 3, name=f"sepconv{position}")(x)
        x = layers.LeakyReLU(0.2)(x)
        x = layers.Dropout(dropout_rate)(x)
    x = layers.GlobalAveragePooling2D()(x)
    probabilities = layers.Dense(10, activation="softmax", name="classes")(x)
    return tf.keras.Model(pixels, probabilities)


def compiled(dropout_rate: float, weight_decay: float) -> tf.keras.Model:
    """A new network, compiled as the source compiles it."""
    model = sep997(dropout_rate)
    optimizer = tfa.optimizers.AdamW(weight_decay=weight_decay, learning_rate=LEARNING_RATE)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def named(variables: list[tf.Variable], values: Iterable[tf.Tensor]) -> dict[str, np.ndarray]:
    """The values as arrays, each under its variable's name as Keras 3 writes it: without the ":0"."""
    return {variable.name.removesuffix(":0"): value.numpy() for variable, value in zip(variables, values, strict=True)}


def start(given: dict[str, np.ndarray], weight_decay: float) -> tf.keras.Model:
    """A compiled network without dropout, with the given start weights."""
    model = compiled(dropout_rate=0, weight_decay=weight_decay)
    for name, variable in named(model.weights, model.weights).items():
        assert variable.shape == given[f"weights/{name}"].shape, name
    model.set_weights([given[f"weights/{name}"] for name in named(model.weights, model.weights)])
    return model


def first_gradients(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients of the first step's mean loss, by the name of the weight."""
    model = start(given, WEIGHT_DECAY)

    # A graph, as in training: there Keras takes the cross-entropy from the logits, which it does not find otherwise.
    @tf.function
    def gradients(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, labels, model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    chosen = given["batches"][0]
    images, labels = given["images"][chosen].astype(np.float32), given["labels"][chosen]
    return named(model.trainable_variables, gradients(tf.constant(images), tf.constant(labels)))


def trained(given: dict[str, np.ndarray], weight_decay: float) -> dict[str, np.ndarray]:
    """Every step's loss, as `losses`, and the weights after step N, as `step N/NAME`."""
    model = start(given, weight_decay)
    losses: list[float] = []
    weights: dict[str, np.ndarray] = {}
    for step, (chosen, learning_rate) in enumerate(zip(given["batches"], given["learning_rates"], strict=True), 1):
        model.optimizer.learning_rate = learning_rate
        loss, _ = model.train_on_batch(given["images"][chosen].astype(np.float32), given["labels"][chosen])
        losses.append(loss)
        if step in given["saved_steps"]:
            named_weights = named(model.weights, model.weights)
            weights |= {f"step {step}/{name}": value for name, value in named_weights.items()}
    return {"losses": np.array(losses, np.float32)} | weights


def small_problem(given: dict[str, np.ndarray], weight_decay: float) -> np.ndarray:
    """The optimizer alone: its weights after every step, float32 (steps, weights)."""
    weights = tf.Variable(given["small/weights"])
    optimizer = tfa.optimizers.AdamW(weight_decay=weight_decay, learning_rate=LEARNING_RATE)
    course = []
    for gradients, learning_rate in zip(given["small/gradients"], given["small/learning_rates"], strict=True):
        optimizer.learning_rate = learning_rate
        optimizer.apply_gradients([(tf.constant(gradients), weights)])
        course.append(weights.numpy())
    return np.array(course)


def record(path: Path) -> None:
    """Goes through all of `input.npz` and writes what came out.

    The arrays are `probabilities` of every image before training, `gradients/NAME`, and for each weight decay W
    `decay W/losses`, `decay W/step N/NAME` and `decay W/small`; all are float32.
    """
    with np.load(INPUT) as arrays:
        given = dict(arrays)
    images = given["images"].astype(np.float32)
    recorded = {"probabilities": start(given, WEIGHT_DECAY)(images, training=False).numpy()}
    recorded |= {f"gradients/{name}": value for name, value in first_gradients(given).items()}
    for weight_decay in given["weight_decays"].tolist():
        course = trained(given, weight_decay) | {"small": small_problem(given, weight_decay)}
        recorded |= {f"decay {weight_decay:g}/{name}": value for name, value in course.items()}
        losses = course["losses"]
        print(f"weight decay {weight_decay:g}: loss {losses[0]:.6f} at the first step, {losses[-1]:.6f} at the last")
    np.savez_compressed(path, **recorded)


def measure(steps: int, data: Path) -> None:
    """Times training steps of the source's recipe and prints a line of JSON for each of two ways to feed them.

    "ImageDataGenerator" is the source's own way; "arrays" spares it the work of copying image after image in Python.
    Loading, the first steps and the validation after an epoch are not in the times.

    Args:
        steps: Number of steps to time, at most the 468 of an epoch.
        data: An .npz file with MNIST as `keras.datasets.mnist` lays it out.
    """
    with np.load(data) as arrays:
        x_train, y_train = arrays["x_train"][..., np.newaxis], arrays["y_train"]
    model = compiled(DROPOUT_RATE, WEIGHT_DECAY)
    sources = {
        "ImageDataGenerator": {
            "x": tf.keras.preprocessing.image.ImageDataGenerator().flow(x_train, y_train, batch_size=BATCH_SIZE)
        },
        "arrays": {"x": x_train, "y": y_train, "batch_size": BATCH_SIZE},
    }
    for batches, source in sources.items():
        model.fit(**source, steps_per_epoch=WARM_UP_STEPS, verbose=0)
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(**source, steps_per_epoch=steps, verbose=0)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        measured = {"batches": batches, "steps": steps, "cpu_seconds": cpu, "wall_seconds": wall}
        print(json.dumps(measured), flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--record", metavar="NPZ", type=Path, help="go through input.npz and write what came out")
    task.add_argument("--time", metavar="STEPS", type=int, help="time so many steps of the source's recipe")
    parser.add_argument("--data", metavar="NPZ", type=Path, help="MNIST, for --time")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record)
    elif arguments.data:
        measure(arguments.time, arguments.data)
    else:
        parser.error("expected MNIST to train on; give --data the path of an .npz file")


if __name__ == "__main__":
    main()
