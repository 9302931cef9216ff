"""The device on which JAX trains, by its tables, and what is said where there is no JAX."""

import importlib.util

import pytest

from mnist_minimal import trials
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, KerasObject
from mnist_minimal.training import trainers
from mnist_minimal.training.slots import device
from tests.training.test_trainers import model_with_a_branch

# A package is found nowhere then, as where it is not installed.
WITHOUT = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == {name!r} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


def test_without_jax_one_line_names_the_extra(run_main, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else find(name))
    arguments = ["--model", "sep997", "--dataset", "digits", "--runs", "1", "--trainer", "jax"]
    for further in ([], ["--sweep", "batch_size=16,32"]):
        done = run_main(trials.main, *arguments, *further)
        assert done.returncode == 2
        assert done.stderr == "error: expected JAX, found that it is not installed; pip install mnist-minimal[jax]\n"


def test_the_tables_are_numbers_of_devices():
    for row in device.table("devices.csv"):
        assert row["device"]
        assert row["model"] in RECIPES
        assert int(row["places"]) > 0
        assert float(row["trials_an_hour"]) > 0
        assert row["measured"]
    for row in device.table("crossing.csv"):
        assert int(row["trials"]) > 0
        assert row["measured"]


class Device:
    """A card as JAX describes one."""

    platform = "gpu"

    def __init__(self, kind: str, memory: int) -> None:
        self.device_kind, self.memory = kind, memory

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": self.memory}


@pytest.mark.parametrize(
    ("kind", "memory", "bytes_a_trial", "asked", "expected"),
    [
        # By the table 1,024 are the fastest; 0.8 of the memory is for trials.
        ("NVIDIA H200", 10**12, 1000, None, 1024),
        ("NVIDIA H200", 10**12, 1000, 100, 100),
        ("NVIDIA H200", 10**9, 10**7, None, 80),
        ("NVIDIA H200", 10**6, 10**7, None, 1),
        # A card that nobody has measured is taken for one that somebody has.
        ("Another GPU", 10**12, 1000, None, 1024),
    ],
)
def test_as_many_at_once_as_are_fastest_and_have_room(monkeypatch, kind, memory, bytes_a_trial, asked, expected):
    # There is no such card here.
    monkeypatch.setattr(device, "_device", lambda: Device(kind, memory))
    assert device.places(bytes_a_trial, asked) == expected


def test_auto_takes_jax_for_a_new_study_of_many_trials_on_a_gpu(monkeypatch):
    model, recipe = MODELS["sep997"](), RECIPES["sep997"]
    fewest = int(device.table("crossing.csv")[0]["trials"])
    assert trainers.choose("auto", model, None, recipe, 10 * fewest)[0] != "jax"
    monkeypatch.setattr(device, "_device", lambda: Device("NVIDIA H200", 10**11))
    for asked in (fewest, None):
        trainer, notice = trainers.choose("auto", model, None, recipe, asked)
        assert trainer == "jax"
        assert notice.startswith("Training with JAX on NVIDIA H200,")
    assert trainers.choose("auto", model, None, recipe, fewest - 1)[0] != "jax"
    assert trainers.choose("auto", model, "keras", recipe, fewest)[0] == "keras"
    assert trainers.choose("auto", model, "jax", recipe, 1) == ("jax", "")
    # What JAX can't train goes on as before, in one line.
    lion = recipe.replace(optimizer=KerasObject("Adam", {"learning_rate": 0.01}))
    trainer, notice = trainers.choose("auto", model, None, lion, fewest)
    assert trainer != "jax"
    assert notice.startswith("Training without JAX: expected one of the optimizers")
    assert "\n" not in notice
    # What Keras trains on the card, the device is not asked for.
    monkeypatch.setattr(device, "_device", None)
    trainer, notice = trainers.choose("auto", model_with_a_branch(), None, recipe, fewest)
    assert trainer == "keras"
    assert "branches_meet" in notice


def test_a_device_that_fails_is_given_up(monkeypatch):
    monkeypatch.setattr(device, "_device", lambda: Device("NVIDIA H200", 10**11))
    monkeypatch.setattr(device, "_GIVEN_UP", set())
    assert device.worth_while(None)
    device.give_up()
    assert not device.worth_while(None)


def test_what_jax_raises_of_its_device_is_an_error_of_the_user():
    class JaxRuntimeError(RuntimeError):
        pass

    with (
        pytest.raises(device.MemoryUsedUpError, match="expected memory enough on cpu, found too little"),
        device.failures(),
    ):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(device.DeviceError, match=r"JAX fails there \(INTERNAL: broken\); repair it"), device.failures():
        raise JaxRuntimeError("INTERNAL: broken")
    with pytest.raises(RuntimeError, match="ours"), device.failures():
        raise RuntimeError("ours")


def test_what_jax_can_not_train_is_refused_where_it_is_asked_for():
    model = MODELS["sep997"]()
    with pytest.raises(UserError, match="branches_meet"):
        trainers.choose("jax", model_with_a_branch(), None, RECIPES["sep997"])
    for refused in (KerasObject("Lion", {"learning_rate": 0.01}), KerasObject("Adam", {"clipnorm": 1.0})):
        with pytest.raises(UserError, match="expected an optimizer that the core has"):
            trainers.choose("jax", model, None, RECIPES["sep997"].replace(optimizer=refused))
    with pytest.raises(UserError, match="found Adam of Keras'"):
        trainers.choose("jax", model, None, RECIPES["sep997"].replace(optimizer=KerasObject("Adam")))


@pytest.mark.slow
def test_tensorflow_is_kept_off_the_card(run_python):
    # Where TensorFlow sees no card, there is nothing that it could be kept off.
    command = """
import keras, tensorflow
from mnist_minimal.training.slots import device
print(len(tensorflow.config.list_physical_devices("GPU")))
device.keep_tensorflow_off()
keras.layers.Dense(1).build((1, 1))
print(tensorflow.config.get_visible_devices("GPU"), len(tensorflow.config.get_visible_devices("CPU")))
"""
    done = run_python("-c", command, KERAS_BACKEND="tensorflow")
    cards, visible = done.stdout.splitlines()[-2:]
    if cards == "0":
        pytest.skip("TensorFlow sees no GPU here")
    assert visible == "[] 1"
