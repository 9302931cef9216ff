"""Models: the published architectures, layer by layer."""

import functools

import keras
import numpy as np
import pytest

from mnist_minimal.models import MODELS, parameters
from mnist_minimal.recipes import PUBLISHED_RECIPES

# Trainable parameters, as the sources count and print them.
PARAMETERS = {
    "conv18242": 18242,
    "gap13914": 13914,
    "antman9954": 9954,
    "small8624": 8624,
    "small7384": 7384,
    "small7344": 7344,
    "pyramid3762": 3762,
    "shared1936": 1936,
    "sep997": 997,
    "sep697": 697,
}

CONV, NORM, SEPARABLE, INSTANCE = "Conv2D", "BatchNormalization", "SeparableConv2D", "InstanceNormalization"

# Layers with weights: kind, output shape, trainable parameters, as the sources' summaries print them (sep697's and
# shared1936's print no shapes; those are worked out).
LAYERS = {
    "conv18242": [
        (CONV, (28, 28, 16), 160),
        (NORM, (28, 28, 16), 32),
        (CONV, (28, 28, 32), 4640),
        (NORM, (28, 28, 32), 64),
        (CONV, (14, 14, 8), 264),
        (CONV, (14, 14, 16), 1168),
        (NORM, (14, 14, 16), 32),
        (CONV, (14, 14, 32), 4640),
        (NORM, (14, 14, 32), 64),
        (CONV, (7, 7, 8), 264),
        (CONV, (5, 5, 16), 1168),
        (NORM, (5, 5, 16), 32),
        (CONV, (3, 3, 32), 4640),
        (NORM, (3, 3, 32), 64),
        (CONV, (3, 3, 8), 264),
        (NORM, (3, 3, 8), 16),
        ("Dense", (10,), 730),
    ],
    "gap13914": [
        (CONV, (26, 26, 8), 80),
        (NORM, (26, 26, 8), 16),
        (CONV, (24, 24, 16), 1168),
        (NORM, (24, 24, 16), 32),
        (CONV, (22, 22, 32), 4640),
        (NORM, (22, 22, 32), 64),
        (CONV, (22, 22, 16), 528),
        (CONV, (9, 9, 16), 2320),
        (NORM, (9, 9, 16), 32),
        (CONV, (7, 7, 32), 4640),
        (NORM, (7, 7, 32), 64),
        ("Dense", (10,), 330),
    ],
    "antman9954": [
        (CONV, (26, 26, 8), 80),
        (NORM, (26, 26, 8), 16),
        (CONV, (24, 24, 16), 1168),
        (NORM, (24, 24, 16), 32),
        (CONV, (24, 24, 8), 136),
        (CONV, (10, 10, 16), 1168),
        (NORM, (10, 10, 16), 32),
        (CONV, (8, 8, 16), 2320),
        (NORM, (8, 8, 16), 32),
        (CONV, (2, 2, 32), 4640),
        (CONV, (2, 2, 10), 330),
    ],
    "small8624": [
        (CONV, (26, 26, 16), 144),
        (NORM, (26, 26, 16), 32),
        (CONV, (24, 24, 16), 2304),
        (NORM, (24, 24, 16), 32),
        (CONV, (10, 10, 16), 2304),
        (NORM, (10, 10, 16), 32),
        (CONV, (3, 3, 16), 2304),
        (NORM, (3, 3, 16), 32),
        (CONV, (1, 1, 10), 1440),
    ],
    "small7384": [
        (CONV, (26, 26, 8), 72),
        (NORM, (26, 26, 8), 16),
        (CONV, (24, 24, 16), 1152),
        (NORM, (24, 24, 16), 32),
        (CONV, (10, 10, 16), 2304),
        (NORM, (10, 10, 16), 32),
        (CONV, (3, 3, 16), 2304),
        (NORM, (3, 3, 16), 32),
        (CONV, (1, 1, 10), 1440),
    ],
    "small7344": [
        (CONV, (26, 26, 16), 144),
        (NORM, (26, 26, 16), 32),
        (CONV, (24, 24, 16), 2304),
        (NORM, (24, 24, 16), 32),
        (CONV, (10, 10, 16), 2304),
        (NORM, (10, 10, 16), 32),
        (CONV, (3, 3, 16), 2304),
        (NORM, (3, 3, 16), 32),
        (CONV, (1, 1, 10), 160),
    ],
    "pyramid3762": [
        (CONV, (28, 28, 4), 40),
        (NORM, (28, 28, 4), 8),
        (CONV, (28, 28, 4), 148),
        (NORM, (28, 28, 4), 8),
        (CONV, (28, 28, 4), 148),
        (NORM, (28, 28, 4), 8),
        (CONV, (14, 14, 8), 296),
        (NORM, (14, 14, 8), 16),
        (CONV, (14, 14, 8), 584),
        (NORM, (14, 14, 8), 16),
        (CONV, (14, 14, 8), 584),
        (NORM, (14, 14, 8), 16),
        (CONV, (7, 7, 8), 584),
        (NORM, (7, 7, 8), 16),
        (CONV, (7, 7, 8), 584),
        (NORM, (7, 7, 8), 16),
        (CONV, (7, 7, 8), 584),
        (NORM, (7, 7, 8), 16),
        (CONV, (1, 1, 10), 90),
    ],
    "shared1936": [
        (CONV, (26, 26, 8), 80),
        (INSTANCE, (26, 26, 8), 2),
        (SEPARABLE, (11, 11, 26), 306),
        (INSTANCE, (11, 11, 26), 2),
        (SEPARABLE, (11, 11, 26), 936),
        (INSTANCE, (11, 11, 26), 2),
        (INSTANCE, (11, 11, 26), 2),
        (INSTANCE, (11, 11, 26), 2),
        ("Dense", (16,), 432),
        (INSTANCE, (16,), 2),
        ("Dense", (10,), 170),
    ],
    "sep997": [
        (CONV, (26, 26, 7), 70),
        (SEPARABLE, (11, 11, 10), 143),
        (SEPARABLE, (9, 9, 10), 200),
        (SEPARABLE, (7, 7, 11), 211),
        (SEPARABLE, (5, 5, 12), 243),
        ("Dense", (10,), 130),
    ],
    "sep697": [
        (CONV, (28, 28, 6), 60),
        (SEPARABLE, (12, 12, 5), 89),
        (SEPARABLE, (10, 10, 9), 99),
        (SEPARABLE, (8, 8, 10), 181),
        (SEPARABLE, (6, 6, 8), 178),
        ("Dense", (10,), 90),
    ],
}

# All layers but the input and the pixels' normalisation, a letter each: Convolution, Separable convolution, ReLU, Leaky
# ReLU, batch Normalisation, Instance normalisation, max Pooling, Average pooling, Global average, Dropout, Flatten,
# Weights of a dense layer, softmaX.
ORDER = {
    "conv18242": "CNRCNRPCD CNRCNRPC CNRCNRCNR FWRX",
    "gap13914": "CRND CRND CRND CRP CRND CRND GW",
    "antman9954": "CRN CRN CPD CRN CRNPD CC A FX",
    "small8624": "CRN CRNPD CRNPD CRN C FX",
    "small7384": "CRN CRNPD CRNPD CRN C FX",
    "small7344": "CRN CRNP CRNP CRN AC FX",
    "pyramid3762": "CNRCNRCNR PD CNRCNRCNR PD CNRCNRCNR GC FX",
    "shared1936": "CIPD SID S RID RID RID G WID W",
    "sep997": "CLPD SLD SLD SLD SLD GW",
    "sep697": "CLP SLD SLD SLD SL GW",
}
LETTERS = {
    "Conv2D": "C",
    "SeparableConv2D": "S",
    "ReLU": "R",
    "LeakyReLU": "L",
    "BatchNormalization": "N",
    "InstanceNormalization": "I",
    "MaxPooling2D": "P",
    "AveragePooling2D": "A",
    "GlobalAveragePooling2D": "G",
    "Dropout": "D",
    "Flatten": "F",
    "Dense": "W",
    "Softmax": "X",
    "InputLayer": "",
    "Rescaling": "",
}

DROPOUT = {
    "conv18242": [0.1],
    "gap13914": [0.1] * 5,
    "antman9954": [0.3] * 2,
    "small8624": [0.1] * 2,
    "small7384": [0.1] * 2,
    "small7344": [],
    "pyramid3762": [0.01] * 2,
    "shared1936": [0.1] * 6,
    "sep997": [0.1] * 5,
    "sep697": [0.05] * 3,
}


def trainable(layer):
    return sum(int(keras.ops.size(weight)) for weight in layer.trainable_weights)


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@functools.cache
def built(name: str) -> keras.Model:
    """A published model, which is not changed here."""
    return MODELS[name]()


def test_every_model_is_pinned_here_and_has_a_recipe(name):
    for pinned in (PARAMETERS, LAYERS, ORDER, DROPOUT, PUBLISHED_RECIPES):
        assert MODELS.keys() == pinned.keys()
    assert PUBLISHED_RECIPES[name].model == built(name).name == name


def test_parameters(name):
    assert trainable(built(name)) == PARAMETERS[name]


def test_the_numbers_of_parameters_are_known_without_building():
    assert parameters.PARAMETERS == PARAMETERS
    assert {name: built(name).count_params() for name in MODELS} == parameters.ELEMENTS


def test_layers_with_weights(name):
    layers = [layer for layer in built(name).layers if layer.weights]
    assert [(type(layer).__name__, shape_after(layer), trainable(layer)) for layer in layers] == LAYERS[name]


def shape_after(layer):
    # A shared layer has several outputs, all of one shape.
    return tuple(layer.get_output_at(0).shape[1:]) if hasattr(layer, "get_output_at") else layer.output.shape[1:]


def test_order_of_all_layers(name):
    layers = built(name).layers
    assert "".join(LETTERS[type(layer).__name__] for layer in layers) == ORDER[name].replace(" ", "")


def test_a_model_takes_raw_pixels_and_gives_probabilities(name):
    model = built(name)
    assert model.built
    assert model.input.shape == (None, 28, 28, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    probabilities = keras.ops.convert_to_numpy(model(pixels))
    assert probabilities.shape == (5, 10)
    # Ten quotients, and the nine sums of their divisor, are rounded.
    np.testing.assert_allclose(probabilities.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=(10 + 9) * 2**-24)


def test_every_layer_is_named_by_hand(name):
    # Keras numbers the names it makes up, so a second model of the same builder would have others.
    assert [layer.name for layer in built(name).layers] == [layer.name for layer in MODELS[name]().layers]


def test_slopes_and_dropout_rates(name):
    layers = built(name).layers
    assert [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)] == DROPOUT[name]
    assert {layer.negative_slope for layer in layers if isinstance(layer, keras.layers.LeakyReLU)} <= {0.2}


def test_convolutions_without_bias():
    biased = {
        name: {layer.use_bias for layer in builder().layers if isinstance(layer, keras.layers.Conv2D)}
        for name, builder in MODELS.items()
    }
    assert {name for name, found in biased.items() if found == {False}} == {"small8624", "small7384", "small7344"}
    assert all(len(found) == 1 for found in biased.values())


@pytest.mark.parametrize("name", ["conv18242", "gap13914", "antman9954", "small8624", "small7384", "small7344"])
def test_torch_defaults(name):
    """U(-1/sqrt(inputs), 1/sqrt(inputs)) for kernels and biases; a new value has 0.1 of the moving statistics."""
    for layer in built(name).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        elif layer.weights:
            kernel = layer.get_weights()[0]
            limit = np.prod(kernel.shape[:-1]) ** -0.5
            for weights in layer.get_weights():
                assert 0.5 * limit < np.abs(weights).max() <= np.float32(limit)


def test_the_shared_layer_is_applied_three_times():
    model = MODELS["shared1936"]()
    assert len(model.get_layer("shared")._inbound_nodes) == 3


def test_pixels_are_normalised_inside_the_model(name):
    model = MODELS[name]()
    scaled = keras.Model(model.input, model.layers[1].output)(np.full((1, 28, 28, 1), 51, np.float32))
    expected = 0.2 if name in ("sep997", "sep697", "shared1936") else (0.2 - 0.1307) / 0.3081
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def test_first_weights_are_drawn_as_in_the_sources():
    glorot = MODELS["sep997"]().get_layer("conv1").get_weights()[0]
    limit = np.sqrt(6 / (9 * 1 + 9 * 7))
    assert 0.5 * limit < np.abs(glorot).max() <= limit
    # He-normal: standard deviation sqrt(2 / 9 inputs), from a normal distribution cut at twice that of its parent.
    kernels = [MODELS["sep697"]().get_layer("conv1").get_weights()[0] for _ in range(40)]
    assert np.std(kernels) == pytest.approx(np.sqrt(2 / 9), rel=0.06)
    assert np.abs(kernels).max() <= 2 * np.sqrt(2 / 9) / 0.87
