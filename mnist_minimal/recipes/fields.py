"""What the fields of a recipe take: a value checked against a field's type, from Python or as JSON has it."""

import difflib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mnist_minimal.errors import UserError, plain

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null (None)"}

# The value is not of this form at all; another form of the same field may take it.
_NOT_TAKEN = object()


@dataclass(frozen=True)
class Range:
    """Bounds of a number: at least `low`, at most `high` and less than `below`."""

    low: float = 0
    high: float = float("inf")
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.below is None or value < self.below)

    def __str__(self) -> str:
        if self.below is not None:
            return f"from {self.low:g} to less than {self.below:g}"
        return f"of at least {self.low:g}" if self.high == float("inf") else f"from {self.low:g} to {self.high:g}"


def check_fields(part: Any) -> None:
    """Makes the values of a frozen dataclass those of their fields' types, to be called from its `__post_init__`.

    Raises:
        UserError: naming the first field whose value is of another type or outside its range.
    """
    for name, hint in hints(type(part)).items():
        value = checked(getattr(part, name), hint, f"{type(part).__name__}.{name}")
        object.__setattr__(part, name, value)


def hints(kind: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, but for those that are no arguments of comparison."""
    found = get_type_hints(kind, include_extras=True)
    return {each.name: found[each.name] for each in fields(kind) if each.compare}


def checked(value: Any, hint: Any, name: str) -> Any:
    """A value as a type has it: whole numbers become floats where numbers are meant, lists tuples, dictionaries parts.

    Args:
        value: A value of the type, or of JSON's types as `Recipe.as_dict` gives it.
        hint: The field's type, one of those that recipes have.
        name: The field, for an error.

    Raises:
        UserError: if it is none.
    """
    kinds, given = part_kinds(hint), value
    if kinds and value is not None and not isinstance(value, tuple(kinds)):
        mapping = as_mapping(value, hint)
        given = value if mapping is None else mapping
    for form in _forms(hint):
        found = _taken(given, form, name)
        if found is not _NOT_TAKEN:
            return found
    raise UserError(f"{name}: expected {described(hint)}, found {plain(repr(value), 100)}")


def changed(value: Any, hint: Any, paths: Mapping[tuple[str, ...], Any], name: str) -> Any:
    """A part with some of its fields set, to be handed to `checked`; its other fields stay.

    Args:
        value: The part, or what `checked` makes one of; None where the field has but one kind of part.
        hint: The field's type.
        paths: The new values, by the names that lead to each from here; () for the part as a whole.
        name: The field, for an error.

    Raises:
        UserError: if there are no such fields.
    """
    value = paths.get((), value)
    deeper = {path: new for path, new in paths.items() if path}
    if not deeper:
        return value
    content = as_mapping(value, hint)
    if content is None:
        kinds = ", ".join(kind.__name__ for kind in part_kinds(hint))
        step = f"set {name} to one of {kinds} as well" if kinds else f"set {name} itself"
        raise UserError(
            f"{name}.{'.'.join(next(iter(deeper)))}: expected {name} to have fields, found {plain(repr(value), 60)}; "
            f"{step}"
        )
    for path, new in deeper.items():
        # Of what Keras makes, the fields are those of its configuration.
        place = content
        if content["kind"] == KerasObject.__name__ and path[0] not in hints(KerasObject):
            place = content["config"] = dict(content["config"])
        for step in path[:-1]:
            inner = place.get(step)
            if not isinstance(inner, Mapping):
                raise UserError(
                    f"{name}.{'.'.join(path)}: expected {step} to have fields, found none; set it as a whole"
                )
            place[step] = dict(inner)
            place = place[step]
        place[path[-1]] = new
    return content


def as_mapping(value: Any, hint: Any) -> dict[str, Any] | None:
    """A part as a dictionary of its fields and its `kind`; None for what is no part."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **{each.name: getattr(value, each.name) for each in fields(value)}}
    kinds = part_kinds(hint)
    if value is None and len(kinds) == 1:
        return {"kind": kinds[0].__name__}
    if isinstance(value, str):
        name = _kind_named(value, kinds)
        if name is not None:
            return {"kind": name}
    if KerasObject in kinds:
        value = _keras_data(value)
    if isinstance(value, Mapping):
        kind = {"kind": kinds[0].__name__} if len(kinds) == 1 else {}
        return {**kind, **value}
    return None


def part_kinds(hint: Any) -> list[type]:
    """The dataclasses among the forms of a type."""
    return [form for form in _forms(hint) if is_dataclass(form) and isinstance(form, type)]


def described(hint: Any) -> str:
    """A type in words."""
    words: list[str] = []
    for form in _forms(hint):
        origin = get_origin(form)
        if origin is Annotated:
            kind, bounds = get_args(form)
            words.append(f"{_WORDS[kind]} {bounds}")
        elif origin is Literal:
            words += [str(choice) for choice in get_args(form)]
        elif origin is tuple:
            words.append("a list")
        elif form is KerasObject:
            words.append("the name of one of Keras'")
        else:
            words.append("fields by name" if origin is dict else _WORDS.get(form, form.__name__))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def nearest(name: str, names: Sequence[str]) -> str:
    """The one of some names that is most like another; "" where none is."""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else ""


def _forms(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _taken(value: Any, form: Any, name: str) -> Any:
    """A value as one form of a type has it, or _NOT_TAKEN."""
    origin, arguments = get_origin(form), get_args(form)
    if origin is Annotated:
        number = _taken(value, arguments[0], name)
        if number is not _NOT_TAKEN and number not in arguments[1]:
            raise UserError(f"{name}: expected {described(form)}, found {value}")
        return number
    if origin is Literal:
        return value if value in arguments else _NOT_TAKEN
    if origin is tuple:
        return _items(value, arguments, name)
    if origin is dict:
        return _plain_json(value, name) if isinstance(value, Mapping) else _NOT_TAKEN
    if is_dataclass(form) and isinstance(form, type):
        return value if isinstance(value, form) else _part(value, form, name)
    if form in (int, float):
        number_kind = Integral if form is int else Real
        return form(value) if isinstance(value, number_kind) and not isinstance(value, bool) else _NOT_TAKEN
    return value if isinstance(value, form) else _NOT_TAKEN


def _items(value: Any, arguments: tuple[Any, ...], name: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _NOT_TAKEN
    each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
    if len(each) != len(value):
        raise UserError(f"{name}: expected a list of {len(each)}, found {len(value)}")
    return tuple(
        checked(item, hint, f"{name}[{index}]") for index, (item, hint) in enumerate(zip(value, each, strict=True))
    )


def _part(value: Any, kind: type, name: str) -> Any:
    """A part of a kind from a dictionary of its fields and of that `kind`."""
    if not isinstance(value, Mapping) or value.get("kind") != kind.__name__:
        return _NOT_TAKEN
    known = hints(kind)
    given = {key: item for key, item in value.items() if key != "kind"}
    for key in given:
        if key not in known:
            near = nearest(key, list(known))
            raise UserError(
                f"{name}.{key}: {kind.__name__} has no such field; "
                f"{f'the nearest is {near}; ' if near else ''}there are {', '.join(known)}"
            )
    required = [each.name for each in fields(kind) if each.default is each.default_factory is MISSING]
    missing = [key for key in required if key not in given]
    if missing:
        raise UserError(f"{name}: {kind.__name__} takes {', '.join(known)}, found no {', '.join(missing)}; give each")
    return kind(**{key: checked(item, known[key], f"{name}.{key}") for key, item in given.items()})


def _kind_named(name: str, kinds: Sequence[type]) -> str | None:
    """The kind of part that a name means, in any case."""
    return next((kind.__name__ for kind in kinds if kind.__name__.lower() == name.lower()), None)


def _keras_data(value: Any) -> Any:
    """What Keras makes, as the data of a KerasObject: from its name, its serialized form or the object itself."""
    if isinstance(value, str) and value:
        return {"kind": KerasObject.__name__, "class_name": value.rpartition(".")[2], "config": {}}
    if isinstance(value, Mapping) and "class_name" in value and "kind" not in value:
        name, registered = value["class_name"], value.get("registered_name")
        custom = isinstance(registered, str) and ">" in registered
        config = _without_names(value.get("config", {}))
        return {"kind": KerasObject.__name__, "class_name": registered if custom else name, "config": config}
    # An object of Keras' is there only where Keras is, which is not imported for a recipe's sake.
    keras = sys.modules.get("keras")
    if keras is not None and callable(getattr(value, "get_config", None)) and not isinstance(value, type):
        return _keras_data(keras.saving.serialize_keras_object(value))
    return value


def _without_names(config: Any) -> Any:
    """What Keras serialized without names, which it counts on with every optimizer that it makes, as "sgd_6"."""
    if not isinstance(config, Mapping):
        return config
    if isinstance(config.get("class_name"), str):
        data = _keras_data(config)
        return {"class_name": data["class_name"], "config": data["config"]}
    return {key: _without_names(value) for key, value in config.items() if key != "name"}


def _plain_json(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A dictionary of JSON's types, objects of Keras' in it as what Keras writes for them."""

    def default(inner: Any) -> Any:
        if isinstance(inner, Integral):
            return int(inner)
        if isinstance(inner, Real):
            return float(inner)
        data = _keras_data(inner)
        if data is inner:
            raise TypeError(f"a {type(inner).__name__}")
        return {"class_name": data["class_name"], "config": data["config"]}

    try:
        return json.loads(json.dumps(value, default=default))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{name}: expected numbers, texts, lists and dictionaries, found {plain(str(error), 100)}"
        ) from error


@dataclass(frozen=True)
class KerasObject:
    """An optimizer, a learning rate schedule or a callback of Keras', as data.

    Attributes:
        class_name: Its class: of Keras' own the name in Keras, as "Lion"; of one registered with
            `keras.saving.register_keras_serializable`, "package>Name".
        config: The arguments of the class, by name, of JSON's types; what is missing is as Keras has it by default.
    """

    class_name: str
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
