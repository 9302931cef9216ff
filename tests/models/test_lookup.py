"""Models of the user's own, in modules as a user writes them, with every command."""

import importlib
import json
import re
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest

import mnist_minimal
from mnist_minimal import evaluate, plots, summary, trials
from mnist_minimal.cli.main import main as script
from mnist_minimal.cli.options import model_name
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS, lookup
from mnist_minimal.recipes import RECIPES
from mnist_minimal.saving.saved_model import save
from mnist_minimal.study import ledger
from mnist_minimal.study.study import Study
from mnist_minimal.training import core
from tests.conftest import REPOSITORY
from tests.whole import whole_only

NEEDS_CORE = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

DIGITS = ("--model", "my_nets:tiny", "--dataset", "digits")
TRIALS = (*DIGITS, "--epochs", "2")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The README's example, in the folder where the commands are run."""
    section = (REPOSITORY / "README.md").read_text().split("## Adding a model")[1]
    path = tmp_path / "my_nets.py"
    path.write_text(re.search("```python\n(.*?)```", section, re.DOTALL).group(1))
    return path


@pytest.fixture
def run_fresh(run_main, tmp_path, monkeypatch):
    """Runs a command in this process as in one that has not imported the module of the example yet."""
    monkeypatch.syspath_prepend(tmp_path)
    # A compiled file is told from an edited source by a size and a time in seconds, which are here the same.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(*arguments):
        sys.modules.pop("my_nets", None)
        importlib.invalidate_caches()
        return run_main(*arguments)

    yield run
    sys.modules.pop("my_nets", None)


# 4 * 9 + 4, 4 * 9 + 4 * 8 + 8, 8 * 10 + 10 parameters.
PARAMETERS = 40 + 76 + 90


@pytest.mark.parametrize(
    "trainer", [pytest.param("native", marks=NEEDS_CORE), pytest.param("keras", marks=[pytest.mark.slow, whole_only])]
)
def test_the_readme_s_example_trains_goes_on_and_is_read_by_every_command(example, tmp_path, run_fresh, trainer):
    # Two Keras trials side by side run in processes of their own, which have to find the module too.
    for runs in ("1", "3"):
        done = run_fresh(trials.main, *TRIALS, "--trainer", trainer, "--jobs", "2", "--runs", runs)
        assert done.returncode == 0, done.stderr
    assert "my_nets:tiny on digits, protocol source: 3 finished trials, 0 failed" in done.stdout
    assert "The epochs were capped at 2; the recipe has up to 100." in done.stdout
    # What to expect is known of the published models alone.
    assert "expect an accuracy" not in done.stdout
    out = tmp_path / "runs"
    rows = ledger.read(out / "my_nets.tiny-digits.csv")
    assert sorted((row.seed, row.model, row.params, row.trainer) for row in rows) == [
        (seed, "my_nets:tiny", PARAMETERS, trainer) for seed in range(3)
    ]
    assert json.loads((out / "my_nets.tiny-digits.json").read_text())["recipe"]["model"] == "my_nets:tiny"

    evaluated = run_fresh(evaluate.main, *DIGITS, out / rows[0].weights)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"tiny, {PARAMETERS} parameters, the kept model of a trial, on the test set of digits" in evaluated.stdout
    assert f"({rows[0].test_correct} of 297)" in evaluated.stdout

    drawn = run_fresh(plots.main, out / "my_nets.tiny-digits.csv")
    assert drawn.returncode == 0, drawn.stderr
    assert (out / "my_nets.tiny-digits-distribution.png").exists()


def test_summary_shows_it(example, run_fresh):
    shown = run_fresh(summary.main, "my_nets:tiny")
    assert shown.returncode == 0, shown.stderr
    assert re.search(rf"^total +{PARAMETERS} ", shown.stdout, re.MULTILINE)


def test_a_file_is_read_only_as_the_model_that_is_named(example, tmp_path, run_fresh):
    tiny = lookup.builder("my_nets:tiny")
    model = tiny()
    save(MODELS["sep997"](), tmp_path / "sep997.h5")
    save(model, tmp_path / "tiny.h5")
    loaded = mnist_minimal.load(tmp_path / "tiny.h5", {"tiny": tiny})
    for array, saved in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, saved)
    refused = run_fresh(evaluate.main, *DIGITS, "sep997.h5")
    assert refused.returncode == 1
    assert "error: sep997.h5: expected one of the models my_nets:tiny; it is not my_nets:tiny: " in refused.stderr
    assert mnist_minimal.load(tmp_path / "tiny.h5").count_params() == PARAMETERS


def test_a_published_recipe_trains_a_function_without_one(example, tmp_path, run_fresh):
    example.write_text(example.read_text().split("RECIPES")[0])
    without = run_fresh(trials.main, *TRIALS, "--runs", "1")
    assert without.returncode == 2
    assert without.stderr.endswith(
        "error: my_nets:tiny: expected a mnist_minimal.recipes.Recipe as RECIPES['tiny'] in my_nets, found none; "
        "add it there, or give a published one with --recipe\n"
    )
    done = run_fresh(trials.main, *TRIALS, "--runs", "1", "--recipe", "sep697")
    assert done.returncode == 0, done.stderr
    begun = json.loads((tmp_path / "runs/my_nets.tiny-sep697-digits.json").read_text())["recipe"]
    assert begun == RECIPES["sep697"].as_dict()
    # By another recipe it is another study.
    other = run_fresh(trials.main, *TRIALS, "--runs", "1", "--recipe", "sep997", "--set", "batch_size=256")
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs/my_nets.tiny-sep997-5a4612-digits.csv").exists()
    # Another network under the same name does not join the trials of the first.
    example.write_text(example.read_text().replace("Conv2D(4, 3", "Conv2D(5, 3"))
    edited = run_fresh(trials.main, *TRIALS, "--runs", "2", "--recipe", "sep697")
    assert edited.returncode == 2
    # 5 * 9 + 5, 5 * 9 + 5 * 8 + 8, 8 * 10 + 10 parameters.
    assert "seed 0 was trained with 206 parameters, and my_nets:tiny has 233 now; restore the model" in edited.stderr


def test_the_installed_script_finds_the_current_folder_too(example, run_fresh, tmp_path, monkeypatch):
    # As in a script of another folder.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    done = run_fresh(script, "summary", "my_nets:tiny")
    assert done.returncode == 0, done.stderr


# Mistakes.


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module of a name of its own and gives that name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"nets_{abs(hash(request.node.name))}"

    def write(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


DENSE = """
import keras
from keras import layers
def net():
    pixels = keras.Input({0})
    return keras.Model(pixels, layers.Dense({1})(layers.Flatten()(pixels)))
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"expected a function net in .*nets_\d+\.py, found none"),
        ("net = 7", "expected a function net in .* found int"),
        ("def net(:", r"the module can't be imported \(SyntaxError"),
        ("import nothing_of_this_name", r"can't be imported \(ModuleNotFoundError: .*nets_\d+\.py, line 1\); fix it"),
        ("def net(size): pass", r"found that the function fails \(TypeError: .*missing 1 required"),
        (
            "def net():\n    return 1 / 0",
            r"found that the function fails \(ZeroDivisionError: .*nets_\d+\.py, line 2\)",
        ),
        ("def net(): pass", "found NoneType; let the function return the model"),
        (
            "import keras\ndef net(): return keras.Sequential([keras.layers.Dense(10)])",
            "found one without shapes; build a functional or sequential model with an Input",
        ),
        (
            DENSE.format("(28, 28)", "10, 'softmax'"),
            r"found one from \(None, 28, 28\) to \(None, 10\); change its input or its last layer",
        ),
        (DENSE.format("(28, 28, 1)", "1, 'sigmoid'"), r"to \(None, 1\); change its input or its last layer"),
        (
            DENSE.format("(28, 28, 1)", "10"),
            "found outputs that are not positive with a sum of 1; end it with a softmax",
        ),
    ],
)
def test_what_is_no_model_is_refused_in_plain_words(module, text, complaint):
    name = f"{module(text)}:net"
    with pytest.raises(UserError, match=complaint) as error:
        lookup.builder(name)()
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


def test_what_is_a_model_is_not_refused(module):
    name = f"{module(DENSE.format('(28, 28, 1)', '''10, 'softmax' '''))}:net"
    assert lookup.builder(name)().count_params() == 7850


@pytest.mark.parametrize("missing", ["no_such_module", "no_such.module", "json.no_such"])
def test_a_module_that_is_not_there_is_told_where_to_be(tmp_path, run_python, missing):
    refused = run_python("-m", "mnist_minimal.trials", "--model", f"{missing}:tiny")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {missing}:tiny: expected a module {missing}, found no ")
    assert "run the command in the folder that it is in, or put that folder into PYTHONPATH" in refused.stderr


@pytest.mark.parametrize("recipes", ["RECIPES = {'net': 3}", "RECIPES = {'other': 3}", "RECIPES = [3]"])
def test_a_recipe_that_is_none_is_refused(module, recipes):
    name = module(recipes)
    with pytest.raises(UserError, match=rf"expected a mnist_minimal.recipes.Recipe as RECIPES\['net'\] in {name}"):
        lookup.recipe(f"{name}:net")


@pytest.mark.parametrize(
    "text", ["sep998", "nets.tiny", "nets:", ":tiny", "nets:a.b", "a/b:tiny", "nets:tiny:2", "1a:b", ""]
)
def test_other_names_are_told_the_two_forms(text):
    with pytest.raises(ArgumentTypeError, match=r"expected one of the models conv18242, .*mypackage\.nets:tiny, found"):
        model_name(text)


def test_the_recipe_of_a_module_is_the_models_own_whatever_it_was_made_from(module):
    name = module(
        "from mnist_minimal.recipes import RECIPES as PUBLISHED\n"
        "RECIPES = {'net': PUBLISHED['sep997'].replace(batch_size=256)}"
    )
    recipe = lookup.recipe(f"{name}:net")
    assert Study.of(Path(), f"{name}:net", "mnist", "source", recipe).name == f"{name}.net"
    varied = recipe.replace(batch_size=128)
    assert Study.of(Path(), f"{name}:net", "mnist", "source", varied).name == f"{name}.net-8982b5"


def test_published_models_have_their_own_builders_and_recipes():
    for name in MODELS:
        assert model_name(name) == name
        assert lookup.builder(name) is MODELS[name]
        assert lookup.recipe(name) is RECIPES[name]
    assert lookup.file_name("mypackage.nets:tiny") == "mypackage.nets.tiny"
