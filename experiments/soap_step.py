"""SOAP with full matrices, a block per layer, as NumPy's steps around the core's gradients.

After N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", https://arxiv.org/abs/2409.11321. There each
array of weights has two covariances, of its rows and of its columns; layers of a few hundred numbers can have the whole
one. With the mean gradient g of a batch, of a layer's weights and biases w together, all in double precision:

    m = .9 m + .1 g                      corrected for its start at 0
    C = .999 C + .001 g g^T              likewise
    Q   eigenvectors of C, renewed every RENEWAL steps: exactly at the first and each EXACT-th renewal, otherwise
        by one step of orthogonal iteration, the QR decomposition of C Q
    v = .99 v + .01 (Q^T g)^2            set to the diagonal of Q^T C Q where Q is renewed
    w = w - rate Q (Q^T m / (sqrt(v) + 1e-8))

Until Q is first renewed it is the identity, v is corrected for its start at 0, and no rate is higher than FIRST_RATE:
so far this is Adam.
"""

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from mnist_minimal.data.batches import epoch_batches
from mnist_minimal.data.sets import Splits
from mnist_minimal.recipes import Recipe
from mnist_minimal.training import DivergedError
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.native_fit import core_augmentation
from mnist_minimal.training.optimizers import block_sizes
from mnist_minimal.training.schedules import step_rates

BETA_1, BETA_2, COVARIANCE_DECAY, EPSILON = 0.9, 0.99, 0.999, 1e-8
RENEWAL, EXACT, FIRST_RATE = 200, 5, 0.01


class Soap:
    """The state of the step.

    Args:
        sizes: Number of parameters of each block, in the order in which they lie in the flat array.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        ends = list(itertools.accumulate(sizes))
        self.blocks = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.steps = 0
        self.bases = [np.eye(size, dtype=np.float32) for size in sizes]
        self.covariances = [np.zeros((size, size)) for size in sizes]
        self.variance = np.zeros(ends[-1], np.float32)
        # What C needs of the gradients since Q was renewed, for one product of matrices.
        self.gradients = np.zeros((RENEWAL, ends[-1]))
        # Gradient and momentum, one above the other, for both to be turned by one product.
        self.vectors, self.turned = np.zeros((2, 2, ends[-1]), np.float32)

    def step(self, gradient: np.ndarray, rate: float) -> np.ndarray:
        """What a step adds to the parameters.

        Args:
            gradient: float32 (parameters,), of the mean loss of a batch.
            rate: The learning rate.

        Returns:
            float32 (parameters,).
        """
        self.steps += 1
        first = self.steps <= RENEWAL
        plain, momentum = self.vectors
        plain[:] = gradient
        momentum *= BETA_1
        momentum += (1 - BETA_1) * plain
        for basis, block in zip(self.bases, self.blocks, strict=True):
            np.matmul(self.vectors[:, block], basis, out=self.turned[:, block])
        self.variance *= BETA_2
        self.variance += (1 - BETA_2) * self.turned[0] ** 2
        deviation = np.sqrt(self.variance / (1 - BETA_2**self.steps) if first else self.variance)
        direction = self.turned[1] / (deviation + EPSILON)
        direction *= -(min(rate, FIRST_RATE) if first else rate) / (1 - BETA_1**self.steps)
        change = np.empty_like(direction)
        for basis, block in zip(self.bases, self.blocks, strict=True):
            np.matmul(basis, direction[block], out=change[block])
        place = (self.steps - 1) % RENEWAL
        self.gradients[place] = plain
        if place == RENEWAL - 1:
            self._renew(exactly=self.steps // RENEWAL % EXACT == 1)
        return change

    def _renew(self, exactly: bool) -> None:
        correction = 1 - COVARIANCE_DECAY**self.steps
        ages = np.arange(RENEWAL - 1, -1, -1)
        self.gradients *= np.sqrt((1 - COVARIANCE_DECAY) * COVARIANCE_DECAY**ages)[:, np.newaxis]
        for number, (covariance, block) in enumerate(zip(self.covariances, self.blocks, strict=True)):
            covariance *= COVARIANCE_DECAY**RENEWAL
            covariance += self.gradients[:, block].T @ self.gradients[:, block]
            if not np.isfinite(covariance).all():
                raise DivergedError(f"the gradients of a block became infinite by step {self.steps}")
            if exactly:
                basis = np.linalg.eigh(covariance)[1][:, ::-1]
            else:
                # In an orthogonal iteration the first columns come nearest to theirs: those of the largest variance.
                columns = np.argsort(-self.variance[block], kind="stable")
                basis = np.linalg.qr(covariance @ self.bases[number][:, columns])[0]
            self.bases[number] = np.ascontiguousarray(basis, np.float32)
            # Rounding may leave less than 0 of nothing.
            self.variance[block] = np.maximum(0, ((covariance @ basis) * basis).sum(axis=0)) / correction


def fit(model: keras.Model, recipe: Recipe, splits: Splits, seed: int) -> None:
    """Trains a model as `native_fit.fit` does, but for the step, by one thread, and leaves the last weights in it.

    Order and augmentation of a seed's images are those of `native_fit.fit`.

    Args:
        model: A built model from pixels (batch, height, width, channels) to class probabilities (batch, classes),
            without moving statistics; its dropout layers have a rate of 0.
        recipe: Its optimizer gives the peak of the rate, its schedule, by step, the course; no early stopping.
        splits: The images.
        seed: The trial's seed, 0 <= seed < 2**64.

    Raises:
        DivergedError: if the training loss is no longer a finite number.
    """
    # The optimizer's steps, of a rate of 0, change nothing.
    chain = Chain(model, keras.optimizers.SGD())
    network, soap = chain.network, Soap(block_sizes(chain.description.parameters))
    augmentation = core_augmentation(recipe.augmentation) if recipe.augmentation else None
    labels = splits.y_train.astype(np.uint8)
    with threadpool_limits(1):
        for epoch in range(recipe.max_epochs):
            batches = epoch_batches(seed, epoch, len(labels), recipe.batch_size, recipe.drop_remainder)
            rates = step_rates(recipe, epoch, len(batches)).tolist()
            total = 0.0
            for batch, rate in zip(batches, rates, strict=True):
                # An epoch of one batch, since `compute_gradients` does not augment, and of images augmented before,
                # floats, it looks at every number, which takes a third of the gradient's own time.
                loss, _, _ = network.train(
                    splits.x_train,
                    labels,
                    batch,
                    batch_size=len(batch),
                    seed=seed,
                    epoch=epoch,
                    learning_rates=0.0,
                    augmentation=augmentation,
                )
                total += loss
                network.parameters = network.parameters + soap.step(network.gradients, rate)
            if not math.isfinite(total):
                raise DivergedError(f"the training loss became {total} in epoch {epoch + 1}")
    chain.to_keras()
