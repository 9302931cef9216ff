"""The published training recipes, as data.

A recipe says how a model is trained: optimizer, schedule, stopping, batches, augmentation. It holds no Keras object, so
that it can be written beside the results as JSON and read without Keras; `mnist_minimal.training` turns it into what it
describes. Epochs are counted from 1 where they are counted.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class AdamW:
    """`mnist_minimal.optimizers.AdamW`, whose `weight_decay` is not multiplied by the learning rate."""

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
class WorseHalf:
    """Stops, once `trials` trials of a study are known, those in their worse half at epoch `epoch`.

    A trial's figure there is the mean of its validation accuracies in the `window` epochs that end with `epoch`.
    """

    trials: int
    epoch: int
    window: int


@dataclass(frozen=True)
class Augmentation:
    """What is done anew to every training image in every epoch; each number is drawn uniformly from its range.

    The image is first turned, scaled and shifted in one resampling, then padded and cropped, then changed in contrast
    and brightness; `mnist_minimal.augment` says precisely how. Pixels are those of the data set, 0 .. 255.

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
        worse_half: Which trials of a study the source does not train to their end.
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
    worse_half: WorseHalf | None = None

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


_SMALL_SOURCE = "README 'MNIST Small Model' of a course's assignment; the repository is not known any more"
_SMALL_ASSUMED = (
    "The momentum is 0.9, as is the custom.",
    "The batch has 128 images, and no weight decays.",
    "Pixels are normalised by mean 0.1307 and standard deviation 0.3081.",
    "The first weights are PyTorch's.",
)
_SMALL_AUGMENTATION = Augmentation(rotation=6, translation=0.1, interpolation="nearest")
_SMALL_AUGMENTATION_ASSUMED = ("The images are resampled by torchvision's defaults: the nearest pixel, black outside.",)

RECIPES = {
    "conv18242": Recipe(
        model="conv18242",
        source="https://github.com/cr21/mnist-less-than-25k, mnist.py",
        assumed=("The source rotates, then shifts; here both are one resampling, the same but at the border.",),
        batch_size=128,
        drop_remainder=False,
        max_epochs=20,
        optimizer=Adam(learning_rate=0.001),
        # The source augments images that are normalised already, so what it fills with 0 is the mean pixel's grey.
        augmentation=Augmentation(rotation=10, translation=0.1, interpolation="nearest", fill=0.1307 * 255),
    ),
    "gap13914": Recipe(
        model="gap13914",
        source="https://github.com/hassiahk/EVA6-Phase1-Assignments, Session4-BackProp_ArchitecturalBasics/"
        "Part2-Model_w_lt_20k_Params/EVA_4_session_optimisation_MNIST.ipynb",
        assumed=(),
        batch_size=128,
        drop_remainder=False,
        max_epochs=20,
        optimizer=SGD(learning_rate=0.018, momentum=0.9),
        augmentation=Augmentation(rotation=20, translation=0.1, scale=(0.9, 1.1), interpolation="nearest", crop=1),
    ),
    "antman9954": Recipe(
        model="antman9954",
        source="https://github.com/namanshrimali/TSAI_EVA, S4/MNIST_My_Edit_10k_Params_Success.ipynb",
        assumed=(),
        batch_size=128,
        drop_remainder=False,
        max_epochs=19,
        optimizer=SGD(learning_rate=0.01, momentum=0.9),
    ),
    "small8624": Recipe(
        model="small8624",
        source=_SMALL_SOURCE,
        assumed=_SMALL_ASSUMED + _SMALL_AUGMENTATION_ASSUMED,
        batch_size=128,
        drop_remainder=False,
        max_epochs=15,
        optimizer=SGD(learning_rate=0.01, momentum=0.9),
        augmentation=_SMALL_AUGMENTATION,
    ),
    "small7384": Recipe(
        model="small7384",
        source=_SMALL_SOURCE,
        assumed=_SMALL_ASSUMED + _SMALL_AUGMENTATION_ASSUMED,
        batch_size=128,
        drop_remainder=False,
        max_epochs=15,
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        schedule=Steps(factor=0.1, after=(6, 13)),
        augmentation=_SMALL_AUGMENTATION,
    ),
    "small7344": Recipe(
        model="small7344",
        source=_SMALL_SOURCE,
        assumed=_SMALL_ASSUMED,
        batch_size=128,
        drop_remainder=False,
        max_epochs=15,
        optimizer=SGD(learning_rate=0.01, momentum=0.9),
    ),
    "pyramid3762": Recipe(
        model="pyramid3762",
        source="https://github.com/woolly-of-cv/pytorch-examples, mnist/notebook/MNIST_ALBUMENTATION_3762_99.52.ipynb",
        assumed=(
            "There is no momentum, as in the source's code; its notebook names 0.9 without handing it on, and the log "
            "of the published run looks as if there had been some (experiments/LOG.md).",
            "The learning rate changes between epochs; in the source the last few batches of an epoch, at most 14 of "
            "1,875, have the next epoch's already.",
            "Images are mirrored at their border, as albumentations did by default at the time; the source names no "
            "version.",
        ),
        batch_size=32,
        drop_remainder=False,
        max_epochs=15,
        optimizer=SGD(learning_rate=0.05, momentum=0.0),
        # As the notebook's log prints the rates of the run that reached 0.9952; the source's code, changed after that
        # run, has 0.0025 at epoch 12.
        schedule=PiecewiseLinear(((0, 0.05), (2, 0.1), (8, 0.01), (12, 0.005), (15, 0.0))),
        augmentation=Augmentation(
            rotation=7,
            translation=0.09,
            scale=(0.91, 1.09),
            affine_share=0.5,
            interpolation="bilinear",
            fill="reflect",
            brightness=0.2,
            contrast=0.2,
            tone_share=0.5,
        ),
    ),
    "shared1936": Recipe(
        model="shared1936",
        source="https://github.com/ruslangrimov/mnist-minimal-model, 1936/model.txt",
        assumed=(
            "Optimizer, batch size and validation split are those that the source prints for its other models; of this "
            "one only the 75 epochs are known.",
        ),
        batch_size=32,
        drop_remainder=False,
        max_epochs=75,
        optimizer=Adam(learning_rate=0.001),
        validation_share=0.1,
    ),
    "sep997": Recipe(
        model="sep997",
        source="https://github.com/JoshWarn/Parameter-Efficient-MNIST, 997_99.05.py",
        assumed=(),
        batch_size=128,
        drop_remainder=True,
        max_epochs=200,
        optimizer=AdamW(learning_rate=0.01, weight_decay=1e-6),
        schedule=Plateau(factor=0.1, patience=8, min_delta=1e-16, min_learning_rate=1e-8),
        early_stopping=EarlyStopping(patience=25),
    ),
    "sep697": Recipe(
        model="sep697",
        source="https://github.com/JoshWarn/Parameter-Efficient-MNIST, nn_training_framework.py",
        assumed=(),
        batch_size=256,
        drop_remainder=True,
        max_epochs=2000,
        optimizer=AdamW(learning_rate=0.01, weight_decay=1e-6),
        schedule=Plateau(factor=0.25, patience=50, min_delta=1e-16, min_learning_rate=2.5e-5),
        early_stopping=EarlyStopping(patience=150),
        worse_half=WorseHalf(trials=30, epoch=100, window=3),
    ),
}
