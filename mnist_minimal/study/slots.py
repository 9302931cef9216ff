"""The trials of one or several studies, trained together: their models, histories, rows, and the file between jobs."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_minimal.engines.slots import Epoch
from mnist_minimal.engines.threads import reason as in_words
from mnist_minimal.errors import UserError
from mnist_minimal.files import not_written, reject_symlink
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.lookup import builder
from mnist_minimal.study import identity, ledger, slots_checkpoint
from mnist_minimal.study.history import HistoryFile
from mnist_minimal.study.job import Job
from mnist_minimal.study.ownership import add_to_owner, check_room
from mnist_minimal.study.plan import SEEDS
from mnist_minimal.study.slots_checkpoint import Saved
from mnist_minimal.study.teaching import with_targets
from mnist_minimal.study.worker import epoch_report, failed_trial, row
from mnist_minimal.training import DivergedError, Fit
from mnist_minimal.training.slots import device
from mnist_minimal.training.slots.callbacks import MEMORY, Callbacks, new_memory
from mnist_minimal.trial import FINISHED, STOPPED, Trial
from mnist_minimal.version import version

if TYPE_CHECKING:
    import keras

    from mnist_minimal.data.sets import Dataset
    from mnist_minimal.training.slots.own_callbacks import OwnCallbacks

SECONDS_BETWEEN_CHECKPOINTS = 30

# What a program's state has of one trial, by name.
Row = dict[str, np.ndarray]


def make_slots(jobs: Sequence[Job], dataset: "Dataset", asked: int | None, say: Callable[[str], None]) -> "SlotTrials":
    """The trials of jobs that JAX trains, none of them in yet.

    Args:
        jobs: One, or several whose recipes have one structure (`training.slots.program.structure`).
        dataset: Their images.
        asked: How many trials there are to train in all, at most; None for no end.
        say: Gets what the user must know, in sentences.

    Raises:
        DeviceError: if JAX's device fails, or has no room for the data set.
        UserError: if JAX is not installed; if there is no room for the files of the trials.
    """
    from mnist_minimal.data import sets
    from mnist_minimal.saving.saved_model import ROOM
    from mnist_minimal.training.chain import describe

    device.require()
    from mnist_minimal.training.slots.numbers import numbers_of, structure
    from mnist_minimal.training.slots.program import Program

    job, studies = jobs[0], [Members(job) for job in jobs]
    shared = structure(job.recipe)
    splits = sets.split(dataset, job.protocol, job.recipe.validation_share)
    # The layers' own rates, and the teacher's own probabilities: what trials have instead are numbers of theirs.
    network = describe(studies[0].build(0, shared.dropout)).network
    with device.failures():
        program = Program(network, shared, with_targets(splits, shared, job.teacher))
    size = program.bytes_a_trial()
    places = device.places(size, asked) if job.places is None else min(job.places, asked or job.places)
    say(
        f"Training on {device.name()}, {places} {'trial' if places == 1 else 'trials'} at once, each of which takes "
        f"{size / 1e6:.3g} MB of its memory."
    )
    for study in studies:
        # A model's file, and of each trial the weights, the best ones, two moments and the statistics.
        check_room(study.job.study, ROOM + places * 4 * 6 * sum(array.size for array in study.weights))
        if study.job.recipe.callbacks or study.job.callbacks:
            say(
                "The callbacks are called with a Keras model for each trial, one trial after the other: some "
                "milliseconds an epoch of each, while the device waits. Trials with callbacks start again when they "
                "were interrupted."
            )
    with device.failures():
        return SlotTrials(
            studies, program, numbers_of, len(splits.y_val), places, device.description, say, device.fewest()
        )


def tell(trials: "SlotTrials") -> None:
    """Has the studies' JSONs, and what others may learn of the job, say on what and how many at once it trains.

    Raises:
        UserError: if a file can't be written.
    """
    versions = {"jax": package_version("jax"), "device": device.name(), "places": trials.places}
    for study in trials.studies:
        identity.add_versions(study.job.study, versions)
        add_to_owner(study.job.study, jobs=max(1, trials.places // len(trials.studies)))


class Members:
    """What the trials of one study have in common.

    Args:
        job: The study's job.
    """

    def __init__(self, job: Job) -> None:
        from mnist_minimal.saving.template import Template
        from mnist_minimal.training import initial_weights
        from mnist_minimal.training.chain import describe

        self.job = job
        self.model = self.build(0, job.recipe.dropout)
        self.drawn, by_keras = initial_weights.draws(self.model)
        # What Keras or the builder draws is had by building the model again.
        self.rebuilt = bool(by_keras)
        self.description = describe(self.model)
        self.weights = self.model.get_weights()
        numbers = {id(variable): number for number, variable in enumerate(self.model.weights)}
        self.parameters = [numbers[id(variable)] for variable in self.description.parameters]
        self.statistics = [numbers[id(variable)] for variable in self.description.statistics]
        self.template = Template(self.model)
        self.identity = {**job.facts, "version": version()}
        self.saved: dict[int, Saved] = {}

    def build(self, seed: int, dropout: float | None) -> "keras.Model":
        """A new model, with this rate in all its dropout layers; None for their own."""
        import keras

        from mnist_minimal.training.seeding import seeded

        with seeded(seed), keras.device("cpu"):
            model = (self.job.build or builder(self.job.model))()
        set_dropout(model, dropout)
        return model

    def initial_weights(self, seed: int) -> list[np.ndarray]:
        """The weights that a seed's trial begins with, in the order of `get_weights`."""
        from mnist_minimal.training import initial_weights

        if self.rebuilt:
            model = self.build(seed, self.job.recipe.dropout)
            initial_weights.draw(model, seed)
            return model.get_weights()
        return [
            self.drawn[number](seed) if number in self.drawn else array for number, array in enumerate(self.weights)
        ]

    def flat(self, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Weights in the order of `get_weights` as flat parameters and statistics, float32."""
        parameters, statistics = (
            np.concatenate([np.zeros(0, np.float32), *(weights[number].ravel() for number in numbers)])
            for numbers in (self.parameters, self.statistics)
        )
        return parameters.astype(np.float32), statistics.astype(np.float32)

    def shaped(self, parameters: np.ndarray, statistics: np.ndarray) -> list[np.ndarray]:
        """The inverse of `flat`."""
        from mnist_minimal.training.chain import shaped

        weights = list(self.weights)
        for numbers, variables, values in (
            (self.parameters, self.description.parameters, parameters),
            (self.statistics, self.description.statistics, statistics),
        ):
            for number, array in zip(numbers, shaped(variables, values), strict=True):
                weights[number] = array
        return weights


@dataclass(eq=False)
class Member:
    """A trial that is in.

    Attributes:
        key: What it is known by.
        of: Its study.
        seed: Its seed.
        history: Its figures.
        memory: What its callbacks remember, MEMORY without axes; while it has a place, that is there.
        state: Its row of the program's state; None while it has a place.
        own: Its callbacks of the user's own, or None.
        resumed: The epochs with which it was resumed.
        ended: Whether its training is at its end.
        waiting: Whether it waits for an answer.
        rates: The learning rates of the epoch that its own callbacks have begun; None before that.
    """

    key: int
    of: Members
    seed: int
    history: HistoryFile
    memory: np.ndarray
    state: Row | None
    own: "OwnCallbacks | None" = None
    resumed: int = 0
    ended: bool = False
    waiting: bool = False
    rates: np.ndarray | None = None
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0


class SlotTrials:
    """The trials of studies that share a program, for a `SlotEngine`.

    Args:
        studies: The studies; a trial's key is SEEDS times its study's number among them, and its seed. It stands for
            the seed in all that is given: of a single study it is the seed.
        program: Trains them.
        numbers_of: Gives what the program takes of the recipes of its places' trials.
        images: Monitored images.
        places: How many trials are trained at once, at most.
        backend: What they run on, for their rows, from the number at once.
        say: Gets what the user must know, in sentences.
        fewest: The least number at once for which the program is compiled, where `places` are more.
    """

    def __init__(
        self,
        studies: Sequence[Members],
        program: Any,
        numbers_of: Callable[[Sequence[Any]], Any],
        images: int,
        places: int,
        backend: Callable[[int], str],
        say: Callable[[str], None],
        fewest: int = 1,
    ) -> None:
        self.fewest = fewest
        self.studies, self.program, self.numbers_of, self.images = studies, program, numbers_of, images
        self.places, self.backend, self.say = places, backend, say
        first = program.begin(*(array[np.newaxis] for array in studies[0].flat(studies[0].weights)))
        self.state_of = type(first)
        self.like: Row = self._rows(first)[0]
        self.trials: dict[int, Member] = {}
        self.placed: list[Member | None] = []
        self.memory = np.zeros(0, MEMORY)
        self.state: Any = None
        self.numbers: Any = None
        # Of the trials that have come to their end since the state changed: what they keep, and its test.
        self.tested: dict[int, tuple[Row, int]] = {}
        # Trials that failed at the beginning of the epoch that is to be trained.
        self.failures: list[Epoch] = []
        self.written = time.monotonic()
        for study in studies:
            job = study.job
            path = reject_symlink(job.study.slots)
            done = {trial.seed for trial in ledger.done(ledger.read(job.study.csv))}
            found = slots_checkpoint.read(path, study.identity, self.like)
            study.saved = {seed: saved for seed, saved in found.items() if seed not in done}

    def free(self) -> int:
        """How many more trials there is a place for."""
        return self.places - sum(not trial.waiting for trial in self.trials.values())

    def start(self, key: int) -> Epoch | None:
        """Takes in a trial, resumed where its study's file has it.

        Raises:
            DeviceError: if the device fails.
            UserError: if its history can't be written.
        """
        study, seed = self.studies[key // SEEDS], key % SEEDS
        job, saved = study.job, study.saved.pop(key % SEEDS, None)
        history = HistoryFile(job.study.history(seed), buffered=True)
        further = list(job.callbacks(seed)) if job.callbacks else []
        if saved and not (job.recipe.callbacks or further):
            try:
                history.resume(saved.history, int(saved.memory["epochs"]))
            except UserError as error:
                self.say(f"{job.study.slots}: {error}; the trial of seed {seed} starts again.")
                history = HistoryFile(job.study.history(seed), buffered=True)
            else:
                trial = Member(key, study, seed, history, saved.memory.copy(), dict(saved.state))
                trial.resumed, trial.ended = len(history), saved.ended
                trial.train_seconds, trial.cpu_seconds = saved.train_seconds, saved.cpu_seconds
                self.trials[key] = trial
                return self._epoch(trial)
        weights = study.initial_weights(seed)
        with device.failures():
            state = self._rows(self.program.begin(*(array[np.newaxis] for array in study.flat(weights))))[0]
        trial = Member(key, study, seed, history, new_memory(job.recipe), state)
        if job.recipe.callbacks or further:
            trial.own = self._own_callbacks(trial, weights, further)
        self.trials[key] = trial
        return None

    def train(self) -> list[Epoch]:
        """Trains every trial that has a place for an epoch; gives places to those that have none, as far as there are.

        Raises:
            DeviceError: if a single trial is too large for the device's memory, or the device fails.
            UserError: if a file can't be written.
        """
        while True:
            with device.failures():
                self._arrange()
            if not any(self.placed):
                return self._taken_failures()
            try:
                with device.failures():
                    epochs = self._train()
            except device.MemoryUsedUpError as error:
                self._halve(error)
                continue
            if time.monotonic() - self.written >= SECONDS_BETWEEN_CHECKPOINTS:
                self.write()
            return epochs

    def wait(self, key: int, *, waiting: bool) -> None:
        """Has a trial wait, which leaves its place to others, or go on."""
        self.trials[key].waiting = waiting

    def drop(self, key: int) -> None:
        """Leaves out a trial that failed, if it is in."""
        trial = self.trials.pop(key, None)
        self.placed = [None if placed is trial else placed for placed in self.placed]

    def end(self, key: int, reason: str) -> Trial:
        """Saves and tests the model of a trial that is at its end or was stopped for a reason; its row.

        The trial stays in: until the row is on disk, it is part of what `write` keeps.

        Raises:
            DeviceError: if the device fails.
            UserError: if a file of the trial can't be written: the next trial could not write its own either.
        """
        trial = self.trials[key]
        job, study, history = trial.of.job, trial.of.job.study, trial.history
        history.flush()
        try:
            with device.failures():
                state, correct = self._kept(trial)
        except device.MemoryUsedUpError as error:
            self._halve(error)
            # It has no place now, and is tested alone.
            with device.failures():
                state, correct = self._kept(trial)
        weights = trial.of.shaped(state["parameters"], state["statistics"])
        if trial.own:
            left = trial.own.end(weights)
            if not _same(left, weights):
                with device.failures():
                    weights, correct = left, self._correct_alone(trial, left)
        path, checkpoint = study.weights(trial.seed), reject_symlink(study.checkpoint(trial.seed))
        try:
            # Until the row is on disk, it tells that the model without one is no row that somebody has removed.
            checkpoint.touch()
        except OSError as error:
            raise UserError(not_written(checkpoint, error)) from error
        trial.of.template.write(path, weights)
        fitted = Fit.from_history(history.figures, self.images, trial.train_seconds, trial.cpu_seconds)
        return row(
            job,
            key,
            epochs=fitted.epochs,
            best_epoch=fitted.best_epoch,
            saved_accuracy=fitted.saved_accuracy,
            best_accuracy=fitted.best_accuracy,
            test_correct=correct,
            train_seconds=round(fitted.train_seconds, 2),
            cpu_seconds=round(fitted.cpu_seconds, 2),
            weights=path.relative_to(study.out).as_posix(),
            backend=self.backend(self.places),
            reason=reason,
            status=STOPPED if reason else FINISHED,
        )

    def failed(self, key: int, reason: str) -> Trial:
        """The row of a trial that did not come to its end."""
        return failed_trial(self.studies[key // SEEDS].job, key, reason)

    def close(self) -> None:
        """Keeps what the trials that are in need to be resumed; of a device that has failed the last file stays.

        Raises:
            UserError: if a file can't be written.
        """
        with contextlib.suppress(device.DeviceError), device.failures():
            self.write()

    def write(self) -> None:
        """Writes each study's file, or removes it where none of its trials is unfinished.

        Raises:
            UserError: if a file can't be written.
        """
        placed = {}
        if any(self.placed):
            rows = self._rows(self.state)
            placed = {trial.key: (rows[place], self.memory[place]) for place, trial in enumerate(self.placed) if trial}
        for study in self.studies:
            trials = dict(study.saved)
            for trial in self.trials.values():
                state, memory = placed.get(trial.key, (trial.state, trial.memory))
                # What callbacks of the user's own remember is in no file: such a trial starts again.
                if trial.of is not study or trial.own or not memory["epochs"]:
                    continue
                trial.history.flush(sync=False)
                assert state is not None
                trials[trial.seed] = Saved(
                    state,
                    memory,
                    trial.history.position(),
                    trial.ended,
                    trial.train_seconds,
                    trial.cpu_seconds,
                )
            if trials:
                slots_checkpoint.write(study.job.study.slots, study.identity, trials)
            else:
                reject_symlink(study.job.study.slots).unlink(missing_ok=True)
        self.written = time.monotonic()

    def _own_callbacks(self, trial: Member, weights: Sequence[np.ndarray], further: Sequence[Any]) -> "OwnCallbacks":
        from mnist_minimal.training.keras_fit import keras_callbacks
        from mnist_minimal.training.slots.own_callbacks import OwnCallbacks

        job, model = trial.of.job, trial.of.build(trial.seed, trial.of.job.recipe.dropout)
        model.set_weights(weights)
        return OwnCallbacks(model, job.recipe, [*keras_callbacks(job.recipe), *further], job.max_epochs)

    def _size(self, trials: int) -> int:
        """The least number of places for which the program is compiled and that has room for so many trials."""
        return min(size for size in device.sizes(self.places, self.fewest) if size >= trials)

    def _arrange(self) -> None:
        """Gives the trials places, as few as there are trials; those that wait have none."""
        there = {trial.key for trial in self.placed if trial is not None}
        able = sorted(
            (trial for trial in self.trials.values() if not trial.waiting and not trial.ended),
            key=lambda trial: (trial.key not in there, trial.key),
        )[: self.places]
        size, chosen = self._size(len(able)), {trial.key for trial in able}
        if size == len(self.placed) and chosen == there:
            return
        self._leave(there - chosen if size == len(self.placed) else there)
        entering = [trial for trial in able if trial.state is not None]
        before, self.placed = self.placed, self.placed if size == len(self.placed) else [None] * size
        arrays = {name: np.zeros((size, *array.shape), array.dtype) for name, array in self.like.items()}
        if before is self.placed and any(before):
            arrays = {name: np.array(getattr(self.state, name)) for name in arrays}
        else:
            self.memory = np.zeros(size, MEMORY)
        for trial in entering:
            place = self.placed.index(None)
            self.placed[place], self.memory[place] = trial, trial.memory
            for name, value in (trial.state or {}).items():
                arrays[name][place] = value
            trial.state = None
        self.state = self.state_of(**arrays)
        self.recipes = [trial.of.job.recipe if trial else self.studies[0].job.recipe for trial in self.placed]
        self.numbers = self.numbers_of(self.recipes)
        self.tested = {}

    def _leave(self, keys: set[int]) -> None:
        """Takes trials from their places."""
        if not keys:
            return
        rows = self._rows(self.state)
        for place, trial in self._occupied():
            if trial.key in keys:
                # Not a view, which would keep the arrays of all places.
                trial.state = {name: row.copy() for name, row in rows[place].items()}
                trial.memory = self.memory[place].copy()
                self.placed[place] = None

    def _rows(self, state: Any) -> list[Row]:
        """The rows of a state, on the host."""
        arrays = {name: np.asarray(array) for name, array in state._asdict().items()}
        places = len(next(iter(arrays.values())))
        return [{name: array[place] for name, array in arrays.items()} for place in range(places)]

    def _halve(self, error: Exception) -> None:
        """After memory ran out: half as many trials at once, each as it was before the epoch."""
        size = len(self.placed)
        places = device.halved(size, self.backend(1), error)
        self._leave({trial.key for _, trial in self._occupied()})
        self.placed, self.places, self.state = [], places, None
        self.say(f"Too little memory for {size} trials at once: {self.places} from now on.")

    def _train(self) -> list[Epoch]:
        program = self.program
        memory = self.memory.copy()
        callbacks = Callbacks(self.recipes, memory, program.steps)
        rates = callbacks.begin_epoch()
        self._begin_own(memory, rates)
        if not any(self.placed):
            return self._taken_failures()
        occupied = np.array([trial is not None for trial in self.placed])
        rates[~occupied] = 0
        seeds = np.array([trial.seed if trial else 0 for trial in self.placed], np.uint64)
        epochs_before = np.where(occupied, memory["epochs"], 0)
        began, cpu_before = time.perf_counter(), time.process_time()
        state, figures = program.epoch(self.state, seeds, epochs_before, rates, self.numbers)
        val_loss, val_accuracy = figures.val_loss.astype(float) / self.images, figures.val_correct / self.images
        loss, accuracy = figures.loss.astype(float) / program.images, figures.correct / program.images
        improved, ended = callbacks.end_epoch(val_loss, val_accuracy)
        if any(callbacks.stops):
            state = program.keep_best(state, improved & occupied)
        # Up to here nothing has changed; from here on nothing fails but files.
        self.state, self.memory, self.tested, epochs = state, memory, {}, self._taken_failures()
        spent = time.perf_counter() - began
        cpu = (time.process_time() - cpu_before) / max(1, occupied.sum())
        for place, trial in self._occupied():
            epoch, trial.rates = int(memory["epochs"][place]), None
            trial.train_seconds += spent
            trial.cpu_seconds += cpu
            if not math.isfinite(loss[place]):
                error = DivergedError(f"the training loss became {float(figures.loss[place])} in epoch {epoch}")
                epochs.append(self._failed(trial, error))
                continue
            trial.ended = bool(ended[place])
            logs = {
                "loss": float(loss[place]),
                "accuracy": float(accuracy[place]),
                "val_loss": float(val_loss[place]),
                "val_accuracy": float(val_accuracy[place]),
                "learning_rate": float(rates[place, -1]),
            }
            try:
                if trial.own:
                    self._end_own(place, trial, logs)
            except UserError:
                raise
            except Exception as error:
                epochs.append(self._failed(trial, error))
                continue
            trial.history.append(logs)
            trial.ended = trial.ended or epoch >= trial.of.job.max_epochs
            epochs.append(self._epoch(trial))
        return epochs

    def _occupied(self) -> list[tuple[int, Member]]:
        return [(place, trial) for place, trial in enumerate(self.placed) if trial is not None]

    def _failed(self, trial: Member, error: Exception) -> Epoch:
        """A trial that fails, which leaves its place."""
        trial.history.flush()
        self.drop(trial.key)
        return Epoch(trial.key, None, failed=in_words(error))

    def _taken_failures(self) -> list[Epoch]:
        """The trials that failed before the epoch, which are reported once."""
        failures, self.failures = self.failures, []
        return failures

    def _begin_own(self, memory: np.ndarray, rates: np.ndarray) -> None:
        """Has the users' own callbacks begin an epoch, unless they have: memory may have run out after that."""
        for place, trial in self._occupied():
            if not trial.own:
                continue
            if trial.rates is None:
                epoch, rate = int(memory["epochs"][place]), float(memory["rate"][place])
                try:
                    trial.rates, weights = trial.own.begin_epoch(epoch, rate, self.program.steps)
                except UserError:
                    raise
                except Exception as error:
                    self.failures.append(self._failed(trial, error))
                    continue
                self._put_weights(place, trial, weights)
            rates[place] = trial.rates
            memory["rate"][place] = rates[place, -1]

    def _end_own(self, place: int, trial: Member, logs: dict[str, float]) -> None:
        """Has a user's own callbacks end an epoch."""
        assert trial.own
        parameters, statistics = (np.asarray(array)[place] for array in (self.state.parameters, self.state.statistics))
        rate, weights, trial.ended = trial.own.end_epoch(
            int(self.memory["epochs"][place]) - 1,
            logs,
            float(self.memory["rate"][place]),
            trial.of.shaped(parameters, statistics),
            ended=trial.ended,
        )
        self.memory["rate"][place] = rate
        self._put_weights(place, trial, weights)

    def _put_weights(self, place: int, trial: Member, weights: Sequence[np.ndarray]) -> None:
        """Gives a trial other weights, where they are others."""
        for name, values in zip(("parameters", "statistics"), trial.of.flat(weights), strict=True):
            array = np.asarray(getattr(self.state, name))
            if array[place].tobytes() != values.tobytes():
                array = array.copy()
                array[place] = values
                self.state = self.state._replace(**{name: array})

    def _epoch(self, trial: Member) -> Epoch:
        """What a trial reports after the last of its epochs."""
        job, accuracies = trial.of.job, trial.history.figures["val_accuracy"]
        report = epoch_report(job, trial.key, accuracies, trial.resumed, self.images)
        rule = job.recipe.median_stopping
        # A trial that its recipe ends in this very epoch is at its end, as is one at the cap.
        asks = rule is not None and len(accuracies) == rule.epoch and not trial.ended
        return Epoch(trial.key, report, trial.ended, asks)

    def _kept(self, trial: Member) -> tuple[Row, int]:
        """The row of a trial with the weights that it keeps, and how many test images these get right."""
        if trial not in self.placed:
            assert trial.state is not None
            alone = self.state_of(**{name: row[np.newaxis] for name, row in trial.state.items()})
            kept = self._with_best([trial], alone)
            return self._rows(kept)[0], int(self.program.test_correct(kept)[0])
        if trial.key not in self.tested:
            # All that have come to their end with it, in as few calls as the program is compiled for.
            ended = [place for place, each in self._occupied() if each.ended or each is trial]
            size = self._size(len(ended))
            state = self.program.take(self.state, [*ended, *[ended[0]] * (size - len(ended))])
            trials = [found for place in ended if (found := self.placed[place])]
            kept = self._with_best([*trials, *[trials[0]] * (size - len(ended))], state)
            for each, row, correct in zip(trials, self._rows(kept), self.program.test_correct(kept), strict=False):
                self.tested[each.key] = row, int(correct)
        return self.tested[trial.key]

    def _with_best(self, trials: Sequence[Member], state: Any) -> Any:
        """A state with the weights that trials keep: the best where they stop early, the mean, or the last ones."""
        recipes = [trial.of.job.recipe for trial in trials]
        best = np.array([bool(recipe.early_stopping or recipe.averaging) for recipe in recipes])[:, np.newaxis]
        return state._replace(
            parameters=np.where(best, np.asarray(state.best_parameters), np.asarray(state.parameters)),
            statistics=np.where(best, np.asarray(state.best_statistics), np.asarray(state.statistics)),
        )

    def _correct_alone(self, trial: Member, weights: Sequence[np.ndarray]) -> int:
        """How many test images some weights get right."""
        state = self.program.begin(*(array[np.newaxis] for array in trial.of.flat(weights)))
        return int(self.program.test_correct(state)[0])


def _same(weights: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(one.tobytes() == other.tobytes() for one, other in zip(weights, others, strict=True))
