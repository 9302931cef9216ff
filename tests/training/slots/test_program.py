"""Many trials at once in JAX: in double precision the scalar loops of the core, in single as near to it as Keras."""

import dataclasses
import importlib.util
import os

import keras
import numpy as np
import pytest
from keras import layers

from experiments.oracles import gradients_in_double, in_double, keras_gradients, patterns, randomise, without_dropout
from mnist_minimal.data import sets
from mnist_minimal.data.batches import epoch_batches, epoch_order
from mnist_minimal.data.choice import Choice
from mnist_minimal.models import MODELS
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.recipes import RECIPES, SGD, AdamW, Augmentation, Averaging, Recipe, Teacher
from mnist_minimal.recipes.digits import for_dataset
from mnist_minimal.training import core, initial_weights
from mnist_minimal.training.chain import Chain, core_optimizer, describe, flat
from mnist_minimal.training.core import _core, core_arguments
from mnist_minimal.training.optimizers import make_optimizer
from tests.rounding import noisy
from tests.training.test_core import CHAINS, sequential
from tests.whole import whole_only

if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX, of the extra `test`, is not installed", allow_module_level=True)

from mnist_minimal.training.slots.program import Blocks, Program, numbers_of, structure
from tests.training.slots.double import assert_program_is_the_reference, double_precision, splits

# Where the core is required, its absence is a failure and no reason to skip.
needs_core = pytest.mark.skipif(
    not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1", reason="the C++ core was not built"
)

# Each takes up to half a minute to compile: one of instance normalisations and shared layers, and the famous one. Batch
# normalisation is in `everything`.
FEW = ("shared1936", "sep997")
SOME_MODELS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in FEW else [pytest.mark.slow, whole_only]) for name in MODELS
]

AUGMENTATION = Augmentation(rotation=20, translation=0.1, scale=(0.8, 1.3), affine_share=0.75, crop=1, fill=33.3)


def described(model: keras.Model, scale: float | None = None):
    """The network, and its parameters and moving statistics; pixels are scaled where the model does not."""
    description = describe(model)
    network = description.network if scale is None else dataclasses.replace(description.network, scale=scale)
    return network, (flat(description.parameters), flat(description.statistics))


def everything() -> keras.Model:
    """A small network of every kind of layer, a shared one among them."""
    keras.utils.set_random_seed(5)
    pixels = keras.Input((8, 7, 1))
    shared = layers.SeparableConv2D(4, 3, padding="same")
    x = layers.Rescaling(1 / 255, offset=-0.1)(pixels)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.Dropout(0.2)(layers.MaxPooling2D((2, 1))(x))
    x = InstanceNormalization()(layers.ReLU()(shared(x)))
    x = layers.BatchNormalization(momentum=0.7, scale=False)(shared(x))
    x = layers.AveragePooling2D((1, 2))(layers.Conv2D(5, (2, 3), use_bias=False, activation="silu")(x))
    return randomise(keras.Model(pixels, layers.Dense(10, activation="softmax")(layers.Flatten()(x))))


def small() -> keras.Model:
    """A network that is compiled fast."""
    keras.utils.set_random_seed(3)
    chain = [layers.Dense(3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(10, activation="softmax")]
    return sequential(*chain, shape=(5, 4, 1))


def teaching(images: int) -> np.ndarray:
    """Probabilities, float32 (images, 10), that can be mixed in single precision without rounding."""
    return np.random.default_rng(0).multinomial(2**10, [0.1] * 10, images).astype(np.float32) / 2**10


@needs_core
@pytest.mark.slow
def test_a_network_of_all_layers_is_the_reference() -> None:
    """Two settings of dropout and decay side by side."""
    network, weights = described(everything())
    recipe = Recipe(batch_size=8, max_epochs=1, optimizer=AdamW(learning_rate=0.01, weight_decay=0.01))
    recipes = [recipe, recipe.replace(dropout=0.4, **{"optimizer.weight_decay": 0.0})]
    data = splits(*patterns(4 * 8, network.input_shape), 10)
    assert_program_is_the_reference(network, weights, recipes, data, [0.01, 0.02], 1e-9)


@needs_core
@pytest.mark.slow
def test_all_numbers_of_the_images_and_a_smaller_last_batch_are_the_reference() -> None:
    """Three settings of augmentation and of a teacher's share side by side."""
    network, weights = described(small(), scale=1 / 255)
    x, y = patterns(4 * 8 + 3, network.input_shape)
    first = Recipe(
        batch_size=8,
        max_epochs=1,
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        augmentation=dataclasses.replace(AUGMENTATION, contrast=0.2),
        teacher=Teacher(weight=0.5),
    )
    second = first.replace(
        **{"optimizer.momentum": 0.0, "augmentation.rotation": 0.0, "augmentation.crop": 1, "teacher.weight": 0.25}
    )
    third = second.replace(**{"augmentation.affine_share": 0.0, "augmentation.contrast": 0.0, "teacher.weight": 1.0})
    data = splits(x, y, 10, teaching(len(x)))
    assert_program_is_the_reference(network, weights, [first, second, third], data, [0.1, 0.2, 0.3], 1e-9)


@needs_core
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if place % 3 == 0 else whole_only)
        for place, name in enumerate(["dense before the convolutions", *CHAINS])
    ],
)
def test_a_chain_is_the_reference(name: str) -> None:
    """Small networks, on images of several channels mostly."""
    keras.utils.set_random_seed(2)
    head = [layers.Flatten(), layers.Dense(10, activation="softmax")]
    chains = {
        **CHAINS,
        "dense before the convolutions": lambda: sequential(layers.Dense(4), layers.Conv2D(3, 3), *head),
    }
    network, weights = described(chains[name](), scale=1 / 255)
    random = np.random.default_rng(4)
    x = random.integers(0, 256, (4 * 8, *network.input_shape)).astype(np.uint8)
    y = random.integers(0, network.layers[-1].out_shape[2], len(x))
    recipe = Recipe(batch_size=8, max_epochs=1, optimizer=SGD(learning_rate=0.05, momentum=0.9))
    recipes = [recipe, recipe.replace(**{"optimizer.momentum": 0.0})]
    assert_program_is_the_reference(network, weights, recipes, splits(x, y, 10), [0.05, 0.02], 1e-9)


@needs_core
@pytest.mark.parametrize("name", SOME_MODELS)
def test_20_steps_of_a_model_are_those_of_the_reference(name: str, record_property) -> None:
    """By the published recipe in batches of eight, with its augmentation or one of the test's.

    The learning rate is as much smaller as the batches are. By that of whole batches small7384 grows so fast that a
    last digit of the initial weights comes to 4e-10 in the moving variances (measured with the scalar loops), and the
    rounding of all sums to more than is allowed.
    """
    keras.utils.set_random_seed(1)
    network, weights = described(randomise(MODELS[name]()))
    published = RECIPES[name]
    recipe = dataclasses.replace(published, batch_size=8, augmentation=published.augmentation or AUGMENTATION)
    x, y = patterns(20 * 8 if recipe.drop_remainder else 19 * 8 + 5)
    rate = recipe.optimizer.learning_rate * recipe.batch_size / published.batch_size
    farthest = assert_program_is_the_reference(network, weights, [recipe], splits(x, y, 20), [rate], 1e-9)
    record_property(f"{name}, 20 steps in double", f"{farthest:.0e}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "sep997" else whole_only) for name in MODELS])
def test_gradients_in_single_precision_are_as_exact_as_those_of_keras(name: str, record_property) -> None:
    """At most three times as far from those in double precision, three initial weights together."""
    draws, count = 3, 24
    x, y = patterns(count)
    recipe = Recipe(batch_size=count, max_epochs=1, optimizer=SGD(learning_rate=1.0, momentum=0.0))
    starts, exact, theirs = [], [], []
    for draw in range(draws):
        keras.utils.set_random_seed(draw)
        model = randomise(without_dropout(MODELS[name]()))
        description = describe(model)
        starts.append((flat(description.parameters), flat(description.statistics)))
        order = [[id(v) for v in model.trainable_variables].index(id(v)) for v in description.parameters]
        doubles = gradients_in_double(in_double(model), x, y)
        exact.append(np.concatenate([doubles[index].ravel() for index in order]))
        by_path = keras_gradients(model, x, y)[1]
        theirs.append(np.concatenate([by_path[v.path].ravel() for v in description.parameters]))
    program = Program(description.network, recipe, splits(x, y, 10))
    state = program.begin(*(np.stack(values) for values in zip(*starts, strict=True)))
    state, _ = program.epoch(
        state, np.arange(draws), np.zeros(draws), np.ones((draws, 1)), numbers_of([recipe] * draws)
    )
    # The velocity after the first step, whose learning rate is 1.
    ours = -np.asarray(state.first, np.float64)
    assert state.first.dtype == np.float32
    error, allowed = (np.linalg.norm(found - np.stack(exact)) for found in (ours, np.stack(theirs)))
    size = np.linalg.norm(exact)
    record_property(f"{name}, gradients in single", f"{error / size:.0e} and {allowed / size:.0e} of Keras")
    assert error <= 3 * allowed
    assert error <= 1e-3 * size


@needs_core
@pytest.mark.slow
@whole_only
def test_whole_trials_on_the_digits_have_the_accuracies_of_the_core() -> None:
    """Ten seeds at once, six epochs: on average as far from the core as the core is from itself after rounding."""
    dataset = sets.load(Choice("digits"))
    data, seeds, epochs, rate = sets.split(dataset, "source"), np.arange(10), 6, 0.01
    recipe = for_dataset(RECIPES["sep997"], "digits")
    starts, cores, rounded = [], [], []
    for seed in seeds:
        model = MODELS["sep997"]()
        initial_weights.draw(model, int(seed))
        chain = Chain(model, make_optimizer(recipe))
        starts.append((chain.network.parameters, chain.network.statistics))
        for found, weights in ((cores, starts[-1][0]), (rounded, noisy(starts[-1][:1], int(seed))[0])):
            chain = Chain(model, make_optimizer(recipe))
            chain.network.parameters = weights
            for epoch in range(epochs):
                order = np.concatenate(
                    epoch_batches(int(seed), epoch, len(data.y_train), recipe.batch_size, recipe.drop_remainder)
                )
                options = {"batch_size": recipe.batch_size, "seed": int(seed), "epoch": epoch, "learning_rates": rate}
                chain.network.train(data.x_train, data.y_train.astype(np.uint8), order, **options)
            found.append(chain.network.evaluate(data.x_val, data.y_val.astype(np.uint8))[1])
    program = Program(describe(model).network, recipe, data)
    state = program.begin(*(np.stack(values) for values in zip(*starts, strict=True)))
    rates, numbers = np.full((len(seeds), program.steps), rate), numbers_of([recipe] * len(seeds))
    for epoch in range(epochs):
        state, figures = program.epoch(state, seeds, np.full(len(seeds), epoch), rates, numbers)
    ours, exact, beside = (np.array(correct, float) for correct in (figures.val_correct, cores, rounded))
    # The standard error of a mean difference of ten trials, from the core's own.
    error = np.sqrt(np.mean((beside - exact) ** 2) / len(seeds))
    # They have learned something.
    assert exact.min() > 0.4 * len(data.y_val)
    assert abs((ours - exact).mean()) <= 4 * max(error, 0.5)


# Blocks that are held out


@needs_core
@pytest.mark.slow
def test_a_trial_that_holds_a_block_out_is_that_of_the_other_images_alone() -> None:
    """The first block, one in the middle and the last: order, augmentation, batches and a teacher of their own."""
    network, weights = described(small(), scale=1 / 255)
    x, y = patterns(3 * 8 + 3 + 5, network.input_shape)
    recipe = Recipe(
        batch_size=8,
        max_epochs=1,
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        augmentation=AUGMENTATION,
        teacher=Teacher(weight=0.5),
    )
    recipes = [recipe, recipe.replace(**{"teacher.weight": 0.25}), recipe]
    targets = np.stack([np.roll(teaching(len(x)), block, axis=1) for block in range(3)])
    blocks = Blocks((0, 12, len(x) - 5), 5)
    assert_program_is_the_reference(network, weights, recipes, splits(x, y, 10, targets), [0.1, 0.2, 0.3], 1e-9, blocks)


# The places


def tiny(recipe: Recipe | None = None) -> tuple[Program, np.ndarray, np.ndarray]:
    """A program that is compiled fast, and the weights of three trials."""
    network, (parameters, statistics) = described(small(), scale=1 / 255)
    x, y = patterns(20, network.input_shape)
    recipe = recipe or Recipe(batch_size=6, max_epochs=1, optimizer=AdamW(learning_rate=0.1, weight_decay=0.0))
    scales = np.array([[1.0], [0.9], [1.1]], np.float32)
    return Program(network, recipe, splits(x, y, 20)), scales * parameters, scales * statistics


@pytest.mark.slow
def test_a_trial_goes_on_in_another_place_beside_other_trials() -> None:
    program, parameters, statistics = tiny()
    numbers, rates = numbers_of([program.recipe] * 3), np.full((3, program.steps), 0.1)
    assert (program.steps, program.images) == (4, 20)
    begun = program.begin(parameters, statistics)
    first, _ = program.epoch(begun, [7, 8, 9], [0, 0, 0], rates, numbers)
    expected, figures = program.epoch(first, [7, 8, 9], [1, 1, 1], rates, numbers)
    # The second trial in the last place of two, beside the first.
    found, others = program.epoch(
        program.take(first, [0, 1]), [7, 8], [1, 1], rates[:2], numbers_of([program.recipe] * 2)
    )
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(array[1], other[1], rtol=1e-6)
    assert others.val_correct[1] == figures.val_correct[1] == program.test_correct(expected)[1]
    np.testing.assert_allclose(others.loss[1], figures.loss[1], rtol=1e-6)


def test_the_best_weights_are_kept_place_by_place() -> None:
    program, parameters, statistics = tiny()
    begun = program.begin(parameters, statistics)
    later = begun._replace(parameters=begun.parameters + 1, statistics=begun.statistics + 2)
    kept = program.keep_best(later, np.array([True, False, False]))
    for place, (of_parameters, of_statistics) in enumerate([(1, 2), (0, 0), (0, 0)]):
        np.testing.assert_allclose(kept.best_parameters[place], parameters[place] + of_parameters, rtol=1e-6)
        np.testing.assert_allclose(kept.best_statistics[place], statistics[place] + of_statistics, rtol=1e-6)


@needs_core
def test_the_mean_of_the_weights_is_that_of_the_steps_of_the_reference() -> None:
    """Three epochs of four steps; a trial averages from the second step on, and one from the eleventh, in the last."""
    network, (parameters, statistics) = described(small(), scale=1 / 255)
    x, y = patterns(20, network.input_shape)
    recipes = [
        Recipe(batch_size=6, max_epochs=3, optimizer=AdamW(0.01, 0.0), averaging=Averaging(start))
        for start in (0.1, 0.8)
    ]
    with double_precision():
        program = Program(network, structure(recipes[0]), splits(x, y, 20))
        assert (program.steps, structure(recipes[0])) == (4, structure(recipes[1]))
        state = program.begin(*(np.stack([values] * 2) for values in (parameters, statistics)))
        losses = []
        for epoch in range(3):
            rates = np.full((2, 4), 0.01, np.float32)
            state, figures = program.epoch(state, [5, 6], [epoch, epoch], rates, numbers_of(recipes))
            losses.append(figures.val_loss)
        found = np.concatenate([state.best_parameters, state.best_statistics], axis=1)
    for place, first in enumerate((1, 10)):
        reference = _core.Reference64(
            **core_arguments(network), optimizer=core_optimizer(make_optimizer(recipes[place]))
        )
        reference.parameters, reference.statistics = parameters.astype(np.float64), statistics.astype(np.float64)
        weights = []
        for epoch in range(3):
            order = epoch_order(5 + place, epoch, 20)
            for start in range(0, 20, 6):
                batch = order[start : start + 6]
                reference.train(
                    x, y, batch, batch_size=len(batch), seed=0, epoch=0, learning_rates=float(np.float32(0.01))
                )
                weights.append((reference.parameters, reference.statistics))
            monitored = [np.mean(arrays, axis=0) for arrays in zip(*weights[first:], strict=True)] or weights[-1]
            evaluated = _core.Reference64(
                **core_arguments(network), optimizer=core_optimizer(make_optimizer(recipes[place]))
            )
            evaluated.parameters, evaluated.statistics = monitored
            of_label = evaluated.predict(x)[np.arange(20), y]
            np.testing.assert_allclose(losses[epoch][place], -np.log(of_label).sum(), rtol=1e-9)
        np.testing.assert_allclose(found[place], np.concatenate(monitored), rtol=0, atol=1e-9)
        assert np.abs(found[place] - np.concatenate(weights[-1])).max() > 1e-4


@pytest.mark.parametrize(("drop_remainder", "batch_size", "images", "steps"), [(True, 6, 18, 3), (True, 50, 20, 1)])
def test_a_smaller_last_batch_is_left_out_where_it_is_not_the_only_one(drop_remainder, batch_size, images, steps):
    optimizer = SGD(learning_rate=0.1, momentum=0.9)
    recipe = Recipe(batch_size=batch_size, drop_remainder=drop_remainder, max_epochs=1, optimizer=optimizer)
    program, _, _ = tiny(recipe)
    assert (program.images, program.steps) == (images, steps)


def test_the_structure_of_a_recipe_is_that_of_its_variations() -> None:
    recipe = RECIPES["sep997-cosine"].replace(dropout=0.1)
    other = recipe.replace(
        dropout=0.3,
        schedule=None,
        max_epochs=9,
        **{"optimizer.learning_rate": 0.1, "augmentation.rotation": 20, "augmentation.contrast": 0.3},
    )
    assert structure(recipe) == structure(other) == structure(structure(recipe))
    for changed in (
        {"batch_size": 7},
        {"augmentation.crop": 1},
        {"augmentation": None},
        {"optimizer": SGD(learning_rate=0.1, momentum=0.9)},
        {"dropout": 0.0},
        {"averaging": Averaging(0.6)},
    ):
        assert structure(recipe.replace(**changed)) != structure(recipe)
