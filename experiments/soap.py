"""Is full-matrix SOAP better than Adam in equal CPU time? Three networks of 691 to 997 parameters, forty pairs each.

    python -m experiments.soap --train --out runs/soap.csv      trains what is missing, in the plan's order; resumes
    python -m experiments.soap --out runs/soap.csv              prints the tables of what is there, as Markdown

It takes about two and a half CPU hours, 20 to 30 CPU s a trial. With `--networks` a process trains some of the
networks alone; several may write to one file side by side. The plan is of 2026-11-27, before its trials.

- What: sep997, sep697 and 691a (a convolution of nine 3x3 kernels, average pool, one depthwise kernel applied four
  times, pointwise 9, 9, 9 and 12), by the core's Adam and by `experiments.soap_step` around the core's gradients. Both
  arms: linear warm-up over the first 5 % of the steps, cosine to 0, no dropout, the last weights; half of the images
  turned, shifted and scaled, those of sep997 by up to 6 degrees, .04 and 8 %, the others by 4 degrees, .025 and 5 %.
- Judge: of the training images a twelfth that the trial was not trained on, that of number seed % 12, 5,000 images; the
  test set is not looked at. A pair is a seed: the same initial weights and held-out images and, where batches are as
  large, the same order and augmentation. A trial that diverges counts as 0 correct.
- Time: processor time of the training, one thread, without the evaluation after it. SOAP's epochs are those of about 20
  CPU s a trial for sep997, 26 for sep697 and 30 for 691a, Adam's those of the same time, by the cost of an epoch
  measured in turn on one machine (Xeon with AVX-512, beside other work, mean of six times two epochs), CPU s:

      SOAP, batch 64; Adam, batch 64; batch 128      sep997 .655 .438 .452, sep697 .585 .416 .426, 691a 1.02 .77 .78

  The tables have what the trials took; they are of equal time if the means are within 10 %. SOAP pays for NumPy here,
  so that what it gains is a lower bound.
- Stage 1, tuning: SOAP at batches of 64 with peaks of .015, .03, .05 and .06; Adam at batches of 64 and 128 with peaks
  of .015, .03 and .06; seeds 1000 to 1002. Of each arm the setting with the highest mean accuracy goes on, of equal
  ones that with the lower mean loss. SOAP's .015 came into the plan when a trial run, sep997's seed 1000 with all
  the others, had shown its best at .03, then the lowest; nothing else changed, and that seed is trained again here.
- Stage 2: seeds 0 to 39 of the two chosen settings. Stopping: at forty pairs, whatever comes out.
- Order: seeds one after the other, each with all networks and both arms, so that the pairs are as even as can be at any
  hour. Where time runs short the table says at which n it did; which trials are missing depends on the clock alone.
- Measure: the mean of the paired differences of held-out accuracy, SOAP minus Adam, with Student's 95 % interval.
- Power: with an sd of the differences of .0012, forty pairs show .00053 in four of five such studies.
- Decision: SOAP goes into the core if that mean is .0005 or more for two of the three networks.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.held_out import FIGURES, Judged, append, figures, fold_of, judge, read
from mnist_minimal.analysis.comparison import interval
from mnist_minimal.analysis.statistics import paired_difference
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.options import add_arguments, expanded_path, from_arguments
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data.sets import Dataset, load
from mnist_minimal.models.searched import SearchedNetwork
from mnist_minimal.recipes import Adam, Augmentation, ByStep, Recipe
from mnist_minimal.searching.evaluation import require_core, without_test_set

if TYPE_CHECKING:
    import keras

NETWORKS = ("sep997", "sep697", "691a")
# The last one, which no catalogue has.
SEARCHED = SearchedNetwork(
    stem_channels=9,
    stem_size=3,
    stem_padding="same",
    pool="average",
    channels=(9, 9, 9, 12),
    block_size=3,
    block_padding="valid",
    second_pool=0,
    sharing="depthwise",
    slope=0.2,
)
WEAK = Augmentation(rotation=4, translation=0.025, scale=(0.95, 1.05), affine_share=0.5)
AUGMENTATIONS = {
    "sep997": Augmentation(rotation=6, translation=0.04, scale=(0.92, 1.08), affine_share=0.5),
    "sep697": WEAK,
    "691a": WEAK,
}

ADAM, SOAP = ARMS = "adam", "soap"
TUNING, COMPARISON = "tuning", "comparison"
TUNING_SEEDS, PAIRS = range(1000, 1003), 40
NEEDED, NETWORKS_NEEDED = 0.0005, 2


# Arm, batch and peaks of the rate.
GRID = ((SOAP, 64, (0.015, 0.03, 0.05, 0.06)), (ADAM, 64, (0.015, 0.03, 0.06)), (ADAM, 128, (0.015, 0.03, 0.06)))

# Of the same CPU time for a network.
EPOCHS = {
    ("sep997", SOAP, 64): 30,
    ("sep997", ADAM, 64): 45,
    ("sep997", ADAM, 128): 44,
    ("sep697", SOAP, 64): 45,
    ("sep697", ADAM, 64): 63,
    ("sep697", ADAM, 128): 62,
    ("691a", SOAP, 64): 30,
    ("691a", ADAM, 64): 40,
    ("691a", ADAM, 128): 40,
}


@dataclass(frozen=True)
class Planned:
    """A trial of the plan.

    Attributes:
        stage: TUNING or COMPARISON.
        network: One of NETWORKS.
        arm: One of ARMS.
        rate: The peak of the learning rate.
        batch_size: Images of a step.
        epochs: Epochs of the training.
        seed: Its seed, which says too which part of the training images is held out.
    """

    stage: str
    network: str
    arm: str
    rate: float
    batch_size: int
    epochs: int
    seed: int

    @property
    def fold(self) -> int:
        """Which part of the training images is held out, from 0."""
        return fold_of(self.seed)

    @property
    def setting(self) -> tuple[float, int, int]:
        """Rate, batch size and epochs."""
        return self.rate, self.batch_size, self.epochs

    @property
    def recipe(self) -> Recipe:
        """How the network is trained; in SOAP's arm the optimizer says the peak of the rate alone."""
        return Recipe(
            batch_size=self.batch_size,
            max_epochs=self.epochs,
            optimizer=Adam(learning_rate=self.rate),
            schedule=ByStep(course="cosine"),
            dropout=0.0,
            augmentation=AUGMENTATIONS[self.network],
        )


@dataclass(frozen=True)
class Trial(Judged, Planned):
    """A trained one, a row of the ledger."""

    @property
    def planned(self) -> Planned:
        """The trial as the plan has it."""
        return Planned(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Planned)})


def tuning(networks: Iterable[str] = NETWORKS) -> list[Planned]:
    """The trials of stage 1."""
    return [
        Planned(TUNING, network, arm, rate, batch_size, EPOCHS[network, arm, batch_size], seed)
        for seed in TUNING_SEEDS
        for network in networks
        for arm, batch_size, rates in GRID
        for rate in rates
    ]


def comparison(trials: Sequence[Trial], networks: Iterable[str] = NETWORKS) -> list[Planned]:
    """The trials of stage 2, of the networks whose stage 1 is over."""
    settings = {(network, arm): chosen(trials, network, arm) for network in networks for arm in ARMS}
    return [
        Planned(COMPARISON, network, arm, *setting, seed)
        for seed in range(PAIRS)
        for (network, arm), setting in settings.items()
        if setting is not None
    ]


def chosen(trials: Sequence[Trial], network: str, arm: str) -> tuple[float, int, int] | None:
    """The setting that stage 1 gives an arm, rate, batch size and epochs; None before it is over."""
    planned = {one for one in tuning([network]) if one.arm == arm}
    found = [trial for trial in trials if trial.planned in planned]
    if len(found) < len(planned):
        return None

    def merit(setting: tuple[float, int, int]) -> tuple[float, float]:
        of_setting = [trial for trial in found if trial.setting == setting]
        return sum(trial.accuracy for trial in of_setting), -sum(trial.loss for trial in of_setting)

    return max(sorted({trial.setting for trial in found}), key=merit)


def build(network: str) -> "keras.Model":
    """The Keras model of one of NETWORKS."""
    from mnist_minimal.models import MODELS

    return MODELS[network]() if network in MODELS else SEARCHED.build()


def train(planned: Planned, dataset: Dataset) -> Trial:
    """Trains a trial of the plan, and has the images judge it that were held out."""
    from experiments import soap_step
    from mnist_minimal.training import native_fit

    fit = {ADAM: native_fit.fit, SOAP: soap_step.fit}[planned.arm]
    judged = judge(lambda: build(planned.network), fit, planned.recipe, planned.seed, dataset)
    return Trial(**dataclasses.asdict(planned), **dataclasses.asdict(judged))


def train_missing(path: Path, networks: Sequence[str], dataset: Dataset) -> None:
    """Trains what a ledger has not of the plan, and adds it."""
    for stage in (lambda: tuning(networks), lambda: comparison(read(path, Trial), networks)):
        done = {trial.planned for trial in read(path, Trial)}
        for planned in stage():
            if planned not in done:
                append(path, train(planned, dataset))


def of_setting(
    trials: Sequence[Trial], stage: str, network: str, arm: str, setting: tuple[float, int, int] | None
) -> list[Trial]:
    """Those of a setting, of a network and arm in a stage."""
    return [one for one in trials if (one.stage, one.network, one.arm, one.setting) == (stage, network, arm, setting)]


def tuning_table(trials: Sequence[Trial]) -> str:
    """The table of stage 1, as Markdown; the settings that go on in bold."""
    rows = [["network, arm", "batch", "rate", "epochs", *FIGURES]]
    for network, (arm, batch_size, rates) in itertools.product(NETWORKS, GRID):
        for rate in rates:
            epochs = EPOCHS[network, arm, batch_size]
            setting = (rate, batch_size, epochs)
            name = f"{network}, {arm}"
            rows.append(
                [
                    f"**{name}**" if setting == chosen(trials, network, arm) else name,
                    *(str(batch_size), f"{rate:g}", str(epochs)),
                    *figures(of_setting(trials, TUNING, network, arm, setting)),
                ]
            )
    return markdown(rows)


def comparison_table(trials: Sequence[Trial]) -> str:
    """The table of stage 2 as Markdown, and the decision in a sentence."""
    rows, differences = (
        [["network, arm", "setting", *FIGURES]],
        [["network", "pairs", "SOAP minus Adam", "CPU s, SOAP over Adam"]],
    )
    ahead = 0
    for network in NETWORKS:
        arms = []
        for arm in ARMS:
            setting = chosen(trials, network, arm)
            found = of_setting(trials, COMPARISON, network, arm, setting)
            words = "-" if setting is None else "{:g}, batch {}, {} epochs".format(*setting)
            rows.append([f"{network}, {arm}", words, *figures(found)])
            arms.append({trial.seed: trial for trial in found})
        adam, soap = arms
        seeds = sorted(adam.keys() & soap.keys())
        if len(seeds) < 2:
            differences.append([network, str(len(seeds)), "-", "-"])
            continue
        pairs = [[arm[seed] for seed in seeds] for arm in (soap, adam)]
        difference = paired_difference(*([trial.accuracy for trial in arm] for arm in pairs))
        times = [sum(trial.cpu_seconds for trial in arm) for arm in pairs]
        ahead += difference.value >= NEEDED
        differences.append([network, str(len(seeds)), interval(difference, "+.5f"), f"{times[0] / times[1]:.2f}"])
    decision = (
        f"SOAP is ahead by {NEEDED:g} or more for {ahead} of {len(NETWORKS)} networks; {NETWORKS_NEEDED} are needed."
    )
    return "\n\n".join([markdown(rows), markdown(differences), decision])


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing of the plan, or prints the tables; returns 0."""
    parser = command_parser(__doc__)
    parser.add_argument("--train", action="store_true", help="train what is missing, in the order of the plan")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to train (default: all)"
    )
    parser.add_argument(
        "--out", type=expanded_path, default=Path("runs/soap.csv"), metavar="FILE.csv", help="default: runs/soap.csv"
    )
    add_arguments(parser)
    parser.set_defaults(dataset="mnist")
    options = parser.parse_args(arguments)
    if options.train:
        require_core()
        train_missing(options.out, options.networks, without_test_set(load(from_arguments(options))))
    else:
        trials = read(options.out, Trial)
        print(tuning_table(trials), comparison_table(trials), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
