"""What do steps of SOAP cost in the core, in those of Adam?

    python -m experiments.soap_cost --data mnist.npz

prints a line for each network of `experiments.leads`: median and range of 15 paired ratios, of 400 steps each at a
batch of 64, one thread, CPU seconds, the two in turn after a pair that is not counted.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import keras
import numpy as np

from experiments.leads import NETWORKS, build
from mnist_minimal.cli.run import run
from mnist_minimal.training.chain import Chain
from mnist_minimal.training.optimizers import SOAP

PAIRS, STEPS, BATCH_SIZE = 15, 400, 64


def ratios(network: str, images: np.ndarray, labels: np.ndarray) -> list[float]:
    """SOAP's seconds over Adam's: pixels uint8 (n, 28, 28, 1), labels uint8 (n,)."""
    chains = [Chain(build(network), optimizer) for optimizer in (SOAP(), keras.optimizers.Adam())]
    found = []
    for pair in range(PAIRS + 1):
        order = np.random.default_rng(pair).permutation(len(labels))[: STEPS * BATCH_SIZE]
        seconds = {}
        for place in (0, 1) if pair % 2 else (1, 0):
            begin = time.process_time()
            chains[place].network.train(
                images, labels, order, batch_size=BATCH_SIZE, seed=0, epoch=pair, learning_rates=0.01, threads=1
            )
            seconds[place] = time.process_time() - begin
        found.append(seconds[0] / seconds[1])
    return found[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="MNIST as mnist.npz")
    with np.load(parser.parse_args(arguments).data) as data:
        images, labels = data["x_train"][..., np.newaxis], data["y_train"].astype(np.uint8)
    for network in NETWORKS:
        found = ratios(network, images, labels)
        print(f"{network}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
