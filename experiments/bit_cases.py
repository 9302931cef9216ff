"""The cases of `experiments/bits.py`: all published models on the digits, and a few odd chains.

    python -m experiments.bit_cases            (in the folder of the repository)

prints the hashes to be pinned there, and takes half a minute. A case begins with the initial weights of its seed and
has the optimizer, the augmentation, the dropout, the batches and the learning rates of the model's own recipe.
"""

import dataclasses

import keras
import numpy as np
from keras import layers

from experiments.bits import EPOCHS, SEED, Case, trained_digest
from mnist_minimal.data import sets
from mnist_minimal.data.batches import epoch_batches, epoch_order
from mnist_minimal.data.choice import Choice
from mnist_minimal.models import MODELS
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.normalization import InstanceNormalization
from mnist_minimal.recipes import RECIPES, SGD, Adam, AdamW, Augmentation, ByStep, PiecewiseLinear, Recipe
from mnist_minimal.recipes.digits import for_dataset
from mnist_minimal.training.chain import describe, flat
from mnist_minimal.training.initial_weights import draw
from mnist_minimal.training.optimizers import block_sizes
from mnist_minimal.training.schedules import first_rate, scheduled_rate, step_rates

# By batches of 48 images three threads have work, and the last batch has one image.
ODD_IMAGES, ODD_BATCH_SIZE = 97, 48
SOAP_EPOCHS = 3


def recipe_of(name: str) -> Recipe:
    """The recipe of a published model, or of that name, on the digits."""
    return for_dataset(RECIPES[name], "digits")


def model_of(name: str) -> keras.Model:
    """The model of a recipe with the initial weights of SEED and the recipe's dropout."""
    recipe = recipe_of(name)
    model = MODELS[recipe.model]()
    draw(model, SEED)
    set_dropout(model, recipe.dropout)
    return model


def published_cases() -> dict[str, Case]:
    """Those of the ten models by their own recipes, and of sep997-cosine."""
    digits = sets.load(Choice("digits"))
    return {
        name: case(model_of(name), recipe_of(name), digits.x_train, digits.y_train, digits.x_test)
        for name in [*MODELS, "sep997-cosine"]
    }


def odd_cases() -> dict[str, Case]:
    """Those of chains in whose shapes the kernels have their odd ends, and of one of them by SOAP."""
    models = odd_models()
    return {name: odd_case(model) for name, model in models.items()} | {"soap": soap_case(models["averaged first"])}


def odd_models() -> dict[str, keras.Model]:
    """The chains, with initial weights of SEED."""
    relu, slope, softmax = layers.ReLU, layers.LeakyReLU, lambda: layers.Dense(10, activation="softmax")
    average = layers.GlobalAveragePooling2D
    chains = {
        "five by five, same": (
            (13, 10, 3),
            [layers.Conv2D(5, 5, padding="same"), slope(0.2), layers.Conv2D(7, 5, padding="same"), relu(), average()],
        ),
        "pooled first": (
            (15, 18, 1),
            [layers.Conv2D(7, (3, 5)), slope(0.2), layers.MaxPooling2D(2), layers.Conv2D(9, 2), relu(), average()],
        ),
        "averaged first": (
            (15, 18, 1),
            [
                *(layers.Conv2D(7, (3, 5)), slope(0.2), layers.AveragePooling2D(2), layers.Dropout(0.1)),
                *(layers.Conv2D(9, 2), relu(), average()),
            ],
        ),
        "twelve to twenty channels": (
            (12, 11, 2),
            [
                *(layers.Conv2D(12, 3, use_bias=False), layers.BatchNormalization(), relu(), layers.Dropout(0.1)),
                *(layers.Conv2D(20, 3, padding="same"), relu(), layers.Conv2D(13, 1), slope(0.1)),
                *(layers.Conv2D(18, 2), relu(), layers.Conv2D(4, 3), layers.BatchNormalization(), relu(), average()),
            ],
        ),
        "separable, odd average": (
            (17, 15, 1),
            [
                *(layers.SeparableConv2D(9, 3), slope(0.2), layers.SeparableConv2D(17, (2, 5), padding="same"), relu()),
                *(InstanceNormalization(), layers.DepthwiseConv2D(3, padding="same"), layers.AveragePooling2D((3, 1))),
                average(),
            ],
        ),
        "batch normalisation first": (
            (9, 7, 3),
            [
                layers.BatchNormalization(),
                layers.Conv2D(6, (1, 3)),
                relu(),
                layers.MaxPooling2D((3, 2)),
                layers.Flatten(),
            ],
        ),
        "silu": (
            (11, 9, 2),
            [
                *(layers.Conv2D(7, 3, padding="same", activation="silu"), layers.Dropout(0.1)),
                *(layers.SeparableConv2D(9, 3, activation="silu"), layers.MaxPooling2D(2), average()),
            ],
        ),
        "dense": ((5, 7, 2), [layers.Flatten(), layers.Dense(33), slope(0.3), layers.Dropout(0.25)]),
    }
    models = {}
    for name, (shape, chain) in chains.items():
        models[name] = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255), *chain, softmax()])
        draw(models[name], SEED)
    return models


def odd_case(model: keras.Model) -> Case:
    """A case of a chain on noise, augmented."""
    shape = model.input_shape[1:]
    pixels = epoch_order(SEED, 0, 2 * ODD_IMAGES * int(np.prod(shape)))
    images = (pixels % 251).astype(np.uint8).reshape(2 * ODD_IMAGES, *shape)
    labels = epoch_order(SEED, 1, ODD_IMAGES) % 10
    recipe = Recipe(
        batch_size=ODD_BATCH_SIZE,
        max_epochs=EPOCHS,
        optimizer=AdamW(learning_rate=0.01, weight_decay=1e-4),
        augmentation=Augmentation(rotation=20, scale=(0.8, 1.2), fill="reflect", affine_share=0.5),
    )
    return case(model, recipe, images[:ODD_IMAGES], labels, images[ODD_IMAGES:])


def soap_case(model: keras.Model) -> Case:
    """The odd case of a chain by SOAP, an image a step, in as many epochs as make the first new bases and go on."""
    blocks = block_sizes(describe(model).parameters)
    rates = np.full((SOAP_EPOCHS, ODD_IMAGES), 0.02, np.float32)
    return dataclasses.replace(odd_case(model), optimizer=("soap", {"blocks": blocks}), batch_size=1, rates=rates)


def case(model: keras.Model, recipe: Recipe, images: np.ndarray, labels: np.ndarray, test_images: np.ndarray) -> Case:
    """The first EPOCHS epochs of a model's training by a recipe."""
    description = describe(model)
    steps = len(epoch_batches(SEED, 0, len(images), recipe.batch_size, recipe.drop_remainder))
    return Case(
        description.network,
        core_optimizer(recipe),
        recipe.augmentation,
        recipe.batch_size,
        recipe.drop_remainder,
        np.array([epoch_rates(recipe, epoch, steps) for epoch in range(EPOCHS)], np.float32),
        flat(description.parameters),
        flat(description.statistics),
        images,
        labels.astype(np.uint8),
        test_images,
    )


def core_optimizer(recipe: Recipe) -> tuple[str, dict[str, float]]:
    """The core's optimizer as plain data."""
    optimizer = recipe.optimizer
    if isinstance(optimizer, Adam | AdamW):
        decay = getattr(optimizer, "weight_decay", 0.0)
        return "adam", {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": decay}
    assert isinstance(optimizer, SGD)  # No published recipe has SOAP.
    return "momentum", {"momentum": optimizer.momentum}


def epoch_rates(recipe: Recipe, epoch: int, steps: int) -> np.ndarray:
    """The learning rates of an epoch's steps; what watches the losses changes none within EPOCHS."""
    if isinstance(recipe.schedule, ByStep):
        return step_rates(recipe, epoch, steps)
    rate = scheduled_rate(recipe, epoch) if isinstance(recipe.schedule, PiecewiseLinear) else first_rate(recipe)
    return np.full(steps, rate, np.float32)


def main() -> None:
    """Prints both tables of hashes."""
    cases = published_cases() | odd_cases()
    for title, chosen in (("PINNED", cases), ("PINNED_FEW", {name: case.few() for name, case in cases.items()})):
        print(f"{title} = {{")
        for name, each in chosen.items():
            print(f'    "{name}": "{trained_digest(each)}",')
        print("}")


if __name__ == "__main__":
    main()
