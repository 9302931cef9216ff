"""How models are trained, as data: frozen dataclasses, and the recipes that were published.

Standard library only: a recipe can be written beside results as JSON and read without Keras.
"""

from mnist_minimal.recipes.catalogue import RECIPES
from mnist_minimal.recipes.fields import KerasObject
from mnist_minimal.recipes.parts import (
    SGD,
    SOAP,
    Adam,
    AdamW,
    Augmentation,
    Averaging,
    ByStep,
    EarlyStopping,
    MedianStopping,
    PiecewiseLinear,
    Plateau,
    Recipe,
    Steps,
    Teacher,
)
from mnist_minimal.recipes.published import PUBLISHED_RECIPES

__all__ = [
    "PUBLISHED_RECIPES",
    "RECIPES",
    "SGD",
    "SOAP",
    "Adam",
    "AdamW",
    "Augmentation",
    "Averaging",
    "ByStep",
    "EarlyStopping",
    "KerasObject",
    "MedianStopping",
    "PiecewiseLinear",
    "Plateau",
    "Recipe",
    "Steps",
    "Teacher",
]
