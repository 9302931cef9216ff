"""How models are trained, as data: frozen dataclasses, and the recipes that were published.

Standard library only: a recipe can be written beside results as JSON and read without Keras.
"""

from mnist_minimal.recipes.fields import KerasObject
from mnist_minimal.recipes.parts import (
    SGD,
    Adam,
    AdamW,
    Augmentation,
    EarlyStopping,
    MedianStopping,
    PiecewiseLinear,
    Plateau,
    Recipe,
    Steps,
)
from mnist_minimal.recipes.published import RECIPES

__all__ = [
    "RECIPES",
    "SGD",
    "Adam",
    "AdamW",
    "Augmentation",
    "EarlyStopping",
    "KerasObject",
    "MedianStopping",
    "PiecewiseLinear",
    "Plateau",
    "Recipe",
    "Steps",
]
