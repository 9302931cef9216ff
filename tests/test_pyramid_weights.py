"""The experiment that reads the weights of pyramid3762's published run: PyTorch's file, and what is said of it."""

import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from experiments import pyramid_weights
from mnist_minimal.models import MODELS
from mnist_minimal.training import initial_weights


@pytest.fixture
def torch_save(monkeypatch):
    """torch.save by the format that it is known to write, PyTorch's classes being empty ones of their names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def rebuild(*_):
        raise AssertionError("the reader calls nothing that the file names")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    for name in ("FloatStorage", "LongStorage", "Other"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    class Storage:
        def __init__(self, array, key):
            self.array, self.key = array, key

    class Tensor:
        def __init__(self, array, key):
            self.array, self.storage = array, Storage(array, key)

        def __reduce__(self):
            strides = tuple(step // self.array.itemsize for step in self.array.strides)
            return rebuild, (self.storage, 0, self.array.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            if not isinstance(found, Storage):
                return None
            kind = torch.LongStorage if found.array.dtype == np.int64 else torch.FloatStorage
            return "storage", kind, found.key, "cuda:0", found.array.size

    def save(path, arrays, further=()):
        tensors = OrderedDict((name, Tensor(array, str(key))) for key, (name, array) in enumerate(arrays.items()))
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, 2).dump(OrderedDict([*tensors.items(), *further]))
            for key, array in enumerate(arrays.values()):
                archive.writestr(f"archive/data/{key}", array.tobytes())

    save.torch = torch
    return save


@pytest.fixture
def arrays():
    """Those of an untrained network whose logits are its classes' numbers, by PyTorch's names."""
    model, found = MODELS["pyramid3762"](), {}
    initial_weights.draw(model, 0)
    for stage, position in pyramid_weights.PLACES:
        kernel, bias = model.get_layer(f"conv{stage}_{position}").get_weights()
        name = f"block{stage}.conv{position}"
        found |= {f"{name}.weight": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), f"{name}.bias": bias + 0.5}
        norm = [f"block{stage}.n{position}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
        found |= dict(zip(norm, model.get_layer(f"norm{stage}_{position}").get_weights(), strict=True))
        found[f"block{stage}.n{position}.num_batches_tracked"] = np.array(28_125)
    found["flat.weight"] = np.zeros((10, 8, 1, 1), np.float32)
    found["flat.bias"] = np.arange(10, dtype=np.float32)
    return found


def read(path):
    with zipfile.ZipFile(path) as archive:
        return pyramid_weights.TorchReader(archive).load()


def test_the_arrays_are_read_by_name(torch_save, arrays, tmp_path):
    torch_save(tmp_path / "weights.pth", arrays)
    found = read(tmp_path / "weights.pth")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_file_that_names_anything_else_is_refused(torch_save, arrays, tmp_path):
    for foreign in (torch_save.torch.Other, print):
        torch_save(tmp_path / "weights.pth", arrays, further=[("more", foreign)])
        with pytest.raises(pickle.UnpicklingError, match="expected arrays, found"):
            read(tmp_path / "weights.pth")


def test_the_model_computes_what_the_arrays_say(arrays):
    """Its first convolution worked by hand at one pixel, and the class of the highest bias."""
    model = pyramid_weights.published_model(arrays)
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1)).astype(np.float32)
    scaled = (image[0, 9:12, 4:7, 0] / 255 - 0.1307) / 0.3081
    expected = (arrays["block1.conv1.weight"][2, 0] * scaled).sum() + arrays["block1.conv1.bias"][2]
    first = pyramid_weights.keras.Model(model.input, model.get_layer("conv1_1").output)
    assert float(first(image)[0, 10, 5, 2]) == pytest.approx(float(expected), rel=1e-4)
    assert model(image).numpy().argmax() == 9


@pytest.mark.slow
def test_statistics_that_are_the_batches_own_are_near_and_others_far(arrays, monkeypatch):
    """The first layer's moving statistics are set to those of all images, which a moving mean of batches comes near."""
    monkeypatch.setattr(pyramid_weights, "BATCHES", 40)
    images = np.random.default_rng(0).integers(0, 256, (40 * 32, 28, 28, 1)).astype(np.float32)
    model = pyramid_weights.published_model(arrays)
    first = pyramid_weights.keras.Model(model.input, model.get_layer("conv1_1").output).predict(images, verbose=0)
    norm = model.get_layer("norm1_1")
    norm.set_weights([*norm.get_weights()[:2], first.mean(axis=(0, 1, 2)), first.var(axis=(0, 1, 2))])
    before = model.get_weights()
    near = pyramid_weights.distances(model, images)
    assert near.shape == (9, 2)
    assert (near[0] < 0.1).all()
    assert all(map(np.array_equal, before, model.get_weights()))
    # So far that it is three sds of a moving mean away, whose variance is a nineteenth of a batch's.
    batches = first.reshape(40, -1, first.shape[-1]).mean(axis=1).std(axis=0, ddof=1)
    far = first.mean(axis=(0, 1, 2)) + 3 * batches / 19**0.5
    norm.set_weights([*norm.get_weights()[:2], far, first.var(axis=(0, 1, 2))])
    assert pyramid_weights.distances(model, images)[0, 0] == pytest.approx(9 / (1 + 19 / 40), rel=0.05)
