"""Trained models in files: `.h5` and `.keras`, written so that a crash leaves no half a file, read without trust.

A file may come from anywhere, and from any Keras. All that is taken from it are names, a description of the
architecture as plain JSON, and arrays of numbers; the model is made by a builder whose network the file describes, or
layer by layer of Keras' own classes. Nothing in a file is run, unpickled or made into an object.
"""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_minimal import content, files
from mnist_minimal.errors import UserError, one_line
from mnist_minimal.saving.assignment import Pairs, assignment
from mnist_minimal.saving.child import OTHER_FILE
from mnist_minimal.saving.identify import Builders, all_layers, by_arrays, by_computation, parts_for, published
from mnist_minimal.saving.layouts import Stored, stored
from mnist_minimal.saving.reader import MAX_FILE_BYTES, READER
from mnist_minimal.saving.translation import Net, translate
from mnist_minimal.saving.wiring import foreign_layers, wire
from mnist_minimal.training.seeding import seeded

# More than a model's file has beside its numbers: its description and the headers of its arrays.
ROOM = 1_000_000

# What to do with files of other kinds.
STEPS = {
    **content.STEPS,
    content.PICKLE: "a pickle may run any code and is never opened: save the model with model.save('model.keras')",
    content.JSON: "name the file of the weights, and leave the description beside it",
}

# Of the texts beside a file of weights that may describe it.
MAX_DESCRIPTIONS = 20

PROBABILITIES, LOGITS, SIGMOIDS = "probabilities", "logits", "sigmoids"


@dataclass(frozen=True)
class LoadedModel:
    """A model from a file, and what is known of it.

    Attributes:
        model: Built and not compiled. Its input has the shape that the file says, or (28, 28, 1) for a builder's.
        layout: How the file stores it, one of `layouts.LAYOUTS`.
        keras_version: The version of Keras that wrote it, "0", "1" or "3" where it says none but is of that one.
        name: The builder whose network it is, or None.
        raw_pixels: Whether it is known to take pixels 0 .. 255 as they are: it is a builder's that is published or
            has a Rescaling in front. Of others the file does not say how the images were scaled: `pixels.decide`.
        outputs: PROBABILITIES that sum to 1; LOGITS; or SIGMOIDS, probabilities of each class by itself.
        turned: The same with the kernels turned by 180 degrees, where the file does not say whose convolution they are
            for (Keras 0), else None.
        description: The JSON beside a file of weights that described it, or None.
    """

    model: keras.Model
    layout: str
    keras_version: str
    name: str | None
    raw_pixels: bool
    outputs: str
    turned: keras.Model | None = None
    description: Path | None = None


def check_size(model: keras.Model, path: str | Path) -> None:
    """Makes sure that `load` would open the file that `save` would write; to be asked before a model is trained.

    Raises:
        UserError: if the model has too many parameters.
    """
    size = ROOM + 4 * model.count_params()
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path}: found a model of {model.count_params():,} parameters; expected one whose file has at most "
            f"{MAX_FILE_BYTES:,} bytes, which is what can be loaded again"
        )


def save(model: keras.Model, path: str | Path) -> None:
    """Writes a model, without the state of its optimizer, in Keras' own format by the ending of the path.

    The file is written in full under another name in the same folder and then takes its place in one step. Room for it
    is made sure of before: the HDF5 library does not survive a disk that fills up under it.

    Args:
        model: A built functional or sequential model with one input and one output.
        path: Ends in `.h5` or `.keras`; what is there is replaced.

    Raises:
        UserError: if the path has another ending or can't be written to, or the file would be too large for `load`.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".h5", ".keras"):
        raise UserError(f"{path}: expected a name that ends in .h5 or .keras, found {path.suffix or 'no ending'}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: expected a place to write a model to, found: No such file or directory")
    check_size(model, path)
    # The same layers without what `compile` adds, which Keras would write down too. A sequential model has no `input`.
    bare = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    try:
        with files.atomic_write(path) as temporary, _without_legacy_warning():
            with temporary.open("wb") as file:
                file.write(bytes(ROOM + 4 * model.count_params()))
                os.fsync(file.fileno())
            bare.save(temporary)
    except RuntimeError as error:
        raise UserError(f"{path}: expected a place to write a model to, found: {one_line(error)[:200]}") from error


def needs_code(model: keras.Model) -> list[str]:
    """The layers of a model whose code a file of it does not hold; to be told before it is trained.

    Returns:
        Their names, each a Lambda or of a class that is not Keras' own, with the class: "twice (Lambda)".
        Where there are any, `load` reads the file with the builder or with `custom_objects` only.
    """
    net = translate(json.loads(model.to_json()), 3)
    return [f"{spec.name} ({spec.written})" for spec in foreign_layers(net)]


def load(
    path: str | Path,
    builders: Mapping[str, Callable[[], keras.Model]] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model:
    """The model in a file that any version of Keras saved; see `load_described`, which says more about it.

    Raises:
        UserError: as `load_described`.
    """
    return load_described(path, builders, custom_objects).model


def load_described(
    path: str | Path,
    builders: Mapping[str, Callable[[], keras.Model]] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The model in a file that any version of Keras saved, with what is known of it.

    Reads full models (`.h5`, `.keras`), and weights only (`.h5`, `.weights.h5`) where a builder has those arrays or
    the JSON that describes them lies beside them. Where a description in the file computes what a builder's model does,
    it becomes that model; where it computes what none does, a model is made of it.

    Args:
        path: The file.
        builders: The models that it may hold, by name, each builder returning a new, built model; the file must hold
            one of them, but for a Rescaling in front and a softmax behind. None for any model, MODELS among them.
        custom_objects: The user's own classes, layers and functions by the names that the file has for them: of a
            class, of the function or the layer of a Lambda, of an activation.

    Raises:
        UserError: if the file can't be read or is damaged, if it has a class that is neither Keras' nor given, if it is
            of weights only and nothing tells whose; or if it holds none of `builders`.
    """
    path = Path(path).expanduser()
    if (path / "saved_model.pb").exists():
        raise UserError(
            f"{path}: found a SavedModel of TensorFlow, whose graph is code; expected a .h5 or .keras file: load it "
            "with the TensorFlow that saved it (up to 2.15), and save it as .h5"
        )
    try:
        data = files.read(path, MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: found no file of this name, expected one of a model; check the name") from error
    first = data[: content.FIRST_BYTES]
    if content.kind_of(first) not in (content.HDF5, content.ZIP):
        expected = "a model saved by Keras (.h5 or .keras)"
        raise UserError(f"{path}: {content.refusal(first, expected, OTHER_FILE, STEPS)}")
    try:
        found = stored(READER.read(data))
        del data
        # What layers draw as they are made is overwritten, and the caller's random numbers are not to go into it.
        with seeded(0):
            if found.config is not None:
                return _described(found, builders, custom_objects, None)
            return _of_weights(path, found, builders, custom_objects)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _described(
    found: Stored, builders: Builders | None, custom_objects: Mapping[str, Any] | None, description: Path | None
) -> LoadedModel:
    """The model of a file with a description."""
    net = translate(found.config, found.major)
    candidates = published(found.elements()) if builders is None else builders
    try:
        name, places = by_computation(net, candidates, may_add=builders is not None)
    except UserError:
        if builders is not None:
            raise
        return _wired(found, net, custom_objects, description)
    model = candidates[name]()
    _fill(model, assignment(parts_for(net, all_layers(model), places), found, found.theano))
    return _loaded(found, model, name, builders, description)


def _wired(found: Stored, net: Net, custom_objects: Mapping[str, Any] | None, description: Path | None) -> LoadedModel:
    """The model that a file describes, made of Keras' layers."""
    model, parts = wire(net, found.elements(), custom_objects)
    _fill(model, assignment(parts, found, found.theano))
    loaded = _loaded(found, model, None, None, description)
    if found.backend is not None or found.major > 0:
        return loaded
    turned, parts = wire(net, found.elements(), custom_objects)
    _fill(turned, assignment(parts, found, not found.theano))
    return dataclasses.replace(loaded, turned=turned)


def _of_weights(
    path: Path, found: Stored, builders: Builders | None, custom_objects: Mapping[str, Any] | None
) -> LoadedModel:
    """The model of a file of weights only: a builder's that has such arrays, or that of a description beside it."""
    try:
        name, model, pairs = by_arrays(found, published(found.elements()) if builders is None else builders)
    except UserError as error:
        for beside, description in _descriptions(path) if builders is None else ():
            version = found.version
            if "." not in version and isinstance(description.get("keras_version"), str):
                version = description["keras_version"]
            backend = found.backend or description.get("backend")
            whole = dataclasses.replace(found, config=description, version=version, backend=backend)
            with contextlib.suppress(UserError):
                return _described(whole, None, custom_objects, beside)
        raise UserError(
            f"found weights without a description, by Keras {found.version}: {error}; give the function that builds "
            "their model with --model or builders=, or put its JSON beside them"
        ) from error
    _fill(model, pairs)
    return _loaded(found, model, name, builders, None)


def _descriptions(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The texts beside a file of weights that describe a model, first the one of its name."""
    beside = sorted(path.parent.glob("*.json"), key=lambda other: (other.stem != path.name.split(".")[0], other.name))
    found = []
    for other in beside[:MAX_DESCRIPTIONS]:
        with contextlib.suppress(UserError, OSError):
            description = files.read_json(other)
            if isinstance(description, str):
                # `json.dump(model.to_json(), file)` packs the text once more.
                with contextlib.suppress(ValueError, RecursionError):
                    description = json.loads(description)
            if isinstance(description, dict) and {"config", "layers"} & description.keys():
                found.append((other, description))
    return found


def _fill(model: keras.Model, pairs: Pairs) -> None:
    """Gives a model's weights their numbers, each once."""
    given = [id(variable) for variable, _ in pairs]
    if sorted(given) != sorted(id(variable) for variable in model.weights):
        raise UserError(f"expected arrays for {len(model.weights)} weights, found those of {len(set(given))} of them")
    for variable, values in pairs:
        variable.assign(values)


def _loaded(
    found: Stored, model: keras.Model, name: str | None, builders: Builders | None, description: Path | None
) -> LoadedModel:
    """A model with what is known of it."""
    layers = all_layers(model)
    for layer in layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    raw = name is not None and (builders is None or any(isinstance(x, keras.layers.Rescaling) for x in layers))
    return LoadedModel(model, found.layout, found.version, name, raw, kind_of_outputs(model), description=description)


def kind_of_outputs(model: keras.Model) -> str:
    """What a model's outputs are, by what it makes of noise of several brightnesses.

    Returns:
        PROBABILITIES where they sum to 1, LOGITS where one is outside [0, 1], else SIGMOIDS.
    """
    noise = np.random.default_rng(0).random((16, *model.input_shape[1:]), np.float32)
    brightness = np.geomspace(1 / 255, 255, 16, dtype=np.float32).reshape(16, *[1] * (noise.ndim - 1))
    try:
        outputs = keras.ops.convert_to_numpy(model(noise * brightness, training=False))
    except Exception as error:
        # As Embedding does; what a backend raises is not Keras' own.
        raise UserError(
            f"expected a model that takes images, found one that fails on them ({one_line(error)})"
        ) from error
    if outputs.min() < 0 or outputs.max() > 1 + 1e-3:
        return LOGITS
    return PROBABILITIES if np.allclose(outputs.sum(axis=-1), 1, atol=1e-2) else SIGMOIDS


@contextlib.contextmanager
def _without_legacy_warning() -> Iterator[None]:
    """Keeps back the one line in which Keras calls `.h5` legacy; it is what the users of these models have."""
    logger = logging.getLogger("absl")

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("You are saving your model as an HDF5 file")

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
