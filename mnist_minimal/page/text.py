"""What was found, in sentences and tables of plain text, accuracies in per cent. The templates make HTML of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mnist_minimal.analysis import frontier
from mnist_minimal.analysis.frontier import BEST, BLIND, SOURCES, Counting, Entry
from mnist_minimal.analysis.monitored import monitors_test_set
from mnist_minimal.analysis.published import Publication
from mnist_minimal.analysis.statistics import (
    TARGET,
    Estimate,
    Moments,
    Share,
    Summary,
    difference_from_moments,
    share_reaching,
    summarize,
)
from mnist_minimal.analysis.summaries import StudySummary, compared, compared_measure
from mnist_minimal.analysis.tables import MEASURE_NAMES, share_count, trial_count
from mnist_minimal.data.choice import recorded_fold
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.recipes import RECIPES
from mnist_minimal.study.numerics import unverifiable
from mnist_minimal.trial import Trial

PERCENT = f"{100 * TARGET:g} %"

QUESTION = (
    f"How few parameters does a network need to get {PERCENT} on MNIST, and how often does training get it there?"
)

# What the ways of counting are called in a sentence, and their tables.
WAYS = {
    SOURCES: "as the sources count, by the best epoch on the test set",
    BLIND: "with nothing chosen by the test set",
}
TABLES = {SOURCES: "as-sources-count", BLIND: "nothing-chosen"}

# Whose the images are, by the name of the data set.
AUTHORS = {
    "mnist": "MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, made from handwriting that NIST had "
    "collected; Keras' documentation gives its licence as CC BY-SA 3.0",
    "digits": "scikit-learn's copy of the Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, made "
    "larger",
}

# A longer list of failures would hide the rest of the page.
MAX_FAILURES = 20


@dataclass(frozen=True)
class Number:
    """A large number at the head of the page, and what it is the number of."""

    value: str
    about: str


@dataclass(frozen=True)
class Link:
    """A text that leads to a page on the web."""

    text: str
    url: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: A word that no other table of the page has.
        caption: What it shows.
        head: The columns' names.
        rows: The rows, each as long as the head; the first cell names the row.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Link]]


def percent(share: float, digits: int = 2) -> str:
    """An accuracy or another share of one: "98.76 %"."""
    return f"{100 * share:.{digits}f} %"


def heading(finding: Sequence[Counting], shown: StudySummary) -> str:
    """The page's title."""
    return QUESTION if finding or shown.dataset == "mnist" else f"What training came to: {shown.title}"


def lead(finding: Sequence[Counting], shown: StudySummary) -> str:
    """What was found, in one sentence: of several networks the fewest parameters, else what the study shown came to."""
    if finding:
        found = "; ".join(f"{_fewest(counting)} {WAYS[counting.said]}" for counting in finding)
        return f"The fewest parameters with {PERCENT} on MNIST: {found}."
    best = f"The best of {_trials(shown)} of {shown.title}, came to {percent(shown.kept.best)} on the test set."
    if shown.dataset != "mnist":
        return best
    if not shown.comparable:
        return f"There is no answer here yet, which takes trials on MNIST by a whole published recipe. {best}"
    share = shown.share()
    if not share.reached:
        return (
            f"None of {_trials(shown)} of {shown.title}, reached {PERCENT} on MNIST's test set with the model it kept; "
            f"the best came to {percent(shown.kept.best)}."
        )
    said = (
        f"{shown.params:,} parameters were enough for {PERCENT} on MNIST's test set, in {share_count(share)} trials of "
        f"{shown.model}"
    )
    # Where the worse trials were stopped, the mean of the others is not the model's.
    if share.stopped:
        said += f", {share.stopped:,} of which were stopped early"
    elif shown.kept.low >= TARGET:
        said += ", and on average"
    return f"{said}."


def _fewest(counting: Counting) -> str:
    """The fewest parameters by a way of counting; where there are none, how near the trials come."""
    mean, best = counting.on_average, counting.in_best_run
    if best is None:
        nearest = max(counting.entries, key=BEST)
        return f"none ({percent(nearest.best)} in the best run, of {nearest.network}, {_best_of(counting, nearest)})"
    once = f"{best.params:,} in a best run ({best.network}, {_best_of(counting, best)})"
    if mean is None:
        return f"none on average and {once}"
    return f"{mean.params:,} on average ({mean.network}, n = {len(mean.accuracies):,}) and {once}"


def _best_of(counting: Counting, entry: Entry) -> str:
    """Of how many trials of its network the best run of an entry is the best."""
    runs = counting.runs(entry)
    return "the only one" if runs == 1 else f"the best of {runs:,}"


def numbers(shown: StudySummary) -> list[Number]:
    """The three numbers that say most of a study."""
    kept = shown.kept
    first = Number(percent(kept.best), f"in the best trial, seed {shown.best.seed}")
    second = Number(percent(kept.mean), f"on average of {_trials(shown)}")
    if shown.dataset != "mnist":
        return [first, second, Number(f"{shown.params:,}", f"parameters of {shown.model}")]
    reached = f"trials of {shown.title}, reached {PERCENT} with the model each kept"
    return [first, second, Number(share_count(shown.share()), reached)]


def standings(counting: Counting) -> Table:
    """Every study by one way of counting, those that come to less too, by their parameters."""
    head = (
        "study",
        "parameters",
        "accuracy",
        "trials",
        "mean ± 95 %, sd",
        "best run",
        f"share at {PERCENT} or more (95 %)",
        "no smaller network reaches its",
    )
    rows = []
    for entry, standing in frontier.standings(counting.entries):
        share = share_reaching(entry.accuracies, stopped=entry.stopped)
        rows.append(
            (
                entry.name,
                f"{entry.params:,}",
                MEASURE_NAMES[entry.measure],
                trial_count(len(entry.accuracies), entry.stopped),
                _mean(summarize(entry.accuracies)),
                percent(entry.best),
                f"{share_count(share)} ({_share_ends(share)})",
                standing or "-",
            )
        )
    return Table(TABLES[counting.said], counting.said, head, rows)


def account(study: StudySummary, publications: Sequence[Publication]) -> list[str]:
    """What a study found, in a few sentences."""
    measure, kept, share = compared_measure(study, publications), study.kept, study.share()
    ours = summarize(study.accuracies(measure))
    said = [f"{_trials(study).capitalize()}, {MEASURE_NAMES[measure]}: {_mean_in_words(ours)}."]
    if study.comparable:
        for publication in compared(study.model, publications):
            theirs = f"Published: {published(publication)}"
            if difference := _difference(study, publication):
                theirs += (
                    f"; ours minus that mean: {_points(difference.value)} percentage points (95 % interval "
                    f"{_ends(difference)}, Welch)"
                )
            said.append(f"{theirs}.")
    # The best epoch's weights are those that some recipes keep.
    if (kept.mean, kept.best) != (ours.mean, ours.best):
        said.append(f"Kept model: {_mean_in_words(kept)}.")
    if study.dataset == "mnist":
        said.append(_reached(share))
    if study.stopped:
        said.append(
            f"{len(study.stopped):,} more were stopped early, as the recipe has it; their accuracies are not known, "
            "and the means are of the others alone."
        )
    return said + ([f"{len(study.failed):,} more failed."] if study.failed else [])


def _reached(share: Share) -> str:
    """How many trials reached the target."""
    depending = "Depending on the trials that were stopped, " if share.stopped else ""
    return (
        f"{depending}{share_count(share)} trials reached {PERCENT} with the model they kept (95 % interval of the "
        f"share: {_share_ends(share)}, Wilson)."
    )


def published(publication: Publication) -> str:
    """What was published, as "best epoch (17th) of one run: 99.46 %"."""
    epoch = {"saved": "last epoch", "best": "best epoch", "test": "last epoch"}[publication.measure]
    if publication.epoch and publication.measure == "best":
        epoch += f" ({publication.epoch}th)"
    if publication.of == "mean":
        spread = "" if publication.sd is None else f", sd {100 * publication.sd:.3f}"
        return f"mean of {publication.n} runs, {epoch}: {percent(publication.accuracy, 3)}{spread}"
    runs = "one run"
    if publication.of == "best":
        runs = f"best of {'about ' if publication.about else ''}{publication.n} runs"
    return f"{runs}, {epoch}: {percent(publication.accuracy)}"


def comparison(studies: Sequence[StudySummary], publications: Sequence[Publication]) -> Table:
    """What was published beside what came out here.

    A row for each published accuracy and each study of its model; ours in it are by the published one's measure.
    """
    head = (
        "model",
        "parameters",
        "published, with its source",
        "our trials",
        "compared",
        "our mean ± 95 %, sd",
        "our best",
        "ours minus published mean (95 %)",
        "ours as high",
    )
    of_model: dict[str, list[StudySummary]] = {}
    for study in studies:
        if study.comparable:
            of_model.setdefault(study.model, []).append(study)
    rows: list[Sequence[str | Link]] = []
    for publication in sorted(publications, key=lambda publication: PARAMETERS[publication.model]):
        measure, url = publication.measure, source(publication.model).url
        theirs = Link(published(publication), url) if url else published(publication)
        for study in of_model.get(publication.model, []):
            summary, difference = summarize(study.accuracies(measure)), _difference(study, publication)
            rows.append(
                (
                    _named(study),
                    f"{study.params:,}",
                    theirs,
                    _count(study),
                    MEASURE_NAMES[measure],
                    _mean(summary),
                    percent(summary.best),
                    f"{_points(difference.value)} ({_ends(difference)})" if difference else "-",
                    "-" if publication.of == "mean" else share_count(study.share(measure, publication.accuracy)),
                )
            )
        if publication.model not in of_model:
            name, params = publication.model, f"{PARAMETERS[publication.model]:,}"
            rows.append((name, params, theirs, "none yet", MEASURE_NAMES[measure], *4 * ("-",)))
    caption = "Published accuracies on MNIST's test set, and those of the trials here by the same measure; sds and "
    return Table("comparison", f"{caption}differences in percentage points", head, rows)


def kept(studies: Sequence[StudySummary]) -> list[Table]:
    """The accuracies of the kept models on the test set, one row a study: of published recipes, and of others."""
    head = ("model", "parameters", "trials", "mean ± 95 %, sd", "best", f"share at {PERCENT} or more (95 %)")
    tables = []
    for name, caption, comparable in (
        ("kept", "The trials here by the accuracy of the model each kept on MNIST's test set", True),
        ("others", "Other studies here, which nothing published compares with, by the model each trial kept", False),
    ):
        rows = [
            (
                _named(study) if comparable else study.title,
                f"{study.params:,}",
                _count(study),
                _mean(study.kept),
                f"{percent(study.kept.best)} (seed\u00a0{study.best.seed})",
                f"{share_count(study.share())} ({_share_ends(study.share())})" if study.dataset == "mnist" else "-",
            )
            for study in studies
            if study.comparable == comparable
        ]
        tables += [Table(name, caption, head, rows)] if rows else []
    return tables


def verifiable(studies: Iterable[StudySummary]) -> list[str]:
    """The names of the studies whose trials anyone can train again to the same bits."""
    return [study.paths.name for study in studies if not unverifiable(study.paths, study.trials)]


def not_verifiable(studies: Iterable[StudySummary]) -> list[str]:
    """The others, with the reason; those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for study in studies:
        if reason := unverifiable(study.paths, study.trials):
            by_reason.setdefault(reason, []).append(study.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def provenance(studies: Iterable[StudySummary]) -> Table:
    """What the trials ran on, one row a study."""
    head = ("study", "finished", "stopped early", "failed", "dates (UTC)", "trained by", "package", "begun with")
    rows = []
    for study in studies:
        days = sorted(trial.finished_at[:10] for trial in study.trials)
        versions = (f"{name} {version}" for name, version in study.versions().items() if name != "mnist_minimal")
        rows.append(
            (
                f"{study.name}: {study.title}",
                f"{len(study.trials):,}",
                f"{len(study.stopped):,}",
                f"{len(study.failed):,}",
                days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
                _distinct(f"{trial.trainer} ({trial.backend})" for trial in study.trials),
                _distinct(trial.version for trial in study.trials),
                ", ".join(versions) or "not recorded",
            )
        )
    return Table("provenance", "The studies that this page is made of, and what they ran on", head, rows)


def sources(publications: Sequence[Publication]) -> list[tuple[str, Link]]:
    """Where each published network and its recipe come from, by model; a link without a URL where none is known."""
    models = sorted({publication.model for publication in publications}, key=lambda model: PARAMETERS[model])
    return [(model, source(model)) for model in models]


def source(model: str) -> Link:
    """Where a published network and its recipe come from; without a URL where none is known."""
    said = RECIPES[model].source
    url = said.partition(", ")[0]
    return Link(said.removeprefix("https://"), url) if url.startswith("https://") else Link(said, "")


def failures(studies: Iterable[StudySummary]) -> list[str]:
    """The failed trials, a line each."""
    found = [(study, trial) for study in studies for trial in study.failed]
    lines = [f"{study.name}, seed {trial.seed}: {trial.reason}" for study, trial in found[:MAX_FAILURES]]
    if len(found) > MAX_FAILURES:
        lines.append(f"and {len(found) - MAX_FAILURES:,} more")
    return lines


def best_run(study: StudySummary) -> str:
    """Which model of a study the page computes with first."""
    best, epoch = study.best, study.kept_epoch
    weights = "its weights" if epoch is None else f"the weights of its epoch {epoch}"
    return (
        f"At first the network here is the best of {len(study.trials):,} of {study.title}, seed {best.seed}: "
        f"{weights} get {best.test_correct:,} of {best.test_size:,} test images right."
    )


def no_board(study: StudySummary) -> str:
    """Why a study has no drawing board."""
    return (
        f"The drawing board is for digits, which come as 28 by 28 pixels of grey: the images of {study.dataset} are "
        "something else, and it is left out."
    )


def protocols(studies: Sequence[StudySummary]) -> str:
    """What the protocols of the studies are."""
    said = (
        "Protocol source: the test set itself is monitored and drives schedule, stopping and the choice of the epoch, "
        "as in every source, unless its recipe holds images out."
    )
    if any(study.protocol == "holdout" for study in studies):
        said += (
            " Protocol holdout: images held out of the training set are monitored, 5,000 of MNIST's, and the test set "
            "is met once."
        )
    return said


def monitored(study: StudySummary) -> str:
    """What a study's trials monitored."""
    return "test set (monitored)" if monitors_test_set(study.paths, study.trials[0]) else "held-out images (monitored)"


def plane(studies: Iterable[StudySummary], publications: Sequence[Publication]) -> str:
    """What the figure of parameters against accuracy shows, for those who don't see it."""
    ours = []
    for study in studies:
        measure = compared_measure(study, publications) if study.comparable else "test"
        summary = summarize(study.accuracies(measure))
        ours.append(
            f"{study.model} at {study.params:,} parameters, {MEASURE_NAMES[measure]}: mean {_mean(summary)}, best "
            f"trial {percent(summary.best)}"
        )
    theirs = [
        f"{model} at {PARAMETERS[model]:,} parameters, {published(publication)}"
        for model in dict.fromkeys(publication.model for publication in publications)
        for publication in compared(model, publications)
    ]
    return f"Accuracy by number of parameters. Ours: {'; '.join(ours) or 'none'}. Published: {'; '.join(theirs)}."


def distribution(study: StudySummary, publications: Sequence[Publication]) -> str:
    """What the figure of a study's trials shows."""
    said = f"Accuracies of {_trials(study)} on the test set, a dot each."
    for measure in study.measures:
        sample = study.accuracies(measure)
        summary, name = summarize(sample), MEASURE_NAMES[measure].capitalize()
        sd = f", sd {100 * summary.sd:.3f}" if summary.n > 1 else ""
        said += f" {name}: mean {percent(summary.mean, 3)}{sd}, from {percent(min(sample))} to {percent(summary.best)}."
    for publication in compared(study.model, publications):
        if study.comparable and publication.of == "mean":
            lowest, highest = publication.lowest or publication.accuracy, publication.highest or publication.accuracy
            said += f" Published: {published(publication)}, from {percent(lowest)} to {percent(highest)}."
    return said


def curves(study: StudySummary, median: Trial) -> str:
    """What the figure of a study's training curves shows."""
    return (
        f"Accuracy and learning rate by epoch of the trials of {study.model}, the median one, seed {median.seed}, "
        f"bold: on the {monitored(study)} it comes to {percent(median.best_accuracy or 0)} at best and "
        f"{percent(median.saved_accuracy or 0)} in the last of {median.epochs} epochs."
    )


def digits_source(dataset: str) -> str:
    """Where the images that the page shows come from; "" where that is not known."""
    whole, fold = recorded_fold(dataset)
    part = f"fold {fold} of all images" if fold else "the test set"
    return f"The images are of {part} of {AUTHORS[whole]}." if whole in AUTHORS else ""


def _difference(study: StudySummary, publication: Publication) -> Estimate | None:
    """Our mean minus the published one and Welch's interval; None where there is no such interval."""
    # Where the worse trials were stopped, the mean of the others is not the model's.
    if publication.of != "mean" or publication.sd is None or study.stopped:
        return None
    ours = summarize(study.accuracies(publication.measure))
    found = difference_from_moments(
        Moments(ours.n, ours.mean, ours.sd), Moments(publication.n, publication.accuracy, publication.sd)
    ).difference
    return None if math.isnan(found.low) else found


def _ends(estimate: Estimate) -> str:
    return f"{_points(estimate.low)} to {_points(estimate.high)}"


def _named(study: StudySummary) -> str:
    """The model's name, and the study's where it has another."""
    return study.model if study.name == study.model else f"{study.model} ({study.name})"


def _points(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * difference:+.3f}".replace("-", "\u2212")


def _share_ends(share: Share) -> str:
    return f"{100 * share.low:.0f} to {100 * share.high:.0f} %"


def _trials(study: StudySummary) -> str:
    number = len(study.trials)
    return f"{number:,} {'finished ' if study.stopped else ''}trial{'' if number == 1 else 's'}"


def _count(study: StudySummary) -> str:
    return trial_count(len(study.trials), len(study.stopped))


def _mean(summary: Summary) -> str:
    if math.isnan(summary.low):
        return percent(summary.mean, 3)
    margin = 100 * (summary.high - summary.mean)
    return f"{100 * summary.mean:.3f}\u00a0±\u00a0{margin:.3f} %, sd\u00a0{100 * summary.sd:.3f}"


def _mean_in_words(summary: Summary) -> str:
    said = f"{percent(summary.mean, 3)} on average"
    if summary.n > 1:
        said += f" (95 % interval {100 * summary.low:.3f} to {percent(summary.high, 3)}), sd {100 * summary.sd:.3f}"
    return f"{said}, {percent(summary.best)} in the best trial"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))
