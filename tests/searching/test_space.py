"""The space of the search: every point of the cube is a network within the limit that the core runs."""

import keras
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.models.counting import trainable_parameters
from mnist_minimal.models.defaults import with_keras_defaults
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.searched import Candidate, SearchedNetwork
from mnist_minimal.recipes import Averaging
from mnist_minimal.searching.space import COORDINATES, SMALLEST, Space, beside, decode_network, decode_recipe, spend
from mnist_minimal.training.chain import describe
from mnist_minimal.training.native_fit import unsupported_recipe
from mnist_minimal.training.slots.numbers import structure

coordinate = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
points = st.fixed_dictionaries(dict.fromkeys(COORDINATES, coordinate))
limits = st.integers(SMALLEST, 3000)
SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}

# Points of the cube; the other coordinates are 0.5.
FORM = {"stem_size": 0.1, "block_size": 0.1, "block_padding": 0.9, "blocks": 0.6, "second_pool": 0.0}
SEP997 = {
    **{**FORM, "stem_padding": 0.9, "pool": 0.1, "sharing": 0.1, "stem_channels": 0.325},
    **{"channels_1": 0.48, "channels_2": 0.485, "channels_3": 0.5, "last_channels": 0.725},
}
SEP697 = {
    **{**FORM, "stem_padding": 0.1, "pool": 0.1, "sharing": 0.1, "stem_channels": 0.375},
    **{"channels_1": 0.25, "channels_2": 0.48, "channels_3": 0.625, "last_channels": 0.715},
}
NET691A = {
    **{**FORM, "stem_padding": 0.1, "pool": 0.9, "sharing": 0.4},
    **{"stem_channels": 0.55, "last_channels": 0.725},
}


@with_keras_defaults
def net691a() -> keras.Model:
    """Conv2D(9, 3, same), average pool, one depthwise kernel four times, each time before its own pointwise one."""
    layers = keras.layers
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(9, 3, padding="same")(x))
    x = layers.AveragePooling2D(2)(x)
    depthwise = layers.DepthwiseConv2D(3, use_bias=False)
    for channels in (9, 9, 9, 12):
        x = layers.LeakyReLU(0.2)(layers.Conv2D(channels, 1)(depthwise(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, layers.Dense(10, activation="softmax")(x))


def check_point(point: dict[str, float], limit: int) -> None:
    network = decode_network(point, limit)
    model = network.build()
    assert trainable_parameters(model) == network.parameters <= limit
    description = describe(model)  # Of what the core can't run this raises an error.
    assert description.network.parameters == network.parameters
    # A map that is smaller than the kernel is the core's as well as Keras': rows of what each layer gives.
    assert min(layer.out_shape[0] for layer in description.network.layers) >= 1


@settings(max_examples=6, **SETTINGS)
@given(points, limits)
def test_every_point_is_a_network_that_the_core_runs_within_the_limit(point, limit):
    check_point(point, limit)


@pytest.mark.slow
@settings(max_examples=150, **SETTINGS)
@given(points, limits)
def test_many_points_are_networks_that_the_core_runs_within_the_limit(point, limit):
    check_point(point, limit)


@settings(max_examples=15, **SETTINGS)
@given(points, limits)
def test_every_point_is_a_candidate_that_json_keeps(point, limit):
    space = Space(3000, 36, taught=True)
    candidate = space.decode(point, limit)
    assert candidate.network.parameters <= limit
    assert Candidate.from_dict(candidate.as_dict()) == candidate
    assert space.decode(dict(reversed(point.items())), limit) == candidate


@settings(max_examples=100, **SETTINGS)
@given(points, points)
def test_a_point_beside_another_differs_from_it_in_numbers_alone(first, proposed):
    # By a strength of exactly 0, which no sampler draws, nothing is augmented.
    assume(first["augmentation_strength"] and proposed["augmentation_strength"])
    space, point = Space(650, 36, taught=True), {name: beside(first, name, proposed[name]) for name in COORDINATES}
    one, other = space.decode(first), space.decode(point)
    assert one.network == other.network
    assert structure(one.recipe) == structure(other.recipe)
    for name in ("learning_rate", "weight_decay", "course", "warm_up", "floor", "augmentation_strength"):
        assert point[name] == proposed[name]


@settings(max_examples=6, **SETTINGS)
@given(points)
def test_every_point_is_a_recipe_that_the_core_trains_by(point):
    assert unsupported_recipe(decode_recipe(point, 9, taught=False)) is None


def test_the_mean_of_the_last_steps_is_part_of_a_recipe():
    """A third of the way from none to six tenths of the steps, at a third of the highest floor, .3 of the peak."""
    point = {**dict.fromkeys(COORDINATES, 0.5), "averaging": 0.5 + 1 / 6, "floor": 1 / 3}
    recipe = decode_recipe(point, 36, taught=False)
    assert (recipe.averaging, recipe.schedule.floor_from, recipe.schedule.floor) == (Averaging(start=0.8), 0.8, 0.1)
    without = decode_recipe({**point, "averaging": 0.5}, 36, taught=False)
    assert (without.averaging, without.schedule.floor_from, without.schedule.floor) == (None, 1.0, 0.0)


@pytest.mark.parametrize(
    ("point", "limit", "build"),
    [(SEP997, 997, MODELS["sep997"]), (SEP697, 697, MODELS["sep697"]), (NET691A, 691, net691a)],
)
def test_known_networks_are_points_of_the_cube(point, limit, build):
    models = [decode_network({**dict.fromkeys(COORDINATES, 0.5), **point}, limit).build(), build()]
    for model in models:
        if any(isinstance(layer, keras.layers.Dropout) for layer in model.layers):
            set_dropout(model, 0.0)
    ours, theirs = (describe(model).network for model in models)
    assert ours == theirs
    assert ours.parameters == limit


def test_a_share_is_of_what_the_layers_before_have_left():
    def count(widths):  # Without biases: each number of channels counts ten times.
        return 10 * sum(widths)

    assert spend([0.5, 0.5, 0.5], count, 90) == [3, 3, 3]
    # A third of three channels, then the others share what is left: (9 - 1) / 2 = 4, and 4.
    assert spend([0.0, 0.5, 0.5], count, 90) == [1, 4, 4]
    # At most so many that the others can have a third of 3 each; then nothing is left for more than one.
    assert spend([1.0, 0.5, 0.5], count, 90) == [7, 1, 1]


def test_equal_shares_spend_nearly_all():
    point = {**dict.fromkeys(COORDINATES, 0.5), **FORM, "sharing": 0.1, "last_channels": 1.0}
    # One channel more in the last layer would take 10 inputs and a bias and 10 of the dense layer.
    assert 650 - decode_network(point, 650).parameters < 30


@pytest.mark.parametrize("limit", [-1, 0, SMALLEST - 1])
def test_a_limit_below_the_smallest_network_is_refused(limit):
    with pytest.raises(
        UserError, match=rf"expected a limit of at least 41 parameters.*found {limit}; raise --max-params"
    ):
        Space(limit, 36)


NETWORK = SearchedNetwork(9, 3, "same", "average", (9, 9, 9, 12), 3, "valid", 0, "depthwise", 0.2)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("channels", [], "at least one block"),
        ("second_pool", 5, "a second pool after one of them"),
        ("channels", [9, 9, 9, 9, 9, 9, 9], "kernels and pools that fit"),
        ("channels", [9, 8, 9, 12], "equal channels where blocks share 'depthwise'"),
        ("stem_channels", 0, "stem_channels"),
        ("stem_padding", "full", "stem_padding"),
        ("no_such", 1, "no_such"),
    ],
)
def test_an_edited_candidate_is_refused(field, value, complaint):
    data = Candidate(NETWORK, decode_recipe(dict.fromkeys(COORDINATES, 0.5), 9, taught=False)).as_dict()
    assert Candidate.from_dict(data).network.parameters == 691
    data["network"][field] = value
    with pytest.raises(UserError, match=complaint):
        Candidate.from_dict(data)


def test_what_is_shared_counts_once():
    # 10 x 4 in the first convolution; 9 x 4 and 4 x 6 + 6, then 9 x 6 and 6 x 6 + 6 twice the same; 6 x 10 + 10.
    network = SearchedNetwork(4, 3, "valid", "max", (6, 6, 6), 3, "valid", 0, "block", 0.0)
    assert network.parameters == 40 + 36 + 30 + 54 + 42 + 70
    assert trainable_parameters(network.build()) == network.parameters
