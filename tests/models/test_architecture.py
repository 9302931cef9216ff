"""What is recorded of a network to tell it from others."""

import json

import keras
from keras import layers

from mnist_minimal.models.architecture import layer_facts


def facts(model: keras.Model) -> dict:
    return layer_facts(json.loads(model.to_json())["config"])


def test_a_number_in_an_operation_is_part_of_the_network():
    def scaled(by: float) -> keras.Model:
        pixels = keras.Input((28, 28, 1))
        return keras.Model(pixels, layers.Flatten()(pixels / by))

    assert facts(scaled(255.0))["1 TrueDivide"] == {"inputs": [[0, {"value": 255.0}]]}
    assert facts(scaled(255.0)) == facts(scaled(255.0)) != facts(scaled(127.5))


def test_which_application_of_a_shared_layer_is_taken_is_part_of_the_network():
    def joined(*taken: int) -> keras.Model:
        pixels = keras.Input((28, 28, 1))
        shared = layers.Conv2D(1, 3, padding="same")
        once = shared(pixels)
        outputs = once, shared(once)
        return keras.Model(pixels, layers.Concatenate()([outputs[place] for place in taken]))

    found = [facts(joined(*taken)) for taken in ((0, 1), (1, 0), (1, 1))]
    assert found[0] != found[1] != found[2] != found[0]


def test_a_shared_layer_in_a_chain_is_told_by_its_place_alone():
    # As studies have it that were begun before applications were told apart.
    pixels = keras.Input((28, 28, 4))
    shared = layers.Conv2D(4, 3)
    x = layers.ReLU()(shared(layers.ReLU()(shared(pixels))))
    assert [value.get("inputs") for value in facts(keras.Model(pixels, x)).values()] == [None, [[0], [2]], None, [[1]]]


def test_networks_in_the_network_are_part_of_it():
    def nested(activation: str) -> keras.Model:
        pixels = keras.Input((28, 28, 1))
        inner = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(1, 3, activation=activation)])
        return keras.Model(pixels, layers.Add()([inner(pixels), inner(pixels)]))

    assert facts(nested("relu")) == facts(nested("relu")) != facts(nested("tanh"))
