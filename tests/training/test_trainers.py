"""Which trainer trains, and what happens where the core was not built."""

import dataclasses
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import joblib
import keras
import pytest
from keras import layers

from mnist_minimal.data.choice import Choice
from mnist_minimal.data.sets import load, split
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES
from mnist_minimal.training import core, keras_fit
from mnist_minimal.training.trainers import backend, choose, fit_function

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")


def model_with_a_branch() -> keras.Model:
    pixels = keras.Input((28, 28, 1))
    flat = layers.Flatten()(pixels)
    both = layers.Add(name="branches_meet")([layers.Dense(10)(flat), layers.Dense(10)(flat)])
    return keras.Model(pixels, layers.Softmax()(both))


@NEEDS_CORE
@pytest.mark.parametrize("name", MODELS)
def test_auto_takes_the_core_for_every_published_model(name):
    assert choose("auto", MODELS[name]()) == ("native", "")


@NEEDS_CORE
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


@NEEDS_CORE
def test_auto_takes_the_core_where_keras_sees_a_gpu(monkeypatch):
    monkeypatch.setattr(keras_fit, "sees_gpu", lambda: True)
    assert choose("auto", MODELS["sep997"]()) == ("native", "")


def test_auto_goes_on_with_the_trainer_that_the_study_has_recorded():
    trainer, notice = choose("auto", MODELS["sep997"](), "keras")
    assert trainer == "keras"
    assert notice


@NEEDS_CORE
def test_a_core_that_can_not_run_here_is_an_error_that_does_not_advise_keras(monkeypatch):
    assert choose("auto", MODELS["sep997"](), "native") == ("native", "")
    monkeypatch.setenv("MNIST_MINIMAL_SIMD", "mmx")
    for recorded in (None, "native", "keras"):
        with pytest.raises(
            UserError, match=r"^expected MNIST_MINIMAL_SIMD .*\((\w+, )*baseline\), found 'mmx'; name one"
        ):
            choose("auto", MODELS["sep997"](), recorded)
    assert choose("keras", MODELS["sep997"]()) == ("keras", "")
    monkeypatch.delenv("MNIST_MINIMAL_SIMD")
    with pytest.raises(UserError, match=r"^the study was trained .*branches_meet.*; use another --out$"):
        choose("auto", model_with_a_branch(), "native")
    monkeypatch.setattr(core, "IMPORT_ERROR", ModuleNotFoundError())
    with pytest.raises(UserError, match=r"found that it was not built; install .* or use another --out$"):
        choose("auto", MODELS["sep997"](), "native")


@NEEDS_CORE
def test_a_machine_of_a_thousand_processors_trains(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1000)
    whole = split(load(Choice("digits")), "source")
    splits = dataclasses.replace(whole, x_train=whole.x_train[:256], y_train=whole.y_train[:256])
    fitted = fit_function("native", jobs=1)(MODELS["sep997"](), RECIPES["sep997"], splits, 0, max_epochs=1)
    assert fitted.epochs == 1


def test_jobs_share_the_processors_that_the_process_may_use(monkeypatch):
    # A count that joblib takes from the environment, as it takes a container's share from the system.
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert fit_function("native", jobs=1).keywords == {"threads": 1}
    assert fit_function("native", jobs=3).keywords == {"threads": 1}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow takes all of a GPU's memory")
def test_training_with_keras_sets_the_memory_growth_of_each_visible_gpu(monkeypatch):
    """There need be no GPU: TensorFlow's list of them and what it is asked to do are stood in for."""
    import tensorflow

    gpus = [tensorflow.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(2)]
    asked = []

    def set_memory_growth(device, enable):
        asked.append((device, enable))
        if device == gpus[0]:
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tensorflow.config, "get_visible_devices", lambda kind: gpus if kind == "GPU" else [])
    monkeypatch.setattr(tensorflow.config.experimental, "set_memory_growth", set_memory_growth)
    fit_function("keras", jobs=2)
    assert asked == [(gpus[0], True), (gpus[1], True)]


BROKEN_CORE = """
import sys
from pathlib import Path
import mnist_minimal.training
folder = Path(sys.argv.pop(1))
mnist_minimal.training.__path__.insert(0, str(folder))
from mnist_minimal.cli.run import run
from mnist_minimal.training import core
assert Path(core.__file__).is_relative_to(folder)

def main(arguments):
    print("available:", core.available())
    core.require()
    return 0

sys.exit(run(main, []))
"""


@pytest.fixture
def folder_of_core(tmp_path):
    """A folder of the core's Python half alone, and where the extension would lie in it."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(Path(core.__file__).parent, folder / "core", ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    return folder, folder / "core" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"


def test_a_core_with_an_undefined_symbol_is_an_error_in_the_loaders_words(run_python, folder_of_core, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder, extension = folder_of_core
    source = tmp_path / "core.c"
    source.write_text("void nowhere_defined(void); void *PyInit__core(void) { nowhere_defined(); return 0; }\n")
    # Unlike functions, data can't wait for their first use; without this the loader would not look for the function.
    now = ["-Wl,-z,now"] if sys.platform == "linux" else ["-undefined", "dynamic_lookup"]
    subprocess.run([compiler, "-shared", "-fPIC", *now, "-o", extension, source], check=True)
    finished = run_python("-c", BROKEN_CORE, folder)
    assert finished.stdout == "available: False\n"
    assert finished.returncode == 2
    assert "can't be loaded (" in finished.stderr
    assert "nowhere_defined" in finished.stderr
    assert "was not built" not in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_core_that_was_cut_short_is_an_error_in_the_loaders_words(run_python, folder_of_core):
    folder, extension = folder_of_core
    extension.write_bytes(b"\x7fELF")
    finished = run_python("-c", BROKEN_CORE, folder)
    assert finished.returncode == 2
    assert extension.name in finished.stderr
    assert "was not built" not in finished.stderr


def test_a_core_without_its_extension_was_not_built(run_python, folder_of_core):
    finished = run_python("-c", BROKEN_CORE, folder_of_core[0])
    assert finished.returncode == 2
    assert "was not built; install a C++17 compiler" in finished.stderr


WITHOUT_CORE = """
import sys
sys.modules["mnist_minimal.training.core._core"] = None  # as if it had not been built
from mnist_minimal.cli.run import run
from mnist_minimal.trials import main
sys.exit(run(main, sys.argv[1:]))
"""
OPTIONS = ("--model", "sep997", "--dataset", "digits", "--epochs", "1", "--runs", "1")


@pytest.mark.slow
def test_without_the_core_the_main_job_trains_with_keras_and_says_so(run_python, tmp_path):
    finished = run_python("-c", WITHOUT_CORE, *OPTIONS)
    assert finished.returncode == 0, finished.stderr
    assert "Training with Keras, not with the C++ core: " in finished.stdout
    assert ",keras," in (tmp_path / "runs/sep997-digits.csv").read_text()


@pytest.mark.slow
def test_without_the_core_asking_for_it_is_an_error_that_says_what_to_do(run_python):
    refused = run_python("-c", WITHOUT_CORE, *OPTIONS, "--trainer", "native")
    assert refused.returncode == 2
    assert "install a C++17 compiler" in refused.stderr
    assert "Traceback" not in refused.stderr
