"""Types of the compiled extension; binding.cpp checks every argument and raises ValueError or TypeError."""

import numpy as np

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]: ...
def dropout_key(seed: int, epoch: int, step: int, layer: int) -> tuple[int, int]: ...

class Layer:
    def __init__(
        self,
        *,
        kind: str,
        in_shape: tuple[int, int, int],
        out_shape: tuple[int, int, int],
        kernel_size: tuple[int, int] = ...,
        pad: tuple[int, int, int, int] = ...,
        kernel: int = ...,
        bias: int = ...,
        statistics: int = ...,
        epsilon: float = ...,
        momentum: float = ...,
        slope: float = ...,
        rate: float = ...,
        dropout_index: int = ...,
    ) -> None: ...

def sin(x: float) -> float: ...
def cos(x: float) -> float: ...

class Augmentation:
    def __init__(
        self,
        *,
        rotation: float,
        translation: float,
        scale: tuple[float, float],
        affine_share: float,
        interpolation: str,
        crop: int,
        fill: float | str,
        brightness: float,
        contrast: float,
        tone_share: float,
    ) -> None: ...

def augment(
    images: np.ndarray,
    order: np.ndarray,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    instruction_set: str | None = ...,
) -> np.ndarray: ...

class Optimizer:
    @staticmethod
    def adam(*, beta_1: float, beta_2: float, epsilon: float, decay: float) -> Optimizer: ...
    @staticmethod
    def momentum(*, momentum: float) -> Optimizer: ...
    @staticmethod
    def soap(*, blocks: list[int]) -> Optimizer: ...

class Network:
    parameters: np.ndarray
    moments: np.ndarray
    statistics: np.ndarray
    sums: np.ndarray
    covariances: np.ndarray
    bases: np.ndarray
    steps: int
    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        scale: float,
        offset: float,
        layers: list[Layer],
        parameters: int,
        statistics: int,
        optimizer: Optimizer,
        instruction_set: str | None = ...,
    ) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    @property
    def gradients(self) -> np.ndarray: ...
    def train(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        learning_rates: np.ndarray | float,
        threads: int = ...,
        augmentation: Augmentation | None = ...,
        targets: np.ndarray | None = ...,
        sum_from: int | None = ...,
    ) -> tuple[float, int, float]: ...
    def compute_gradients(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        *,
        seed: int = ...,
        epoch: int = ...,
        step: int = ...,
        threads: int = ...,
        targets: np.ndarray | None = ...,
    ) -> tuple[float, int, float]: ...
    def evaluate(self, images: np.ndarray, labels: np.ndarray, *, threads: int = ...) -> tuple[float, int, float]: ...
    def predict(self, images: np.ndarray, *, threads: int = ...) -> np.ndarray: ...

class _Reference:
    parameters: np.ndarray
    gradients: np.ndarray
    moments: np.ndarray
    statistics: np.ndarray
    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        scale: float,
        offset: float,
        layers: list[Layer],
        parameters: int,
        statistics: int,
        optimizer: Optimizer,
    ) -> None: ...
    @property
    def steps(self) -> int: ...
    def train(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        learning_rates: np.ndarray | float,
        targets: np.ndarray | None = ...,
    ) -> tuple[float, int, float]: ...
    def compute_gradients(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: np.ndarray,
        *,
        seed: int = ...,
        epoch: int = ...,
        step: int = ...,
        targets: np.ndarray | None = ...,
    ) -> tuple[float, int, float]: ...
    def predict(self, images: np.ndarray) -> np.ndarray: ...

class Reference32(_Reference): ...
class Reference64(_Reference): ...
