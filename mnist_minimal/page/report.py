"""The page put together: what the studies in a folder found, filled into one file of HTML."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal import files
from mnist_minimal.data.choice import Choice, recorded_fold
from mnist_minimal.errors import UserError
from mnist_minimal.study.recorded import check_kept
from mnist_minimal.version import version

if TYPE_CHECKING:
    import jinja2

    from mnist_minimal.analysis.published import Publication
    from mnist_minimal.analysis.summaries import StudySummary
    from mnist_minimal.page.digits import Digit
    from mnist_minimal.trial import Trial

# Rounding differs between machines and may turn an image or two; more than this share of them is another model.
TOLERATED_SHARE = 0.001

# The data sets of digits as the board draws them.
DRAWABLE = ("mnist", "digits")

# Trials whose own networks the page holds, and how many weights in all: enough for every trial that the project
# publishes, in a page that can still be sent by mail.
MAX_NETWORKS, MAX_WEIGHTS = 100, 320_000


def write_report(
    folders: Sequence[Path], out: Path, choice: Choice, publications: "Sequence[Publication]"
) -> list[str]:
    """Writes the page.

    Args:
        folders: The folders with the studies' CSVs and, beside them, their JSON, histories and saved models.
        out: The page; what is there is replaced.
        choice: The data set whose test images are shown; "auto" is the one that the study shown was tested on.
        publications: What was published about the models.

    Returns:
        What the page lacks and why, a line each.

    Raises:
        UserError: if there is no study with a finished trial, or one of its files is damaged or belongs to another.
    """
    files.check_output(out)
    from mnist_minimal.analysis.finalists import find_finalists
    from mnist_minimal.analysis.frontier import compared_networks
    from mnist_minimal.analysis.summaries import find_studies, highlighted, median_trial
    from mnist_minimal.page import charts, text
    from mnist_minimal.page.digits import examples
    from mnist_minimal.page.finding import pictures

    studies = find_studies(*folders)
    shown = highlighted(studies)
    finding = compared_networks(studies, find_finalists(folders))
    plotted = charts.plotted(studies, shown)
    # What was published is of MNIST; beside other images it would say nothing.
    compared = publications if shown.dataset == "mnist" else []
    missing: list[str] = []
    networks = _networks(studies, shown, plotted, missing)
    digits = _digits(shown, choice, missing)
    content = {
        "plane": charts.plane(plotted, compared),
        "strip": charts.strip(shown, compared),
        "curves": charts.curves(shown, missing),
        **_without_repetition(networks),
        "examples": examples(digits) if networks else [],
    }
    page = render(
        "page.html",
        text=text,
        style=_part("style.css"),
        script=_script(),
        script_hash=base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
        content=content,
        finding=finding,
        pictures=pictures(finding) if finding else (),
        shown=shown,
        studies=studies,
        plotted=plotted,
        publications=compared,
        median=median_trial(shown.trials),
        board=bool(networks),
        drawable=is_drawable(shown.dataset),
        gallery=_gallery(digits) if digits else None,
        version=version(),
    )
    with files.output(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return missing


def render(template: str, **values: Any) -> str:
    """A template of the folder `templates`, filled in; every text is escaped."""
    return _environment().get_template(template).render(**values)


def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_minimal.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["nobreak"] = lambda text: text.replace(" %", "\u00a0%")
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def is_drawable(dataset: str) -> bool:
    """Whether a data set, or the one that it is a fold of, is one of DRAWABLE."""
    return recorded_fold(dataset)[0] in DRAWABLE


def _networks(
    studies: "Sequence[StudySummary]",
    shown: "StudySummary",
    plotted: "Sequence[StudySummary]",
    missing: list[str],
) -> list[dict[str, Any]]:
    """The networks of trials as network.js runs them, that of the best trial of the study shown first.

    They are those of the best trial of every study whose saved model is there, and of as many other trials of the
    chart of all networks as there may be, the smallest networks' first. Without a saved model of the study shown there
    is nothing to draw for, and the list is empty.
    """
    if not is_drawable(shown.dataset):
        return []
    drawable = [study for study in studies if is_drawable(study.dataset)]
    networks, weights = [], 0
    for study in [shown, *(study for study in drawable if study is not shown)]:
        try:
            networks.append(_network(study, study.best))
            weights += study.params
        except UserError as error:
            missing.append(f"the best trial of {study.name} can't be asked: {error}")
            if study is shown:
                return []
    for study in plotted:
        for trial in study.trials:
            if trial == study.best or not study.paths.weights(trial.seed).is_file():
                continue
            if len(networks) >= MAX_NETWORKS or weights + study.params > MAX_WEIGHTS:
                return networks
            try:
                networks.append(_network(study, trial))
                weights += study.params
            except UserError as error:
                missing.append(f"seed {trial.seed} of {study.name} can't be asked: {error}")
    return networks


def _network(study: "StudySummary", trial: "Trial") -> dict[str, Any]:
    """The saved model of a trial, described.

    Raises:
        UserError: if there is none, or none that the page can compute.
    """
    weights = study.paths.weights(trial.seed)
    check_kept(weights)
    if not weights.is_file():
        raise UserError(f"there is no {weights}")
    # Imported here, since these import Keras, and a page without models does without it.
    from mnist_minimal.page.network import describe
    from mnist_minimal.saving.saved_model import load

    return {
        "title": study.title,
        "study": study.name,
        "seed": trial.seed,
        "best": trial == study.best,
        "accuracy": (trial.test_correct or 0) / trial.test_size,
        **describe(load(weights)),
    }


def _without_repetition(networks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Networks whose steps stand once for all that have the same."""
    chains: list[Any] = []
    short = []
    for network in networks:
        steps = network["steps"]
        if steps not in chains:
            chains.append(steps)
        short.append({**network, "steps": chains.index(steps)})
    return {"networks": short, "chains": chains}


def _digits(study: "StudySummary", choice: Choice, missing: list[str]) -> "list[Digit]":
    """The test set and what the best trial of a study makes of it; [] where that can't be had, or is another's.

    Raises:
        UserError: if the saved model gets another number of images right than the study's CSV says.
    """
    weights = study.paths.weights(study.best.seed)
    if not weights.is_file():
        return []
    from mnist_minimal.data import sets
    from mnist_minimal.page import digits
    from mnist_minimal.saving.saved_model import load
    from mnist_minimal.training.evaluation import probabilities

    try:
        dataset = sets.load(choice.or_recorded(study.dataset))
        model = load(weights)
    except UserError as error:
        missing.append(f"no images are shown: {error}")
        return []
    if dataset.name != study.dataset:
        missing.append(
            f"no images are shown: {study.name} was tested on {study.dataset}, and the images found are of "
            f"{dataset.name}; choose others with --dataset and --data"
        )
        return []
    found = digits.read(dataset.x_test, dataset.y_test, probabilities(model, dataset.x_test))
    correct = sum(digit.right for digit in found)
    if abs(correct - (study.best.test_correct or 0)) > TOLERATED_SHARE * len(found):
        raise UserError(
            f"{weights}: expected the model that gets {study.best.test_correct} test images right, as "
            f"{study.paths.csv} says, found one that gets {correct}; do the two belong together?"
        )
    return found


def _gallery(found: "Sequence[Digit]") -> dict[str, Any]:
    """The images that the best trial of the study shown takes for others, and how often which for which."""
    from mnist_minimal.page import digits

    wrong = [digit for digit in found if not digit.right]
    counts = digits.confusion(found)
    off = [count for label, row in enumerate(counts) for predicted, count in enumerate(row) if predicted != label]
    return {
        "wrong": len(wrong),
        "size": len(found),
        "shown": wrong[: digits.MAX_SHOWN],
        "confusion": counts,
        "most": max(off, default=0),
        "commonest": digits.commonest(found),
    }


def _script() -> str:
    """The page's JavaScript, its names kept to itself."""
    names = ("network", "drawing", "board", "svg", "charts", "gallery")
    parts = "\n".join(_part(f"{name}.js") for name in names)
    return f'\n(() => {{\n"use strict";\n\n{parts}}})();\n'


def _part(name: str) -> str:
    """A file of the folder `page`."""
    return resources.files("mnist_minimal.page").joinpath(name).read_text(encoding="utf-8")
