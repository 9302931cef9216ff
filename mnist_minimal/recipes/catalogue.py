"""RECIPES: the published recipes by the name of their model, and those of this project by names of their own."""

from mnist_minimal.recipes.parts import Adam, Augmentation, ByStep, Recipe
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

RECIPES = PUBLISHED_RECIPES | TO_THE_END
