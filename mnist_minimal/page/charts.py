"""What the page's charts show, as JSON's types: numbers that `charts.js` draws.

Accuracies are in [0, 1]. A dot is [accuracy, trials, seeds]; see `analysis.dots`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mnist_minimal.analysis.dots import Dot, dots, sampled, thinned
from mnist_minimal.analysis.published import Publication, published_accuracies
from mnist_minimal.analysis.statistics import TARGET, mean_of_best, sizes_of_best, summarize
from mnist_minimal.analysis.summaries import StudySummary, compared, compared_measure, median_trial
from mnist_minimal.analysis.tables import MEASURE_NAMES
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.page import text
from mnist_minimal.study import history

if TYPE_CHECKING:
    import pandas

# The interval of a mean of two trials is so wide that nothing else could be seen beside it; the table has it.
LEAST_FOR_INTERVAL = 3

RATES = ["epoch", "learning_rate"]


def plotted(studies: Sequence[StudySummary], shown: StudySummary) -> list[StudySummary]:
    """The studies of the chart of all networks: those comparable with what was published.

    Where there is none they are those on the images, and by the protocol, of the study shown.
    """
    comparable = [study for study in studies if study.comparable]
    alike = [study for study in studies if (study.dataset, study.protocol) == (shown.dataset, shown.protocol)]
    return comparable or alike


def plane(studies: Sequence[StudySummary], publications: Sequence[Publication]) -> dict[str, Any]:
    """Every network at its number of parameters: its trials, their mean, and what was published of it.

    Args:
        studies: Those to draw, each by the measure of what was published of it.
        publications: What was published.
    """
    models: dict[str, dict[str, Any]] = {}
    for publication in publications:
        models.setdefault(publication.model, {"name": publication.model, "params": PARAMETERS[publication.model]})
    for study in studies:
        measure = compared_measure(study, publications) if study.comparable else "test"
        accuracies = study.accuracies(measure)
        found = summarize(accuracies)
        drawn = models.setdefault(study.model, {"name": study.model, "params": study.params})
        drawn.setdefault("studies", []).append(
            {
                "study": study.name,
                "measure": MEASURE_NAMES[measure],
                "n": found.n,
                "mean": found.mean,
                "interval": [found.low, found.high] if found.n >= LEAST_FOR_INTERVAL else None,
                "dots": _dots(dots(accuracies, [trial.seed for trial in study.trials])),
            }
        )
    for model in models:
        theirs = compared(model, publications) if model in PARAMETERS else []
        models[model]["published"] = [
            {"accuracy": publication.accuracy, "of": publication.of, "note": text.published(publication)}
            for publication in theirs
        ]
    return {"target": TARGET, "models": sorted(models.values(), key=lambda model: (model["params"], model["name"]))}


def strip(study: StudySummary, publications: Sequence[Publication]) -> dict[str, Any]:
    """The trials of a study above the published ones, and the expected best of k of each."""
    compared_last = sorted(study.measures, key=lambda measure: measure == compared_measure(study, publications))
    seeds = [trial.seed for trial in study.trials]
    rows = [
        _row(f"ours, {_measure(study, measure)}", study.accuracies(measure), seeds, study.name)
        for measure in compared_last
    ]
    theirs = published_accuracies(study.model) if study.comparable else []
    if theirs:
        rows.append(_row("published, last epoch", theirs, (), ""))
    return {"target": TARGET, "rows": rows, "sizes": sizes_of_best(max(row["n"] for row in rows))}


def curves(study: StudySummary, missing: list[str]) -> dict[str, Any]:
    """The training curves of a study's trials, as far as their histories are there; {} where that of the median is not.

    Args:
        study: The study.
        missing: To which is added what is left out and why.
    """
    median, best = median_trial(study.trials), study.best
    drawn: dict[str, Any] = {"monitored": text.monitored(study), "median": median.seed, "best": best.seed, "runs": []}
    lacking = []
    for trial in sampled(study.trials, always=[median, best]):
        path = study.paths.history(trial.seed)
        if not history.exists(path):
            lacking.append(trial.seed)
            continue
        figures = thinned(history.read_history(path))
        drawn["runs"].append({"seed": trial.seed, **_curve(figures)})
        if trial == median:
            drawn["training"] = _rounded(figures["accuracy"])
    for name, trial in (("median", median), ("best", best)):
        if trial.seed in lacking:
            path = study.paths.history(trial.seed)
            missing.append(f"no curve of the {name} trial of {study.name} is drawn: there is no {path}")
            lacking.remove(trial.seed)
    if lacking:
        seeds = ", ".join(map(str, sorted(lacking)[:10])) + (", ..." if len(lacking) > 10 else "")
        missing.append(f"no curves of {len(lacking)} trials of {study.name} are drawn: no histories of seeds {seeds}")
    return drawn if "training" in drawn else {}


def _measure(study: StudySummary, measure: str) -> str:
    """What an accuracy of a study's trials is called, and whether it is that of the models kept."""
    same = measure != "test" and study.accuracies(measure) == study.accuracies("test")
    return MEASURE_NAMES[measure] + (" (kept model)" if same else "")


def _row(name: str, accuracies: Sequence[float], seeds: Sequence[int], study: str) -> dict[str, Any]:
    """Trials by one measure, and the expected best of k of them for each of `sizes_of_best`."""
    found = summarize(accuracies)
    sizes = sizes_of_best(found.n)
    return {
        "name": name,
        "study": study,
        "n": found.n,
        "mean": found.mean,
        "sd": None if math.isnan(found.sd) else found.sd,
        "dots": _dots(dots(accuracies, seeds)),
        "best": [[k, round(float(best), 7)] for k, best in zip(sizes, mean_of_best(accuracies, sizes), strict=True)],
    }


def _curve(figures: "pandas.DataFrame") -> dict[str, Any]:
    """Accuracy by epoch, and the epochs at which the learning rate changes, with the rate from there on."""
    rates = figures["learning_rate"]
    changed = rates != rates.shift()
    return {
        "epochs": figures["epoch"].tolist(),
        "accuracy": _rounded(figures["val_accuracy"]),
        "rates": [[int(epoch), float(f"{rate:.3g}")] for epoch, rate in figures.loc[changed, RATES].to_numpy()],
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _dots(found: Iterable[Dot]) -> list[list[Any]]:
    return [[dot.accuracy, dot.count, list(dot.seeds)] for dot in found]
