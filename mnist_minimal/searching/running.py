"""The search as it runs: trials are taken, judged rung by rung and recorded until the budget is spent; then finals.

The same command resumes what was stopped or killed. With one job, a search by image passes comes to the same ledger
whether it was disturbed or not, but for times: what is proposed follows from the trials before, and with several jobs
the order in which those end is not always the same.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from filelock import Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_minimal.errors import UserError
from mnist_minimal.models import searched
from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching import storage as stored
from mnist_minimal.searching.budget import Budget
from mnist_minimal.searching.evaluation import Score, evaluate, without_test_set
from mnist_minimal.searching.rungs import FIRST_FRESH_SEED, Halving, Rung, fold_of, rungs, seed_of
from mnist_minimal.searching.samplers import SeededByNumber
from mnist_minimal.searching.space import COORDINATES, SMALLEST, Space
from mnist_minimal.searching.storage import Storage
from mnist_minimal.trial import StoppedError

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.searching.teachers import Teachers


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        space: What is searched.
        target: The accuracy to reach with few parameters, in (0, 1].
        budget: What may be spent, the finals included.
        dataset: The images.
        sampler: A name of `samplers.SAMPLERS`.
        seed: Of the sampler.
        jobs: Trainings side by side.
        finalists: How many candidates the test set judges at the end.
        runs: From how many seeds each of them is trained for it.
    """

    space: Space
    target: float
    budget: Budget
    dataset: "Dataset"
    sampler: str = "tpe"
    seed: int = 0
    jobs: int = 1
    finalists: int = 3
    runs: int = 5

    @property
    def rungs(self) -> list[Rung]:
        """What candidates are judged by, from the lowest rung on."""
        return rungs(self.space.epochs)

    @property
    def final_passes(self) -> int:
        """Image passes of the finals."""
        return self.finalists * self.runs * self.space.epochs * len(self.dataset.x_train)

    def facts(self) -> dict[str, Any]:
        """What a search can't change once it has begun, of JSON's types, by the names of the options."""
        from mnist_minimal.data.sets import checksums

        return {
            "--max-params": self.space.max_params,
            "--target": self.target,
            "--epochs": self.space.epochs,
            "--teach": self.space.taught,
            "--sampler": self.sampler,
            "--seed": self.seed,
            "--finalists": self.finalists,
            "--runs": self.runs,
            "data": checksums(self.dataset),
        }


class Evaluate(Protocol):
    """Evaluates a candidate elsewhere: `evaluation.evaluate` but for the images, which are there."""

    def __call__(
        self,
        candidate: dict[str, Any],
        seed: int,
        fold: int | None,
        epochs: int,
        probabilities: "np.ndarray | None",
        look: Callable[[], None],
    ) -> Score:
        """`look` is called now and then, and what it raises ends the evaluation."""


class Display(Protocol):
    """What shows a search; its methods are called from several threads, one at a time."""

    def judged(self, trial: FrozenTrial, study: optuna.Study, left: str) -> None:
        """A candidate has come to its end; `left` says what is left of the budget."""

    def final(self, name: str, score: Score, left: int) -> None:
        """A finalist was tested once; so many trainings are left."""


class Search:
    """A search in a folder, and this process' part in it.

    Args:
        plan: What is asked for.
        storage: Where it lies.
        display: What shows it.
        interrupted: Set where the search is to end.
        teachers: What teaches each fold's images; None without.
        elsewhere: What evaluates the candidates; None where the threads of this process do.

    Raises:
        UserError: if the search in the folder was begun with something else; if a budget of passes is less than the
            finals alone take.
    """

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        display: Display,
        interrupted: threading.Event,
        teachers: "Teachers | None" = None,
        elsewhere: Evaluate | None = None,
    ) -> None:
        if plan.budget.passes is not None and plan.budget.passes <= plan.final_passes:
            raise UserError(
                f"expected a budget of more than the {plan.final_passes:,} image passes of the finals, found "
                f"{plan.budget.passes:,}; raise --budget, or lower --epochs, --finalists or --runs"
            )
        self.plan, self.storage, self.display, self.interrupted = plan, storage, display, interrupted
        self.teachers, self.elsewhere = teachers, elsewhere
        self.study = storage.study(plan.facts(), SeededByNumber(plan.sampler, plan.seed), Halving())
        self.blind = without_test_set(plan.dataset)
        self.showing = threading.Lock()
        self.begun, self.before = time.monotonic(), self._spent()[1] / plan.jobs

    @property
    def closed(self) -> bool:
        """Whether the finalists are chosen, after which nothing is searched any more."""
        return stored.FINALISTS in self.study.user_attrs

    def run(self) -> None:
        """Searches until the budget is spent, then tests the finalists, unless other processes still search.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
        """
        if not self.closed:
            self._in_threads([self._work] * self.plan.jobs)
            with self.storage.taking:
                if not self.storage.others():
                    self.study.set_user_attr(stored.FINALISTS, self.choose_finalists())
        if self.closed:
            try:
                with self.storage.testing.acquire(timeout=0):
                    self._in_threads([partial(self._test, *task) for task in self._untested()])
            except Timeout as error:
                raise UserError(
                    f"{self.storage.out}: another process is testing the finalists; wait for its end"
                ) from error

    def left(self) -> float:
        """The share of the budget for candidates that is left; below 0 where more is spent."""
        passes, seconds = self._spent()
        if self.plan.budget.passes is not None:
            searchable = self.plan.budget.passes - self.plan.final_passes
            return 1 - passes / searchable
        pace = seconds / passes / self.plan.jobs if passes else 0.0
        searchable_seconds = (self.plan.budget.seconds or 0) - pace * self.plan.final_passes
        spent = self.before + time.monotonic() - self.begun
        return 1 - spent / searchable_seconds if searchable_seconds > 0 else -1.0

    def choose_finalists(self) -> list[str]:
        """The names of the finalists: the smallest that reach the target, then the most accurate of the others.

        Only candidates that were judged at the highest rung are asked.
        """
        judged = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        reaching = sorted(
            (trial for trial in judged if trial.values[0] >= self.plan.target),
            key=lambda trial: (parameters(trial), -trial.values[0]),
        )
        others = sorted(
            (trial for trial in judged if trial.values[0] < self.plan.target),
            key=lambda trial: (-trial.values[0], parameters(trial)),
        )
        names: list[str] = []
        for trial in [*reaching, *others]:
            name = trial.user_attrs[stored.NAME]
            if name not in names and len(names) < self.plan.finalists:
                candidate = Candidate.from_dict(trial.user_attrs[stored.CANDIDATE])
                searched.write(candidate, self.storage.out / "candidates")
                names.append(name)
        return names

    # A worker

    def _work(self) -> None:
        """Judges one candidate after the other."""
        # One at least is judged, however little time there is.
        first = not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        while not self.closed and (first or self.left() > 0):
            first = False
            trial = self.storage.take(self.study)
            limit = trial.user_attrs.get(stored.LIMIT) or self._limit()
            if limit < SMALLEST:
                self.study.tell(trial, state=TrialState.FAIL)
                return
            trial.set_user_attr(stored.LIMIT, limit)
            point = {name: trial.suggest_float(name, 0, 1) for name in COORDINATES}
            self._judge(trial, self.plan.space.decode(point, limit))

    def _limit(self) -> int:
        """The most parameters of a new candidate: fewer than the smallest one has that reaches the target."""
        return min(
            (
                parameters(trial) - 1
                for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if trial.values[0] >= self.plan.target
            ),
            default=self.plan.space.max_params,
        )

    def _judge(self, trial: Trial, candidate: Candidate) -> None:
        """Trains a candidate rung by rung, as far as it goes."""
        data = candidate.as_dict()
        if stored.CANDIDATE not in trial.user_attrs:
            trial.set_user_attr(stored.NAME, candidate.name)
            trial.set_user_attr(stored.PARAMS, candidate.network.parameters)
            trial.set_user_attr(stored.CANDIDATE, data)
        highest = len(self.plan.rungs) - 1
        for number, rung in enumerate(self.plan.rungs):
            found = []
            for place in range(rung.seeds):
                known = trial.user_attrs.get(stored.score_key(number, place))
                if known is None:
                    seed, fold = seed_of(trial.number, number, place), fold_of(place)
                    score = self._evaluate(data, seed, fold, rung.epochs)
                    trial.set_user_attr(stored.score_key(number, place), stored.plain(score))
                else:
                    score = Score(**known)
                found.append(score)
            accuracy = sum(score.correct for score in found) / sum(score.size for score in found)
            if number not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
                trial.report(accuracy, number)
            if number < highest and trial.should_prune():
                self._end(trial, None)
                return
        self._end(trial, accuracy)

    def _end(self, trial: Trial, accuracy: float | None) -> None:
        """Tells Optuna how a trial ended: judged at the highest rung, or stopped before."""
        ended = self.study.tell(trial, accuracy, TrialState.PRUNED if accuracy is None else TrialState.COMPLETE)
        with self.showing:
            self.display.judged(ended, self.study, self._words_left())

    def _evaluate(self, data: dict[str, Any], seed: int, fold: int | None, epochs: int) -> Score:
        taught = data["recipe"]["teacher"] is not None and self.teachers is not None
        probabilities = self.teachers.probabilities(fold) if taught and self.teachers else None
        if self.elsewhere:
            return self.elsewhere(data, seed, fold, epochs, probabilities, self._check)
        dataset = self.plan.dataset if fold is None else self.blind
        return evaluate(data, seed, fold, epochs, dataset, probabilities, self._check)

    def _check(self) -> None:
        if self.interrupted.is_set():
            raise StoppedError

    def _spent(self) -> tuple[int, float]:
        """Image passes and seconds of all trainings that are recorded."""
        found = [score for trial in self.study.get_trials(deepcopy=False) for score in stored.scores(trial).values()]
        return sum(score.passes for score in found), sum(score.seconds for score in found)

    def _words_left(self) -> str:
        from mnist_minimal.study.progress import duration

        share = max(0.0, self.left())
        if self.plan.budget.seconds is not None:
            return f"{duration(max(0, self.plan.budget.seconds - self.before - time.monotonic() + self.begun))} left"
        return f"{share:.0%} of the budget left"

    # The finals

    def _untested(self) -> list[tuple[str, dict[str, Any], int]]:
        """The finalists' trainings that are to be done: name, candidate and place."""
        candidates = {
            trial.user_attrs[stored.NAME]: trial.user_attrs[stored.CANDIDATE]
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        }
        return [
            (name, candidates[name], place)
            for name in self.study.user_attrs[stored.FINALISTS]
            for place in range(self.plan.runs)
            if stored.final_key(name, place) not in self.study.user_attrs
        ]

    def _test(self, name: str, data: dict[str, Any], place: int) -> None:
        """Trains a finalist on all training images from a fresh seed, and counts the test images that it gets right."""
        score = self._evaluate(data, FIRST_FRESH_SEED + place, None, self.plan.space.epochs)
        with self.showing:
            self.study.set_user_attr(stored.final_key(name, place), stored.plain(score))
            self.display.final(name, score, len(self._untested()))

    def _in_threads(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Does the tasks in as many threads as there are jobs; the first error ends them all."""
        with ThreadPoolExecutor(self.plan.jobs) as pool:
            futures: list[Future[None]] = [pool.submit(task) for task in tasks]
            try:
                # Now and then, so that Python looks for Ctrl-C.
                while not self.interrupted.is_set() and wait(futures, 0.5, FIRST_EXCEPTION).not_done:
                    if any(future.done() and future.exception() for future in futures):
                        break
            finally:
                unfinished = [future for future in futures if not future.done()]
                if unfinished:
                    self.interrupted.set()
                    pool.shutdown(cancel_futures=True)
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        for error in errors:
            if not isinstance(error, StoppedError):
                raise error
        if self.interrupted.is_set():
            raise KeyboardInterrupt


def parameters(trial: FrozenTrial) -> int:
    """The parameters of a trial's network."""
    params: int = trial.user_attrs[stored.PARAMS]
    return params
