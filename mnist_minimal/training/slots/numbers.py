"""What may differ between the trials of one compiled program, and which recipes have all else in common; no JAX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from mnist_minimal.recipes import SGD, Adam, AdamW, Augmentation, Averaging, Recipe


@dataclass(frozen=True)
class Numbers:
    """The numbers of the recipes that may differ between trials, float64 (K,) each.

    Attributes:
        weight_decay: Of AdamW; 0 for other optimizers.
        momentum: Of SGD; 0 for other optimizers.
        dropout: Rate of all dropout layers; not a number where each has its own.
        teacher_weight: The teacher's share of the targets.
        max_epochs: The recipe's epochs, whatever the cap on them is.
        averaging_start: Share of all steps after which averaging begins; 0 where none does.
        rotation, translation, min_scale, max_scale, affine_share, brightness, contrast, tone_share: Of the
            augmentation, as `recipes.Augmentation` has them.
    """

    weight_decay: np.ndarray
    momentum: np.ndarray
    dropout: np.ndarray
    teacher_weight: np.ndarray
    max_epochs: np.ndarray
    averaging_start: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    min_scale: np.ndarray
    max_scale: np.ndarray
    affine_share: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    tone_share: np.ndarray


def numbers_of(recipes: Sequence[Recipe]) -> Numbers:
    """The numbers of one recipe for each place."""
    rows = [_numbers(recipe) for recipe in recipes]
    return Numbers(*(np.array([row[each.name] for row in rows], np.float64) for each in fields(Numbers)))


def _numbers(recipe: Recipe) -> dict[str, float]:
    augmented = recipe.augmentation or Augmentation()
    return {
        "weight_decay": recipe.optimizer.weight_decay if isinstance(recipe.optimizer, AdamW) else 0.0,
        "momentum": recipe.optimizer.momentum if isinstance(recipe.optimizer, SGD) else 0.0,
        "dropout": math.nan if recipe.dropout is None else recipe.dropout,
        # Targets without a teacher are taken as they are.
        "teacher_weight": recipe.teacher.weight if recipe.teacher else 1.0,
        "max_epochs": recipe.max_epochs,
        "averaging_start": recipe.averaging.start if recipe.averaging else 0.0,
        "rotation": augmented.rotation,
        "translation": augmented.translation,
        "min_scale": augmented.scale[0],
        "max_scale": augmented.scale[1],
        "affine_share": augmented.affine_share,
        "brightness": augmented.brightness,
        "contrast": augmented.contrast,
        "tone_share": augmented.tone_share,
    }


def structure(recipe: Recipe) -> Recipe:
    """The recipe without what may differ between the trials of one compiled program.

    Names, learning rates, schedules and stopping are left out, and the fields of `Numbers` have the same values in all
    structures. Two recipes of the same structure run in one program, made of the structure or of either recipe.

    A dropout rate of 0 is a structure of its own, that of networks without dropout, which are faster. The weight of a
    teacher is 1, so that the targets which `study.teaching.with_targets` makes of a structure are the teacher's
    probabilities, as `Program` takes them.
    """
    optimizer = recipe.optimizer
    match optimizer:
        case AdamW() | Adam():
            optimizer = AdamW(learning_rate=0.0, weight_decay=0.0)
        case SGD():
            optimizer = SGD(learning_rate=0.0, momentum=0.0)
    augmented = recipe.augmentation
    return Recipe(
        model=recipe.model,
        batch_size=recipe.batch_size,
        drop_remainder=recipe.drop_remainder,
        max_epochs=1,
        optimizer=optimizer,
        dropout=0.0 if recipe.dropout == 0 else None,
        averaging=recipe.averaging and Averaging(start=0.0),
        augmentation=augmented
        and Augmentation(interpolation=augmented.interpolation, crop=augmented.crop, fill=augmented.fill),
        teacher=recipe.teacher and replace(recipe.teacher, weight=1.0),
        validation_share=recipe.validation_share,
    )
