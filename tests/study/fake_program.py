"""A program that trains nothing: what a trial's epochs give is a function of its seed and its epoch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

IMAGES = 100


class State(NamedTuple):
    parameters: np.ndarray
    statistics: np.ndarray
    first: np.ndarray
    steps: np.ndarray
    best_parameters: np.ndarray
    best_statistics: np.ndarray


class Figures(NamedTuple):
    loss: np.ndarray
    correct: np.ndarray
    val_loss: np.ndarray
    val_correct: np.ndarray


def course(seed: int, epoch: int) -> tuple[float, float, int]:
    """Training loss, monitored loss and images right of a trial that falls back from its third epoch on."""
    step = min(epoch, 2) + seed % 5
    return 2.0 / (step + 1), 1.0 / (step + 1) + epoch / 1000, 50 + 3 * step - epoch


class FakeProgram:
    """Adds 1, the seed and the learning rate to every weight, and halves the momenta.

    Args:
        of: Gives `course`.
        memory: How many trials there is memory for at once.
        room_for_tests: How many can be tested at once.
    """

    steps, images = 2, IMAGES

    def __init__(
        self,
        of: Callable[[int, int], tuple[float, float, int]] = course,
        memory: int = 10**6,
        room_for_tests: int = 10**6,
    ) -> None:
        self.of, self.memory, self.room_for_tests = of, memory, room_for_tests
        self.together: list[int] = []
        self.calls: list[list[tuple[int, int]]] = []
        self.recipes: list[list[Any]] = []

    def numbers_of(self, recipes: Sequence[Any]) -> Any:
        self.recipes.append(list(recipes))
        return len(recipes)

    def begin(self, parameters: np.ndarray, statistics: np.ndarray) -> State:
        weights = parameters.astype(np.float32), statistics.astype(np.float32)
        return State(*weights, np.zeros_like(weights[0]), np.zeros(len(parameters), np.int32), *weights)

    def epoch(
        self, state: State, seeds: np.ndarray, epochs: np.ndarray, rates: np.ndarray, numbers: Any
    ) -> tuple[State, Figures]:
        places = len(seeds)
        assert numbers == places == len(state.parameters) == len(epochs)
        assert (rates.shape, rates.dtype) == ((places, self.steps), np.float32)
        if places > self.memory:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        self.together.append(places)
        self.calls.append([(int(seed), int(epoch)) for seed, epoch in zip(seeds, epochs, strict=True)])
        # The moments tell whether the state is that of the trial from its beginning.
        first = state.first / 2 + seeds[:, np.newaxis].astype(np.float32) + 1
        moved = state._replace(
            parameters=(state.parameters + first * rates[:, -1:]).astype(np.float32),
            first=first.astype(np.float32),
            steps=state.steps + self.steps,
        )
        found = np.array([self.of(int(seed), int(epoch)) for seed, epoch in zip(seeds, epochs, strict=True)])
        figures = Figures(
            found[:, 0] * self.images, found[:, 2].astype(int), found[:, 1] * IMAGES, found[:, 2].astype(int)
        )
        return moved, figures

    def take(self, state: State, places: Sequence[int]) -> State:
        return State(*(array[list(places)] for array in state))

    def keep_best(self, state: State, improved: np.ndarray) -> State:
        chosen = improved[:, np.newaxis]
        return state._replace(
            best_parameters=np.where(chosen, state.parameters, state.best_parameters),
            best_statistics=np.where(chosen, state.statistics, state.best_statistics),
        )

    def test_correct(self, state: State) -> np.ndarray:
        """A number that follows from the weights."""
        if len(state.parameters) > self.room_for_tests:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return (np.abs(state.parameters).sum(axis=1) * 1000).astype(np.int64) % IMAGES
