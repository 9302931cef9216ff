"""A search as it runs in its folder: what is resumed, who tests the finalists, and what of a budget is left."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mnist_minimal.data import sets
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.models.searched import Candidate, SearchedNetwork
from mnist_minimal.recipes import Adam, Recipe
from mnist_minimal.searching import running, storage
from mnist_minimal.searching.budget import Budget
from mnist_minimal.searching.display import Lines
from mnist_minimal.searching.interfaces import Training
from mnist_minimal.searching.rungs import rungs
from mnist_minimal.searching.running import Plan, Search
from mnist_minimal.searching.space import COORDINATES, Space
from mnist_minimal.searching.storage import Storage

# Its first candidate spends all that the finals leave of it.
SMALL = Budget(passes=20_000)


class Seen(Lines):
    """Keeps what it is shown.

    Args:
        together: At which displays wait for each other when a candidate has come to its end.
    """

    def __init__(self, together: threading.Barrier | None = None) -> None:
        super().__init__(rungs(9))
        self.trainings: list[Training | None] = []
        self.finals: list[str] = []
        self.together = together

    def training(self, job, training):
        self.trainings.append(training)

    def judged(self, trial, study, left):
        if self.together:
            self.together.wait()

    def final(self, name, score, left):
        self.finals.append(name)


@pytest.fixture(scope="module")
def digits():
    return sets.load(Choice("digits"))


def new_search(out, digits, display=None, budget=SMALL, **plan) -> Search:
    plan = Plan(Space(120, 9), 0.99, budget, digits, **{"finalists": 1, "runs": 1, **plan})
    return Search(plan, Storage(out), display or Seen(), threading.Event())


def test_a_candidate_that_was_left_behind_is_judged_as_it_was_recorded(tmp_path, digits):
    """Not as its point is decoded now, of which another version of the package might make another one."""
    recorded = Candidate(
        SearchedNetwork(2, 3, "valid", "max", (2,), 3, "valid", 0, "none", 0.2),
        Recipe(source="a test's", batch_size=64, max_epochs=9, optimizer=Adam(0.01)),
    )
    left = new_search(tmp_path, digits)
    trial = left.storage.ask(left.study)
    for coordinate in COORDINATES:
        trial.suggest_float(coordinate, 0, 1)
    trial.set_user_attr(storage.LIMIT, 120)
    trial.set_user_attr(storage.NAME, recorded.name)
    trial.set_user_attr(storage.PARAMS, recorded.network.parameters)
    trial.set_user_attr(storage.CANDIDATE, recorded.as_dict())
    left.storage.leave()

    seen = Seen()
    resumed = new_search(tmp_path, digits, seen)
    resumed.run()
    assert [each.number for each in resumed.study.trials] == [0]
    assert resumed.study.user_attrs[storage.FINALISTS] == seen.finals == [recorded.name]
    # What was shown of it, from the first epoch to the last one of the finals.
    assert seen.trainings[:3] == [
        Training("candidate 0, rung 1 of 3", 1, 1, 1, epoch=0),
        Training("candidate 0, rung 1 of 3", 1, 1, 1, epoch=1),
        None,
    ]
    assert Training("candidate 0, rung 3 of 3", 2, 4, 9, epoch=5) in seen.trainings
    assert seen.trainings[-2:] == [Training(f"finalist {recorded.name}", 1, 1, 9, epoch=9), None]


@pytest.mark.slow
def test_of_two_that_end_together_one_tests_the_finalists(tmp_path, digits):
    together = threading.Barrier(2)
    seen = [Seen(together), Seen(together)]
    searches = [new_search(tmp_path, digits, each) for each in seen]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Search.run, searches))
    assert sorted(len(each.finals) for each in seen) == [0, 1]
    assert searches[0].closed


@pytest.mark.slow
def test_what_the_last_one_finds_left_behind_when_it_leaves_is_judged_before_the_finals(tmp_path, digits):
    class Last(Storage):
        """Leaves just after another process was killed."""

        def leave(self):
            other.storage.alive.release()
            super().leave()

    other = new_search(tmp_path, digits)
    other.storage.ask(other.study)
    last = new_search(tmp_path, digits)
    last.storage.leave()
    last.storage = Last(tmp_path)
    last.run()
    assert [trial.state.is_finished() for trial in last.study.trials] == [True, True]
    assert len(last.display.finals) == 1


def test_the_time_that_is_spent_is_that_of_the_search_whatever_its_jobs_were(tmp_path, digits):
    """Two processes of some jobs each worked on it for 130 seconds, 50 of them side by side."""
    before = new_search(tmp_path, digits)
    storage.note_work(before.study, "first", 1000, 1100)
    storage.note_work(before.study, "second", 1050, 1130)
    before.storage.leave()
    # 870 seconds are left, of which this test takes less than 100.
    assert 0.77 < new_search(tmp_path, digits, budget=Budget(seconds=1000), jobs=7).left() <= 0.87


@pytest.mark.parametrize(("what", "fact"), [("NUMERICS", "numerics"), ("SPACE_VERSION", "space version")])
def test_a_search_of_another_version_is_refused(tmp_path, digits, monkeypatch, what, fact):
    new_search(tmp_path, digits).storage.leave()
    before = getattr(running, what)
    monkeypatch.setattr(running, what, 99)
    with pytest.raises(UserError, match=f"begun with {fact} {before}, and now it would be 99; give"):
        new_search(tmp_path, digits)
