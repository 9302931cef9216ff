"""The published training recipes, as data.

A recipe says how a model is trained: optimizer, schedule, stopping, batches, augmentation. It holds no Keras object, so
that it can be written beside the results as JSON and read without Keras; `mnist_minimal.training` turns it into what it
describes. Epochs are counted from 1 where they are counted. A part checks its values when it is made: one of another
type, or out of its range, is a UserError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

from mnist_minimal.errors import UserError
from mnist_minimal.recipes.fields import KerasObject, Range, changed, check_fields, checked, hints, nearest

Count = Annotated[int, Range(1)]
Patience = Annotated[int, Range(0)]
LearningRate = Annotated[float, Range(0)]
Size = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Decrease = Annotated[float, Range(0, below=1)]


class Part:
    """What checks the values of its fields when it is made."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class AdamW(Part):
    """`mnist_minimal.training.optimizers.AdamW`, whose `weight_decay` is not multiplied by the learning rate."""

    learning_rate: LearningRate
    weight_decay: Decrease


@dataclass(frozen=True)
class Adam(Part):
    """`keras.optimizers.Adam`."""

    learning_rate: LearningRate


@dataclass(frozen=True)
class SGD(Part):
    """`keras.optimizers.SGD`: v = momentum * v - learning_rate * gradient, added to the weights."""

    learning_rate: LearningRate
    momentum: Share


@dataclass(frozen=True)
class SOAP(Part):
    """`mnist_minimal.training.optimizers.SOAP`: Adam along the eigenvectors of each layer's covariance of gradients."""

    learning_rate: LearningRate


@dataclass(frozen=True)
class Plateau(Part):
    """`keras.callbacks.ReduceLROnPlateau` on the validation loss.

    After `patience` epochs without a validation loss lower by more than `min_delta`, the learning rate is multiplied by
    `factor`, but never falls under `min_learning_rate`.
    """

    factor: Decrease
    patience: Patience
    min_delta: Size
    min_learning_rate: LearningRate


@dataclass(frozen=True)
class Steps(Part):
    """The learning rate is multiplied by `factor` after each of the epochs `after`."""

    factor: Size
    after: tuple[Count, ...]


@dataclass(frozen=True)
class PiecewiseLinear(Part):
    """The learning rate follows straight lines through points (finished epochs, learning rate), set once an epoch."""

    points: tuple[tuple[Size, LearningRate], ...]


@dataclass(frozen=True)
class ByStep(Part):
    """The learning rate is set for every step: it rises in a straight line, then follows a course to its floor.

    The peak is the optimizer's learning rate. Of all n steps, which are those of `max_epochs` epochs whatever the cap
    on them is, the first w = round(warm_up * n) warm up, and the course has come down to its floor after
    e = round(floor_from * n). Step t, counted from 0, is taken with this share of the peak:

        start + (1 - start) * t / w                                 where t < w,
        floor + (1 - floor) * (1 + cos(pi * x)) / 2   "cosine",     where x = min(1, (t - w) / (e - w)),
        floor + (1 - floor) * (1 - x)                 "linear",
        1                                             "constant".

    The cosine is that of I. Loshchilov and F. Hutter, "SGDR", https://arxiv.org/abs/1608.03983, without restarts; with
    the warm-up it is `keras.optimizers.schedules.CosineDecay` with a `warmup_target`.

    Attributes:
        course: The course after the warm-up.
        warm_up: Share of all steps that warm up.
        start: The first step's share of the peak.
        floor: The share of the peak that the course comes down to; a constant one does not.
        floor_from: Share of all steps after which the rate stays at the floor, at least that of the warm-up; with 1 the
            course ends with the training.
    """

    course: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: Share = 0.05
    start: Share = 0.1
    floor: Share = 0.0
    floor_from: Share = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor_from < self.warm_up:
            raise UserError(
                f"ByStep: expected floor_from of at least the warm-up, {self.warm_up:g}, after which the rate falls, "
                f"found {self.floor_from:g}; raise floor_from or lower warm_up"
            )


@dataclass(frozen=True)
class Averaging(Part):
    """The model that is kept is the plain mean of the weights after every step of the last part of the training.

    Of all n steps, which are those of `max_epochs` epochs whatever the cap on them is, step t, counted from 0, is the
    first whose weights count, t = min(round(start * n), n - 1). The mean is of all weights and, of batch
    normalisation, of the moving statistics after these steps, each summed in double precision, by JAX as a running mean
    in single. From the epoch on in which step t is, the figures of the monitored images are those of the mean so far;
    the training figures are always those of the last weights, from which the training goes on. A training that a cap
    ends before step t keeps its last weights.

    Averages of the course of stochastic gradient descent: B. Polyak and A. Juditsky, "Acceleration of stochastic
    approximation by averaging", https://doi.org/10.1137/0330046; of networks, P. Izmailov et al., "Averaging weights
    leads to wider optima and better generalization", https://arxiv.org/abs/1803.05407.

    Attributes:
        start: Share of all steps after which averaging begins.
    """

    start: Decrease = 0.6


@dataclass(frozen=True)
class EarlyStopping(Part):
    """`keras.callbacks.EarlyStopping` on the validation accuracy; the weights of the best epoch are restored."""

    patience: Patience


@dataclass(frozen=True)
class MedianStopping(Part):
    """Stops, once `trials` trials of a study are known, those in their median stopping at epoch `epoch`.

    A trial's figure there is the mean of its validation accuracies in the `window` epochs that end with `epoch`.
    """

    trials: Count
    epoch: Count
    window: Count


@dataclass(frozen=True)
class Augmentation(Part):
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

    rotation: Annotated[float, Range(0, 360)] = 0.0
    translation: Size = 0.0
    scale: tuple[Size, Size] = (1.0, 1.0)
    affine_share: Share = 1.0
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    crop: Annotated[int, Range(0)] = 0
    fill: float | Literal["reflect"] = 0.0
    brightness: Size = 0.0
    contrast: Size = 0.0
    tone_share: Share = 1.0


@dataclass(frozen=True)
class Teacher(Part):
    """What of a training image's target is a teacher's: its probabilities for the image as it is, augmented or not.

    The target is weight * probabilities + (1 - weight) * label, the label as 1 for its class and 0 for the others.

    Attributes:
        sha256: The SHA-256 of the teacher's file, in hexadecimal digits, as `mnist_minimal.teacher` writes it; "" until
            the file is given.
        weight: The teacher's share of the target.
    """

    sha256: str = ""
    weight: Share = 0.5


# What a variation of a recipe keeps.
_NAMES = ("model", "name")

# Fields that are younger than published files, by the part that has them, with their defaults, at which `as_dict`
# leaves them out: a recipe without them is written, and named by its content, as it was before there were any.
_ADDED: dict[str, dict[str, Any]] = {"Recipe": {"averaging": None}, "ByStep": {"floor_from": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Recipe(Part):
    """How one model is trained.

    Attributes:
        model: Name of the model in `mnist_minimal.models.MODELS` that the recipe was made for, by which the recipe is
            known too unless it has a name; "" for one of one's own.
        name: Name of a recipe that is another than the model's own; "" for that.
        source: Where the recipe was published.
        assumed: What the source leaves unsaid and this recipe fills in, one sentence each.
        batch_size: Images per step.
        drop_remainder: Whether a last, smaller batch of an epoch is left out.
        max_epochs: Epochs after which training ends if nothing else ended it.
        optimizer: The optimizer at its first learning rate; any of Keras' as a KerasObject.
        schedule: The learning rate's course; None leaves it as it is. A KerasObject is one of
            `keras.optimizers.schedules`, which counts steps and takes the place of the optimizer's own learning rate.
        dropout: Rate of all the model's dropout layers; None leaves each as the model's builder has it.
        early_stopping: When training ends before `max_epochs`, with the best epoch's weights; None trains to the end
            and keeps the last epoch's.
        averaging: From when on the weights are averaged, whose mean is kept; None keeps those of one epoch. Neither
            early stopping nor a plateau goes with it: both follow figures that averaging changes on the way.
        augmentation: What is done to the training images.
        teacher: Whose probabilities are part of the targets; None where the labels alone are learned.
        validation_share: The last part of the training set, as a share of it, that the source holds out to monitor; 0
            where it monitors the test set.
        median_stopping: Which trials of a study the source does not train to their end.
        callbacks: More of `keras.callbacks`, made again for each trial. What they remember is in no checkpoint: a trial
            that has some starts again where it was stopped.
        origin: The recipe of which this one is a variation, made by `replace`; None for one that is none.
    """

    model: str = ""
    name: str = ""
    source: str = ""
    assumed: tuple[str, ...] = ()
    batch_size: Count
    drop_remainder: bool = False
    max_epochs: Count
    optimizer: AdamW | Adam | SGD | SOAP | KerasObject
    schedule: Plateau | Steps | PiecewiseLinear | ByStep | KerasObject | None = None
    dropout: Decrease | None = None
    early_stopping: EarlyStopping | None = None
    averaging: Averaging | None = None
    augmentation: Augmentation | None = None
    teacher: Teacher | None = None
    validation_share: Decrease = 0.0
    median_stopping: MedianStopping | None = None
    callbacks: tuple[KerasObject, ...] = ()
    origin: "Recipe | None" = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        own_schedule = isinstance(self.optimizer, KerasObject) and isinstance(
            self.optimizer.config.get("learning_rate"), Mapping
        )
        if own_schedule and self.schedule is not None:
            raise UserError(
                "expected one schedule of the learning rate, found one in the optimizer's configuration and "
                f"schedule {type(self.schedule).__name__}; set schedule to None or optimizer.learning_rate to a number"
            )
        if self.averaging and self.early_stopping:
            raise UserError(
                "expected averaging or early_stopping, which keeps the best epoch's weights and not a mean, found "
                "both; set one of them to None"
            )
        if self.averaging and isinstance(self.schedule, Plateau):
            raise UserError(
                "expected a schedule that does not follow the monitored figures, which averaging makes others on the "
                "way, found a Plateau; set schedule to another, such as ByStep, or averaging to None"
            )

    @property
    def known_as(self) -> str:
        """The name by which the recipe is known: its own, or its model's; "" where it has neither."""
        return self.name or self.model

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries and lists of JSON's types; a part that has variants names its `kind`.

        `averaging`, and `floor_from` of a schedule, are left out at their defaults.
        """
        return _plain_fields(self, list(hints(Recipe)))

    def replace(self, **values: Any) -> "Recipe":
        """A variation of the recipe: the fields that are named have other values, the others stay.

        A schedule by epoch is stretched with `max_epochs`, unless it is set too: what fell on half of the epochs does
        so again. One by step is of all epochs that there are. To train fewer epochs of the same course, cut the
        training instead (`--epochs`).

        Args:
            **values: By the name of a field, or of a field of a part as `**{"optimizer.learning_rate": 0.02}`. A part
                is itself, its name, or a dictionary of its fields and its `kind`, as `as_dict` gives it; of Keras also
                an optimizer or a schedule itself, its name or what Keras serializes it to.

        Raises:
            UserError: if there is no such field, or it does not take the value.

        Example:
            >>> from mnist_minimal.recipes import RECIPES
            >>> recipe = RECIPES["sep997"].replace(batch_size=256, **{"optimizer.learning_rate": 0.02})
            >>> recipe.batch_size, recipe.optimizer
            (256, AdamW(learning_rate=0.02, weight_decay=1e-06))
        """
        types = {name: hint for name, hint in hints(Recipe).items() if name not in _NAMES}
        by_field: dict[str, dict[tuple[str, ...], Any]] = {}
        for path, value in values.items():
            name, *deeper = path.split(".")
            if name not in types:
                raise self._no_field(path)
            by_field.setdefault(name, {})[tuple(deeper)] = value
        found = {
            name: checked(changed(getattr(self, name), types[name], paths, name), types[name], name)
            for name, paths in by_field.items()
        }
        if "max_epochs" in found and "schedule" not in found:
            found["schedule"] = _stretched(self.schedule, found["max_epochs"] / self.max_epochs)
        origin = self.origin or self
        varied = replace(self, **found, origin=origin)
        return origin if varied == origin else varied

    def _no_field(self, path: str) -> UserError:
        there = [
            f"{name}.{inner}" if is_dataclass(part) else name
            for name in hints(Recipe)
            if name not in _NAMES
            for part in [getattr(self, name)]
            for inner in (hints(type(part)) if is_dataclass(part) else ("",))
        ]
        near = nearest(path, there)
        return UserError(
            f"expected a field of the recipe, found {path!r}; {f'the nearest is {near}; ' if near else ''}there are "
            f"{', '.join(there)}"
        )


def _stretched(schedule: Any, factor: float) -> Any:
    """A schedule by epoch over so many times the epochs; others go by what they see, or by steps, and stay."""
    match schedule:
        case Steps(multiplier, after):
            return Steps(multiplier, tuple(max(1, round(epoch * factor)) for epoch in after))
        case PiecewiseLinear(points):
            return PiecewiseLinear(tuple((finished * factor, rate) for finished, rate in points))
    return schedule


def completed(content: dict[str, Any], kind: str) -> dict[str, Any]:
    """What `Recipe.as_dict` gives, or of a part of this kind, with the fields that are left out there."""
    return {**_ADDED.get(kind, {}), **content}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {"kind": type(value).__name__} | _plain_fields(value, [each.name for each in fields(value)])
    return value


def _plain_fields(part: Any, names: list[str]) -> dict[str, Any]:
    added = _ADDED.get(type(part).__name__, {})
    values = {name: getattr(part, name) for name in names}
    return {name: _plain(value) for name, value in values.items() if name not in added or value != added[name]}
