"""The known-answer test of the core: what it trains, that every instruction set agrees, and what it says else."""

import subprocess
import sys

import numpy as np
import pytest

from mnist_minimal.training import core
from mnist_minimal.training.core import known_answer
from mnist_minimal.training.network import Kind

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


def test_the_answer_is_the_pinned_one():
    """After a change of the bits: raise NUMERICS, run the module as a script, and pin what it prints as EXPECTED."""
    assert known_answer.answer() == known_answer.EXPECTED
    assert known_answer.difference() == ""


@pytest.mark.parametrize("instruction_set", core.instruction_sets())
def test_every_instruction_set_gives_it(instruction_set):
    assert known_answer.answer(instruction_set) == known_answer.EXPECTED


def test_it_trains_every_kind_of_layer_and_meets_denormal_numbers():
    network = known_answer.network_of_all_kinds()
    assert {layer.kind for layer in network.layers} == set(Kind.__args__)
    results = known_answer.results()
    assert len(results) == 12
    for array in results:
        assert np.isfinite(array).all()
    tiny = np.finfo(np.float32).tiny
    for moments in (results[1], results[5]):
        assert ((abs(moments) > 0) & (abs(moments) < tiny)).any()
    # It has trained: the weights are others by each optimizer.
    for one, other in ((0, 4), (0, 8), (4, 8)):
        assert not np.array_equal(results[one], results[other])


def test_other_bits_are_said_with_both_hashes(monkeypatch):
    monkeypatch.setattr(known_answer, "EXPECTED", "f" * 64)
    said = known_answer.difference()
    assert f"expected {'f' * 12};" in said
    assert known_answer.answer()[:12] in said


def test_it_needs_no_tensorflow():
    code = "import sys; from mnist_minimal.training.core.known_answer import answer; answer(); "
    code += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
