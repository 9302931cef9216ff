"""`evaluate` on images and labels in two idx files, in the form of MNIST's and of QMNIST's, of eight columns."""

import gzip
import re
import struct
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.evaluate import main
from mnist_minimal.models import MODELS
from mnist_minimal.saving.saved_model import save
from tests.conftest import OFFLINE

IMAGES, LABELS = "qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"
COUNT, START = 60, 10


def digits(count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise, of many degrees of brightness, and labels."""
    random = np.random.default_rng(5)
    brightest = random.integers(1, 256, (count, 1, 1))
    return (random.uniform(size=(count, 28, 28)) * brightest).astype(np.uint8), random.integers(0, 10, count)


def qmnist_images(images: np.ndarray) -> bytes:
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def qmnist_labels(labels: np.ndarray, columns: int = 8) -> bytes:
    """The class, then as in QMNIST the series, the writer, the writer's digit, NIST's class and index, and two more."""
    rows = [[label, 4, 2_501 + i, i, 48 + label, 344_307 + i, 0, 0, 0][:columns] for i, label in enumerate(labels)]
    header = struct.pack(">4B2I", 0, 0, 0x0C, 2, len(labels), columns)
    return header + b"".join(struct.pack(f">{columns}i", *map(int, row)) for row in rows)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """The options that name both files, gzipped, and two models beside them."""
    images, labels = digits()
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(qmnist_images(images)))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(qmnist_labels(labels)))
    for seed in (0, 1):
        random, model = np.random.default_rng(seed), MODELS["sep697"]()
        model.set_weights([random.normal(scale=0.5, size=weights.shape) for weights in model.get_weights()])
        save(model, tmp_path / f"{seed}.h5")
    return "--images", f"{IMAGES}.gz", "--labels", f"{LABELS}.gz"


def keras_accuracy(path: Path, start: int) -> tuple[int, float]:
    """How many images Keras' own evaluation finds right, and its loss."""
    images, labels = (array[start:] for array in digits())
    model = keras.models.load_model(path)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    loss, accuracy = model.evaluate(images[..., None].astype(np.float32), labels, verbose=0)
    return round(accuracy * len(labels)), loss


@pytest.mark.parametrize(("start", "packed"), [pytest.param(0, False, marks=pytest.mark.slow), (START, True)])
def test_figures_are_those_of_keras_without_mnist_at_hand(run_main, files, tmp_path, monkeypatch, packed, start):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    if not packed:
        for name in (IMAGES, LABELS):
            (tmp_path / name).write_bytes(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
        files = tuple(option.removesuffix(".gz") for option in files)
    done = run_main(main, "0.h5", "1.h5", *files, *(("--from", str(start)) if start else ()))
    assert done.returncode == 0, done.stderr
    assert f"sep697, 697 parameters, on {COUNT - start} images of {files[1]}\n" in done.stdout
    found = re.findall(r"^accuracy (\S+) \((\d+) of (\d+)\)\nloss (\S+)$", done.stdout, re.MULTILINE)
    expected = [keras_accuracy(tmp_path / f"{seed}.h5", start) for seed in (0, 1)]
    assert [(int(correct), int(size)) for _, correct, size, _ in found] == [(n, COUNT - start) for n, _ in expected]
    for (accuracy, correct, size, loss), (_, keras_loss) in zip(found, expected, strict=True):
        assert float(accuracy) == int(correct) / int(size)
        assert float(loss) == pytest.approx(keras_loss, rel=1e-4)
    accuracies = [correct / (COUNT - start) for correct, _ in expected]
    # Of two numbers the sd is their distance over the root of 2.
    mean, sd = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert done.stdout.endswith(f"images of {files[1]}: mean accuracy {mean:.5f}, sd {sd:.5f}, n = 2\n")


def test_labels_of_a_byte_give_the_same(run_main, files, tmp_path):
    expected = run_main(main, "0.h5", *files).stdout
    _, labels = digits()
    (tmp_path / "labels").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, COUNT) + labels.astype(np.uint8).tobytes())
    assert run_main(main, "0.h5", *files[:2], "--labels", "labels").stdout == expected


def test_how_pixels_were_scaled_is_decided_by_the_training_images(run_main, files, tmp_path):
    """Not by the images that judge, of which an untrained model gets as few right."""
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.save(tmp_path / "own.keras")
    refused = run_main(main, "own.keras", *files, "--dataset", "digits")
    assert refused.returncode == 1
    assert "training images right at best" in refused.stderr
    taken = run_main(main, "own.keras", *files, "--pixels", "255")
    assert taken.returncode == 0, taken.stderr


@pytest.mark.parametrize(
    ("images", "labels", "options", "complaint"),
    [
        (
            None,
            qmnist_labels(digits(59)[1]),
            (),
            r"labels: found 59 labels, and 60 images of 28x28 in images, expected",
        ),
        (
            None,
            qmnist_labels(digits()[1], 7),
            (),
            r"labels: found integers of shape \(60, 7\), expected QMNIST's labels",
        ),
        (None, qmnist_labels(digits()[1] - 5), (), "labels: found the label -5, expected classes counted from 0"),
        (None, qmnist_labels(digits()[1])[:-4], (), r"labels: found 1,916 bytes after the header, expected 1,920"),
        (None, qmnist_labels(digits()[1]) + b"\0", (), r"labels: found more bytes after the header, expected 1,920"),
        (
            qmnist_labels(digits()[1]),
            None,
            (),
            "images: found an idx file that begins with the bytes 00000c02, expected",
        ),
        (
            None,
            qmnist_images(digits()[0]),
            (),
            "expected an idx file of unsigned bytes with 1 axis, .* 00000801 or an ",
        ),
        (None, b"\0\0", (), "labels: found .*, expected an idx file of unsigned bytes with 1 axis"),
        (None, gzip.compress(b"\0\0\x0c\x02\0\0", mtime=0), (), "labels: found .*, expected an idx file"),
        (None, None, ("--from", "60"), "images: found 60 images, expected more than the 60 that are left out"),
        (qmnist_images(digits()[0])[:16], None, (), "images: found 0 bytes after the header, expected 47,040"),
    ],
)
def test_wrong_files_are_refused_in_one_line(run_main, tmp_path, images, labels, options, complaint):
    right = qmnist_images(digits()[0]), qmnist_labels(digits()[1])
    (tmp_path / "images").write_bytes(right[0] if images is None else images)
    (tmp_path / "labels").write_bytes(right[1] if labels is None else labels)
    refused = run_main(main, "0.h5", "--images", "images", "--labels", "labels", *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.search(complaint, refused.stderr)
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_labels_beyond_a_models_classes_are_refused(run_main, files, tmp_path):
    _, labels = digits()
    labels[-1] = 10
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(qmnist_labels(labels)))
    refused = run_main(main, "0.h5", *files)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: 60 images of {IMAGES}.gz: found the label 10, expected 0 to 9")


def test_images_of_another_size_are_refused(run_main, files, tmp_path):
    small = np.zeros((COUNT, 20, 20), np.uint8)
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(qmnist_images(small)))
    refused = run_main(main, "0.h5", *files)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "found a model with the input (28, 28, 1); expected one for images of 20 by 20 pixels" in refused.stderr


@pytest.mark.parametrize("options", [("--images", "a"), ("--labels", "a"), ("--from", "3")])
def test_images_and_labels_are_given_together(run_main, options):
    refused = run_main(main, "0.h5", *options)
    assert refused.returncode == 2
    assert "expected --images and --labels together" in refused.stderr


def test_a_file_that_is_not_there(run_main):
    refused = run_main(main, "0.h5", "--images", "none", "--labels", "none")
    assert refused.returncode == 2
    assert refused.stderr == "error: none: found no file of this name, expected an idx file; check the name\n"
