"""Which trainer trains, and what happens where the core was not built."""

import keras
import pytest
from keras import layers

from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.training import core, keras_fit
from mnist_minimal.training.trainers import backend, choose, fit_function

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")
NEEDS_NO_GPU = pytest.mark.skipif(keras_fit.sees_gpu(), reason="the backend sees a GPU, which auto prefers")


def model_with_a_branch() -> keras.Model:
    pixels = keras.Input((28, 28, 1))
    flat = layers.Flatten()(pixels)
    both = layers.Add(name="branches_meet")([layers.Dense(10)(flat), layers.Dense(10)(flat)])
    return keras.Model(pixels, layers.Softmax()(both))


@NEEDS_CORE
@NEEDS_NO_GPU
@pytest.mark.parametrize("name", MODELS)
def test_auto_takes_the_core_for_every_published_model(name):
    assert choose("auto", MODELS[name]()) == ("native", "")


@NEEDS_CORE
@NEEDS_NO_GPU
def test_auto_takes_keras_for_what_the_core_can_not_run_and_says_why():
    trainer, notice = choose("auto", model_with_a_branch())
    assert trainer == "keras"
    assert "branches_meet" in notice


@NEEDS_CORE
def test_the_core_refuses_what_it_can_not_run_where_it_is_asked_for():
    with pytest.raises(UserError, match="branches_meet"):
        choose("native", model_with_a_branch())


def test_keras_is_taken_where_it_is_asked_for():
    assert choose("keras", MODELS["sep997"]()) == ("keras", "")
    assert fit_function("keras", jobs=1) is keras_fit.fit
    assert backend("keras").startswith(keras.backend.backend())


WITHOUT_CORE = """
import sys
sys.modules["mnist_minimal.training.core._core"] = None  # as if it had not been built
from mnist_minimal.cli.run import run
from mnist_minimal.trials import main
sys.exit(run(main, sys.argv[1:]))
"""
OPTIONS = ("--model", "sep997", "--dataset", "digits", "--epochs", "1", "--runs", "1")


def test_without_the_core_the_main_job_trains_with_keras_and_says_so(run_python, tmp_path):
    finished = run_python("-c", WITHOUT_CORE, *OPTIONS)
    assert finished.returncode == 0, finished.stderr
    assert "Training with Keras, not with the C++ core: " in finished.stdout
    assert ",keras," in (tmp_path / "results/sep997-digits.csv").read_text()


@pytest.mark.slow
def test_without_the_core_asking_for_it_is_an_error_that_says_what_to_do(run_python):
    refused = run_python("-c", WITHOUT_CORE, *OPTIONS, "--trainer", "native")
    assert refused.returncode == 2
    assert "install a C++17 compiler" in refused.stderr
    assert "Traceback" not in refused.stderr
