"""Candidates in the slots of one device: what the core makes of them one by one, and what is asked for together."""

import csv
import dataclasses
import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mnist_minimal import search
from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate, SearchedNetwork
from mnist_minimal.recipes import SGD, Augmentation, Averaging, ByStep, Recipe, Teacher
from mnist_minimal.searching import storage
from mnist_minimal.searching.budget import Budget
from mnist_minimal.searching.display import Lines
from mnist_minimal.searching.evaluation import Score, evaluate, without_test_set
from mnist_minimal.searching.interfaces import Slot, Training
from mnist_minimal.searching.rungs import Halving, fold_of, rungs, seed_of
from mnist_minimal.searching.running import Plan, Search
from mnist_minimal.searching.samplers import RANDOM_TRIALS, SeededByNumber
from mnist_minimal.searching.space import Space
from mnist_minimal.searching.storage import Storage
from mnist_minimal.training.slots.numbers import structure
from tests.searching.test_search import KILLED
from tests.whole import whole_only

if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX, of the extra `test`, is not installed", allow_module_level=True)

from mnist_minimal.searching.slots import InSlots
from mnist_minimal.training.slots import device
from mnist_minimal.training.slots.program import Program

NETWORK = SearchedNetwork(3, 3, "valid", "max", (3,), 3, "valid", 0, "none", 0.2)
RECIPE = Recipe(
    source="a test's",
    batch_size=32,
    max_epochs=9,
    optimizer=SGD(0.2, 0.9),
    schedule=ByStep("cosine", 0.1),
    dropout=0.0,
)
TAUGHT = RECIPE.replace(
    dropout=0.05,
    teacher=Teacher(weight=0.75),
    augmentation=Augmentation(rotation=6, translation=0.04, scale=(0.92, 1.08), affine_share=0.5),
)


@pytest.fixture(scope="module")
def digits():
    return without_test_set(sets.load(Choice("digits")))


def some(dataset, images):
    return dataclasses.replace(dataset, x_train=dataset.x_train[:images], y_train=dataset.y_train[:images])


def evaluated(dataset, slots: Sequence[Slot], epochs: int, probabilities=lambda fold: None) -> list[Score]:
    """The scores of slots, of which each is yielded once."""
    found = dict(InSlots(dataset, [11, 10, 9, 8], 8, print)(slots, epochs, probabilities, lambda *progress: None))
    assert sorted(found) == list(range(len(slots)))
    return [found[number] for number in range(len(slots))]


def assert_as_the_core(dataset, slots: Sequence[Slot], epochs: int, probabilities=lambda fold: None) -> list[Score]:
    """The scores of slots, which are those of the core up to what rounding changes."""
    scores = evaluated(dataset, slots, epochs, probabilities)
    for slot, score in zip(slots, scores, strict=True):
        alone = evaluate(slot.candidate.as_dict(), slot.seed, slot.fold, epochs, dataset, probabilities(slot.fold))
        assert (score.size, score.passes) == (alone.size, alone.passes)
        assert abs(score.correct - alone.correct) <= 1
        assert score.loss == pytest.approx(alone.loss, rel=1e-3)
    # They are different trainings, which have learned different things.
    assert len({score.loss for score in scores}) == len({slot.seed for slot in slots})
    return scores


def test_a_slot_is_the_training_that_the_core_evaluates_and_one_that_diverges_ends_where_it_does(digits):
    """Three settings from seeds of their own, each of which holds out another part; the last one diverges."""
    recipes = [
        RECIPE,
        RECIPE.replace(schedule=ByStep("linear", 0.0), **{"optimizer.learning_rate": 0.1}),
        RECIPE.replace(schedule=None, **{"optimizer.learning_rate": 1e30}),
    ]
    slots = [Slot(Candidate(NETWORK, recipe), 7 + fold, fold) for recipe, fold in zip(recipes, (11, 8, 9), strict=True)]
    # A whole number of batches, for which alone a step is compiled.
    scores = assert_as_the_core(some(digits, 384), slots, 3)
    # Of three epochs of 352 images it has one.
    assert (scores[2].correct, scores[2].loss, scores[2].passes) == (0, float("inf"), 352)


@pytest.mark.slow
def test_parts_of_other_sizes_and_teachers_of_their_own_are_those_of_the_core(digits):
    """21 images are held out, or 20, each time by a program of its own; each part's teacher says other things.

    What is judged is the mean of the weights of the last steps, of which one recipe has more.
    """
    dataset = some(digits, 249)
    random = np.random.default_rng(0)
    taught = {fold: random.dirichlet(np.ones(10), 249).astype(np.float32) for fold in (11, 10, 9, 8)}
    averaged = TAUGHT.replace(averaging=Averaging(start=0.7))
    other = averaged.replace(
        dropout=0.1, **{"augmentation.rotation": 2.0, "teacher.weight": 0.25, "averaging.start": 0.2}
    )
    slots = [Slot(Candidate(NETWORK, other if fold % 2 else averaged), fold, fold) for fold in taught]
    scores = assert_as_the_core(dataset, slots, 2, taught.__getitem__)
    assert {score.size for score in scores} == {20, 21}


@pytest.mark.slow
def test_where_memory_runs_out_half_as_many_are_trained_at_once(digits, monkeypatch):
    said, progress, epoch = [], [], Program.epoch

    def of_two(program, state, seeds, *rest):
        if len(seeds) > 2:
            raise device.MemoryUsedUpError("too little")
        return epoch(program, state, seeds, *rest)

    monkeypatch.setattr(Program, "epoch", of_two)
    slots = [Slot(Candidate(NETWORK, RECIPE), seed, 11) for seed in range(3)]
    dataset = some(digits, 120)
    together = InSlots(dataset, [11], 8, said.append)
    scores = dict(together(slots, 1, lambda fold: None, lambda *now: progress.append(now)))
    assert [scores[seed].passes for seed in range(3)] == [110, 110, 110]
    assert said == ["Too little memory for 3 trainings at once: 1 from now on."]
    assert progress == [(0, 3, 0), *[(done, 1, epoch) for done in range(3) for epoch in range(2)]]
    monkeypatch.setattr(Program, "epoch", lambda program, state, seeds, *rest: of_two(program, state, range(3)))
    with pytest.raises(device.DeviceError, match=r"expected memory for one trial on jax .*, found too little"):
        list(together(slots, 1, lambda fold: None, lambda *now: None))


# What is asked for together


class Known:
    """Evaluates without a training: what the seed says.

    Args:
        settings: As of `interfaces.EvaluateTogether`.
    """

    def __init__(self, settings: int) -> None:
        self.settings = settings
        self.calls: list[list[Slot]] = []

    def __call__(
        self, slots: Sequence[Slot], epochs: int, probabilities: Callable, after_epoch: Callable[[int, int, int], None]
    ) -> Iterator[tuple[int, Score]]:
        self.calls.append(list(slots))
        after_epoch(0, len(slots), 1)
        for number, slot in enumerate(slots):
            correct = int(np.random.default_rng(slot.seed).integers(20, 120))
            yield number, Score(correct, 125, 1.0, 1375 * epochs, 0.01)


class Seen(Lines):
    """Keeps what it is shown in training."""

    def __init__(self) -> None:
        super().__init__(rungs(9))
        self.trainings: list[Training | None] = []

    def training(self, job, training):
        self.trainings.append(training)

    def final(self, name, score, left):
        pass


def new_search(out: Path, dataset, together, passes: int, finalists: int = 1, runs: int = 1) -> Search:
    plan = Plan(
        *(Space(120, 9), 0.99, Budget(passes=passes), dataset),
        **{"finalists": finalists, "runs": runs, "trainer": "jax", "settings": together.settings},
    )
    return Search(plan, Storage(out), Seen(), threading.Event(), together=together)


def assert_different_in_numbers_alone(candidates: Sequence[Candidate]) -> None:
    assert len({(each.network, structure(each.recipe)) for each in candidates}) == 1
    assert len({each.name for each in candidates}) == len(candidates)


@pytest.mark.slow
def test_what_is_proposed_together_by_what_was_learned_differs_in_numbers_alone(tmp_path):
    done = new_search(tmp_path, sets.load(Choice("digits")), Known(settings=5), 330_000)
    done.run()
    candidates = [Candidate.from_dict(trial.user_attrs[storage.CANDIDATE]) for trial in done.study.trials]
    assert len(candidates) > RANDOM_TRIALS
    batches = [candidates[first : first + 5] for first in range(0, len(candidates), 5)]
    for batch in batches:
        assert len(batch) == 5
        assert_different_in_numbers_alone(batch)
    assert len({batch[0].network for batch in batches}) > 1


def test_candidates_are_judged_together_and_the_best_third_of_all_that_are_known_goes_on(tmp_path):
    together = Known(settings=8)
    done = new_search(tmp_path, sets.load(Choice("digits")), together, 20_000)
    done.run()
    assert_different_in_numbers_alone([slot.candidate for slot in together.calls[0]])
    accuracies = [trial.intermediate_values[0] for trial in done.study.trials]
    best = sorted(range(8), key=accuracies.__getitem__)[-2:]
    assert [[slot.seed for slot in call] for call in together.calls[:2]] == [
        [seed_of(number, 0, 0) for number in range(8)],
        [seed_of(number, 1, place) for number in sorted(best) for place in range(2)],
    ]
    assert [slot.fold for slot in together.calls[1]] == [fold_of(0), fold_of(1)] * 2
    states = [trial.state for trial in done.study.trials]
    assert states.count(TrialState.COMPLETE) == 1
    assert states.count(TrialState.PRUNED) == 7
    assert done.display.trainings[:2] == [Training("candidates 0 to 7, rung 1 of 3", 1, 8, 1, epoch=1, slots=8), None]


def test_what_was_left_behind_is_judged_together_and_what_was_recorded_is_not_trained_again(tmp_path):
    dataset = sets.load(Choice("digits"))

    class Killed(Known):
        """Leaves in the middle of the second rung."""

        def __call__(self, slots, *rest):
            for scored, found in enumerate(super().__call__(slots, *rest)):
                if len(self.calls) == 2 and scored == 1:
                    raise ZeroDivisionError
                yield found

    killed = new_search(tmp_path, dataset, Killed(settings=6), 20_000)
    with pytest.raises(ZeroDivisionError):
        killed.run()
    killed.storage.leave()
    resumed = new_search(tmp_path, dataset, Known(settings=6), 20_000)
    resumed.run()
    left = killed.together.calls[1][1:]
    assert [(slot.seed, slot.fold) for slot in resumed.together.calls[1]] == [(slot.seed, slot.fold) for slot in left]
    assert resumed.together.calls[0] == []
    assert len(resumed.study.trials) == 6
    assert all(trial.state.is_finished() for trial in resumed.study.trials)
    with pytest.raises(UserError, match="begun with --settings 6, and now it would be 5; give"):
        new_search(tmp_path, dataset, Known(settings=5), 20_000)


# The command

TINY = [
    *("--dataset", "digits", "--max-params", "120", "--epochs", "9", "--finalists", "1", "--runs", "1"),
    *("--budget", "20000", "--trainer", "jax", "--settings", "2"),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_whole_and_as_the_core(out: Path) -> None:
    """The ledger of TINY's search has each training of each candidate once, with what the core makes of it, too."""
    digits = sets.load(Choice("digits"))
    # Each training once.
    found = rows(out / "ledger.csv")
    trained = [(row["number"], row["rung"], row["seed"]) for row in found]
    assert len(set(trained)) == len(trained)
    assert [row["size"] for row in found if row["rung"] == "final"] == ["297"]
    study = optuna.load_study(study_name="search", storage=JournalStorage(JournalFileBackend(str(out / "journal.log"))))
    assert [trial.number for trial in study.trials] == [0, 1]
    for trial in study.trials:
        assert trial.state.is_finished()
        scores = storage.scores(trial)
        # All seeds of each rung that it came to: 1, 2 and 4.
        assert len(scores) == sum((1, 2, 4)[: len(trial.intermediate_values)])
        for (rung, place), score in scores.items():
            seed, fold = seed_of(trial.number, rung, place), fold_of(place)
            alone = evaluate(trial.user_attrs[storage.CANDIDATE], seed, fold, rungs(9)[rung].epochs, digits)
            assert (score.size, score.passes) == (alone.size, alone.passes)
            # Two of 125.
            assert score.accuracy == pytest.approx(alone.accuracy, abs=0.016)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, pytest.param(True, marks=whole_only)], ids=["undisturbed", "killed"])
def test_a_search_on_one_device_is_the_cores_up_to_rounding_and_once_killed_is_resumed(run_python, tmp_path, kill):
    """If it is killed, in the middle of the second rung."""
    if kill:
        killed = run_python("-c", KILLED, "score_", "3", *TINY, "--out", "found")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_python("-m", "mnist_minimal.search", *TINY, "--out", "found")
    assert resumed.returncode == 0, resumed.stderr
    assert "The candidates are trained on cpu, 2 of each network side by side." in resumed.stdout
    assert_whole_and_as_the_core(tmp_path / "found")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--trainer", "jax", "--dask", "local"], "expected no --dask with --trainer jax"),
        (["--settings", "4"], "expected --trainer jax with --settings 4"),
        (["--trainer", "keras"], "invalid choice"),
    ],
)
def test_what_one_device_can_not_do_is_refused(run_main, arguments, complaint):
    found = run_main(search.main, "--max-params", "120", "--budget", "20000", *arguments)
    assert found.returncode == 2
    assert complaint in found.stderr.splitlines()[-1]


def test_without_jax_the_extra_is_named(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "installed", lambda: False)
    found = run_main(search.main, *TINY, "--out", "found")
    assert found.returncode == 2
    assert found.stderr == "error: expected JAX, found that it is not installed; pip install mnist-minimal[jax]\n"
    assert not (tmp_path / "found").exists()


def test_a_search_that_was_begun_before_one_could_choose_is_the_cores(tmp_path, digits):
    plan = Plan(Space(120, 9), 0.99, Budget(passes=300_000), digits)
    facts = {name: value for name, value in plan.facts().items() if name not in storage.BEFORE}
    begun = Storage(tmp_path)
    with begun.closing():
        begun.study(facts, SeededByNumber("tpe", 0), Halving())
    resumed = Search(plan, Storage(tmp_path), Seen(), threading.Event())
    resumed.storage.leave()
    with pytest.raises(UserError, match="begun with --trainer native, and now it would be jax; give"):
        new_search(tmp_path, digits, Known(settings=4), 300_000, finalists=3, runs=5)
