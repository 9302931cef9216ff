"""The published minimal networks: one builder function each, by name in MODELS."""

from mnist_minimal.models.separable import sep697, sep997

MODELS = {
    "sep997": sep997,
    "sep697": sep697,
}
