"""Is full-matrix SOAP, the mean of the last weights or a teacher better than plain Adam? Forty pairs a network.

    python -m experiments.leads --train --out runs/leads.csv      trains what is missing, in the plan's order; resumes
    python -m experiments.leads --out runs/leads.csv              prints the tables of what is there, as Markdown

It takes about four and a half CPU hours with AVX-512, 20 to 30 CPU s a trial and 5 CPU min for each of twelve teachers;
on an AMD EPYC with AVX2, beside other work, about seven, 28 to 57 CPU s a trial. Teachers are kept in runs/teachers,
beside the ledger. With `--networks` a process trains some of the networks alone; several may write to one file side by
side. The plan is of 2026-11-27, before its trials.

- What: sep997, sep697 and 691a (a convolution of nine 3x3 kernels, average pool, one depthwise kernel applied four
  times, pointwise 9, 9, 9 and 12). All arms: linear warm-up over the first 5 % of the steps, no dropout; half of the
  images turned, shifted and scaled, those of sep997 by up to 6 degrees, .04 and 8 %, the others by 4 degrees, .025 and
  5 %. The arms:

      adam            the core's Adam, cosine to 0, the last weights
      soap            the same with `experiments.soap_step` around the core's gradients
      adam, mean      as adam, but the cosine goes to .15 of the peak at .6 of the steps, the rate is constant after it,
                      and the mean of the weights after every step from there on is what is judged
      adam, teacher   691a alone: as adam, but the targets of the training images are a teacher's probabilities

- Teacher: `searching.teachers`, one for each twelfth of the training images, gap13914 after 20 epochs on the other
  eleven; a trial has the one that has not seen the images that judge the trial. An augmented image has the
  probabilities of the image as it is. Weight: 1, no label mixed in, as it was measured at this size: on the test set
  .9900 against .9889, with SOAP (n = 3 each); there an augmented image had probabilities of its own. Weights of .5 and
  .9 were tried at 997 parameters (n = 16 each), none beyond doubt. The forty students have twelve teachers.
- Judge: of the training images a twelfth that the trial was not trained on, that of number seed % 12, 5,000 images; the
  test set is not looked at. A pair is a seed: the same initial weights and held-out images and, where batches are as
  large, as those of the mean and the teacher always are, the same order and augmentation. A trial that diverges counts
  as 0 correct.
- Time: processor time of the training, one thread, without the evaluation after it and without the training of a
  teacher. SOAP's epochs are those of about 20 CPU s a trial for sep997 and 26 for sep697 and 691a, Adam's those of the
  same time, by the cost of an epoch measured in turn on one machine (Xeon with AVX-512, beside other work), CPU s:

      SOAP, batch 64; Adam, batch 64; batch 128      sep997 .655 .438 .452, sep697 .585 .416 .426, 691a .734 .567 .553

  sep997 and sep697: mean of six times two epochs; 691a: measured again when its average pool was made with the first
  convolution, median of 24 times two, and with it at a batch of 64 the mean .567 and the teacher .558, which have
  Adam's epochs. The tables have what the trials took; SOAP and Adam had equal time if the means are within 10 %. SOAP
  pays for NumPy here, so that what it gains is a lower bound.
- Stage 1, tuning: SOAP at batches of 64 with peaks of .015, .03, .05 and .06; Adam at batches of 64 and 128 with peaks
  of .015, .03 and .06; seeds 1000 to 1002. Of each arm the setting with the highest mean accuracy goes on, of equal
  ones that with the lower mean loss. SOAP's .015 came into the plan when a trial run, sep997's seed 1000 with all
  the others, had shown its best at .03, then the lowest; nothing else changed, and that seed is trained again here.
  The mean and the teacher are not tuned: they take Adam's setting, which favours Adam if either.
- Stage 2: seeds 0 to 39 of all arms. Stopping: at forty pairs, whatever comes out.
- Order: seeds one after the other, each with all networks and arms, so that the pairs are as even as can be at any
  hour; the teacher's arm after the forty of all others, a teacher when it is first needed. (So since before the first
  trial: `experiments.fast_recipes` has asked for the teacher at 691 parameters meanwhile, twelve pairs with less than
  without, and eight teachers take as long as all arms of ten seeds.) Where time runs short the table says at which n
  it did; which trials are missing depends on the clock alone.
- Afterwards: 691a by SOAP with 45 epochs in place of 36, seeds 0 to 39, beside the same trials of Adam. So since stage
  2 of sep697 was over and the others had 32 and 36 pairs, where SOAP was ahead by .0015, .0003 (691a) and .0004: "lower
  bound" above means that what is not ahead with NumPy's costs may be with those of C++, which a draft says now. Median
  of four times an epoch in turn with Adam, batch 64, EPYC with AVX2, beside other work: 1.45 times Adam's (1.31 to
  1.68) for sep997, 1.16 (.95 to 1.32) for sep697, 1.03 (.95 to 1.09) for 691a. Of equal time by that are 31, 54 and 45
  epochs; for sep997 that is what it has, and sep697 is ahead as it is. The CPU seconds of this arm are NumPy's.
- Measure: the mean of the paired differences of held-out accuracy, a lead's minus Adam's, with Student's 95 % interval.
- Power: with an sd of the differences of .0012, forty pairs show .00053 in four of five such studies.
- Decision: a lead is ahead if that mean is .0005 or more for two of the three networks, for the teacher if it is for
  691a; each is decided by itself. SOAP goes into the core then, with 45 epochs at 691a if with 36 it is not ahead; what
  averages and what teaches are in the package.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.held_out import FIGURES, Judged, append, figures, fold_of, judge, read, train_or_print
from mnist_minimal.analysis.comparison import interval
from mnist_minimal.analysis.statistics import paired_difference
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.run import run
from mnist_minimal.data.sets import Dataset
from mnist_minimal.models.searched import SearchedNetwork
from mnist_minimal.recipes import Adam, Augmentation, Averaging, ByStep, Recipe, Teacher
from mnist_minimal.searching.teachers import Teachers

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

ADAM, SOAP, MEAN, LONGER, TEACHER = "adam", "soap", "adam, mean", "soap, time of C++", "adam, teacher"
# What is compared with Adam, for which networks.
LEADS = {SOAP: NETWORKS, MEAN: NETWORKS, LONGER: ("691a",), TEACHER: ("691a",)}
TUNING, COMPARISON = "tuning", "comparison"
TUNING_SEEDS, PAIRS = range(1000, 1003), 40
# How far a lead has to be ahead, for more than half of its networks.
NEEDED = 0.0005

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
    ("691a", SOAP, 64): 36,
    ("691a", ADAM, 64): 47,
    ("691a", ADAM, 128): 48,
}
# Of LONGER.
LONGER_EPOCHS = 45


@dataclass(frozen=True)
class Planned:
    """A trial of the plan.

    Attributes:
        stage: TUNING or COMPARISON.
        network: One of NETWORKS.
        arm: ADAM or one of LEADS.
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
        """How the network is trained; in SOAP's arms the optimizer says the peak of the rate alone."""
        return Recipe(
            batch_size=self.batch_size,
            max_epochs=self.epochs,
            optimizer=Adam(learning_rate=self.rate),
            schedule=ByStep("cosine", floor=0.15, floor_from=0.6) if self.arm == MEAN else ByStep("cosine"),
            dropout=0.0,
            averaging=Averaging(start=0.6) if self.arm == MEAN else None,
            augmentation=AUGMENTATIONS[self.network],
            teacher=Teacher(weight=1.0) if self.arm == TEACHER else None,
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
    """The trials of stage 2 in the plan's order, of the networks and arms whose stage 1 is over."""
    settings = {(network, arm): chosen(trials, network, arm) for network in networks for arm in arms(network)}
    planned = [
        Planned(COMPARISON, network, arm, *setting, seed)
        for seed in range(PAIRS)
        for (network, arm), setting in settings.items()
        if setting is not None
    ]
    return sorted(planned, key=lambda one: (one.arm == TEACHER, one.arm == LONGER))


def arms(network: str) -> list[str]:
    """Adam, and the leads that are compared with it for a network."""
    return [ADAM, *(lead for lead, networks in LEADS.items() if network in networks)]


def chosen(trials: Sequence[Trial], network: str, arm: str) -> tuple[float, int, int] | None:
    """The setting that stage 1 gives an arm, rate, batch size and epochs; None before it is over."""
    tuned = SOAP if arm in (SOAP, LONGER) else ADAM
    planned = {one for one in tuning([network]) if one.arm == tuned}
    found = [trial for trial in trials if trial.planned in planned]
    if len(found) < len(planned):
        return None

    def merit(setting: tuple[float, int, int]) -> tuple[float, float]:
        of_setting = [trial for trial in found if trial.setting == setting]
        return sum(trial.accuracy for trial in of_setting), -sum(trial.loss for trial in of_setting)

    rate, batch_size, epochs = max(sorted({trial.setting for trial in found}), key=merit)
    return rate, batch_size, LONGER_EPOCHS if arm == LONGER else epochs


def build(network: str) -> "keras.Model":
    """The Keras model of one of NETWORKS."""
    from mnist_minimal.models import MODELS

    return MODELS[network]() if network in MODELS else SEARCHED.build()


def train(planned: Planned, dataset: Dataset, teachers: Teachers) -> Trial:
    """Trains a trial of the plan, and has the images judge it that were held out."""
    from experiments import soap_step
    from mnist_minimal.training import native_fit

    fit = soap_step.fit if planned.arm in (SOAP, LONGER) else native_fit.fit
    # That of the teacher that has not seen the images which judge the trial.
    probabilities = teachers.probabilities(planned.fold) if planned.arm == TEACHER else None
    judged = judge(lambda: build(planned.network), fit, planned.recipe, planned.seed, dataset, probabilities)
    return Trial(**dataclasses.asdict(planned), **dataclasses.asdict(judged))


def train_missing(path: Path, networks: Sequence[str], dataset: Dataset) -> None:
    """Trains what a ledger has not of the plan, and adds it; teachers are kept in a folder beside it."""
    teachers = Teachers(path.with_name("teachers"), dataset)
    for stage in (lambda: tuning(networks), lambda: comparison(read(path, Trial), networks)):
        done = {trial.planned for trial in read(path, Trial)}
        for planned in stage():
            if planned not in done:
                append(path, train(planned, dataset, teachers))


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
    """The tables of stage 2 as Markdown, and the decisions, a sentence for each lead."""
    rows = [["network, arm", "setting", *FIGURES]]
    for network in NETWORKS:
        for arm in arms(network):
            setting = chosen(trials, network, arm)
            words = "-" if setting is None else "{:g}, batch {}, {} epochs".format(*setting)
            found = of_setting(trials, COMPARISON, network, arm, setting)
            rows.append([f"{network}, {arm}", words, *figures(found)])
    differences, decisions = [["lead, network", "pairs", "lead minus Adam", "CPU s, lead over Adam"]], []
    for lead, networks in LEADS.items():
        ahead = 0
        for network in networks:
            of_lead, of_adam = pairs(trials, network, lead)
            cells = [f"{lead}, {network}", str(len(of_lead))]
            if len(of_lead) < 2:
                differences.append([*cells, "-", "-"])
                continue
            difference = paired_difference(*([one.accuracy for one in arm] for arm in (of_lead, of_adam)))
            seconds, of_adams = (sum(one.cpu_seconds for one in arm) for arm in (of_lead, of_adam))
            differences.append([*cells, interval(difference, "+.5f"), f"{seconds / of_adams:.2f}"])
            ahead += difference.value >= NEEDED
        decisions.append(
            f"{lead}: ahead by {NEEDED:g} or more for {ahead} of {len(networks)}, needed {len(networks) // 2 + 1}."
        )
    return "\n\n".join([markdown(rows), markdown(differences), "\n".join(decisions)])


def pairs(trials: Sequence[Trial], network: str, lead: str) -> tuple[list[Trial], list[Trial]]:
    """A lead's trials in stage 2 and Adam's, of the seeds that both have, in their order."""
    of_lead, of_adam = (
        {one.seed: one for one in of_setting(trials, COMPARISON, network, arm, chosen(trials, network, arm))}
        for arm in (lead, ADAM)
    )
    seeds = sorted(of_lead.keys() & of_adam.keys())
    return [of_lead[seed] for seed in seeds], [of_adam[seed] for seed in seeds]


def tables(path: Path, networks: Sequence[str]) -> str:
    """The tables of both stages, as Markdown; of all networks, since a lead is decided by them together."""
    trials = read(path, Trial)
    return f"{tuning_table(trials)}\n\n{comparison_table(trials)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing of the plan, or prints the tables; returns 0."""
    return train_or_print(__doc__, "--networks", NETWORKS, Path("runs/leads.csv"), train_missing, tables, arguments)


if __name__ == "__main__":
    raise SystemExit(run(main))
