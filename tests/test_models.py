"""Models: the published architectures, layer by layer."""

import keras
import numpy as np
import pytest

from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES

# Trainable parameters, as the sources count and print them.
PARAMETERS = {"sep997": 997, "sep697": 697}

# Layers with weights: kind, output shape, parameters; sep997's as its source's summary prints them.
LAYERS = {
    "sep997": [
        ("Conv2D", (26, 26, 7), 70),
        ("SeparableConv2D", (11, 11, 10), 143),
        ("SeparableConv2D", (9, 9, 10), 200),
        ("SeparableConv2D", (7, 7, 11), 211),
        ("SeparableConv2D", (5, 5, 12), 243),
        ("Dense", (10,), 130),
    ],
    "sep697": [
        ("Conv2D", (28, 28, 6), 60),
        ("SeparableConv2D", (12, 12, 5), 89),
        ("SeparableConv2D", (10, 10, 9), 99),
        ("SeparableConv2D", (8, 8, 10), 181),
        ("SeparableConv2D", (6, 6, 8), 178),
        ("Dense", (10,), 90),
    ],
}


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def test_every_model_is_pinned_here_and_has_a_recipe(name):
    assert MODELS.keys() == PARAMETERS.keys() == LAYERS.keys() == RECIPES.keys()
    assert RECIPES[name].model == MODELS[name]().name == name


def test_parameters(name):
    assert sum(int(keras.ops.size(weight)) for weight in MODELS[name]().trainable_weights) == PARAMETERS[name]


def test_layers_with_weights(name):
    layers = [layer for layer in MODELS[name]().layers if layer.weights]
    assert [(type(layer).__name__, layer.output.shape[1:], layer.count_params()) for layer in layers] == LAYERS[name]


def test_a_model_takes_raw_pixels_and_gives_probabilities(name):
    model = MODELS[name]()
    assert model.built
    assert model.input.shape == (None, 28, 28, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    probabilities = model.predict(pixels, verbose=0)
    assert probabilities.shape == (5, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_every_layer_is_named_by_hand(name):
    # Keras numbers the names it makes up, so a second model of the same builder would have others.
    assert [layer.name for layer in MODELS[name]().layers] == [layer.name for layer in MODELS[name]().layers]


def test_slopes_and_dropout_rates():
    for name, rates in {"sep997": [0.1] * 5, "sep697": [0.05] * 3}.items():
        layers = MODELS[name]().layers
        assert [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)] == rates
        assert {layer.negative_slope for layer in layers if isinstance(layer, keras.layers.LeakyReLU)} == {0.2}


def test_first_weights_are_drawn_as_in_the_sources():
    glorot = MODELS["sep997"]().get_layer("conv1").get_weights()[0]
    limit = np.sqrt(6 / (9 * 1 + 9 * 7))
    assert 0.5 * limit < np.abs(glorot).max() <= limit
    # He-normal: standard deviation sqrt(2 / 9 inputs), from a normal distribution cut at twice that of its parent.
    kernels = [MODELS["sep697"]().get_layer("conv1").get_weights()[0] for _ in range(40)]
    assert np.std(kernels) == pytest.approx(np.sqrt(2 / 9), rel=0.06)
    assert np.abs(kernels).max() <= 2 * np.sqrt(2 / 9) / 0.87
