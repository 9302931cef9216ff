"""What is handed to the compiled core: whatever it is, a right result or a Python exception, and never a crash.

Arrays, numbers and descriptions of layers are drawn, mostly wrong ones. What is right is decided here once more, by
NumPy's own attributes: what is right must be taken, and give the result of a plain copy; what is wrong must raise
ValueError or TypeError, and leave the network as it was. Nothing here needs Keras. MNIST_MINIMAL_EXAMPLES sets the
number of examples of each test; the command that runs this with the sanitizers is in setup.py.
"""

import math
import os
import resource
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnist_minimal.training import core

# Where the core is required, its absence is a failure and no reason to skip.
if not core.available() and os.environ.get("MNIST_MINIMAL_REQUIRE_CORE") != "1":
    pytest.skip("the C++ core was not built", allow_module_level=True)

from mnist_minimal.training.core import _core

EXAMPLES = int(os.environ.get("MNIST_MINIMAL_EXAMPLES", "300"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, print_blob=True)

REFUSALS = (TypeError, ValueError)

SHAPE, CLASSES, COUNT = (6, 5, 2), 3, 20
PARAMETERS, STATISTICS = 3 * 3 * 2 * 4 + 4 + 4 + 4 + 4 * CLASSES + CLASSES, 8

LAYERS: list[dict[str, Any]] = [
    {
        "kind": "convolution",
        "in_shape": SHAPE,
        "out_shape": (6, 5, 4),
        "kernel_size": (3, 3),
        "pad": (1, 1, 1, 1),
        "kernel": 0,
        "bias": 72,
        "slope": 0.1,
    },
    {
        "kind": "batch_norm",
        "in_shape": (6, 5, 4),
        "out_shape": (6, 5, 4),
        "kernel": 76,
        "bias": 80,
        "statistics": 0,
        "epsilon": 1e-3,
        "momentum": 0.9,
    },
    {"kind": "max_pool", "in_shape": (6, 5, 4), "out_shape": (3, 2, 4), "kernel_size": (2, 2)},
    {"kind": "average_pool", "in_shape": (3, 2, 4), "out_shape": (1, 1, 4), "kernel_size": (3, 2)},
    {"kind": "convolution", "in_shape": (1, 1, 4), "out_shape": (1, 1, CLASSES), "kernel": 84, "bias": 96},
]


def made(layers: list[dict[str, Any]], **changes: Any) -> Any:
    """A network of these layers, with small weights."""
    options = {
        "input_shape": SHAPE,
        "scale": 1.0,
        "offset": 0.0,
        "parameters": PARAMETERS,
        "statistics": STATISTICS,
        "optimizer": _core.Optimizer.momentum(momentum=0.5),
        **changes,
    }
    network = _core.Network(layers=[_core.Layer(**layer) for layer in layers], **options)
    if options["parameters"]:
        values = np.random.default_rng(0).uniform(0.05, 0.3, options["parameters"])
        network.parameters = values.astype(np.float32)
    network.statistics = np.full(options["statistics"], 0.5, np.float32)
    return network


def state(network: Any) -> tuple[Any, ...]:
    arrays = (network.parameters, network.moments, network.statistics)
    return (*(array.tobytes() for array in arrays), network.steps)


IMAGES = np.random.default_rng(1).integers(0, 5, (COUNT, *SHAPE)).astype(np.uint8)
LABELS = np.random.default_rng(2).integers(0, CLASSES, COUNT).astype(np.uint8)
ORDER = np.random.default_rng(3).permutation(COUNT)

DTYPES = ["u1", "i1", "?", "<f4", ">f4", "f2", "f8", "g", "c8", "<i8", ">i8", "i4", "u8", "O", "S3", "U2", "M8[s]"]


def misaligned(array: np.ndarray) -> np.ndarray:
    """A copy at an address that is odd."""
    room = np.empty(array.nbytes + 2, np.uint8)
    begin = 1 - room.ctypes.data % 2
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def with_number(array: np.ndarray, number: float) -> np.ndarray:
    """A copy with another number somewhere, as far as its dtype can hold it."""
    copy = array.copy()
    if copy.size and copy.dtype.kind in "iuf":
        with np.errstate(all="ignore"):
            copy[np.unravel_index(copy.size // 2, copy.shape)] = np.array(number).astype(copy.dtype)
    return copy


def of_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return array.astype(np.int64).astype(dtype) if dtype.startswith("M") else array.astype(dtype)


CHANGES = st.one_of(
    st.sampled_from(DTYPES).map(lambda dtype: lambda array: of_dtype(array, dtype)),
    st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -1, 2, 3, 19, 20, 255, 2**31, 2**62, -(2**63)]).map(
        lambda number: lambda array: with_number(array, number)
    ),
    st.sampled_from(
        [
            np.asfortranarray,
            misaligned,
            read_only,
            lambda array: array[::2],
            lambda array: array[::-1],
            lambda array: array.T,
            lambda array: array[:0],
            lambda array: array[..., :0],
            lambda array: array[:-1],
            lambda array: np.concatenate([array, array]),
            lambda array: array[np.newaxis],
            lambda array: array[..., np.newaxis],
            lambda array: array[..., 0],
            lambda array: array.ravel(),
            lambda array: np.broadcast_to(array[:1], array.shape),
            lambda array: np.broadcast_to(array[:1, ...], (10**12, *array.shape[1:])),
            lambda array: array.reshape(2, -1),
            lambda array: array.view(np.ma.MaskedArray),
            lambda array: array.tolist(),
            lambda array: memoryview(np.ascontiguousarray(array)),
            lambda array: None,
            lambda array: "images",
            lambda array: 3,
        ]
    ),
)


def changed(array: np.ndarray, changes: list[Any]) -> Any:
    """The array after some changes, as far as they can be made one after the other."""
    for change in changes:
        if not isinstance(array, np.ndarray) or array.size > 10**6:
            break
        try:
            array = change(array)
        except (ValueError, TypeError, IndexError, RuntimeError):
            continue
    return array


def is_plain(array: Any, dtypes: list[type], dimensions: int) -> bool:
    """Whether the core may take the array as far as its type, order and dimensions go."""
    return (
        isinstance(array, np.ndarray)
        and any(array.dtype == np.dtype(dtype) for dtype in dtypes)
        and array.flags.c_contiguous
        and array.flags.aligned
        and array.ndim == dimensions
    )


def are_images(images: Any) -> bool:
    return (
        is_plain(images, [np.uint8, np.float32], 4)
        and images.shape[1:] == SHAPE
        and bool(np.isfinite(images.astype(np.float64)).all())
    )


def are_labels(labels: Any, count: int) -> bool:
    return is_plain(labels, [np.uint8], 1) and len(labels) == count and bool((labels < CLASSES).all())


def is_order(order: Any, count: int) -> bool:
    return is_plain(order, [np.int64], 1) and len(order) > 0 and bool(((order >= 0) & (order < count)).all())


CALLS = {
    "train": lambda network, x, y, order: network.train(
        x, y, order, batch_size=7, seed=1, epoch=2, learning_rates=1e-3, threads=2
    ),
    "compute_gradients": lambda network, x, y, order: network.compute_gradients(x, y, order),
    "evaluate": lambda network, x, y, order: network.evaluate(x, y),
    "predict": lambda network, x, y, order: network.predict(x),
}


def outcome(network: Any, call: str, *arrays: Any) -> Any:
    """What a call gives, without the seconds it took, and what it leaves."""
    result = CALLS[call](network, *arrays)
    shown = result.tobytes() if call == "predict" else result[:2]
    return shown, state(network), network.gradients.tobytes()


@FUZZ
@given(
    st.sampled_from(sorted(CALLS)),
    st.booleans(),
    *[st.lists(CHANGES, max_size=2) for _ in range(3)],
)
def test_arrays_are_taken_or_refused(
    call: str, floats: bool, of_images: list[Any], of_labels: list[Any], of_order: list[Any]
) -> None:
    images = changed(IMAGES.astype(np.float32) if floats else IMAGES, of_images)
    labels, order = changed(LABELS, of_labels), changed(ORDER, of_order)
    right = are_images(images) and len(images) > 0
    if right and call != "predict":
        right = are_labels(labels, len(images))
    if right and call in ("train", "compute_gradients"):
        right = is_order(order, len(images))
    network = made(LAYERS)
    before = state(network)
    if not right:
        with pytest.raises(REFUSALS):
            CALLS[call](network, images, labels, order)
        assert state(network) == before
        return
    # What the call has no use for may be anything.
    used = {"predict": 1, "evaluate": 2}.get(call, 3)
    arrays = [images, labels, order]
    copies = [np.array(array) for array in arrays[:used]] + arrays[used:]
    assert outcome(network, call, *arrays) == outcome(made(LAYERS), call, *copies)


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 255, 256, 257, 10**6, None, 1.5, math.nan, math.inf, -math.inf, 1e300, "1"]),
    st.tuples(st.sampled_from([1, -1]), st.integers(0, 70), st.integers(-1, 1)).map(lambda n: n[0] * 2 ** n[1] + n[2]),
)


def is_whole(number: Any, low: int, high: int) -> bool:
    return isinstance(number, int) and low <= number <= high


def is_single(number: Any) -> bool:
    """Whether it is a finite number in float32."""
    with np.errstate(over="ignore"):
        return isinstance(number, int | float) and bool(np.isfinite(np.float32(number)))


TRAINING = {
    "batch_size": lambda n: is_whole(n, 1, 2**31 - 1),
    "seed": lambda n: is_whole(n, 0, 2**64 - 1),
    "epoch": lambda n: is_whole(n, 0, 2**32 - 1),
    "learning_rates": is_single,
    "threads": lambda n: is_whole(n, 1, 2**31 - 1),
    "sum_from": lambda n: n is None or is_whole(n, 0, 2**63 - 1),
}


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(TRAINING)), NUMBERS, min_size=1))
def test_numbers_are_taken_or_refused(numbers: dict[str, Any]) -> None:
    network = made(LAYERS)
    before = state(network)
    arguments = {"batch_size": 7, "seed": 1, "epoch": 2, "learning_rates": 1e-3, **numbers}
    if all(TRAINING[name](number) for name, number in numbers.items()):
        loss, correct, seconds = network.train(IMAGES, LABELS, ORDER, **arguments)
        assert network.steps == math.ceil(COUNT / arguments["batch_size"])
        assert 0 <= correct <= COUNT
        assert seconds >= 0
        assert math.isfinite(loss) or abs(arguments["learning_rates"]) > 1
        return
    with pytest.raises(REFUSALS):
        network.train(IMAGES, LABELS, ORDER, **arguments)
    assert state(network) == before


@FUZZ
@given(NUMBERS)
def test_steps_are_taken_or_refused(number: Any) -> None:
    network = made(LAYERS, optimizer=_core.Optimizer.adam(beta_1=0.9, beta_2=0.999, epsilon=1e-7, decay=0.0))
    if is_whole(number, 0, 2**62):
        network.steps = number
        network.train(IMAGES, LABELS, ORDER, batch_size=20, seed=0, epoch=0, learning_rates=1e-3)
        assert network.steps == number + 1
        assert np.isfinite(network.parameters).all()
        return
    with pytest.raises(REFUSALS):
        network.steps = number
    assert network.steps == 0


@FUZZ
@given(st.sampled_from(["parameters", "moments", "statistics"]), st.lists(CHANGES, min_size=1, max_size=2))
def test_properties_are_taken_or_refused(name: str, changes: list[Any]) -> None:
    network = made(LAYERS)
    before = state(network)
    old = getattr(network, name)
    new = changed(old + np.float32(1), changes)
    if is_plain(new, [np.float32], getattr(new, "ndim", 0)) and new.size == old.size:
        setattr(network, name, new)
        np.testing.assert_array_equal(getattr(network, name), np.asarray(new).ravel())
        return
    with pytest.raises(REFUSALS):
        setattr(network, name, new)
    assert state(network) == before


# Descriptions of layers. Of numbers that are neither small nor absurd there are few, as they are slow to compute with.
SMALL = st.integers(-1, 6)
WEIRD = st.one_of(SMALL, SMALL, NUMBERS)
KINDS = ["convolution", "depthwise", "max_pool", "average_pool", "batch_norm", "instance_norm", "elementwise"]


def tuples(numbers: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*[numbers] * size)


def fields(numbers: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "kind": st.sampled_from([*KINDS, "lstm", ""]),
        "in_shape": tuples(numbers, 3),
        "out_shape": tuples(numbers, 3),
        "kernel_size": tuples(numbers, 2),
        "pad": tuples(numbers, 4),
        "kernel": numbers,
        "bias": numbers,
        "statistics": numbers,
        "epsilon": numbers,
        "momentum": numbers,
        "slope": st.one_of(st.floats(), numbers),
        "rate": st.one_of(st.floats(), numbers),
        "dropout_index": numbers,
    }


def run_if_made(layers: list[dict[str, Any]], **changes: Any) -> bool:
    """Builds a network and, where it is taken, runs it; whether it was taken."""
    try:
        network = made(layers, **changes)
    except REFUSALS:
        return False
    shape = changes.get("input_shape", SHAPE)
    numbers = sum(int(np.prod(layer[name])) for layer in layers for name in ("in_shape", "out_shape"))
    if numbers > 10**5 or len(network.parameters) > 10**5:
        return True
    x = np.random.default_rng(0).integers(0, 3, (17, *shape)).astype(np.uint8)
    probabilities = network.predict(x, threads=2)
    assert probabilities.shape == (17, layers[-1]["out_shape"][2])
    order, y = np.arange(17), np.zeros(17, np.uint8)
    network.compute_gradients(x, y, order)
    network.train(x, y, order, batch_size=16, seed=0, epoch=0, learning_rates=1e-6, threads=2)
    assert network.steps == 2
    assert network.evaluate(x, y)[1] <= 17
    return True


@FUZZ
@given(
    st.integers(0, len(LAYERS) - 1),
    st.sampled_from(sorted(fields(WEIRD))).flatmap(lambda name: st.tuples(st.just(name), fields(WEIRD)[name])),
    st.integers(-1, 3),
)
@example(0, ("pad", (2**31 - 1, 0, 0, 0)), 0)
@example(0, ("in_shape", (2**30, 2**30, 16)), 0)
@example(0, ("kernel_size", (2**31 - 1, 2**31 - 1)), 0)
@example(1, ("statistics", 2**63 - 1), 0)
def test_layers_with_an_odd_field_are_taken_or_refused(index: int, odd: tuple[str, Any], part: int) -> None:
    name, value = odd
    layers = [dict(layer) for layer in LAYERS]
    if isinstance(value, tuple) and part >= 0 and name in layers[index]:
        # One number of a tuple alone, or all of them.
        old = layers[index][name]
        value = tuple(new if i == part else kept for i, (new, kept) in enumerate(zip(value, old, strict=True)))
    layers[index][name] = value
    run_if_made(layers)


@st.composite
def small_chains(draw: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Layers that follow on each other more often than not, with small numbers everywhere."""
    shape = draw(tuples(st.integers(1, 5), 3))
    input_shape = shape
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        layer = {name: draw(value) for name, value in fields(SMALL).items() if draw(st.integers(0, 5)) == 0}
        kind = layer.setdefault("kind", draw(st.sampled_from(KINDS)))
        rows, columns = draw(st.integers(1, shape[0])), draw(st.integers(1, shape[1]))
        out = shape
        if kind in ("convolution", "depthwise"):
            out = (shape[0] - rows + 1, shape[1] - columns + 1, draw(st.integers(1, 9)) if kind[0] == "c" else shape[2])
            layer = {"kernel_size": (rows, columns), "kernel": draw(st.integers(0, 20)), **layer}
        elif kind.endswith("pool"):
            out = (shape[0] // rows, shape[1] // columns, shape[2])
            layer = {"kernel_size": (rows, columns), **layer}
        elif kind == "batch_norm":
            layer = {"statistics": draw(st.integers(0, 8)), "epsilon": 0.1, **layer}
        elif kind == "instance_norm":
            layer = {"kernel": 0, "bias": 1, "epsilon": 0.1, **layer}
        layers.append({"in_shape": shape, "out_shape": out, **layer})
        shape = layers[-1]["out_shape"]
        if min(shape) < 1:
            return layers, {"input_shape": input_shape}
        if draw(st.integers(0, 3)) == 0:
            layers.append({"kind": "elementwise", "in_shape": shape, "out_shape": shape})
            shape = (1, 1, int(np.prod(shape)))
    layers.append(
        {"kind": "convolution", "in_shape": shape, "kernel_size": shape[:2], "out_shape": (1, 1, 2), "kernel": 3}
    )
    return layers, {"input_shape": input_shape, "parameters": 2000, "statistics": 18}


@FUZZ
@given(small_chains())
def test_small_chains_are_taken_or_refused(chain: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    layers, changes = chain
    run_if_made(layers, **changes)


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["input_shape", "scale", "offset", "parameters", "statistics", "layers", "optimizer"]),
        st.one_of(WEIRD, tuples(WEIRD, 3)),
        min_size=1,
    )
)
def test_networks_with_odd_arguments_are_taken_or_refused(odd: dict[str, Any]) -> None:
    layers = odd.pop("layers", LAYERS)
    try:
        made(LAYERS, **odd) if layers is LAYERS else _core.Network(layers=layers)
    except REFUSALS:
        return
    assert odd.get("input_shape", SHAPE) == SHAPE
    assert is_single(odd.get("scale", 1))
    assert is_single(odd.get("offset", 0))
    assert is_whole(odd.get("parameters", PARAMETERS), PARAMETERS, 2**24)
    assert is_whole(odd.get("statistics", STATISTICS), STATISTICS, 2**24)
    assert "optimizer" not in odd


@FUZZ
@given(tuples(st.one_of(st.floats(), NUMBERS), 5))
def test_optimizers_are_taken_or_refused(numbers: tuple[Any, ...]) -> None:
    beta_1, beta_2, epsilon, decay, momentum = numbers
    for right, make in (
        (
            all(is_single(number) for number in numbers[:4]),
            lambda: _core.Optimizer.adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, decay=decay),
        ),
        (is_single(momentum), lambda: _core.Optimizer.momentum(momentum=momentum)),
    ):
        if right:
            network = made(LAYERS, optimizer=make())
            network.train(IMAGES, LABELS, ORDER, batch_size=7, seed=0, epoch=0, learning_rates=0.1)
            assert network.steps == 3
        else:
            with pytest.raises(REFUSALS):
                make()


@pytest.mark.parametrize("blocks", [[PARAMETERS], [1] * PARAMETERS, [PARAMETERS - 3, 3]])
def test_soap_takes_blocks_of_all_parameters(blocks):
    network = made(LAYERS, optimizer=_core.Optimizer.soap(blocks=blocks))
    network.steps = 198
    network.train(IMAGES, LABELS, ORDER, batch_size=7, seed=0, epoch=0, learning_rates=0.1)
    numbers = sum(size**2 for size in blocks)
    assert network.covariances.shape == network.bases.shape == (numbers,)
    assert np.isfinite(network.parameters).all()
    with pytest.raises(ValueError, match=f"expected covariances with {numbers} numbers"):
        network.covariances = np.zeros(numbers + 1)


@pytest.mark.parametrize(
    ("blocks", "refusal"),
    [
        ([0, PARAMETERS], "expected blocks of at least 1 parameter"),
        ([-PARAMETERS], "expected blocks of at least 1 parameter"),
        ([2**12 + 1], "expected blocks whose matrices have at most"),
        ([2**31 - 1], "expected blocks whose matrices have at most"),
        ([2**12, 1], "expected blocks whose matrices have at most"),
        ([], "expected blocks of all parameters"),
        ([PARAMETERS - 1], "expected blocks of all parameters"),
        ([PARAMETERS, 1], "expected blocks of all parameters"),
    ],
)
def test_soap_refuses_other_blocks(blocks, refusal):
    with pytest.raises(ValueError, match=refusal):
        made(LAYERS, optimizer=_core.Optimizer.soap(blocks=blocks))


def dense(inputs: int, outputs: int, kernel: int = 0) -> dict[str, Any]:
    return {"kind": "convolution", "in_shape": (1, 1, inputs), "out_shape": (1, 1, outputs), "kernel": kernel}


@pytest.mark.parametrize(
    ("layers", "changes"),
    [
        ([dense(2**20, 2**20)], {"input_shape": (1, 1, 2**20), "parameters": 2**40}),
        ([dense(2**12, 2**13)], {"input_shape": (1, 1, 2**12), "parameters": 2**25}),
        ([dense(2**11, 2**11)] * 30, {"input_shape": (1, 1, 2**11), "parameters": 2**22}),
        ([dense(2**21, 2)], {"input_shape": (1, 1, 2**21), "parameters": 2**22}),
        (
            [
                {
                    **LAYERS[0],
                    "in_shape": (1, 1, 1),
                    "out_shape": (1, 1, 1),
                    "kernel_size": (2**13 - 1, 2**11 - 1),
                    "pad": (2**12 - 1, 2**10 - 1, 2**12 - 1, 2**10 - 1),
                    "bias": -1,
                }
            ],
            {"input_shape": (1, 1, 1), "parameters": 2**24},
        ),
        (LAYERS, {"statistics": 2**60}),
    ],
)
def test_absurd_networks_are_refused_before_they_take_memory(
    layers: list[dict[str, Any]], changes: dict[str, Any]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"expected (at most|shapes of 1 to) 2"):
        made(layers, **changes)
    # In kilobytes on Linux: they are refused before gigabytes are taken.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_batches_that_take_all_memory_are_refused() -> None:
    """Each 16 images need a gradient of their own, here of 4 MB: 2**22 images at once 1 TiB."""
    network = made([dense(2**10, 2**10)], input_shape=(1, 1, 2**10), parameters=2**20, statistics=0)
    x, y = np.zeros((1, 1, 1, 2**10), np.uint8), np.zeros(1, np.uint8)
    before = state(network)
    for order in (np.zeros(2**22, np.int64), np.zeros(2**24, np.int64)):
        with pytest.raises(ValueError, match="GiB"):
            network.compute_gradients(x, y, order)
        with pytest.raises(ValueError, match="GiB"):
            network.train(x, y, order, batch_size=len(order), seed=0, epoch=0, learning_rates=0.1)
    assert state(network) == before
    network.compute_gradients(x, y, np.zeros(40, np.int64))
