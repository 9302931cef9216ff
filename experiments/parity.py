"""How far the trainers are from each other after the same steps from the same weights: the tables of README.md.

    python experiments/parity.py

It takes about a minute, needs no MNIST, and prints Markdown. The first table compares the core with Keras for every
model (48 made images a step, 20 steps of AdamW at a learning rate of .001); the second compares both with TensorFlow
Addons' recorded course of sep997 (see addons_oracle/oracle.py). Dropout is off, since no two libraries draw the same.
Expected: nothing above 1e-5, the weights of the core within 1e-6.
"""

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mnist_minimal.models import MODELS
from tests.test_addons_oracle import TOLERANCES, TRAINERS, WEIGHT_DECAYS, found_course, recorded_course
from tests.test_core import chain, images, keras_gradients, labels, randomise, train_both, without_dropout


def farthest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays."""
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


def core_against_keras(name: str) -> str:
    """A row of the first table."""
    keras.utils.set_random_seed(2)
    model = randomise(without_dropout(MODELS[name]()))
    ours, pixels, classes = chain(model), images(128), labels(128)
    probabilities = farthest(ours.network.predict(pixels), model.predict_on_batch(pixels.astype(np.float32)))
    ours.network.differentiate(pixels, classes, np.arange(128))
    found, (_, expected) = ours.gradients(), keras_gradients(model, pixels.astype(np.float32), classes)
    gradients = max(farthest(found[path], expected[path]) / np.abs(expected[path]).max() for path in expected)
    trained, reference = train_both(model, "adamw", 20, 48)
    trained.push()
    pairs = zip(trained.model.weights, reference.weights, strict=True)
    weights = max(farthest(mine.numpy(), theirs.numpy()) for mine, theirs in pairs)
    return f"| {name} | {probabilities:.1e} | {gradients:.1e} | {weights:.1e} |"


def trainer_against_addons(trainer: str) -> str:
    """A row of the second table: the larger difference of the two recorded weight decays."""
    cells = []
    for part in TOLERANCES:
        differences = []
        for weight_decay in WEIGHT_DECAYS:
            found, expected = found_course(trainer, weight_decay), recorded_course(weight_decay)
            for name in expected:
                if name.split("/")[0] == part:
                    scale = np.abs(expected[name]).max() if part == "gradients" else 1
                    differences.append(farthest(found[name], expected[name]) / scale)
        cells.append(f"{max(differences):.1e}")
    return f"| {trainer} | {' | '.join(cells)} |"


def main() -> None:
    """Prints both tables."""
    print("| core against Keras | probabilities | gradients, relative | weights after 20 steps |\n|---|---|---|---|")
    for name in MODELS:
        print(core_against_keras(name))
    print(f"\n| against TensorFlow Addons | {' | '.join(TOLERANCES)} |\n{'|---' * (len(TOLERANCES) + 1)}|")
    for trainer in TRAINERS:
        print(trainer_against_addons(trainer))


if __name__ == "__main__":
    main()
