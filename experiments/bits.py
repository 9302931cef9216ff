"""What the core's bits are compared by: trials as plain data, and the pinned hashes of the weights that they end with.

    python -m experiments.bits CASES            (in the folder of the repository)

trains the cases of a file that `save` wrote, with every instruction set that the processor has, and prints hashes as
JSON. It needs NumPy and the core and no Keras, so that a Python of another processor can run it (see arm64_bits.py).
`experiments/bit_cases.py` makes the cases of Keras models.
"""

import dataclasses
import hashlib
import json
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_minimal.data import elementary
from mnist_minimal.data.augmentation import augment, draw_changes
from mnist_minimal.data.batches import epoch_batches, epoch_order
from mnist_minimal.data.distributions import normal, truncated_normal, uniform
from mnist_minimal.data.random import INITIAL_WEIGHTS, stream
from mnist_minimal.recipes import Augmentation
from mnist_minimal.training.core import _core, core_arguments, instruction_sets, known_answer
from mnist_minimal.training.network import Network

# The first 16 digits of the SHA-256 of the weights, moving statistics and probabilities after two epochs, of SOAP after
# three, by the case's name: of all training images of the digits, and of the first FEW_IMAGES of them, since the
# baseline's emulated multiply-adds take 50 to 100 times as long. They are pinned again when `core.NUMERICS` rises or a
# recipe changes, and only then: `python -m experiments.bit_cases` prints them.
# The odd chains have few images as it is.
ODD = {
    "five by five, same": "6c0969c3e3902c99",
    "pooled first": "baa371b1c8004177",
    "averaged first": "9a6a871bcc127d7c",
    "twelve to twenty channels": "fd8cf144743c273a",
    "separable, odd average": "8ee83c4812f19fd2",
    "batch normalisation first": "cb935a1aef9f0b53",
    "silu": "02cf0c22b55d9f1a",
    "dense": "30c8bace622f801d",
    "soap": "44723375c5795fc1",
}
PINNED = {
    "conv18242": "4b8f794f11f5ac47",
    "gap13914": "d946f46e1454ddc2",
    "antman9954": "49c42a2bae62cf7e",
    "small8624": "561e006a67b123db",
    "small7384": "4f58ced1d0da6118",
    "small7344": "ca49fbe2e08189e2",
    "pyramid3762": "fbb8ea71cd0a8595",
    "shared1936": "cbe51745c520a742",
    "sep997": "8b817d58bf06b16f",
    "sep697": "8c687485620ca5c4",
    "sep997-cosine": "99da229fb782580c",
    **ODD,
}
PINNED_FEW = {
    "conv18242": "2bf32ebf8b1d77ed",
    "gap13914": "a8b1d8b4bd69dcbe",
    "antman9954": "ba8dd6e8ce9ebe45",
    "small8624": "e80cd89a9c39759f",
    "small7384": "ab46440911f02d52",
    "small7344": "3dec5c692b9e8b2f",
    "pyramid3762": "9dabc597727e0517",
    "shared1936": "20fcf7b5e293cc7b",
    "sep997": "4d8343e132b82bc1",
    "sep697": "d60099f880c972c3",
    "sep997-cosine": "3bcbb80b7dabadd5",
    **ODD,
}

SEED, EPOCHS = 3, 2

# With batches of 16 the last one has one image.
FEW_IMAGES = 161


@dataclass(frozen=True)
class Case:
    """A short trial.

    Attributes:
        network: The chain of layers.
        optimizer: The name of a function of `_core.Optimizer`, and its arguments.
        augmentation: What is done to the training images.
        batch_size: Images a step.
        drop_remainder: Whether a last, smaller batch is left out.
        rates: The learning rates, float32 (epochs, steps).
        parameters, statistics: The initial ones, flat, float32.
        images, labels: To train on, uint8 (n, height, width, channels) and (n,).
        test_images: Of which probabilities are computed in the end.
    """

    network: Network
    optimizer: tuple[str, dict[str, Any]]
    augmentation: Augmentation | None
    batch_size: int
    drop_remainder: bool
    rates: np.ndarray
    parameters: np.ndarray
    statistics: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Indices into the images."""
        return epoch_batches(SEED, epoch, len(self.images), self.batch_size, self.drop_remainder)

    def few(self) -> "Case":
        """The same with FEW_IMAGES images to train and to test on."""
        cut = dataclasses.replace(
            self,
            images=self.images[:FEW_IMAGES],
            labels=self.labels[:FEW_IMAGES],
            test_images=self.test_images[:FEW_IMAGES],
        )
        return dataclasses.replace(cut, rates=self.rates[:, : len(cut.batches(0))])


def network_of(case: Case, instruction_set: str | None = None) -> Any:
    """The core's network with the initial weights."""
    kind, arguments = case.optimizer
    optimizer = getattr(_core.Optimizer, kind)(**arguments)
    network = _core.Network(**core_arguments(case.network), optimizer=optimizer, instruction_set=instruction_set)
    network.parameters, network.statistics = case.parameters, case.statistics
    return network


def train(network: Any, case: Case, threads: int = 1) -> list[np.ndarray]:
    """The parameters, the moving statistics and the probabilities of the test images after the case's epochs."""
    augmentation = _core.Augmentation(**dataclasses.asdict(case.augmentation)) if case.augmentation else None
    for epoch, rates in enumerate(case.rates):
        network.train(
            case.images,
            case.labels,
            np.concatenate(case.batches(epoch)),
            batch_size=case.batch_size,
            seed=SEED,
            epoch=epoch,
            learning_rates=rates,
            threads=threads,
            augmentation=augmentation,
        )
    return [network.parameters, network.statistics, network.predict(case.test_images, threads=threads)]


def digest(arrays: list[np.ndarray]) -> str:
    """The first 16 digits of the SHA-256 of the arrays' bytes, little-endian."""
    content = b"".join(np.asarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def trained_digest(case: Case, instruction_set: str | None = None, threads: int = 1) -> str:
    """The digest of what `train` gives."""
    return digest(train(network_of(case, instruction_set), case, threads))


def numpy_digests() -> dict[str, str]:
    """Digests of what NumPy computes for a trial by this package's own means."""
    angles = np.arange(-20_000, 20_000) / 64
    moved = Augmentation(rotation=20, translation=0.1, scale=(0.9, 1.1), affine_share=0.75, crop=1)
    alike = dataclasses.replace(moved, brightness=0.2, contrast=0.2, tone_share=0.5)
    images = epoch_order(SEED, 1, 64 * 28 * 28).astype(np.uint8).reshape(64, 28, 28, 1)
    key = stream(SEED, INITIAL_WEIGHTS, 0)
    weights = [uniform(-0.3, 0.3, 10_000, key), normal(0, 0.1, 10_000, key), truncated_normal(0, 0.1, 10_000, key)]
    augmentations = (
        dataclasses.replace(alike, interpolation="bilinear", fill="reflect"),
        dataclasses.replace(alike, interpolation="nearest", fill=33.25),
    )
    augmented = [augment(images, draw_changes(variant, SEED, 0, images), variant) for variant in augmentations]
    return {
        "order of the images": digest([epoch_order(SEED, 0, 10_000)]),
        "sine, cosine": digest([elementary.sin(angles), elementary.cos(angles)]),
        "exponential, logarithm": digest([elementary.exp(angles), elementary.log(angles[angles > 0])]),
        "uniform, normal, truncated normal": digest(weights),
        "augmentation by NumPy": digest(augmented),
    }


def save(cases: dict[str, Case], path: Path) -> None:
    """Writes cases into a file."""
    path.write_bytes(pickle.dumps(cases))


def found(cases: dict[str, Case]) -> dict[str, dict[str, str]]:
    """By instruction set the known answer and all cases' digests, and those of NumPy."""
    by_set: dict[str, dict[str, Any]] = {}
    for name in instruction_sets():
        by_set[name] = {"known answer": known_answer.answer(name)[:16]}
        by_set[name] |= {case: trained_digest(each, name) for case, each in cases.items()}
    return {**by_set, "NumPy": numpy_digests()}


if __name__ == "__main__":
    # Only what this repository's own programs have just written.
    print(json.dumps(found(pickle.loads(Path(sys.argv[1]).read_bytes()))))
