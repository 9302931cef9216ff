"""The experiment of the leads: SOAP's step beside plain loops and Keras, and its plan, its ledger and its tables."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from scipy import stats

from experiments import held_out, leads, soap_step
from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Dataset
from mnist_minimal.recipes import Averaging, ByStep, Teacher
from mnist_minimal.searching import teachers
from mnist_minimal.searching.evaluation import FOLDS, fold_splits
from mnist_minimal.searching.teachers import Teachers
from mnist_minimal.training import core, initial_weights, native_fit
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.core import _core
from mnist_minimal.training.native_fit import core_augmentation
from mnist_minimal.training.optimizers import block_sizes
from mnist_minimal.training.schedules import step_rates

needs_core = pytest.mark.skipif(not core.available(), reason="the core was not built")

SIZES = (3, 5)


def gradients(count):
    """Of a quadratic far from round and not along the axes, with noise: float32 (count, 8)."""
    random = np.random.default_rng(5)
    turn = np.linalg.qr(random.normal(size=(8, 8)))[0]
    return (random.normal(size=(count, 8)) * np.geomspace(3, 0.01, 8) @ turn).astype(np.float32)


def gram_schmidt(columns):
    """The orthogonal columns of a QR decomposition, one after the other."""
    found = []
    for column in columns.T:
        for _ in range(2):
            for other in found:
                column = column - (other @ column) * other
        found.append(column / np.sqrt(column @ column))
    return np.array(found).T


def reference(given, rate, size, begin):
    """The changes of one block by the formulas, a step at a time, in double precision: (steps, size)."""
    m, v, covariance, basis = np.zeros(size), np.zeros(size), np.zeros((size, size)), np.eye(size)
    changes = []
    for t, row in enumerate(given[:, begin : begin + size].astype(float), start=1):
        m = 0.9 * m + 0.1 * row
        covariance = 0.999 * covariance + 0.001 * np.outer(row, row)
        v = 0.99 * v + 0.01 * (basis.T @ row) ** 2
        corrected, most = (v / (1 - 0.99**t), 0.01) if t <= 200 else (v, math.inf)
        changes.append(-min(rate, most) * basis @ (basis.T @ m / (1 - 0.9**t) / (np.sqrt(corrected) + 1e-8)))
        if t % 200 == 0:
            if t // 200 % 5 == 1:
                values, vectors = np.linalg.eig(covariance)
                basis = vectors[:, np.argsort(-values)]
            else:
                basis = gram_schmidt(covariance @ basis[:, np.argsort(-v)])
            v = np.diag(basis.T @ covariance @ basis) / (1 - 0.999**t)
    return np.array(changes)


def test_the_step_beside_plain_loops():
    """Over the first Adam steps, an exact renewal, four by QR and another exact one."""
    given = gradients(1300)
    step = soap_step.Soap(SIZES)
    found = np.array([step.step(row, 0.05) for row in given])
    expected = np.hstack([reference(given, 0.05, 3, 0), reference(given, 0.05, 5, 3)])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for basis, block in zip(step.bases, step.blocks, strict=True):
        np.testing.assert_allclose(basis.T @ basis, np.eye(block.stop - block.start), atol=1e-6)


def test_the_first_steps_are_those_of_keras_adam():
    given = gradients(soap_step.RENEWAL)
    step, weights = soap_step.Soap(SIZES), keras.Variable(np.zeros(8, np.float32))
    adam = keras.optimizers.Adam(soap_step.FIRST_RATE, beta_2=0.99, epsilon=1e-8)
    ours = np.zeros(8, np.float32)
    for row in given:
        ours += step.step(row, 0.05)
        adam.apply([keras.ops.convert_to_tensor(row)], [weights])
    np.testing.assert_allclose(ours, keras.ops.convert_to_numpy(weights), atol=1e-5)


def test_a_rotation_of_the_parameters_rotates_the_later_steps():
    """Which Adam's do not; the first ones would differ, so what is compared begins after the first renewal."""
    given = gradients(600)[:, :5]
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    plain, turned = soap_step.Soap([5]), soap_step.Soap([5])
    changes = np.array([(plain.step(row, 0.05), turned.step((turn @ row).astype(np.float32), 0.05)) for row in given])
    np.testing.assert_allclose(changes[200:, 0] @ turn.T, changes[200:, 1], atol=2e-4)
    assert np.abs(changes[:200, 0] @ turn.T - changes[:200, 1]).max() > 1e-3


@needs_core
@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        ("sep997", [70, 143, 200, 211, 243, 130]),
        ("sep697", [60, 89, 99, 181, 178, 90]),
        ("691a", [90, 81, 90, 90, 90, 120, 130]),
    ],
)
def test_a_block_is_a_layer(network, sizes):
    chain = Chain(leads.build(network), keras.optimizers.SGD())
    assert block_sizes(chain.description.parameters) == sizes


@pytest.fixture
def dataset():
    """240 made images, a bright square whose place is the class; no test set."""
    random = np.random.default_rng(1)
    labels = np.arange(240) % 10
    images = random.integers(0, 60, (240, 28, 28, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[8 * row : 8 * row + 6, 6 * column : 6 * column + 6] += 180
    return Dataset("made", "made", "", images, labels, images[:0], labels[:0])


PLANNED = leads.Planned(leads.COMPARISON, "sep997", leads.SOAP, 0.05, 16, 2, 14)


@needs_core
def test_the_training_beside_gradients_of_augmented_images(dataset):
    splits, kept = fold_splits(dataset, PLANNED.fold)
    assert set(range(240)) - set(kept) == set(range(40, 60))
    models = [leads.build("sep997") for _ in range(2)]
    for model in models:
        initial_weights.draw(model, 14)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0
    soap_step.fit(models[0], PLANNED.recipe, splits, 14)
    chain = Chain(models[1], keras.optimizers.SGD())
    step = soap_step.Soap(block_sizes(chain.description.parameters))
    augmentation = core_augmentation(PLANNED.recipe.augmentation)
    for epoch in range(2):
        batches = epoch_batches(14, epoch, 220, 16, drop_remainder=False)
        for batch, rate in zip(batches, step_rates(PLANNED.recipe, epoch, len(batches)), strict=True):
            images = _core.augment(splits.x_train, batch, augmentation, seed=14, epoch=epoch)
            labels = splits.y_train[batch].astype(np.uint8)
            chain.network.compute_gradients(images, labels, np.arange(len(batch)))
            chain.network.parameters = chain.network.parameters + step.step(chain.network.gradients, float(rate))
    trained = Chain(models[0], keras.optimizers.SGD()).network.parameters
    np.testing.assert_array_equal(trained, chain.network.parameters)


@needs_core
def test_a_trial_is_judged_by_images_that_it_was_not_trained_on(dataset, tmp_path):
    """Held-out labels are wrong: a network that learns the others gets few of them right."""
    labels = dataset.y_train.copy()
    labels[40:60] = (labels[40:60] + 1) % 10
    planned = dataclasses.replace(PLANNED, epochs=30)
    wrong = dataclasses.replace(dataset, y_train=labels)
    for arm in (leads.ADAM, leads.SOAP, leads.MEAN, leads.LONGER):
        trial = leads.train(dataclasses.replace(planned, arm=arm), wrong, Teachers(tmp_path, wrong))
        assert trial.size == 20
        assert trial.correct < 5
        assert trial.train_accuracy > 0.9


@needs_core
def test_a_trial_that_diverges_counts_as_nothing_right(dataset, tmp_path):
    for arm in (leads.ADAM, leads.SOAP):
        # SOAP's first 200 steps are not taken at such a rate.
        planned = dataclasses.replace(PLANNED, arm=arm, rate=1e30, batch_size=1)
        trial = leads.train(planned, dataset, Teachers(tmp_path, dataset))
        assert (trial.correct, trial.size, trial.loss) == (0, 20, math.inf)


@needs_core
def test_a_student_has_the_targets_of_the_teacher_that_has_not_seen_the_images_which_judge_it(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(teachers, "RECIPE", dataclasses.replace(teachers.RECIPE, max_epochs=2))
    fits, fit = [], native_fit.fit

    def noted(model, recipe, splits, *arguments, **options):
        fits.append((model, recipe, splits))
        return fit(model, recipe, splits, *arguments, **options)

    monkeypatch.setattr(native_fit, "fit", noted)
    trial = leads.train(
        dataclasses.replace(PLANNED, network="691a", arm=leads.TEACHER), dataset, Teachers(tmp_path, dataset)
    )
    (teacher, _, taught_by), (student, recipe, splits) = fits
    kept = np.r_[0:40, 60:240]
    np.testing.assert_array_equal(taught_by.x_train, dataset.x_train[kept])
    assert taught_by.targets is None
    np.testing.assert_array_equal(splits.x_train, dataset.x_train[kept])
    expected = teacher.predict(dataset.x_train[kept].astype(np.float32), verbose=0)
    np.testing.assert_allclose(splits.targets, expected, atol=1e-5)
    assert (teacher.name, student.count_params(), recipe.teacher) == (teachers.MODEL, 691, Teacher(weight=1.0))
    assert trial.size == 20


def test_the_mean_and_the_teacher_change_nothing_else():
    adam = dataclasses.replace(PLANNED, arm=leads.ADAM).recipe
    mean, taught = (dataclasses.replace(PLANNED, arm=arm).recipe for arm in (leads.MEAN, leads.TEACHER))
    floor = ByStep("cosine", floor=0.15, floor_from=0.6)
    assert mean == dataclasses.replace(adam, schedule=floor, averaging=Averaging(start=0.6))
    assert taught == dataclasses.replace(adam, teacher=Teacher(weight=1.0))
    assert (adam.averaging, adam.teacher, adam.schedule) == (None, None, ByStep("cosine"))


def test_the_plan():
    planned = leads.tuning()
    assert len(planned) == len(set(planned)) == 3 * 3 * (4 + 6)
    assert {one.seed for one in planned[:30]} == {1000}
    assert {one.fold for one in planned} == {4, 5, 6}
    assert leads.comparison([]) == []
    assert [one.network for one in leads.tuning(["691a"])] == 30 * ["691a"]


OVER_ADAM = {leads.ADAM: 1, leads.SOAP: 1.1, leads.MEAN: 1.02, leads.LONGER: 1.3, leads.TEACHER: 1.05}


def trial_of(planned, correct, loss=0.04):
    return leads.Trial(
        **dataclasses.asdict(planned),
        **{"correct": correct, "size": 5000, "loss": loss, "train_accuracy": 0.99, "train_loss": 0.03},
        **{"cpu_seconds": 20.0 * OVER_ADAM[planned.arm], "version": "1"},
    )


def tuned(networks):
    """Stage 1, in which of each arm the rate .03 is best: at Adam's two batches alike, but for the loss at 64."""
    return [
        trial_of(one, 4950 if one.rate == 0.03 else 4940, 0.04 if one.batch_size == 64 else 0.05)
        for one in leads.tuning(networks)
    ]


def test_the_best_setting_goes_on():
    trials = tuned(["sep697"])
    chosen = leads.chosen(trials, "sep697", leads.ADAM)
    assert chosen == (0.03, 64, leads.EPOCHS["sep697", leads.ADAM, 64])
    assert leads.chosen(trials[:-1], "sep697", leads.ADAM) is None
    assert leads.chosen(trials, "sep697", leads.MEAN) == chosen
    planned = leads.comparison(trials)
    assert [(one.network, one.arm, one.seed) for one in planned[:6]] == [
        ("sep697", arm, seed) for seed in (0, 1) for arm in (leads.ADAM, leads.SOAP, leads.MEAN)
    ]
    assert len(planned) == 3 * leads.PAIRS
    assert {one.fold for one in planned} == set(range(FOLDS))


def test_the_mean_and_the_teacher_are_trained_when_adams_setting_is_chosen():
    """Here SOAP's is not."""
    trials = [trial for trial in tuned(["691a"]) if trial.arm == leads.ADAM]
    planned = leads.comparison(trials, ["691a"])
    assert [(one.arm, one.seed) for one in planned[:2]] == [(leads.ADAM, 0), (leads.MEAN, 0)]
    # Last, as it needs teachers too.
    assert [(one.arm, one.seed) for one in planned[-leads.PAIRS :]] == [
        (leads.TEACHER, seed) for seed in range(leads.PAIRS)
    ]
    assert {one.setting for one in planned} == {leads.chosen(trials, "691a", leads.ADAM)}


def test_soap_is_trained_longer_after_the_pairs():
    trials = tuned(["691a"])
    planned = leads.comparison(trials, ["691a"])
    longer = planned[3 * leads.PAIRS : -leads.PAIRS]
    assert [(one.arm, one.seed) for one in longer] == [(leads.LONGER, seed) for seed in range(leads.PAIRS)]
    assert {one.setting for one in longer} == {(0.03, 64, 45)}
    soap = next(one for one in planned if one.arm == leads.SOAP)
    assert longer[0].recipe == dataclasses.replace(soap.recipe, max_epochs=45)


def cells(lines):
    return {row[0].strip("*"): row[1:] for row in ([cell.strip() for cell in one.split("|")[1:-1]] for one in lines)}


def test_the_tables(run_main, tmp_path):
    trials, random = tuned(leads.NETWORKS), np.random.default_rng(0)
    better = {
        *((leads.SOAP, network) for network in ("sep997", "sep697")),
        *((leads.MEAN, network) for network in ("691a",)),
        *((lead, "691a") for lead in (leads.LONGER, leads.TEACHER)),
    }
    correct = {
        (one.network, one.arm, one.seed): int(random.integers(4940, 4950)) + 20 * ((one.arm, one.network) in better)
        for one in leads.comparison(trials)
        if one.seed < 12
    }
    # A lead's trial whose pair is not there yet.
    del correct["sep997", leads.ADAM, 11]
    for one in trials:
        held_out.append(tmp_path / "leads.csv", one)
    for one in leads.comparison(trials):
        if (key := (one.network, one.arm, one.seed)) in correct:
            held_out.append(tmp_path / "leads.csv", trial_of(one, correct[key]))
    done = run_main(leads.main, "--out", tmp_path / "leads.csv")
    assert done.returncode == 0, done.stderr
    _, of_arms, of_pairs, decisions = done.stdout.strip().split("\n\n")
    of_arms, of_pairs = (cells(part.splitlines()[2:]) for part in (of_arms, of_pairs))
    compared = [(lead, network) for lead in (leads.SOAP, leads.MEAN) for network in leads.NETWORKS]
    compared += [(lead, "691a") for lead in (leads.LONGER, leads.TEACHER)]
    assert list(of_pairs) == [f"{lead}, {network}" for lead, network in compared]
    for lead, network in compared:
        n = 11 if network == "sep997" else 12
        adam, ours = (np.array([correct[network, arm, seed] for seed in range(n)]) / 5000 for arm in (leads.ADAM, lead))
        assert of_arms[f"{network}, {leads.ADAM}"][1:3] == [str(n), f"{adam.mean():.5f}"]
        low, high = stats.ttest_rel(ours, adam).confidence_interval()
        text = f"{(ours - adam).mean():+.5f}, 95 % interval {low:+.5f} to {high:+.5f}"
        assert of_pairs[f"{lead}, {network}"] == [str(n), text, f"{OVER_ADAM[lead]:.2f}"]
    assert decisions.splitlines() == [
        "soap: ahead by 0.0005 or more for 2 of 3, needed 2.",
        "adam, mean: ahead by 0.0005 or more for 1 of 3, needed 2.",
        "soap, time of C++: ahead by 0.0005 or more for 1 of 1, needed 1.",
        "adam, teacher: ahead by 0.0005 or more for 1 of 1, needed 1.",
    ]


def test_nothing_trained_yet(run_main):
    done = run_main(leads.main, "--out", "none.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 0 ") == 30 + (3 + 3 + 5) + (3 + 3 + 2)


@needs_core
def test_what_is_there_is_not_trained_again(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(leads, "EPOCHS", dict.fromkeys(leads.EPOCHS, 1))
    monkeypatch.setattr(leads, "TUNING_SEEDS", range(1000, 1001))
    monkeypatch.setattr(leads, "PAIRS", 2)
    path = tmp_path / "leads.csv"
    for planned in leads.tuning(["sep697"])[:9]:
        held_out.append(path, trial_of(planned, 18))
    leads.train_missing(path, ["sep697"], dataset)
    trials = held_out.read(path, leads.Trial)
    assert [trial.planned for trial in trials] == [*leads.tuning(["sep697"]), *leads.comparison(trials)]
    assert len(trials) == 10 + 6
    content = path.read_text()
    leads.train_missing(path, ["sep697"], dataset)
    assert path.read_text() == content


def test_a_row_cut_short_is_named(run_main, tmp_path):
    path = tmp_path / "leads.csv"
    held_out.append(path, trial_of(PLANNED, 4950))
    path.write_text(path.read_text()[:-12])
    done = run_main(leads.main, "--out", path)
    assert done.returncode == 2
    assert "expected whole rows, found another in line 2" in done.stderr
