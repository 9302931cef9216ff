"""Which recipe trains sep997, sep697 and 691a to their end, how few image passes do, and how few parameters?

    python -m experiments.fast_recipes --train --out runs/fast.csv      trains what is missing, in that order; resumes
    python -m experiments.fast_recipes --out runs/fast.csv              prints the tables of what is there, as Markdown

It takes about 5 CPU hours with AVX-512, 2 to 60 CPU s a trial and 5 CPU min for each of four teachers, and about twice
that on an AMD EPYC with AVX2 beside other work; there the 44 trials of 620 took 1.2 CPU hours, and 696 has 48.
Teachers are kept beside the ledger, in runs/teachers. With `--questions` a process trains for some of the questions
alone; several may write to one file side by side. The plan is of 2026-11-27, before its trials; 691a came into it the
same day, before its own, when the settings of sep997 had been tried with two seeds each, and its two with more
augmentation when sep997's were done, which had gained by it; they took the places of dropout and of half a teacher.
That its stage 2 has the held-out images of its stage 1 was settled after two of its trials, for the eight teachers that
are saved by it.

- What: QUESTIONS, each a list of settings of one network, those of 620 and 696 of one recipe, by the core. All of them
  are Adam with a rate that warms up over the first 5 % of the steps. "mean" is a cosine to .15 of the peak at .6 of the
  steps, a constant rate after it, and the mean of the weights after every step from there on; the others are a cosine
  to 0 and the last weights.
- Judge: of the training images a twelfth that the trial was not trained on (`experiments.held_out`); the test set is
  not looked at.
- sep997, sep697 and 691a (`experiments.leads`), stage 1: all settings, seeds 2000 to 2003. The third of them with the
  lowest mean cross-entropy of held-out images, of which four trials say more than of accuracy, goes on. Stage 2: seeds
  2004 to 2011, so that all 60,000 images have judged; for 691a eight seeds that hold out the four twelfths of its stage
  1, each of them twice, as a further twelfth takes a further teacher. The highest mean accuracy of the twelve is the
  recipe `sep997-fast` or `sep697-fast`, or that of 691a; of equal ones that with the lower cross-entropy.
- A teacher is, as in `experiments.leads`, the one of `searching.teachers` that has not seen the twelfth which judges.
- cheap: all settings, seeds 2000 to 2011. What is sought is the mean accuracy of the published recipe, .9876 on the
  test set, in the fewest image passes. The prototype of 20 epochs came to .9880 there (n = 3), so the recipe
  `sep997-cheap` is that of the fewest epochs whose mean is at most .0004 below that of 20 epochs, and of the settings
  with so many epochs the most accurate one.
- 620 and 696, of 2026-11-28, before their trials: networks of at most so many parameters, relatives of 691a with other
  channels and blocks, or with one block that is applied again, and the finalists of the searches of that day; all by
  the recipe that was found for 691a. As sep997: four seeds of all, the third with the lowest cross-entropy goes on with
  eight more, and the most accurate one is the network. 691a is one of the second question's.
- Then, in studies of their own by `mnist_minimal.trials`, 100 trials of each recipe, 200 of that of 691a, on all 60,000
  images, seeds from 0, and the last weights' or the mean's accuracy on the test set, whatever comes out. 691a, which no
  catalogue has, is written with its recipe to runs/691a/candidates, and its trials are those of `--model search:NAME`;
  so are the networks of 620 and 696, in runs/620 and runs/696, 200 trials of each. Where the recipe has a teacher, with
  `--teacher runs/teachers/all.npz`, that of all 60,000.
- Power: of paired differences of the means of twelve with an sd of .0012 one of .0011 shows in four of five cases. What
  is closer is chosen by luck, at little cost.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import leads
from experiments.held_out import FIGURES, Judged, append, figures, fold_of, judge, read, train_or_print
from mnist_minimal.analysis.tables import markdown
from mnist_minimal.cli.run import run
from mnist_minimal.data.sets import Dataset
from mnist_minimal.models import searched
from mnist_minimal.models.searched import Padding, SearchedNetwork, Sharing
from mnist_minimal.recipes import Adam, Augmentation, Averaging, ByStep, Recipe, Teacher
from mnist_minimal.searching.teachers import Teachers

if TYPE_CHECKING:
    import keras

GO_ON = 3  # one of so many
SLACK = 0.0004
CHEAP = "cheap"
# The network that no catalogue has.
FOUND = "691a"


def relatives(*networks: SearchedNetwork) -> dict[str, SearchedNetwork]:
    """Networks by their parameters, their first convolution and the channels of their blocks."""
    sharing = {"depthwise": "", "block": ", one block but for the first"}
    return {
        f"{each.parameters}: {each.stem_channels} of {each.stem_size}x{each.stem_size}, {each.pool} pool, "
        f"{' '.join(map(str, each.channels))}{sharing[each.sharing]}": each
        for each in networks
    }


def relative(stem_channels: int, *channels: int, sharing: Sharing = "depthwise") -> SearchedNetwork:
    """691a with other channels."""
    return dataclasses.replace(leads.SEARCHED, stem_channels=stem_channels, channels=channels, sharing=sharing)


def finalist(
    stem_channels: int, stem_padding: Padding, blocks: int, block_channels: int, slope: float
) -> SearchedNetwork:
    """One of the searches', which all came to kernels of 5x5, a max pool and one block that is applied again."""
    return dataclasses.replace(
        relative(stem_channels, *[block_channels] * blocks, sharing="block"),
        stem_size=5,
        stem_padding=stem_padding,
        pool="max",
        slope=slope,
    )


# By the most parameters that a network may have.
RELATIVES: dict[str, dict[str, SearchedNetwork]] = {
    "620": relatives(
        relative(8, 8, 8, 8, 12),
        relative(8, 8, 8, 8, 8, 8),
        relative(7, 7, 7, 7, 7, 14),
        relative(7, 7, 7, 7, 7, 7, 10),
        relative(9, 9, 9, 12),
        relative(10, 10, 10, 10, 10, sharing="block"),
        finalist(5, "same", 4, 11, 0.37),
    ),
    "696": relatives(
        leads.SEARCHED,
        relative(8, 8, 8, 8, 8, 12),
        relative(8, 8, 8, 8, 8, 8, 8),
        relative(7, 7, 7, 7, 7, 7, 14),
        relative(10, 10, 10, 13),
        relative(11, 11, 11, 11, 11, sharing="block"),
        finalist(5, "valid", 3, 13, 0.33),
        finalist(7, "same", 5, 11, 0.39),
    ),
}


def trained(
    model: str,
    epochs: int,
    rate: float = 0.03,
    batch_size: int = 128,
    augmentation: Augmentation | None = None,
    dropout: float = 0.0,
    mean: bool = False,
    teacher: float | None = None,
) -> Recipe:
    """A setting; with `mean` the weights of the last two fifths of the steps are averaged.

    A teacher has a weight, as `Teacher` says.
    """
    return Recipe(
        model=model,
        batch_size=batch_size,
        max_epochs=epochs,
        optimizer=Adam(learning_rate=rate),
        schedule=ByStep("cosine", floor=0.15, floor_from=0.6) if mean else ByStep("cosine"),
        dropout=dropout,
        averaging=Averaging(start=0.6) if mean else None,
        augmentation=augmentation,
        teacher=None if teacher is None else Teacher(weight=teacher),
    )


def augmented(rotation: float, translation: float, scale: float, share: float = 0.5) -> Augmentation:
    """Images turned by degrees, shifted by shares of their side and scaled by shares of their size; some of them."""
    return Augmentation(rotation=rotation, translation=translation, scale=(1 - scale, 1 + scale), affine_share=share)


WEAK, USUAL, STRONG = (4, 0.025, 0.05), (6, 0.04, 0.08), (9, 0.06, 0.12)

_997: dict[str, Any] = {"model": "sep997", "augmentation": augmented(*USUAL)}
_697: dict[str, Any] = {"model": "sep697", "augmentation": augmented(*WEAK), "batch_size": 64}
_691A: dict[str, Any] = {"model": FOUND, "augmentation": augmented(*WEAK), "batch_size": 64, "mean": True}

QUESTIONS: dict[str, dict[str, Recipe]] = {
    "sep997": {
        "40 epochs": trained(epochs=40, **_997),
        "80 epochs": trained(epochs=80, **_997),
        "40 epochs, mean": trained(epochs=40, mean=True, **_997),
        "80 epochs, mean": trained(epochs=80, mean=True, **_997),
        "80 epochs, mean, rate .015": trained(epochs=80, mean=True, rate=0.015, **_997),
        "80 epochs, mean, rate .06": trained(epochs=80, mean=True, rate=0.06, **_997),
        "80 epochs, mean, batch 64": trained(epochs=80, mean=True, batch_size=64, **_997),
        "80 epochs, mean, dropout .02": trained(epochs=80, mean=True, dropout=0.02, **_997),
        "80 epochs, mean, .8 augmented": trained("sep997", 80, augmentation=augmented(*USUAL, 0.8), mean=True),
        "80 epochs, mean, strongly augmented": trained("sep997", 80, augmentation=augmented(*STRONG), mean=True),
        "80 epochs, mean, weakly augmented": trained("sep997", 80, augmentation=augmented(*WEAK), mean=True),
        "120 epochs, mean, .8 augmented": trained("sep997", 120, augmentation=augmented(*USUAL, 0.8), mean=True),
    },
    "sep697": {
        "100 epochs": trained(epochs=100, **_697),
        "100 epochs, mean": trained(epochs=100, mean=True, **_697),
        "100 epochs, mean, rate .015": trained(epochs=100, mean=True, rate=0.015, **_697),
        "100 epochs, mean, rate .06": trained(epochs=100, mean=True, rate=0.06, **_697),
        "100 epochs, mean, batch 128": trained(epochs=100, mean=True, **{**_697, "batch_size": 128}),
        "100 epochs, mean, dropout .02": trained(epochs=100, mean=True, dropout=0.02, **_697),
        "100 epochs, mean, as they are": trained("sep697", 100, batch_size=64, mean=True),
        "100 epochs, mean, dropout .02, as they are": trained("sep697", 100, batch_size=64, mean=True, dropout=0.02),
        "100 epochs, mean, more augmented": trained("sep697", 100, 0.03, 64, augmented(*USUAL), mean=True),
    },
    FOUND: {
        "100 epochs, mean": trained(epochs=100, **_691A),
        "100 epochs, mean, teacher": trained(epochs=100, teacher=1.0, **_691A),
        "100 epochs, mean, teacher, .8 augmented": trained(FOUND, 100, 0.03, 64, augmented(*WEAK, 0.8), 0, True, 1.0),
        "100 epochs, mean, teacher, more augmented": trained(FOUND, 100, 0.03, 64, augmented(*USUAL), 0, True, 1.0),
        "100 epochs, mean, teacher, rate .015": trained(epochs=100, teacher=1.0, rate=0.015, **_691A),
        "100 epochs, mean, teacher, rate .06": trained(epochs=100, teacher=1.0, rate=0.06, **_691A),
        "100 epochs, mean, teacher, batch 128": trained(epochs=100, teacher=1.0, **{**_691A, "batch_size": 128}),
        "100 epochs, mean, teacher, as they are": trained(FOUND, 100, batch_size=64, mean=True, teacher=1.0),
        "150 epochs, mean, teacher": trained(epochs=150, teacher=1.0, **_691A),
    },
    CHEAP: {
        f"{epochs} epochs, batch {batch_size}, rate {rate:g}": trained("sep997", epochs, rate, batch_size)
        for epochs in (20, 12, 10, 8, 6)
        for batch_size, rate in ((128, 0.03), (128, 0.06), (64, 0.03), (32, 0.03))
    },
    **{
        question: {name: trained(epochs=100, **{**_691A, "model": name}) for name in networks}
        for question, networks in RELATIVES.items()
    },
}

# Of each question, those of stage 1 first. A seed holds out the part that it is modulo twelve.
STAGE_1 = 4
SEEDS: dict[str, Sequence[int]] = {
    "sep997": range(2000, 2012),
    "sep697": range(2000, 2012),
    FOUND: (*range(2000, 2004), *range(2012, 2016), *range(2024, 2028)),
    CHEAP: range(2000, 2012),
    **dict.fromkeys(RELATIVES, range(2000, 2012)),
}


@dataclass(frozen=True)
class Planned:
    """A trial of the plan: the question, the name of its setting, and the seed."""

    question: str
    setting: str
    seed: int

    @property
    def recipe(self) -> Recipe:
        """How the network is trained."""
        return QUESTIONS[self.question][self.setting]


@dataclass(frozen=True)
class Row(Judged, Planned):
    """A trained one."""

    @property
    def planned(self) -> Planned:
        """The trial as the plan has it."""
        return Planned(self.question, self.setting, self.seed)


def plan(rows: Sequence[Row], question: str) -> list[Planned]:
    """The trials of a question, as far as those that are there say which they are; the seeds one after the other."""
    seeds = SEEDS[question]
    at_first = seeds if question == CHEAP else seeds[:STAGE_1]
    first = [Planned(question, setting, seed) for seed in at_first for setting in QUESTIONS[question]]
    if question == CHEAP or not {row.planned for row in rows}.issuperset(first):
        return first
    further = seeds[STAGE_1:]
    return first + [Planned(question, setting, seed) for seed in further for setting in gone_on(rows, question)]


def of_setting(rows: Sequence[Row], question: str, setting: str, seeds: int | None = None) -> list[Row]:
    """The trials of a setting's first so many seeds; of all of them without a number."""
    within = SEEDS[question][:seeds]
    return [row for row in rows if (row.question, row.setting) == (question, setting) and row.seed in within]


def gone_on(rows: Sequence[Row], question: str) -> list[str]:
    """The settings of stage 2, the best first; all trials of stage 1 are there."""

    def loss(setting: str) -> float:
        return float(np.mean([row.loss for row in of_setting(rows, question, setting, STAGE_1)]))

    return sorted(QUESTIONS[question], key=loss)[: len(QUESTIONS[question]) // GO_ON]


def chosen(rows: Sequence[Row], question: str) -> str | None:
    """The setting that a question's trials give; None before they are all there."""
    planned = plan(rows, question)
    if (
        not {row.planned for row in rows}.issuperset(planned)
        or max(each.seed for each in planned) < SEEDS[question][-1]
    ):
        return None

    def merit(setting: str) -> tuple[float, float]:
        found = of_setting(rows, question, setting)
        return float(np.mean([row.accuracy for row in found])), -float(np.mean([row.loss for row in found]))

    settings = QUESTIONS[question]
    if question != CHEAP:
        return max(gone_on(rows, question), key=merit)
    longest = max(recipe.max_epochs for recipe in settings.values())
    enough = max(merit(name)[0] for name, recipe in settings.items() if recipe.max_epochs == longest) - SLACK
    # As whole images: .0004 of 60,000 are 24.
    there = [name for name in settings if round(merit(name)[0] - enough, 9) >= 0]
    fewest = min(settings[name].max_epochs for name in there)
    return max((name for name in there if settings[name].max_epochs == fewest), key=merit)


def train_missing(path: Path, questions: Sequence[str], dataset: Dataset) -> None:
    """Trains what a ledger has not of the plan, and adds it; teachers are kept in a folder beside it."""
    from mnist_minimal.training import native_fit

    teachers = Teachers(path.with_name("teachers"), dataset)

    def missing(question: str) -> list[Planned]:
        rows = read(path, Row)
        done = {row.planned for row in rows}
        return [planned for planned in plan(rows, question) if planned not in done]

    for question in questions:
        # Once more after stage 1, which says what stage 2 is.
        while left := missing(question):
            for planned in left:
                recipe, seed = planned.recipe, planned.seed
                probabilities = teachers.probabilities(fold_of(seed)) if recipe.teacher else None
                judged = judge(partial(build, recipe.model), native_fit.fit, recipe, seed, dataset, probabilities)
                append(path, Row(**dataclasses.asdict(planned), **dataclasses.asdict(judged)))
        if question == FOUND or question in RELATIVES:
            hand_over(path, question, teachers)


def build(model: str) -> "keras.Model":
    """The Keras model of a recipe."""
    return leads.build(model) if model in leads.NETWORKS else _relative(model).build()


def _relative(model: str) -> SearchedNetwork:
    return next(networks[model] for networks in RELATIVES.values() if model in networks)


def candidate(rows: Sequence[Row], question: str) -> searched.Candidate | None:
    """The network of a question, 691a or a relative, and its recipe; None before all trials of it are there."""
    setting = chosen(rows, question)
    if setting is None:
        return None
    recipe = QUESTIONS[question][setting]
    network = leads.SEARCHED if question == FOUND else _relative(recipe.model)
    return searched.Candidate(network, dataclasses.replace(recipe, model="", source="experiments/fast_recipes.py"))


def hand_over(path: Path, question: str, teachers: Teachers) -> None:
    """Writes a question's candidate as `mnist_minimal.trials` takes it, and the teacher of all training images."""
    found = candidate(read(path, Row), question)
    if found is None:
        return
    searched.write(found, path.with_name(question) / searched.CANDIDATES)
    if found.recipe.teacher:
        teachers.probabilities(None)


def table(rows: Sequence[Row], question: str) -> str:
    """The table of a question, as Markdown; the setting that it gives in bold."""
    choice = chosen(rows, question)
    lines = [["setting", "image passes, millions", *FIGURES]]
    for setting, recipe in QUESTIONS[question].items():
        passes = recipe.max_epochs * 0.055
        name = f"**{setting}**" if setting == choice else setting
        lines.append([name, f"{passes:.2f}", *figures(of_setting(rows, question, setting))])
    return markdown(lines)


def tables(path: Path, questions: Sequence[str]) -> str:
    """The tables of some questions, as Markdown."""
    rows = read(path, Row)
    return "\n\n".join(f"{question}\n\n{table(rows, question)}" for question in questions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing of the plan, or prints the tables; returns 0."""
    return train_or_print(__doc__, "--questions", QUESTIONS, Path("runs/fast.csv"), train_missing, tables, arguments)


if __name__ == "__main__":
    raise SystemExit(run(main))
