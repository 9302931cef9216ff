"""Evaluations of candidates side by side on one device: JAX trains all of one network at once, and the core judges.

Each is `evaluation.evaluate` up to rounding: the same seed, the same held-out part, the same course.
"""

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np

from mnist_minimal.data.sets import Splits
from mnist_minimal.models.dropout import set_dropout
from mnist_minimal.models.searched import SearchedNetwork
from mnist_minimal.recipes import Recipe
from mnist_minimal.searching.evaluation import FOLDS, Score, fold_range
from mnist_minimal.searching.interfaces import Slot
from mnist_minimal.training import initial_weights
from mnist_minimal.training.chain import Chain, flat
from mnist_minimal.training.evaluation import Evaluation, from_probabilities
from mnist_minimal.training.seeding import seeded
from mnist_minimal.training.slots import device
from mnist_minimal.training.slots.callbacks import Callbacks, new_memory
from mnist_minimal.training.slots.program import Blocks, Program, numbers_of, structure

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

# What slots share that run in one compiled program: the network, the recipe's structure, and the size of their folds.
Shared: TypeAlias = tuple[SearchedNetwork, Recipe, int]

Probabilities: TypeAlias = Callable[[int], np.ndarray | None]


class InSlots:
    """Evaluates candidates on JAX's device.

    Args:
        dataset: The images; its test set is not looked at.
        folds: The parts of the training images that are held out, of `evaluation.FOLDS`.
        settings: How many candidates of one network suit it.
        say: Gets what the user must know, in sentences.
    """

    def __init__(self, dataset: "Dataset", folds: Sequence[int], settings: int, say: Callable[[str], None]) -> None:
        self.dataset, self.folds, self.settings, self.say = dataset, folds, settings, say
        self.programs: dict[Shared, CandidateProgram] = {}

    def __call__(
        self,
        slots: Sequence[Slot],
        epochs: int,
        probabilities: Probabilities,
        after_epoch: Callable[[int, int, int], None],
    ) -> Iterator[tuple[int, Score]]:
        """As `interfaces.EvaluateTogether`: as many at once as suit the device, fewer after its memory ran out.

        Raises:
            DeviceError: if the device fails, or has no room for a single training.
        """
        groups: dict[Shared, list[int]] = {}
        for number, slot in enumerate(slots):
            groups.setdefault(self._shared(slot), []).append(number)
        # Those of other networks are not needed again, and hold the images on the device: each is in a circle with what
        # it has compiled.
        if self.programs.keys() - groups.keys():
            self.programs = {shared: program for shared, program in self.programs.items() if shared in groups}
            gc.collect()
        done = 0
        for shared, numbers in groups.items():
            if shared not in self.programs:
                with device.failures():
                    self.programs[shared] = CandidateProgram(shared, self.dataset, self._folds(shared), probabilities)
            program = self.programs[shared]
            while numbers:
                now, later = numbers[: program.places], numbers[program.places :]

                def end_epoch(epoch: int, done: int = done, count: int = len(now)) -> None:
                    after_epoch(done, count, epoch)

                try:
                    with device.failures():
                        scores = program.evaluate([slots[number] for number in now], epochs, end_epoch)
                except device.MemoryUsedUpError as error:
                    program.places = device.halved(len(now), device.description(1), error)
                    self.say(f"Too little memory for {len(now)} trainings at once: {program.places} from now on.")
                    continue
                yield from zip(now, scores, strict=True)
                done, numbers = done + len(now), later

    def _shared(self, slot: Slot) -> Shared:
        return slot.candidate.network, structure(slot.candidate.recipe), self._size(slot.fold)

    def _size(self, fold: int) -> int:
        start, end = fold_range(fold, len(self.dataset.x_train))
        return end - start

    def _folds(self, shared: Shared) -> list[int]:
        return [fold for fold in self.folds if self._size(fold) == shared[2]]


class CandidateProgram:
    """The program that trains the candidates of a network, and the core's network, which judges them.

    Attributes:
        places: How many are trained at once, at most.

    Args:
        shared: What they share.
        dataset: The images.
        folds: The parts that they may hold out, all of one size.
        probabilities: What each part's teacher gives the training images; asked for where the recipes have one.
    """

    def __init__(self, shared: Shared, dataset: "Dataset", folds: Sequence[int], probabilities: Probabilities) -> None:
        network, recipe, size = shared
        self.dataset, self.folds = dataset, list(folds)
        with seeded(0), keras.device("cpu"):
            model = network.build()
        set_dropout(model, recipe.dropout)
        self.model, self.drawn = model, initial_weights.draws(model)[0]
        # The optimizer takes no step.
        chain = Chain(model, keras.optimizers.SGD())
        self.description, self.judge = chain.description, chain.network
        taught = [probabilities(fold) for fold in folds] if recipe.teacher else []
        targets = np.stack(found) if (found := [each for each in taught if each is not None]) else None
        x, y = dataset.x_train, dataset.y_train
        # As for the core, nothing depends on what is monitored.
        self.monitored = min(FOLDS, len(x))
        first = x[: self.monitored], y[: self.monitored]
        splits = Splits(dataset.name, "holdout", x, y, *first, *first, targets)
        blocks = Blocks(tuple(fold_range(fold, len(x))[0] for fold in folds), size)
        self.program = Program(self.description.network, recipe, splits, blocks)
        self.kept = len(x) - size
        self.places = device.places(self.program.bytes_a_trial(), None)

    def evaluate(self, slots: Sequence[Slot], epochs: int, end_epoch: Callable[[int], None]) -> list[Score]:
        """Trains some slots, at most `places`, and counts what each gets right of the images that it held out.

        Args:
            slots: The trainings.
            epochs: Epochs of each.
            end_epoch: Called with the number of finished epochs, before the first one with 0.
        """
        size = min(size for size in device.sizes(self.places, device.fewest()) if size >= len(slots))
        # What the last places train is thrown away.
        filled = [*slots, *[slots[0]] * (size - len(slots))]
        recipes = [dataclasses.replace(slot.candidate.recipe, max_epochs=epochs) for slot in filled]
        callbacks = Callbacks(recipes, np.stack([new_memory(recipe) for recipe in recipes]), self.program.steps)
        seeds, numbers = np.array([slot.seed for slot in filled], np.uint64), numbers_of(recipes)
        held_out = np.array([self.folds.index(slot.fold) for slot in filled])
        end_epoch(0)
        begun = time.monotonic()
        state = self.program.begin(*map(np.stack, zip(*map(self._initial, seeds.tolist()), strict=True)))
        trained, finite = np.zeros(size, int), np.ones(size, bool)
        for epoch in range(epochs):
            rates = callbacks.begin_epoch()
            state, figures = self.program.epoch(state, seeds, np.full(size, epoch), rates, numbers, held_out)
            callbacks.end_epoch(figures.val_loss / self.monitored, figures.val_correct / self.monitored)
            trained += finite
            finite &= np.isfinite(figures.loss)
            end_epoch(epoch + 1)
            if not finite.any():
                break
        last, mean = (state.parameters, state.statistics), (state.best_parameters, state.best_statistics)
        # Of one structure all average their weights, or none.
        weights = zip(*map(np.asarray, mean if recipes[0].averaging else last), strict=True)
        seconds = round((time.monotonic() - begun) / len(slots), 2)
        scores = []
        for slot, own, epochs_trained, converged in zip(slots, weights, trained.tolist(), finite, strict=False):
            judged = self._judged(slot.fold, *own)
            correct, loss = (judged.correct, judged.loss) if converged else (0, float("inf"))
            scores.append(Score(correct, judged.size, loss, epochs_trained * self.kept, seconds))
        return scores

    def _initial(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The flat parameters and moving statistics with which a seed's training begins."""
        for number, values in self.drawn.items():
            self.model.weights[number].assign(values(seed))
        return flat(self.description.parameters), flat(self.description.statistics)

    def _judged(self, fold: int, parameters: np.ndarray, statistics: np.ndarray) -> Evaluation:
        """What weights make of the images of a fold."""
        start, end = fold_range(fold, len(self.dataset.x_train))
        self.judge.parameters, self.judge.statistics = parameters, statistics
        predicted = self.judge.predict(self.dataset.x_train[start:end], threads=1)
        return from_probabilities(predicted, self.dataset.y_train[start:end])
