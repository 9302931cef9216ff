"""MODELS: the published networks by name, the largest first."""

from mnist_minimal.models.convolutional import (
    antman9954,
    conv18242,
    gap13914,
    pyramid3762,
    small7344,
    small7384,
    small8624,
)
from mnist_minimal.models.separable import sep697, sep997
from mnist_minimal.models.shared import shared1936

MODELS = {
    "conv18242": conv18242,
    "gap13914": gap13914,
    "antman9954": antman9954,
    "small8624": small8624,
    "small7384": small7384,
    "small7344": small7344,
    "pyramid3762": pyramid3762,
    "shared1936": shared1936,
    "sep997": sep997,
    "sep697": sep697,
}
