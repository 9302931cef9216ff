"""The trials that are trained together, with a program that trains nothing: rows, files, faults."""

import copy
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_minimal.engines.policy import Policy
from mnist_minimal.engines.slots import SlotEngine
from mnist_minimal.errors import UserError
from mnist_minimal.models import MODELS
from mnist_minimal.recipes import RECIPES, SGD, EarlyStopping, MedianStopping, Plateau, Recipe
from mnist_minimal.saving.saved_model import load, save
from mnist_minimal.saving.template import Template
from mnist_minimal.study import history, ledger, slots
from mnist_minimal.study.job import Job
from mnist_minimal.study.ledger import Ledger
from mnist_minimal.study.plan import SEEDS
from mnist_minimal.study.policies import MedianStopping as MedianStoppingPolicy
from mnist_minimal.study.runner import missing, run_trials
from mnist_minimal.study.slots import Members, SlotTrials
from mnist_minimal.study.study import Study
from mnist_minimal.trial import EpochReport, Trial
from tests.jobs import without_times
from tests.study.fake_program import IMAGES, FakeProgram, course

RECIPE = Recipe(
    batch_size=50,
    max_epochs=9,
    optimizer=SGD(0.5, 0.0),
    schedule=Plateau(0.1, 2, 0.0, 1e-8),
    early_stopping=EarlyStopping(3),
)


RULE = MedianStopping(trials=2, epoch=3, window=2)


def tiny() -> keras.Model:
    image = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(image, keras.layers.Dense(10, "softmax", name="dense")(x), name="tiny")


def job_in(folder: Path, recipe: Recipe = RECIPE) -> Job:
    facts = {"recipe": recipe.as_dict(), "trainer": "jax"}
    names, epochs = ("tiny", "digits", "source"), recipe.max_epochs
    return Job(Study(folder, "tiny-digits"), *names, recipe, None, "jax", epochs, None, 76, IMAGES, facts, tiny)


@pytest.fixture
def new_job(tmp_path: Path) -> Callable[..., Job]:
    def job(name: str = "job", recipe: Recipe = RECIPE, **options: object) -> Job:
        made = replace(job_in(tmp_path / name, recipe), **options)
        made.study.folder.mkdir(parents=True, exist_ok=True)
        return made

    return job


@cache
def prototype() -> Members:
    """What is made of the tiny model for any job, which takes longer than a test."""
    return Members(job_in(Path()))


def members_of(job: Job) -> Members:
    found = copy.copy(prototype())
    found.job, found.identity, found.saved = job, {**job.facts, "version": "1"}, {}
    return found


def make(jobs: Job | Sequence[Job], places: int, program: FakeProgram | None = None) -> SlotTrials:
    program = program or FakeProgram()
    members = [members_of(job) for job in ([jobs] if isinstance(jobs, Job) else jobs)]
    said: list[str] = []
    found = SlotTrials(members, program, program.numbers_of, IMAGES, places, "{} at once".format, said.append)
    found.said = said
    return found


def run(job: Job, found: SlotTrials, seeds: Iterable[int], *policies: Policy) -> list[Trial]:
    """Runs a job to its end or to what a policy raises; the rows, by seed."""
    table = Ledger(job.study)
    run_trials(SlotEngine(found, found.failed), table, missing(table, seeds), policies)
    return rows(job)


def rows(job: Job) -> list[Trial]:
    """The rows by seed, without what differs each time."""
    found = [replace(without_times(trial), backend="") for trial in ledger.read(job.study.csv)]
    return sorted(found, key=lambda trial: trial.seed)


def files_of(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.study.folder.iterdir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[..., tuple[list[Trial], dict[str, bytes]]]:
    """The rows and the files of a job's trials, one after the other."""

    @cache
    def found(seeds: int, recipe: Recipe = RECIPE) -> tuple[list[Trial], dict[str, bytes]]:
        job = job_in(tmp_path_factory.mktemp("alone"), recipe)
        job.study.folder.mkdir()
        return run(job, make(job, 1), range(seeds)), files_of(job)

    return found


def worked_by_hand(seed: int) -> tuple[int, int, float]:
    """Epochs, best epoch and the learning rate of the last one, by Keras' rules: best in the third, 3 more to the end.

    The monitored loss is the least in the third epoch as well; after two worse ones the rate is a tenth.
    """
    assert [course(seed, epoch)[2] for epoch in range(3)] == sorted(course(seed, epoch)[2] for epoch in range(3))
    return 6, 3, 0.05


def test_a_trial_is_what_keras_rules_make_of_its_course(new_job):
    job = new_job()
    trials = run(job, make(job, 4), range(6))
    for seed, trial in enumerate(trials):
        epochs, best, rate = worked_by_hand(seed)
        assert (trial.seed, trial.status, trial.trainer) == (seed, "finished", "jax")
        assert (trial.epochs, trial.best_epoch) == (epochs, best)
        assert trial.best_accuracy == course(seed, 2)[2] / IMAGES
        assert trial.saved_accuracy == course(seed, epochs - 1)[2] / IMAGES
        figures = history.read(job.study.history(seed))
        assert figures["val_loss"] == pytest.approx([course(seed, epoch)[1] for epoch in range(epochs)], rel=1e-12)
        # Reduced at the end of the fifth epoch, after two without a lower loss.
        assert figures["learning_rate"] == [0.5] * 5 + [float(np.float32(rate))]
        # The weights of the third epoch: 0.5 times what the moments were, 1 + seed times 1, 1.5, 1.75.
        initial = prototype().initial_weights(seed)
        moved = np.float32(0.5 * (1 + seed) * (1 + 1.5 + 1.75))
        kept = load(job.study.weights(seed)).get_weights()
        for before, after in zip(initial[:2], kept[:2], strict=True):
            np.testing.assert_allclose(after, before + moved, rtol=1e-6)
    assert not list(job.study.folder.glob("*.checkpoint.npz"))
    assert ledger.read(job.study.csv)[0].backend == "4 at once"


@pytest.mark.parametrize("places", [2, 8, 20])
def test_trials_are_the_same_whatever_the_number_at_once(new_job, alone, places):
    job = new_job()
    found = make(job, places)
    assert (run(job, found, range(9)), files_of(job)) == alone(9)


def test_places_are_compiled_for_a_few_sizes_and_empty_ones_cost_nothing(new_job):
    job, program = new_job(recipe=RECIPE.replace(early_stopping=None, schedule=None)), FakeProgram()
    # 8 places: the last of 9 trials is alone when the eight have come to their end.
    run(job, make(job, 8, program), range(9))
    assert program.together == 9 * [8] + 9 * [1]
    # With early ends of different trials the sizes are halves of halves.
    other, program = new_job("other", RECIPE), FakeProgram(lambda seed, epoch: (1.0, 1.0, 50 - abs(epoch - seed % 5)))
    run(other, make(other, 8, program), range(8))
    assert set(program.together) <= {8, 4, 2, 1}
    assert sorted(program.together, reverse=True) == program.together
    running = [sum(place != (0, 0) for place in call) for call in program.calls]
    assert all(size in (1, 2, 4, 8) and size < 2 * count for size, count in zip(program.together, running, strict=True))


@pytest.mark.slow
def test_hundreds_of_trials_at_once_are_recorded(new_job, record_property):
    """Whole trials of the real model's size, whose program is none; it notes what they take of the host."""

    def rising(seed: int, epoch: int) -> tuple[float, float, int]:
        return 2 / (epoch + 1), 1 / (epoch + 1), 50 + min(epoch, 60 + seed % 20) // 2

    recipe, program = RECIPES["sep997"], FakeProgram(rising)
    job = replace(new_job(recipe=recipe), build=MODELS["sep997"])
    trials = SlotTrials([Members(job)], program, program.numbers_of, IMAGES, 256, "{} at once".format, print)
    began, cpu = time.perf_counter(), time.process_time()
    found = run(job, trials, range(256))
    record_property("host, CPU ms a trial", f"{(time.process_time() - cpu) / 0.256:.1f}")
    record_property("host, ms by the clock a trial", f"{(time.perf_counter() - began) / 0.256:.1f}")
    assert [trial.seed for trial in found] == list(range(256))
    assert {trial.status for trial in found} == {"finished"}
    # From its last improvement on a trial of sep997 goes on for as long as its patience.
    assert [trial.epochs for trial in found] == [
        recipe.early_stopping.patience + (60 + seed % 20) // 2 * 2 + 1 for seed in range(256)
    ]


def test_a_trial_that_diverges_fails_and_leaves_its_place(new_job):
    def broken(seed: int, epoch: int) -> tuple[float, float, int]:
        loss, *rest = course(seed, epoch)
        return (float("nan") if (seed, epoch) == (1, 2) else loss, *rest)

    job = new_job()
    trials = run(job, make(job, 2, FakeProgram(broken)), range(4))
    assert [trial.status for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert trials[1].reason == "DivergedError: the training loss became nan in epoch 3"
    assert len(history.read(job.study.history(1))["loss"]) == 2


class Interrupting(Policy):
    """Interrupts at the report of this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def epoch_ended(self, report: EpochReport) -> None:
        self.number -= 1
        if not self.number:
            raise KeyboardInterrupt


class Resumed(Policy):
    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}

    def epoch_ended(self, report: EpochReport) -> None:
        if not report.trained:
            self.epochs[report.seed] = report.epoch


@pytest.mark.parametrize("number", [1, 11, 18, 25])
def test_an_interrupted_job_is_resumed_to_the_same_trials(new_job, alone, number):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(7), Interrupting(number))
    begun = [path.stem for path in job.study.folder.glob("[0-9].csv")]
    assert job.study.slots.exists()
    told, program = Resumed(), FakeProgram()
    assert (run(job, make(job, 4, program), range(7), told), files_of(job)) == alone(7)
    # Of what was interrupted no epoch is trained again.
    assert told.epochs.keys() <= {int(seed) for seed in begun}
    assert told.epochs
    # A place without a trial has seed 0 in its first epoch.
    trained = [place for call in program.calls for place in call if place != (0, 0)]
    assert not {(seed, epoch - 1) for seed, epoch in told.epochs.items()} & set(trained)


@pytest.mark.parametrize(("where", "name"), [(SlotTrials, "end"), (Ledger, "append")])
def test_an_interrupt_while_a_trial_is_recorded_costs_no_epoch(new_job, alone, monkeypatch, where, name):
    """Neither after its model was saved nor before its row is on disk."""
    job, first, original, calls = new_job(), FakeProgram(), getattr(where, name), itertools.count()

    def interrupted(*arguments: object) -> object:
        if next(calls) == 1:
            if name == "end":
                original(*arguments)
            raise KeyboardInterrupt
        return original(*arguments)

    found = make(job, 3, first)
    with monkeypatch.context() as patched:
        patched.setattr(where, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(job, found, range(7))
    program = FakeProgram()
    assert (run(job, make(job, 3, program), range(7)), files_of(job)) == alone(7)
    trained = [place for call in first.calls + program.calls for place in call if place != (0, 0)]
    assert len(trained) == len(set(trained))


def test_a_trial_without_an_epoch_leaves_no_history(new_job):
    """An empty one would be refused by the median stopping rule, which looks at those of all lower seeds."""

    def broken(seed: int, epoch: int) -> tuple[float, float, int]:
        loss, *rest = course(seed, epoch)
        return (float("nan") if seed == 0 else loss, *rest)

    recipe = RECIPE.replace(median_stopping=RULE)
    job = new_job(recipe=recipe)
    rule = MedianStoppingPolicy(RULE, job.study, [], IMAGES)
    trials = run(job, make(job, 4, FakeProgram(broken)), range(4), rule)
    assert [trial.status for trial in trials] == ["failed", *3 * ["finished"]]
    assert not job.study.history(0).exists()


def test_recipes_that_stop_early_and_that_do_not_share_a_program(new_job):
    """And with a plateau or none: each is what it is by itself."""
    recipes = [RECIPE, RECIPE.replace(early_stopping=None), RECIPE.replace(schedule=None)]
    jobs = [new_job(f"job{number}", recipe) for number, recipe in enumerate(recipes)]
    found = make(jobs, 9)
    keys = [number * SEEDS + seed for number in range(3) for seed in range(3)]
    outcomes = {outcome.trial.seed: outcome.trial for outcome in SlotEngine(found, found.failed).run(keys, [])}
    for number, recipe in enumerate(recipes):
        alone = new_job(f"alone{number}", recipe)
        for seed, trial in enumerate(run(alone, make(alone, 1), range(3))):
            together = replace(without_times(outcomes[number * SEEDS + seed]), backend="", seed=seed)
            assert together == trial
            for of in ("weights", "history"):
                paths = [getattr(job.study, of)(seed) for job in (jobs[number], alone)]
                assert paths[0].read_bytes() == paths[1].read_bytes()


def test_where_memory_for_tests_runs_out_trials_are_tested_alone(new_job, alone):
    job, program = new_job(), FakeProgram(room_for_tests=1)
    assert (run(job, make(job, 4, program), range(6)), files_of(job)) == alone(6)


def test_a_job_of_other_seeds_keeps_what_an_interrupted_one_left(new_job, alone):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(3), Interrupting(5))
    run(job, make(job, 3), range(3, 7))
    assert job.study.slots.exists()
    told = Resumed()
    assert (run(job, make(job, 3), range(3), told), files_of(job)) == alone(7)
    assert told.epochs == {0: 2, 1: 2, 2: 2}


def test_what_a_kill_left_of_trials_whose_rows_are_there_is_removed(new_job, alone):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(3), Interrupting(5))
    old = job.study.slots.read_bytes()
    run(job, make(job, 3), range(3))
    job.study.slots.write_bytes(old)
    assert (run(job, make(job, 3), range(4)), files_of(job)) == alone(4)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(byte ^ 0x55 if 100 < index < 900 else byte for index, byte in enumerate(data)),
    "text": lambda data: b"hello",
    "another's": lambda data: data.replace(b'"trainer": "jax"', b'"trainer": "jay"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_else(new_job, alone, damage, capsys):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(3), Interrupting(5))
    job.study.slots.write_bytes(DAMAGES[damage](job.study.slots.read_bytes()))
    assert (run(job, make(job, 3), range(3)), files_of(job)) == alone(3)
    said = capsys.readouterr().err
    assert said.startswith(f"{job.study.slots}: ")
    assert said.rstrip().endswith("its trials start again")


def test_a_history_that_was_edited_costs_the_epochs_of_its_trial_alone(new_job, alone):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(3), Interrupting(5))
    path = job.study.history(1)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.4", 1))
    told, found = Resumed(), make(job, 3)
    assert (run(job, found, range(3), told), files_of(job)) == alone(3)
    assert told.epochs.keys() == {0, 2}
    assert found.said == [
        f"{job.study.slots}: expected the history 1.csv as it was written, found it changed; the trial of seed 1 "
        "starts again."
    ]


def test_where_memory_runs_out_half_as_many_go_on(new_job, alone):
    job, program = new_job(), FakeProgram(memory=3)
    found = make(job, 8, program)
    assert (run(job, found, range(9)), files_of(job)) == alone(9)
    assert found.said == [
        f"Too little memory for {before} trials at once: {before // 2} from now on." for before in (8, 4)
    ]
    assert max(program.together) == 2


def test_memory_that_runs_out_later_costs_no_epoch(new_job, alone):
    job, program = new_job(), FakeProgram()

    class Shrinking(Policy):
        def epoch_ended(self, report: EpochReport) -> None:
            program.memory = 4 if report.epoch == 2 else program.memory

    assert (run(job, make(job, 8, program), range(9), Shrinking()), files_of(job)) == alone(9)
    trained = [place for call in program.calls for place in call if place != (0, 0)]
    assert len(trained) == len(set(trained))


def test_memory_for_no_trial_at_all_is_an_error_of_the_user(new_job):
    job = new_job()
    with pytest.raises(UserError, match=r"expected memory for one trial on 1 at once, found too little \(RESOURCE_EX"):
        run(job, make(job, 2, FakeProgram(memory=0)), range(2))


def test_a_disk_that_is_full_ends_the_job_and_the_last_checkpoint_stays(new_job, alone, monkeypatch):
    job = new_job()
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 3), range(3), Interrupting(5))
    before = job.study.slots.read_bytes()
    monkeypatch.setattr(slots, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    # No file may grow beyond this: the histories fit, the checkpoint does not.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"slots.checkpoint.npz: can't be written .*; make room"):
            run(job, make(job, 3), range(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert job.study.slots.read_bytes() == before
    told = Resumed()
    assert (run(job, make(job, 3), range(3), told), files_of(job)) == alone(3)
    assert told.epochs == {0: 2, 1: 2, 2: 2}


def test_the_median_stopping_rule_decides_as_when_one_is_trained_after_the_other(new_job, alone):
    recipe = RECIPE.replace(median_stopping=RULE)

    def ruled(job: Job) -> MedianStoppingPolicy:
        return MedianStoppingPolicy(RULE, job.study, ledger.read(job.study.csv), IMAGES)

    one = new_job("one", recipe)
    expected = run(one, make(one, 1), range(9), ruled(one))
    # Seeds 5 to 9 have the figures of 0 to 4: only those below the median of the lower ones are stopped.
    assert [trial.status for trial in expected[:5]] == 5 * ["finished"]
    assert [trial.status for trial in expected[5:7]] == 2 * ["stopped"]
    assert expected[5].epochs == 3
    for places in (4, 9):
        job = new_job(f"job{places}", recipe)
        with pytest.raises(KeyboardInterrupt):
            run(job, make(job, places), range(9), ruled(job), Interrupting(2 * places + 2))
        assert run(job, make(job, places), range(9), ruled(job)) == expected
        assert {**files_of(job)} == {**files_of(one)}


class Sabotage(keras.callbacks.Callback):
    """Sets the rate before the second epoch, the weights after it, stops after the fourth, and once more in the end."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.optimizer.learning_rate = 0.25

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.set_weights([np.zeros_like(weights) for weights in self.model.get_weights()])
        if epoch == 3:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.model.set_weights([weights + 1 for weights in self.model.get_weights()])


def test_callbacks_of_the_users_own_have_a_model_for_each_trial_and_change_it(new_job):
    made: list[int] = []

    def callbacks(seed: int) -> list[keras.callbacks.Callback]:
        made.append(seed)
        return [Sabotage()] if seed else []

    recipe = RECIPE.replace(early_stopping=None, schedule=None)
    job = new_job(recipe=recipe, callbacks=callbacks)
    trials = run(job, make(job, 3), range(3))
    assert made == [0, 1, 2]
    assert [trial.epochs for trial in trials] == [9, 4, 4]
    for seed in (1, 2):
        assert history.read(job.study.history(seed))["learning_rate"] == [0.5, 0.25, 0.25, 0.25]
        # From zeros two epochs on: the moments are 1 + seed times 1, 1.5, 1.75, 1.875; then 1 is added.
        kept = load(job.study.weights(seed)).get_weights()
        expected = 1 + 0.25 * (1 + seed) * (1.75 + 1.875)
        np.testing.assert_allclose(kept[0], np.full_like(kept[0], expected), rtol=1e-6)
        parameters = np.float32(expected) * np.ones(76, np.float32)
        assert trials[seed].test_correct == FakeProgram().test_correct(
            FakeProgram().begin(parameters[None], parameters[None])
        )


class Broken(keras.callbacks.Callback):
    """Raises in the third epoch, at its beginning or at its end."""

    def __init__(self, at_end: bool) -> None:
        super().__init__()
        self.at_end = at_end

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and not self.at_end:
            raise ValueError("broken at the beginning")

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2 and self.at_end:
            raise ValueError("broken at the end")


def test_a_callback_that_raises_fails_its_trial_alone(new_job):
    job = new_job(callbacks=lambda seed: [Broken(seed == 1)] if seed < 2 else [])
    trials = run(job, make(job, 3), range(4))
    assert [trial.reason for trial in trials] == [
        "ValueError: broken at the beginning",
        "ValueError: broken at the end",
        "",
        "",
    ]
    assert [trial.status for trial in trials] == ["failed", "failed", "finished", "finished"]
    assert all(len(history.read(job.study.history(seed))["loss"]) == 2 for seed in range(2))


def test_trials_with_callbacks_of_the_users_own_start_again(new_job):
    recipe = RECIPE.replace(early_stopping=None, schedule=None)
    job = new_job(recipe=recipe, callbacks=lambda seed: [Sabotage()])
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 2), range(2), Interrupting(5))
    assert not job.study.slots.exists()
    told = Resumed()
    assert [trial.epochs for trial in run(job, make(job, 2), range(2), told)] == [4, 4]
    assert not told.epochs


def test_initial_weights_are_those_of_a_model_that_is_built_for_the_seed():
    from mnist_minimal.training import initial_weights

    members = prototype()
    for seed in (0, 7):
        model = tiny()
        assert not initial_weights.draw(model, seed)
        found = members.initial_weights(seed)
        for expected, array in zip(model.get_weights(), found, strict=True):
            np.testing.assert_array_equal(array, expected)
        again = members.shaped(*members.flat(found))
        assert all(np.array_equal(one, other) for one, other in zip(again, found, strict=True))


def drawn_by_keras() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(10, "softmax", kernel_initializer="orthogonal")(x), name="drawn")


def test_weights_that_keras_draws_are_drawn_for_each_seed():
    members = Members(replace(job_in(Path()), build=drawn_by_keras))
    first, other, again = (members.initial_weights(seed)[0] for seed in (1, 2, 1))
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, again)


def test_a_models_file_from_the_template_is_the_one_that_keras_writes(tmp_path):
    model = tiny()
    before = model.get_weights()
    template = Template(model)
    for ours, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, kept)
    draw = np.random.default_rng(1)
    weights = [draw.normal(size=array.shape).astype(array.dtype) for array in before]
    template.write(tmp_path / "ours.h5", weights)
    model.set_weights(weights)
    save(model, tmp_path / "keras.h5")
    assert (tmp_path / "ours.h5").read_bytes() == (tmp_path / "keras.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["keras.h5", "ours.h5"]


def test_studies_that_share_the_places_are_those_that_have_them_alone(new_job):
    recipes = [RECIPE, RECIPE.replace(**{"optimizer.learning_rate": 0.125, "early_stopping.patience": 1})]
    jobs = [new_job(f"both{number}", recipe) for number, recipe in enumerate(recipes)]
    program = FakeProgram()
    found = make(jobs, 3, program)
    keys = [number * SEEDS + seed for seed, number in itertools.product(range(4), range(2))]
    outcomes = [outcome.trial for outcome in SlotEngine(found, found.failed).run(keys, [])]
    assert sorted(trial.seed for trial in outcomes) == sorted(keys)
    assert any({*map(id, places)} == {*map(id, recipes)} for places in program.recipes)
    for number, recipe in enumerate(recipes):
        job = new_job(f"alone{number}", recipe)
        expected = run(job, make(job, 1), range(4))
        ours = [
            replace(without_times(trial), seed=trial.seed % SEEDS, backend="")
            for trial in sorted(outcomes, key=lambda trial: trial.seed)
            if trial.seed // SEEDS == number
        ]
        assert ours == expected
        for seed in range(4):
            assert jobs[number].study.weights(seed).read_bytes() == job.study.weights(seed).read_bytes()
            assert jobs[number].study.history(seed).read_bytes() == job.study.history(seed).read_bytes()


def test_a_waiting_trial_keeps_its_state_while_others_are_in_its_place(new_job, alone):
    """Seed 2 is resumed two epochs ahead of the lower ones, comes first to the milestone and waits for them."""

    class WaitForAll(Policy):
        def __init__(self) -> None:
            self.there: set[int] = set()
            self.asked: list[int] = []

        def epoch_ended(self, report: EpochReport) -> None:
            if report.milestone is not None:
                assert isinstance(report.milestone, Fraction)
                self.there.add(report.seed)

        def reason_to_stop(self, report: EpochReport) -> str | None:
            self.asked.append(report.seed)
            return "" if {0, 1, 2} <= self.there else None

    recipe = RECIPE.replace(median_stopping=RULE)
    job = new_job(recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        run(job, make(job, 1), [2], Interrupting(2))
    waiting = WaitForAll()
    trials = run(job, make(job, 2), [2, 0, 1], waiting)
    assert waiting.asked.count(2) > 1
    expected, names = alone(3, recipe)
    assert (trials, files_of(job)) == (expected, names)
