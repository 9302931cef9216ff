"""`verify`: real trials on the digits trained again, whatever of them is changed found, and what can't be verified."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import mnist_minimal as mm
from mnist_minimal import trials, verify
from mnist_minimal.cli.run import run
from mnist_minimal.study import ledger, packed
from mnist_minimal.study.study import Study
from mnist_minimal.study.verification import sampled
from mnist_minimal.training import core
from mnist_minimal.training.core import known_answer

pytestmark = pytest.mark.skipif(not core.available(), reason="needs the C++ core, which was not built")

RULE = 'median_stopping={"trials": 2, "epoch": 2, "window": 1}'
OPTIONS = ("--model", "sep697", "--dataset", "digits", "--set", RULE, "--epochs", "3", "--runs", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Study:
    """Four trials, of which the median stopping rule has stopped one or more; another one failed."""
    out = tmp_path_factory.mktemp("trained")
    assert run(trials.main, [*OPTIONS, "--out", str(out)]) == 0
    (csv,) = out.glob("*.csv")
    header, row, *_ = csv.read_text().splitlines()
    fields = dict(zip(header.split(","), row.split(","), strict=True))
    figures = ("epochs", "best_epoch", "saved_accuracy", "best_accuracy", "test_correct")
    failed = fields | dict.fromkeys(figures, "") | {"seed": "9", "reason": "too little memory", "status": "failed"}
    with csv.open("a") as file:
        file.write(",".join(failed.values()) + "\n")
    study = Study.at(csv)
    assert any(trial.status == "stopped" for trial in ledger.read(csv))
    return study


@pytest.fixture
def study(trained, tmp_path) -> Study:
    """A copy, to be tampered with."""
    shutil.copytree(trained.out, tmp_path / "runs")
    return Study(tmp_path / "runs", trained.name)


def contents(study: Study) -> dict[Path, str]:
    """What all files of a folder of studies hold."""
    files = [path for path in study.out.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_trials_are_the_same_when_they_are_trained_again(run_main, study):
    before = contents(study)
    done = run_main(verify.main, study.csv, "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed 9 failed when it was recorded and is left out: too little memory" in done.stdout
    for trial in ledger.done(ledger.read(study.csv)):
        assert f"seed {trial.seed}: same row, {trial.epochs} epochs, weights" in done.stdout
    assert done.stdout.endswith(f"{study.csv}: 4 trials trained again, all the same, bit by bit.\n")
    assert contents(study) == before


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_bytes().decode(), count=1)
    assert count == 1
    path.write_bytes(text.encode())


def other_history(study: Study) -> str:
    """The last digit of a figure of the second epoch."""
    edit(study.history(0), r"(?s)(\r\n1,.*?)(\d)(?=\r\n)", lambda found: found[1] + str((int(found[2]) + 1) % 10))
    return r"differs, epoch 2, val_loss: expected (\S+), found (?!\1)\S+"


def shorter_history(study: Study) -> str:
    edit(study.history(0), r"2,[^\r\n]*\r\n$", "")
    return "differs, history: expected 2 epochs, found 3"


def damaged_history(study: Study) -> str:
    study.history(0).write_text("nothing")
    return "differs, history: .* expected the history of a trial"


def other_row(study: Study) -> str:
    trial = next(trial for trial in ledger.read(study.csv) if trial.seed == 0)
    edit(study.csv, f",{trial.test_correct},297,", f",{trial.test_correct + 1},297,")
    return f"differs, test_correct: expected {trial.test_correct + 1}, found {trial.test_correct}"


def other_weights(study: Study) -> str:
    """One bit of one number."""
    model = mm.load(study.weights(0))
    weights = model.get_weights()
    weights[0].view(np.uint32)[1, 2, 0, 3] ^= 1
    model.set_weights(weights)
    model.save(study.weights(0))
    return r"differs, weights, \S+kernel: expected (\S+), found (?!\1)\S+"


def another_model(study: Study) -> str:
    mm.MODELS["sep997"]().save(study.weights(0))
    return "differs, weights: expected arrays of the shapes "


def damaged_model(study: Study) -> str:
    study.weights(0).write_bytes(b"nothing")
    return "differs, weights: .* expected a model saved by Keras"


CHANGES = [other_history, shorter_history, damaged_history, other_row, other_weights, another_model, damaged_model]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_as_it_was_is_found(run_main, study, change: Callable[[Study], str]):
    found = change(study)
    done = run_main(verify.main, study.csv, "--seeds", "0")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(f"seed 0: {found}", done.stdout)
    assert done.stdout.endswith("1 trial trained again, 0 the same, bit by bit, 1 not: seed 0.\n")


def test_times_version_and_instruction_set_are_not_compared(run_main, study):
    (version,) = {trial.version for trial in ledger.read(study.csv)}
    edit(study.csv, re.escape(f"{version},{study.name}/0.h5"), f"0.0.1,{study.name}/0.h5")
    edit(study.csv, r"c\+\+ \w+", "c++ neon")
    assert run_main(verify.main, study.csv, "--seeds", "0").returncode == 0


def test_what_was_not_kept_is_said(run_main, study):
    study.weights(0).unlink()
    study.history(1).unlink()
    done = run_main(verify.main, study.csv, "--seeds", "1,0")
    assert done.returncode == 0
    assert "seed 0: same row, 3 epochs; no model kept" in done.stdout
    assert "seed 1: same row, weights; no history kept" in done.stdout


def test_a_model_that_was_not_kept_can_be_had_again(run_main, study):
    weights = study.weights(2)
    expected = mm.load(weights).get_weights()
    weights.unlink()
    kept = contents(study)
    with pytest.raises(mm.UserError, match="the model of this trial was not kept; python -m ") as error:
        mm.read_trials(study.csv).load(2)
    _, _, *arguments = re.search(r"python (-m \S+ \S+ --seeds 2 --keep \S+)", str(error.value))[1].split()
    assert run_main(verify.main, *arguments).returncode == 0
    for array, again in zip(expected, mm.read_trials(study.csv).load(2).get_weights(), strict=True):
        np.testing.assert_array_equal(array, again)
    assert {path: value for path, value in contents(study).items() if path != weights} == kept


def test_a_sample_is_the_same_again(run_main, study):
    first, again = (run_main(verify.main, study.csv, "--sample", "1").stdout for _ in range(2))
    said = "Sampled, the same for this number and study: seeds "
    assert re.search(rf"{said}\d\.\n", first)[0] == re.search(rf"{said}\d\.\n", again)[0]
    thousand, five = range(1000), sampled(study, range(1000), 5)
    assert len(set(five)) == 5
    assert sampled(study, list(reversed(thousand)), 5) == five
    assert sampled(Study(study.out, "other"), thousand, 5) != five
    assert sampled(study, [3, 1], 5) == [1, 3]


def with_facts(**changed) -> Callable[[Study], None]:
    def change(study: Study) -> None:
        facts = json.loads(study.json.read_text()) | changed
        study.json.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))

    return change


def by_keras(study: Study) -> None:
    study.csv.write_text(study.csv.read_text().replace(",native,", ",keras,"))


def of_a_notebook(study: Study) -> None:
    study.csv.write_text(study.csv.read_text().replace("sep697,697", "tiny,697"))


NEWER = core.NUMERICS + 1
REFUSALS = [
    (lambda study: study.json.unlink(), "no JSON tells the recipe"),
    (by_keras, "Keras trained it, whose bits depend on the machine"),
    (with_facts(numerics=None), f"its bits are those of numerics 0, and this version has numerics {core.NUMERICS}"),
    (with_facts(numerics=NEWER), f"its bits are those of numerics {NEWER}, and this version has"),
    (with_facts(numerics="unverified: CFLAGS"), "unverified: CFLAGS"),
    (with_facts(initial_weights=["Conv2D kernel"]), "Keras drew initial weights of it (Conv2D kernel)"),
    (with_facts(callbacks=["Mine"]), "it was trained with callbacks of the user's own (Mine)"),
    (with_facts(data={"x_train": "0" * 64}), f"it was begun with data.x_train {'0' * 64}, and now it would be "),
    (with_facts(layers={"2 Conv2D": {"filters": 9}}), "it was begun with layers."),
    (with_facts(future="unknown"), "it was begun with a future, of which this command knows nothing"),
    (of_a_notebook, "its model tiny is a function of a script or notebook; give it as --model module:function"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS)
def test_what_can_not_be_verified_is_refused_with_the_reason(run_main, study, change, reason):
    change(study)
    done = run_main(verify.main, study.csv)
    assert done.returncode == 2
    assert "trained again" not in done.stdout
    assert f"error: {study.csv}: expected trials that can be verified, found that {reason}" in done.stderr


def test_a_core_of_other_bits_verifies_nothing(run_main, study, monkeypatch):
    monkeypatch.setattr(known_answer, "EXPECTED", "0" * 64)
    done = run_main(verify.main, study.csv)
    assert done.returncode == 2
    assert f"begun with numerics {core.NUMERICS}, and now it would be unverified: the core as it is" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--seeds", "9"),
            "found no finished trial of seed 9, which failed: too little memory; expected some of 0 to 3",
        ),
        (("--seeds", "7"), "found no finished trial of seed 7; expected some of 0 to 3"),
        (("--seeds", "1;2"), "expected a whole number from 0 to 4294967295, found '1;2'"),
        (("--seeds", "1", "--sample", "2"), "not allowed with argument"),
    ],
)
def test_seeds_that_are_not_there_are_refused(run_main, study, options, said):
    done = run_main(verify.main, study.csv, *options)
    assert done.returncode == 2
    assert said in done.stderr


NETS = """
import keras
from keras import layers


def tiny() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(3, 3)(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(10, "softmax")(x))
"""


def tiny() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(3, 3)(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(10, "softmax")(x))


def test_a_notebooks_model_and_images_are_given_by_function_and_file(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "__module__", "__main__")
    digits = mm.load_data("digits")
    images = {name: getattr(digits, name)[:200] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "images.npz", **images)
    recipe = mm.RECIPES["sep997"].replace(batch_size=64)
    arguments = {"runs": 1, "epochs": 1, "data": tuple(images.values()), "progress": False, "out": tmp_path / "runs"}
    found = mm.run_trials(tiny, recipe=recipe, **arguments)
    (tmp_path / "nets_to_verify.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    data = ("--data", tmp_path / "images.npz", "--dataset-name", "mine")
    done = run_main(verify.main, found.name, "--model", "nets_to_verify:tiny", *data)
    sys.modules.pop("nets_to_verify")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "seed 0: same row, 1 epoch, weights" in done.stdout


def test_histories_are_compared_with_those_packed(run_main, study):
    texts = {seed: study.history(seed).read_bytes().decode() for seed in range(4)}
    for seed in texts:
        study.history(seed).unlink()
    packed_file = study.folder / packed.NAME
    packed_file.write_bytes(packed.pack(texts))
    assert "same row, 3 epochs, weights" in run_main(verify.main, study.csv, "--seeds", "0").stdout
    other = texts | {0: re.sub(r"\d\r\n$", "x\r\n".replace("x", "00"), texts[0])}
    packed_file.write_bytes(packed.pack(other))
    done = run_main(verify.main, study.csv, "--seeds", "0")
    assert done.returncode == 1
    assert "seed 0: differs, epoch 3, val_loss: expected" in done.stdout
