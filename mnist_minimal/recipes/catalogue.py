"""RECIPES: the published recipes by the name of their model, and others of these models by names of their own."""

from dataclasses import replace

from mnist_minimal.recipes.parts import Adam, Augmentation, ByStep, PiecewiseLinear, Recipe
from mnist_minimal.recipes.published import PUBLISHED_RECIPES

# Trained to their end: the learning rate comes down to 0 whatever is monitored, and the last epoch's weights are kept.
TO_THE_END = {
    "sep997-cosine": Recipe(
        model="sep997",
        name="sep997-cosine",
        source="this project's own experiments (experiments/README.md)",
        batch_size=128,
        max_epochs=40,
        optimizer=Adam(learning_rate=0.03),
        schedule=ByStep(course="cosine"),
        dropout=0.0,
        augmentation=Augmentation(rotation=6, translation=0.04, scale=(0.92, 1.08), affine_share=0.5),
    ),
}

# Where the published run was not what the published code does: at epoch 12 the code's learning rate is a twentieth of
# the first one, the run's was a tenth.
AS_CODED = {
    "pyramid3762-as-coded": replace(
        PUBLISHED_RECIPES["pyramid3762"],
        name="pyramid3762-as-coded",
        schedule=PiecewiseLinear(((0, 0.05), (2, 0.1), (8, 0.01), (12, 0.0025), (15, 0.0))),
    ),
}

RECIPES = PUBLISHED_RECIPES | AS_CODED | TO_THE_END
