"""The core's bits: pinned hashes of trained weights, for every instruction set, compiler, number of threads and mode.

`experiments/bits.py` has the hashes and says when they change.
"""

import ctypes
import dataclasses
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

from experiments.bit_cases import model_of, odd_cases, published_cases, recipe_of
from experiments.bits import EPOCHS, ODD, PINNED, PINNED_FEW, SEED, Case, digest, network_of, train, trained_digest
from experiments.core_builds import CLANG, GCC, build, digests
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.training import core, native_fit
from mnist_minimal.training.chain import describe, flat
from mnist_minimal.training.core import known_answer
from tests.whole import WHOLE, whole_only

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

X86 = platform.machine().lower() in ("x86_64", "amd64")

# The baseline of x86-64 has no fused multiply-add: it takes 50 to 100 times as long. Other processors have it.
FAST = [name for name in core.instruction_sets() if name != "baseline" or not X86]

# Of these the baseline takes less than a second.
SMALL = [*("sep997", "sep697", "sep997-cosine"), *ODD]
LARGE = [name for name in PINNED if name not in SMALL]

# All kinds of layers, and work for three threads.
ODD = ["twelve to twenty channels", "separable, odd average"]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return published_cases() | odd_cases()


def test_every_case_is_pinned(cases):
    assert list(cases) == list(PINNED) == list(PINNED_FEW)


@pytest.mark.parametrize(
    ("name", "instruction_set"),
    [
        pytest.param(name, each, marks=pytest.mark.slow if name in LARGE and each != FAST[0] else ())
        for name in PINNED
        for each in FAST
    ],
)
def test_the_bits_are_the_pinned_ones(cases, name, instruction_set):
    assert trained_digest(cases[name], instruction_set) == PINNED[name]


@pytest.mark.parametrize(
    "name",
    [
        *SMALL[:3],
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*SMALL[3:], *LARGE) if name != "gap13914"),
        # conv18242 and sep997 have its layers.
        pytest.param("gap13914", marks=[pytest.mark.slow, whole_only]),
    ],
)
def test_the_bits_of_few_images_are_those_of_the_baseline_too(cases, name):
    found = {each: trained_digest(cases[name].few(), each) for each in core.instruction_sets()}
    assert found == dict.fromkeys(core.instruction_sets(), PINNED_FEW[name])


@pytest.mark.parametrize("name", ["sep997-cosine", "pyramid3762", "small7384", "sep697"])
def test_a_trial_has_the_weights_of_its_case(cases, name):
    """What is pinned is what `fit` gives: optimizer, rates, dropout, batches and augmentation are the recipe's."""
    model = model_of(name)
    weights = []
    # In the end the best epoch's may be restored.
    after_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()))
    splits = sets.split(sets.load(Choice("digits")), "source")
    native_fit.fit(model, recipe_of(name), splits, SEED, max_epochs=EPOCHS, callbacks=[after_epoch])
    model.set_weights(weights[-1])
    description = describe(model)
    parameters, statistics, _ = train(network_of(cases[name]), cases[name])
    np.testing.assert_array_equal(flat(description.parameters), parameters)
    np.testing.assert_array_equal(flat(description.statistics), statistics)


@pytest.mark.parametrize("name", list(PINNED))
def test_three_threads_give_the_bits_of_one(cases, name):
    # Three threads have work where a batch has more than 32 images.
    case = dataclasses.replace(cases[name].few(), batch_size=48)
    case = dataclasses.replace(case, rates=case.rates[:, : len(case.batches(0))])
    assert trained_digest(case, threads=3) == trained_digest(case, threads=1)


LIBC = ctypes.CDLL(None)
UPWARD = 0x800 if X86 else 0x400000


@contextmanager
def rounding_upward() -> Iterator[None]:
    """In this thread, as a library may leave it."""
    before = LIBC.fegetround()
    try:
        assert LIBC.fesetround(UPWARD) == 0
        yield
        assert LIBC.fegetround() == UPWARD
    finally:
        LIBC.fesetround(before)


@contextmanager
def without_denormals() -> Iterator[None]:
    """In this thread, as a library linked with -Ofast leaves it: results and operands that are denormal are 0."""
    if not (X86 and sys.platform == "linux"):
        pytest.skip("needs Linux on x86-64, whose place of these bits is known here")
    zeroed, control_place = 0x8040, 28
    environment = (ctypes.c_char * 32)()
    mode = ctypes.c_uint32.from_buffer(environment, control_place)
    LIBC.fegetenv(environment)
    before = mode.value
    try:
        mode.value = before | zeroed
        LIBC.fesetenv(environment)
        yield
        LIBC.fegetenv(environment)
        assert mode.value & zeroed == zeroed
    finally:
        mode.value = before
        LIBC.fesetenv(environment)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ODD)
def test_the_callers_rounding_changes_no_bit_and_stays(cases, name, threads):
    network = network_of(cases[name])
    with rounding_upward():
        found = train(network, cases[name], threads)
    assert digest(found) == PINNED[name]


def test_denormal_numbers_are_lost_where_they_are_switched_off():
    """The mode above is one that shows."""
    tiny = np.full(64, np.finfo(np.float32).tiny)
    with without_denormals():
        lost = tiny * np.float32(0.5)
    assert not lost.any()
    assert (tiny * np.float32(0.5)).all()


def test_denormal_numbers_switched_off_by_the_caller_change_no_bit_and_stay_so():
    """The known answer has some on the way; it is trained by two threads."""
    with without_denormals():
        found = known_answer.answer()
    assert found == known_answer.EXPECTED


def other_compiler() -> tuple[str, dict[str, str]]:
    """Clang, where the extension was not built by it, else GCC."""
    if b"clang version" in Path(core._core.__file__).read_bytes():
        return "g++", GCC
    return "clang++", CLANG


def assert_pinned(folder: Path, cases: dict[str, Case]) -> None:
    """Of a build, by each instruction set."""
    # The others take the baseline long.
    names = ["sep997", *(["shared1936", "pyramid3762"] if WHOLE else []), *ODD]
    found = digests(folder, {name: cases[name].few() for name in names})
    expected = {"known answer": known_answer.EXPECTED[:16], **{name: PINNED_FEW[name] for name in names}}
    assert {name: found[name] for name in core.instruction_sets()} == dict.fromkeys(core.instruction_sets(), expected)


@pytest.mark.slow
def test_a_build_by_the_other_compiler_has_the_pinned_bits(cases, tmp_path):
    compiler, environment = other_compiler()
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}, a second compiler")
    build(tmp_path / "build", environment)
    assert_pinned(tmp_path / "build", cases)


@pytest.mark.slow
@pytest.mark.skipif(
    "MNIST_MINIMAL_FAST_FLAGS" not in os.environ, reason="takes minutes for one more build: MNIST_MINIMAL_FAST_FLAGS=1"
)
def test_a_build_with_flags_for_fast_arithmetic_has_the_pinned_bits(cases, tmp_path):
    """Whichever variable setuptools reads: `setup.py` has the last word, and what the linker adds is outdone."""
    build(tmp_path / "build", dict.fromkeys(("CFLAGS", "CXXFLAGS", "LDFLAGS"), "-Ofast -march=native -ffast-math"))
    assert_pinned(tmp_path / "build", cases)
