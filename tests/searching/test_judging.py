"""What judges candidates: rungs, held-out parts, samplers, budgets, and the storage between a kill and a restart."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optuna
import pytest

from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate
from mnist_minimal.recipes import SGD
from mnist_minimal.searching.budget import Budget, covered
from mnist_minimal.searching.evaluation import FOLDS, evaluate, fold_splits, without_test_set
from mnist_minimal.searching.ledger import Figure, frontier
from mnist_minimal.searching.rungs import Halving, Rung, fold_of, rungs, seed_of
from mnist_minimal.searching.running import Plan
from mnist_minimal.searching.samplers import RANDOM_TRIALS, SeededByNumber
from mnist_minimal.searching.space import COORDINATES, Space
from mnist_minimal.searching.storage import Storage
from mnist_minimal.training import core
from mnist_minimal.training.core import known_answer


@pytest.fixture(scope="module")
def digits():
    return sets.load(Choice("digits"))


def test_each_training_image_is_held_out_by_one_fold(digits):
    held_out = []
    for fold in range(FOLDS):
        splits, kept = fold_splits(digits, fold)
        out = np.setdiff1d(np.arange(1500), kept)
        assert len(splits.x_train) + len(splits.x_test) == 1500
        assert (splits.x_test == digits.x_train[out]).all()
        assert (splits.y_train == digits.y_train[kept]).all()
        held_out += out.tolist()
    assert sorted(held_out) == list(range(1500))


def test_without_a_fold_the_test_set_judges(digits):
    splits, kept = fold_splits(digits, None)
    assert (splits.x_test == digits.x_test).all()
    assert kept.tolist() == list(range(1500))


def test_the_same_training_gives_the_same_score_with_no_test_set_there(digits):
    candidate = Space(200, 9).decode(dict.fromkeys(COORDINATES, 0.5)).as_dict()
    scores = [evaluate(candidate, 3, 5, 1, dataset) for dataset in (digits, without_test_set(digits))]
    assert len(without_test_set(digits).x_test) == 0
    assert scores[0].passes == 1375
    assert scores[0].size == 125
    assert (scores[0].correct, scores[0].loss) == (scores[1].correct, scores[1].loss)


def test_a_training_that_diverges_counts_the_passes_that_it_took(digits):
    candidate = Space(200, 9).decode(dict.fromkeys(COORDINATES, 0.5))
    wild = Candidate(candidate.network, candidate.recipe.replace(optimizer=SGD(1e30, 0.9), schedule=None))
    score = evaluate(wild.as_dict(), 3, 5, 9, digits)
    assert (score.correct, score.size, score.loss) == (0, 125, float("inf"))
    assert score.passes == 1375


def test_a_core_of_other_bits_judges_nothing(digits, monkeypatch):
    candidate = Space(200, 9).decode(dict.fromkeys(COORDINATES, 0.5)).as_dict()
    monkeypatch.setattr(known_answer, "EXPECTED", "0" * 64)
    with pytest.raises(UserError, match=r"core's bits alone, and .*, expected 000.*; install mnist_minimal again"):
        evaluate(candidate, 3, 5, 1, digits)
    monkeypatch.setattr(core, "IMPORT_ERROR", ModuleNotFoundError())
    with pytest.raises(UserError, match=r"by the C\+\+ core alone: .* was not built; install [^;]* of the source\)$"):
        evaluate(candidate, 3, 5, 1, digits)


def test_rungs_are_thirds_of_the_epochs_with_more_seeds():
    assert rungs(36) == [Rung(4, 1), Rung(12, 2), Rung(36, 4)]
    with pytest.raises(UserError, match="expected at least 9 epochs"):
        rungs(8)


def test_no_two_trainings_of_a_search_have_one_seed_and_a_rungs_have_other_folds():
    used = [seed_of(number, rung, place) for number in range(50) for rung in range(3) for place in range(4)]
    assert len(set(used)) == len(used)
    assert [fold_of(place) for place in range(4)] == [11, 10, 9, 8]


def reported(accuracies):
    """A study whose trials have reported these at rung 0, and which of them then stops."""
    study = optuna.create_study(direction="maximize", pruner=Halving())
    stopped = []
    for accuracy in accuracies:
        trial = study.ask()
        trial.report(accuracy, 0)
        stopped.append(trial.should_prune())
        # Judged again, as after a kill, it is judged alike.
        assert trial.should_prune() == stopped[-1]
    return stopped


def test_the_best_third_of_those_known_goes_on():
    # The first one is the best known; .5 is not, .95 is; then two of six go on, of which .92 is the second best.
    assert reported([0.9, 0.5, 0.95, 0.8, 0.93, 0.92, 0.94]) == [False, True, False, True, True, True, False]


def points(study, accuracies):
    """The points that a study proposes next, one after the other, where each comes to its accuracy and its first."""
    found = []
    for accuracy in accuracies:
        trial = study.ask()
        found.append([trial.suggest_float(coordinate, 0, 1) for coordinate in ("a", "b")])
        study.tell(trial, accuracy + found[-1][0])
    return found


@pytest.mark.parametrize("number", [1, RANDOM_TRIALS + 3])
@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_trial_is_proposed_the_same_by_its_number(name, number):
    """By a sampler that has proposed the trials before it, and by one that only finds them in the study."""
    study = optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 7))
    found = points(study, [0.1] * (number + 1))
    resumed = optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 7))
    resumed.add_trials(study.trials[:number])
    assert points(resumed, [0.1]) == found[number:]
    assert len({tuple(point) for point in found}) == len(found)
    other = optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 8))
    assert points(other, [0.1]) != found[:1]


def test_the_sampler_learns():
    found = points(optuna.create_study(direction="maximize", sampler=SeededByNumber("tpe", 0)), [0.0] * 45)
    assert np.mean([a for a, _ in found[-15:]]) > np.mean([a for a, _ in found[:RANDOM_TRIALS]]) + 0.15


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("2h", Budget(seconds=7200)),
        ("1h30m", Budget(seconds=5400)),
        ("90s", Budget(seconds=90)),
        ("0.5m", Budget(seconds=30)),
        ("5e9", Budget(passes=5_000_000_000)),
        ("250000", Budget(passes=250_000)),
    ],
)
def test_a_budget_is_time_or_passes(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "h", "2 h", "0h", "0", "-1", "nan", "2x", "1e999", "٣h", "2h5"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(UserError, match="expected a time such as 2h"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [([], 0), ([(10, 15)], 5), ([(10, 15), (40, 42)], 7), ([(10, 30), (12, 15), (20, 35), (40, 41)], 26)],
)
def test_time_that_several_work_side_by_side_counts_once(intervals, seconds):
    assert covered(intervals) == covered(intervals[::-1]) == seconds


@pytest.mark.parametrize(("jobs", "trainings"), [(1, 15), (2, 8), (4, 4), (15, 1), (40, 1)])
def test_the_finals_take_as_long_as_the_job_that_trains_most_of_them(digits, jobs, trainings):
    plan = Plan(Space(200, 9), 0.99, Budget(seconds=60), digits, jobs=jobs, finalists=3, runs=5)
    assert plan.final_seconds(0.5) == trainings * 9 * 1500 * 0.5


def figure(params, median):
    return Figure(f"c{params}", params, median, median, 4, "held out")


def test_the_frontier_is_what_no_smaller_network_is_as_good_as():
    figures = [figure(*each) for each in [(650, 0.98), (600, 0.97), (640, 0.97), (300, 0.9), (600, 0.96), (700, 0.975)]]
    assert [(each.params, each.median) for each in frontier(figures)] == [(300, 0.9), (600, 0.97), (650, 0.98)]


def begin(out, **facts):
    storage = Storage(out)
    return storage, storage.study({"--max-params": 650, **facts}, SeededByNumber("tpe", 0), Halving())


TAKEN = """
import sys, os
from pathlib import Path
from tests.searching.test_judging import begin
storage, study = begin(Path(sys.argv[1]))
trial = storage.take_over(study) or storage.ask(study)
print(trial.number, trial.suggest_float("a", 0, 1), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_workers_trial_is_taken_over_and_a_living_ones_is_not(tmp_path):
    def worker(end):
        command = [sys.executable, "-c", TAKEN, str(tmp_path / "search"), end]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    killed, living = worker("killed"), None
    number, coordinate = killed.communicate()[0].split()
    assert number == "0"
    try:
        living = worker("lives")
        # It takes over what the killed one had.
        assert living.stdout.readline().split() == [number, coordinate]
        storage, study = begin(tmp_path / "search")
        assert storage.others() == 1
        assert storage.take_over(study) is None
        assert storage.ask(study).number == 1
    finally:
        if living:
            living.communicate("")
    assert storage.others() == 0


def test_a_trial_that_was_taken_and_left_is_taken_again_with_its_point(tmp_path):
    storage, study = begin(tmp_path)
    with storage.closing():
        trial = storage.ask(study)
        point = [trial.suggest_float(name, 0, 1) for name in "ab"]
    again, study = begin(tmp_path)
    with again.closing():
        taken = again.take_over(study)
        assert taken.number == 0
        assert [taken.suggest_float(name, 0, 1) for name in "ab"] == point
        # It is this one's now.
        assert again.take_over(study) is None
        assert again.ask(study).number == 1


def test_what_the_sampler_has_learned_is_proposed_again_after_a_kill(tmp_path):
    storage, study = begin(tmp_path)
    with storage.closing():
        for _ in range(RANDOM_TRIALS + 3):
            trial = storage.ask(study)
            study.tell(trial, sum(trial.suggest_float(name, 0, 1) for name in "ab"))
        trial = storage.ask(study)
        # Killed between the two.
        first = trial.suggest_float("a", 0, 1)
    again, study = begin(tmp_path)
    with again.closing():
        taken = again.take_over(study)
        assert (taken.number, taken.suggest_float("a", 0, 1)) == (RANDOM_TRIALS + 3, first)
        second = taken.suggest_float("b", 0, 1)
    # The same as of a search that was not disturbed.
    storage, study = begin(tmp_path / "undisturbed")
    with storage.closing():
        for _ in range(RANDOM_TRIALS + 3):
            trial = storage.ask(study)
            study.tell(trial, sum(trial.suggest_float(name, 0, 1) for name in "ab"))
        trial = storage.ask(study)
        assert [trial.suggest_float(name, 0, 1) for name in "ab"] == [first, second]


def test_a_worker_that_begins_is_not_looked_at_before_it_is_there(tmp_path):
    """Or who looks could take its file, made and not yet locked, for a dead worker's and remove it."""
    first = Storage(tmp_path)
    with first.closing(), ThreadPoolExecutor(1) as pool:
        with first.taking:
            begun = pool.submit(Storage, tmp_path)
            with pytest.raises(TimeoutError):
                begun.result(timeout=0.3)
            assert [path.stem for path in first.workers.iterdir()] == [first.name]
        second = begun.result()
        assert first.others() == 1
        pool.submit(second.leave).result()
        assert first.others() == 0


def test_a_line_torn_by_a_kill_is_cut_off(tmp_path):
    storage, study = begin(tmp_path)
    with storage.closing():
        storage.ask(study)
    with storage.journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    again, study = begin(tmp_path)
    with again.closing():
        assert len(study.trials) == 1
        again.take_over(study).suggest_float("a", 0, 1)
    third, study = begin(tmp_path)
    with third.closing():
        assert list(study.trials[0].params) == ["a"]


def test_another_search_in_the_folder_is_refused(tmp_path):
    begin(tmp_path)[0].alive.release()
    with pytest.raises(UserError, match="begun with --max-params 650, and now it would be 600; give"):
        begin(tmp_path, **{"--max-params": 600})


@pytest.mark.parametrize("content", ["nonsense\n", '{"op_code": 4}\n', "[1]\n", '{"op_code": 99, "worker_id": "x"}\n'])
def test_what_is_no_journal_is_refused(tmp_path, content):
    (tmp_path / "journal.log").write_text(content)
    with pytest.raises(UserError, match=r"journal\.log: expected the journal of a search, found another file"):
        begin(tmp_path)


def test_a_journal_is_written_through_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/journal.log").symlink_to(outside)
    with pytest.raises(UserError, match="found a symbolic link"):
        begin(tmp_path / "out")
    assert outside.read_text() == "precious"
