"""Who imports the package and calls its functions finds his process as it was: only a command changes its own."""

import json
from pathlib import Path
from shutil import copyfile

import pytest

from tests.conftest import REPOSITORY
from tests.whole import whole_only

# Of another Keras, with branches.
FOREIGN = REPOSITORY / "tests" / "fixtures" / "keras2_graph.h5"

STATE = """
import gc, json, os, random, signal, socket, sys, threading, warnings, logging, locale, tempfile
import numpy as np

def state():
    gc.collect()
    mask = os.umask(0)
    os.umask(mask)
    found = {
        "environment": dict(os.environ),
        "signals": {int(number): str(signal.getsignal(number)) for number in signal.valid_signals()},
        "blocked signals": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "umask": mask,
        "folder": os.getcwd(),
        "path": list(sys.path),
        "descriptors": sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else [],
        "streams": [str(id(stream)) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "hooks": [str(hook) for hook in (sys.excepthook, threading.excepthook, sys.unraisablehook, *sys.meta_path)],
        "random": str(random.getstate()),
        "numpy's random": str(np.random.get_state()),
        "numpy's errors": np.geterr(),
        "warnings": [str(each) for each in warnings.filters],
        "logging": [logging.getLogger().level, logging.getLogger("absl").filters == [], logging.root.manager.disable],
        "socket": socket.getdefaulttimeout(),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }
    if "keras" in sys.modules:
        import keras
        config = keras.config
        found["keras"] = [
            config.floatx(), config.epsilon(), config.image_data_format(), config.dtype_policy().name,
            config.max_epochs(), config.max_steps_per_epoch(), config.is_traceback_filtering_enabled(),
        ]
    if "matplotlib" in sys.modules:
        import matplotlib
        found["matplotlib"] = str(sorted(matplotlib.rcParams.items(), key=str))
    return found

def differing(before, after):
    return {
        key: [before[key], after.get(key)] if key not in ("random", "numpy's random") else "differs"
        for key in before
        if before[key] != after.get(key)
    }
"""


def run_and_compare(run_python, before: str, calls: str, **environment: str) -> dict[str, object]:
    program = (
        f"{STATE}\n{before}\nbefore = state()\n{calls}\nprint('DIFFERING', json.dumps(differing(before, state())))"
    )
    done = run_python("-c", program, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("DIFFERING")[2])


def test_importing_the_package_changes_nothing(run_python):
    calls = (
        "import mnist_minimal, pkgutil, importlib\n"
        "for each in ('trials', 'evaluate', 'compare', 'plots', 'cli.main', 'cli.run', 'study.ledger', 'data.sets'):\n"
        "    importlib.import_module(f'mnist_minimal.{each}')\n"
    )
    assert run_and_compare(run_python, "", calls) == {}


# What Keras, TensorFlow and the C++ core do when they are imported is theirs.
IMPORTS = """
import keras, scipy.ndimage, sklearn.datasets, sklearn.metrics, matplotlib, joblib, tensorflow
from mnist_minimal.training import core
"""

CALLS = """
import mnist_minimal as mm
from mnist_minimal.data.sets import split
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES
from mnist_minimal.training import native_fit
from mnist_minimal.training.evaluation import evaluate
from mnist_minimal.training.initial_weights import draw
from mnist_minimal.training.seeding import seeded
from mnist_minimal.saving.saved_model import save

data = mm.load_data("digits")
with seeded(3):
    model = MODELS["sep697"]()
draw(model, 3)
model.save_weights("weights.weights.h5")
native_fit.fit(model, RECIPES["sep697"], split(data, "source"), 3, max_epochs=1)
evaluate(model, data.x_test, data.y_test)
save(model, "model.h5")
mm.load("model.h5")
mm.load("foreign.h5")
mm.load("weights.weights.h5", {"sep697": MODELS["sep697"]})
mm.score(model, data.x_test, data.y_test)
try:
    mm.load_data("nowhere.npz")
except UserError:
    pass
"""


@pytest.mark.slow
def test_calling_the_package_changes_nothing(run_python, tmp_path: Path):
    (tmp_path / ".keras").mkdir()
    copyfile(FOREIGN, tmp_path / "foreign.h5")
    (tmp_path / ".keras/keras.json").write_text('{"image_data_format": "channels_first", "floatx": "float16"}')
    found = run_and_compare(
        run_python, IMPORTS, CALLS, HOME=str(tmp_path), MPLBACKEND="svg", KERAS_MAX_EPOCHS="1", KERAS_BACKEND=""
    )
    # Threads that joblib, TensorFlow or the core keep for the next time.
    found.pop("threads", None)
    assert found == {}


@pytest.mark.slow
def test_what_a_caller_draws_next_is_what_it_would_have_been(run_python, tmp_path: Path):
    copyfile(FOREIGN, tmp_path / "foreign.h5")
    program = f"""
import random, keras, numpy as np, tensorflow as tf

def draws():
    tensors = tf.random.uniform([2]), keras.random.uniform([2])
    return [random.random(), np.random.random(), *(float(value) for tensor in tensors for value in tensor)]

keras.utils.set_random_seed(5)
expected = draws()
keras.utils.set_random_seed(5)
{CALLS}
assert draws() == expected, (draws(), expected)
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"image_data_format": "channels_first", "floatx": "float16"},
        pytest.param({"image_data_format": "channels_first"}, marks=whole_only),
        pytest.param({"floatx": "float64"}, marks=whole_only),
    ],
)
def test_a_published_model_is_the_same_under_any_keras_json(run_python, tmp_path, settings):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(settings))
    program = """
import json, keras, numpy as np
from mnist_minimal.models import MODELS
from mnist_minimal.training.seeding import seeded
from mnist_minimal.training.keras_fit import compile_model
from mnist_minimal.recipes import RECIPES
for name, build in MODELS.items():
    with seeded(1):
        model = build()
    compile_model(model, RECIPES[name])
    rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
    print(name, model.to_json(), [w.tobytes().hex()[:64] for w in model.get_weights()], rate.dtype, rate)
print(keras.config.image_data_format(), keras.config.floatx())
"""
    *found, kept = run_python("-c", program, HOME=str(tmp_path)).stdout.splitlines()
    expected = run_python("-c", program, HOME=str(tmp_path / "quiet")).stdout.splitlines()[:-1]
    assert len(expected) == 10
    assert found == expected
    assert kept == f"{settings.get('image_data_format', 'channels_last')} {settings.get('floatx', 'float32')}"
