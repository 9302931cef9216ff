"""The search as it runs: trials are taken, judged rung by rung and recorded until the budget is spent; then finals.

The same command resumes what was stopped or killed. With one job, a search by image passes comes to the same ledger
whether it was disturbed or not, but for times: what is proposed follows from the trials before, and with several jobs
the order in which those end is not always the same. Candidates that one device trains side by side are judged
together; a search of such that was killed may come to another ledger, in which nothing is missing or twice.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from filelock import Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_minimal.errors import UserError
from mnist_minimal.models import searched
from mnist_minimal.models.searched import Candidate
from mnist_minimal.searching import storage as stored
from mnist_minimal.searching.budget import Budget, covered
from mnist_minimal.searching.evaluation import Score, core_pace, evaluate, require_core, without_test_set
from mnist_minimal.searching.interfaces import Display, Evaluate, EvaluateTogether, Left, Slot, Training
from mnist_minimal.searching.rungs import FIRST_FRESH_SEED, Halving, Rung, fold_of, rungs, seed_of
from mnist_minimal.searching.samplers import SeededByNumber
from mnist_minimal.searching.space import COORDINATES, SMALLEST, SPACE_VERSION, Space
from mnist_minimal.searching.storage import Storage
from mnist_minimal.training.core import NUMERICS
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
        jobs: Trainings side by side; where JAX trains the candidates, those of the finals.
        finalists: How many candidates the test set judges at the end.
        runs: From how many seeds each of them is trained for it.
        trainer: What trains the candidates, "native" or "jax".
        settings: With "jax", how many candidates of one network are trained side by side; None with "native".
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
    trainer: str = "native"
    settings: int | None = None

    @property
    def rungs(self) -> list[Rung]:
        """What candidates are judged by, from the lowest rung on."""
        return rungs(self.space.epochs)

    @property
    def final_passes(self) -> int:
        """Image passes of the finals."""
        return self.finalists * self.runs * self.space.epochs * len(self.dataset.x_train)

    def final_seconds(self, pace: float) -> float:
        """Wall-clock time of the finals, of which each job trains one after the other, by the seconds of a pass."""
        rounds = math.ceil(self.finalists * self.runs / self.jobs)
        return rounds * self.space.epochs * len(self.dataset.x_train) * pace

    def facts(self) -> dict[str, Any]:
        """What a search can't change once it has begun, of JSON's types: options by their names, bits, space, data."""
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
            "--trainer": self.trainer,
            "--settings": self.settings,
            "numerics": NUMERICS,
            "space version": SPACE_VERSION,
            "data": checksums(self.dataset),
        }


class Search:
    """A search in a folder, and this process' part in it.

    Args:
        plan: What is asked for.
        storage: Where it lies.
        display: What shows it.
        interrupted: Set where the search is to end.
        teachers: What teaches each fold's images; None without.
        elsewhere: What evaluates the candidates; None where this process does.
        together: What evaluates them side by side on a device of this process, whose threads do the finals alone; None
            where they do all.

    Raises:
        UserError: if the search in the folder was begun with something else; if a budget of passes is less than the
            finals alone take; if the core can't run here, where this process evaluates, or gives other bits.
    """

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        display: Display,
        interrupted: threading.Event,
        teachers: "Teachers | None" = None,
        elsewhere: Evaluate | None = None,
        together: EvaluateTogether | None = None,
    ) -> None:
        if plan.budget.passes is not None and plan.budget.passes <= plan.final_passes:
            raise UserError(
                f"expected a budget of more than the {plan.final_passes:,} image passes of the finals, found "
                f"{plan.budget.passes:,}; raise --budget, or lower --epochs, --finalists or --runs"
            )
        if elsewhere is None:
            require_core()
        self.plan, self.storage, self.display, self.interrupted = plan, storage, display, interrupted
        self.teachers, self.elsewhere, self.together = teachers, elsewhere, together
        # One job has the device.
        self.workers = 1 if together else plan.jobs
        self.study = storage.study(plan.facts(), SeededByNumber(plan.sampler, plan.seed), Halving())
        self.blind = without_test_set(plan.dataset)
        self.showing = threading.Lock()
        # How long the search was worked on before, by whom and by how many jobs ever.
        self.before = covered(stored.worked(self.study))
        self.begun, self.began_at = time.monotonic(), time.time()

    @property
    def closed(self) -> bool:
        """Whether the finalists are chosen, after which nothing is searched any more."""
        return stored.FINALISTS in self.study.user_attrs

    def run(self) -> None:
        """Searches until the budget is spent, then tests the finalists, unless other processes still search.

        The last process to leave the search tests them.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
        """
        self.display.begun(self.study, self._left_in_words())
        while not self.closed:
            self._in_threads([self._work] * self.workers)
            with self.storage.taking:
                # First, or two that end together would each leave the finals to the other. Nobody joins meanwhile.
                self.storage.leave()
                if self.storage.others():
                    return
                if self.storage.left_behind(self.study):
                    self.storage.join()
                else:
                    self.study.set_user_attr(stored.FINALISTS, self.choose_finalists())
        try:
            with self.storage.testing.acquire(timeout=0):
                self._in_threads([partial(self._test, *task) for task in self._untested()])
        except Timeout as error:
            raise UserError(
                f"{self.storage.out}: another process is testing the finalists; wait for its end"
            ) from error

    def left(self) -> float:
        """The share of the budget for candidates that is left; below 0 where more is spent."""
        passes, _ = self._spent()
        if self.plan.budget.passes is not None:
            return 1 - passes / self._searchable_passes()
        searchable = (self.plan.budget.seconds or 0) - self.plan.final_seconds(self._final_pace())
        return 1 - self._elapsed() / searchable if searchable > 0 else -1.0

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
                searched.write(candidate, self.storage.out / searched.CANDIDATES)
                names.append(name)
        return names

    # A worker

    def _work(self) -> None:
        """Judges one candidate after the other, or several together."""
        while trials := self._next():
            self._judge(trials)

    def _next(self) -> list[Trial]:
        """The next trials of this worker, one where nothing trains several together; none where the search is to end.

        What another has left behind is ended whatever is left: the budget was not spent when it was begun.
        """
        if trial := self.storage.take_over(self.study):
            found = [trial]
            while self.together and (trial := self.storage.take_over(self.study)):
                found.append(trial)
            return found
        # One at least is judged, however little time there is.
        first = not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if (first or self.left() > 0) and self._limit() >= SMALLEST:
            trial = self.storage.ask(self.study)
            if not self.together:
                return [trial]
            self._candidate(trial)
            return [trial, *(self.storage.ask(self.study, trial) for _ in range(self.together.settings - 1))]
        return []

    def _candidate(self, trial: Trial) -> Candidate:
        """The candidate of a trial: the one that was recorded when it was begun, or else that of its point."""
        if stored.CANDIDATE in trial.user_attrs:
            return Candidate.from_dict(trial.user_attrs[stored.CANDIDATE])
        limit = trial.user_attrs.get(stored.LIMIT) or max(SMALLEST, self._limit())
        trial.set_user_attr(stored.LIMIT, limit)
        point = {name: trial.suggest_float(name, 0, 1) for name in COORDINATES}
        candidate = self.plan.space.decode(point, limit)
        trial.set_user_attr(stored.NAME, candidate.name)
        trial.set_user_attr(stored.PARAMS, candidate.network.parameters)
        trial.set_user_attr(stored.CANDIDATE, candidate.as_dict())
        return candidate

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

    def _judge(self, trials: Sequence[Trial]) -> None:
        """Trains candidates rung by rung, each as far as it goes."""
        candidates = {trial.number: self._candidate(trial) for trial in trials}
        highest = len(self.plan.rungs) - 1
        for number, rung in enumerate(self.plan.rungs):
            if not trials:
                return
            self._train(trials, number, candidates)
            for trial in trials:
                if number not in self._reported(trial):
                    found = [Score(**trial.user_attrs[stored.score_key(number, place)]) for place in range(rung.seeds)]
                    trial.report(sum(each.correct for each in found) / sum(each.size for each in found), number)
            # When all of them are known at this rung, or the first would always go on. One that is known at a higher
            # rung has gone on.
            stopped = [
                trial for trial in trials if number == max(self._reported(trial)) < highest and trial.should_prune()
            ]
            for trial in stopped:
                self._end(trial, None)
            trials = [trial for trial in trials if trial not in stopped]
        for trial in trials:
            if self.together and stored.CORE_PACE not in trial.user_attrs:
                trial.set_user_attr(stored.CORE_PACE, core_pace(candidates[trial.number].as_dict(), self.blind))
            self._end(trial, self._reported(trial)[highest])

    def _reported(self, trial: Trial) -> dict[int, float]:
        """The accuracies of a trial that are known, by rung."""
        return self.study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def _train(self, trials: Sequence[Trial], number: int, candidates: Mapping[int, Candidate]) -> None:
        """Trains at a rung what is not recorded there yet."""
        rung = self.plan.rungs[number]
        tasks = [
            (trial, place)
            for trial in trials
            for place in range(rung.seeds)
            if stored.score_key(number, place) not in trial.user_attrs
        ]
        what = f"{_named([trial.number for trial in trials])}, rung {number + 1} of {len(self.plan.rungs)}"
        if self.together:
            slots = [
                Slot(candidates[trial.number], seed_of(trial.number, number, place), fold_of(place))
                for trial, place in tasks
            ]
            for task, score in self._evaluate_together(
                self.together, slots, Training(what, 1, len(slots), rung.epochs)
            ):
                trial, place = tasks[task]
                self._record(trial, number, place, score)
            return
        for trial, place in tasks:
            training = Training(what, place + 1, rung.seeds, rung.epochs)
            data = candidates[trial.number].as_dict()
            score = self._evaluate(training, data, seed_of(trial.number, number, place), fold_of(place))
            self._record(trial, number, place, score)

    def _record(self, trial: Trial, number: int, place: int, score: Score) -> None:
        """Records a training of a candidate at a rung."""
        trial.set_user_attr(stored.score_key(number, place), stored.plain(score))
        with self.showing:
            until = self.began_at + time.monotonic() - self.begun
            stored.note_work(self.study, self.storage.name, self.began_at, until)

    def _end(self, trial: Trial, accuracy: float | None) -> None:
        """Tells Optuna how a trial ended: judged at the highest rung, or stopped before."""
        ended = self.study.tell(trial, accuracy, TrialState.PRUNED if accuracy is None else TrialState.COMPLETE)
        with self.showing:
            self.display.judged(ended, self.study, self._left_in_words())

    def _evaluate(self, training: Training, data: dict[str, Any], seed: int, fold: int | None) -> Score:
        done = 0

        def after_epoch() -> None:
            nonlocal done
            self._check()
            done += 1
            self._show(replace(training, epoch=done))

        self._show(training if self.elsewhere else replace(training, epoch=0))
        try:
            taught = data["recipe"]["teacher"] is not None
            probabilities = self._probabilities(fold) if taught else None
            if self.elsewhere:
                return self.elsewhere(data, seed, fold, training.epochs, probabilities, self._check)
            dataset = self.plan.dataset if fold is None else self.blind
            return evaluate(data, seed, fold, training.epochs, dataset, probabilities, after_epoch)
        finally:
            self._show(None)

    def _evaluate_together(
        self, together: EvaluateTogether, slots: Sequence[Slot], training: Training
    ) -> Iterator[tuple[int, Score]]:
        def after_epoch(before: int, count: int, epoch: int) -> None:
            self._check()
            self._show(replace(training, place=before + 1, slots=count, epoch=epoch))

        try:
            yield from together(slots, training.epochs, self._probabilities, after_epoch)
        finally:
            self._show(None)

    def _probabilities(self, fold: int | None) -> "np.ndarray | None":
        """What the teacher that has not seen a fold gives the training images; None without teachers."""
        return self.teachers.probabilities(fold, self._check) if self.teachers else None

    def _show(self, training: Training | None) -> None:
        """Shows what this thread trains now."""
        with self.showing:
            self.display.training(threading.get_ident(), training)

    def _check(self) -> None:
        if self.interrupted.is_set():
            raise StoppedError

    def _spent(self) -> tuple[int, float]:
        """Image passes and seconds of all trainings that are recorded."""
        found = [score for trial in self.study.get_trials(deepcopy=False) for score in stored.scores(trial).values()]
        return sum(score.passes for score in found), sum(score.seconds for score in found)

    def _pace(self) -> float:
        """Seconds of a training for an image pass; 0 as long as that is not known."""
        passes, seconds = self._spent()
        return seconds / passes if passes else 0.0

    def _final_pace(self) -> float:
        """Seconds of a final training for an image pass, which the core does; 0 as long as that is not known."""
        if not self.together:
            return self._pace()
        judged = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max((trial.user_attrs.get(stored.CORE_PACE, 0.0) for trial in judged), default=0.0)

    def _elapsed(self) -> float:
        """Seconds for which at least one process has worked on the search, as far as this one knows."""
        return self.before + time.monotonic() - self.begun

    def _searchable_passes(self) -> int:
        """Image passes of a budget of passes that candidates may spend."""
        return (self.plan.budget.passes or 0) - self.plan.final_passes

    def _left_in_words(self) -> Left:
        """What says how much time is left; an estimate where passes are counted."""
        from mnist_minimal.study.progress import duration

        limit = self.plan.budget.seconds
        if limit is not None:
            return lambda: f"{duration(max(0.0, limit - self._elapsed()))} left"
        share, pace = max(0.0, self.left()), self._pace()
        if not pace:
            return lambda: f"{share:.0%} of the budget left"
        searching = share * self._searchable_passes() * pace / self.workers
        end = self._elapsed() + searching + self.plan.final_seconds(self._final_pace())
        return lambda: f"{share:.0%} of the budget left, about {duration(max(0.0, end - self._elapsed()))}"

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
        training = Training(f"finalist {name}", place + 1, self.plan.runs, self.plan.space.epochs)
        score = self._evaluate(training, data, FIRST_FRESH_SEED + place, None)
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


def _named(numbers: Sequence[int]) -> str:
    """Candidates in words, such as "candidates 12 to 19"."""
    if len(numbers) == 1:
        return f"candidate {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"candidates {numbers[0]} to {numbers[-1]}"
    return f"candidates {', '.join(map(str, numbers))}"


def parameters(trial: FrozenTrial) -> int:
    """The parameters of a trial's network."""
    params: int = trial.user_attrs[stored.PARAMS]
    return params
