"""The published training recipes, as data.

A recipe says how a model is trained: optimizer, schedule, stopping, batches, augmentation. It holds no Keras object, so
that it can be written beside the results as JSON and read without Keras; `mnist_minimal.training` turns it into what it
describes. Epochs are counted from 1 where they are counted.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class AdamW:
    """`mnist_minimal.training.optimizers.AdamW`, whose `weight_decay` is not multiplied by the learning rate."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Adam:
    """`keras.optimizers.Adam`."""

    learning_rate: float


@dataclass(frozen=True)
class SGD:
    """`keras.optimizers.SGD`: v = momentum * v - learning_rate * gradient, added to the weights."""

    learning_rate: float
    momentum: float


@dataclass(frozen=True)
class Plateau:
    """`keras.callbacks.ReduceLROnPlateau` on the validation loss.

    After `patience` epochs without a validation loss lower by more than `min_delta`, the learning rate is multiplied by
    `factor`, but never falls under `min_learning_rate`.
    """

    factor: float
    patience: int
    min_delta: float
    min_learning_rate: float


@dataclass(frozen=True)
class Steps:
    """The learning rate is multiplied by `factor` after each of the epochs `after`."""

    factor: float
    after: tuple[int, ...]


@dataclass(frozen=True)
class PiecewiseLinear:
    """The learning rate follows straight lines through points (finished epochs, learning rate), set once an epoch."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class EarlyStopping:
    """`keras.callbacks.EarlyStopping` on the validation accuracy; the weights of the best epoch are restored."""

    patience: int


@dataclass(frozen=True)
class MedianStopping:
    """Stops, once `trials` trials of a study are known, those in their median stopping at epoch `epoch`.

    A trial's figure there is the mean of its validation accuracies in the `window` epochs that end with `epoch`.
    """

    trials: int
    epoch: int
    window: int


@dataclass(frozen=True)
class Augmentation:
    """What is done to every training image, again in every epoch; each number is drawn uniformly from its range.

    The image is first turned, scaled and shifted in one resampling, then padded and cropped, then changed in contrast
    and brightness; `mnist_minimal.data.augmentation` says precisely how. Pixels are those of the data set, 0 .. 255.

    Attributes:
        rotation: Largest angle to either side, degrees.
        translation: Largest shift to either side along each axis, as a share of the image's side.
        scale: Smallest and largest factor by which what is shown grows.
        affine_share: Share of the images, drawn at random, that are turned, scaled and shifted.
        interpolation: How pixels between pixels are read. With "nearest" shifts are rounded to whole pixels, as
            torchvision does; with "bilinear" they are not, as in albumentations.
        crop: Pixels of padding on every side before a window of the image's own size is cut out at random.
        fill: Pixel value outside the image, or "reflect": the image mirrored about its outermost pixels' centres.
        brightness: Largest change of all pixels to either side, as a share of 255.
        contrast: Largest change of the factor on all pixels to either side of 1.
        tone_share: Share of the images, drawn at random, that are changed in contrast and brightness.
    """

    rotation: float = 0.0
    translation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    affine_share: float = 1.0
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    crop: int = 0
    fill: float | Literal["reflect"] = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    tone_share: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        model: Name of the model in `mnist_minimal.models.MODELS`.
        source: Where the recipe was published.
        assumed: What the source leaves unsaid and this recipe fills in, one sentence each.
        batch_size: Images per step.
        drop_remainder: Whether a last, smaller batch of an epoch is left out.
        max_epochs: Epochs after which training ends if nothing else ended it.
        optimizer: The optimizer at its first learning rate.
        schedule: The learning rate's course; None leaves it as it is.
        early_stopping: When training ends before `max_epochs`, with the best epoch's weights; None trains to the end
            and keeps the last epoch's.
        augmentation: What is done to the training images.
        validation_share: The last part of the training set, as a share of it, that the source holds out to monitor; 0
            where it monitors the test set.
        median_stopping: Which trials of a study the source does not train to their end.
    """

    model: str
    source: str
    assumed: tuple[str, ...]
    batch_size: int
    drop_remainder: bool
    max_epochs: int
    optimizer: AdamW | Adam | SGD
    schedule: Plateau | Steps | PiecewiseLinear | None = None
    early_stopping: EarlyStopping | None = None
    augmentation: Augmentation | None = None
    validation_share: float = 0.0
    median_stopping: MedianStopping | None = None

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries and lists of JSON's types; a part that has variants names its `kind`."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {"kind": type(value).__name__} | {
            field.name: _plain(getattr(value, field.name)) for field in fields(value)
        }
    return value
