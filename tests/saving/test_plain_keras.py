"""The models' files in plain Keras, in a process that knows nothing of this package."""

import pytest

from tests.conftest import REPOSITORY

LOAD = """
import sys, keras
for path in sys.argv[1:]:
    keras.models.load_model(path, compile=False)
assert "mnist_minimal" not in sys.modules
"""

# One of the kept models of each published study.
FILES = {path.parent.name: path for path in sorted((REPOSITORY / "results").glob("*/*.h5"))}
# Keras has no instance normalization.
NEEDS_OURS = {"shared1936"}


@pytest.mark.slow
def test_all_but_one_open_in_plain_keras(run_python):
    assert len(FILES) >= 10
    done = run_python("-c", LOAD, *(str(path) for name, path in FILES.items() if name not in NEEDS_OURS))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_instance_normalization_takes_one_import(run_python):
    path = str(FILES["shared1936"])
    alone = run_python("-c", LOAD, path)
    assert "InstanceNormalization" in alone.stderr
    with_import = "import sys, keras, mnist_minimal.models.normalization\nkeras.models.load_model(sys.argv[1])"
    done = run_python("-c", with_import, path)
    assert done.returncode == 0, done.stderr
