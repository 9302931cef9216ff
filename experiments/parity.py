"""How far the trainers are apart after the same steps from the same weights: the tables of experiments/README.md.

    python -m experiments.parity            (in the folder of the repository)

It takes about five minutes, needs no MNIST, and prints Markdown. The first table compares the core with Keras in double
precision, for every model: the largest difference of a probability, and the lengths of what all gradients and, after 20
steps of SGD with momentum at a learning rate of 1e-4, all changes of the weights differ by, over theirs; medians and
ranges of five draws of made images. Beside it stands how far Keras' own gradients in single precision are from those in
double: where an activation lies within a rounding error of its kink, either falls on the other side now and then. The
second table compares both trainers with TensorFlow Addons' recorded course of sep997 (see addons_oracle/oracle.py).
Dropout is off, since no two libraries draw the same.
"""

import keras
import numpy as np

from experiments.addons_oracle.course import TOLERANCES, TRAINERS, WEIGHT_DECAYS, found_course, recorded_course
from experiments.oracles import (
    after_steps,
    chain,
    gradients_in_double,
    images,
    in_double,
    keras_gradients,
    labels,
    randomise,
    without_dropout,
)
from mnist_minimal.models import MODELS

DRAWS, IMAGES, STEPS = 5, 64, 20


def farthest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays."""
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


def share(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The length of the difference of all arrays over that of the expected ones."""
    difference = sum(float(((mine - theirs) ** 2).sum()) for mine, theirs in zip(found, expected, strict=True))
    return (difference / sum(float((theirs**2).sum()) for theirs in expected)) ** 0.5


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.0e} ({min(values):.0e} to {max(values):.0e})"


def core_against_keras(name: str) -> str:
    """A row of the first table."""
    keras.utils.set_random_seed(2)
    model = randomise(without_dropout(MODELS[name]()))
    ours, reference = chain(model), in_double(model)
    probabilities, cores, kerases = [], [], []
    for draw in range(DRAWS):
        x, y = images(IMAGES, seed=draw), labels(IMAGES, seed=draw)
        probabilities.append(farthest(ours.network.predict(x), in_double(model)(x.astype(np.float64)).numpy()))
        ours.network.compute_gradients(x, y, np.arange(IMAGES))
        expected = gradients_in_double(reference, x, y)
        cores.append(share(list(ours.gradients().values()), expected))
        kerases.append(share(list(keras_gradients(without_dropout(model), x, y)[1].values()), expected))
    steps = [share(*after_steps(name, draw, STEPS)[2:]) for draw in range(DRAWS)]
    return f"| {name} | {max(probabilities):.0e} | {spread(cores)} | {spread(kerases)} | {spread(steps)} |"


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
    head = ("probabilities", "gradients", "of Keras in single precision", "20 steps")
    print(f"| against Keras in double precision | {' | '.join(head)} |\n|---|---|---|---|---|")
    for name in MODELS:
        print(core_against_keras(name))
    print(f"\n| against TensorFlow Addons | {' | '.join(TOLERANCES)} |\n{'|---' * (len(TOLERANCES) + 1)}|")
    for trainer in TRAINERS:
        print(trainer_against_addons(trainer))


if __name__ == "__main__":
    main()
