"""The page put together: what the studies in a folder found, filled into one file of HTML."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from mnist_minimal import files
from mnist_minimal.data.choice import Choice
from mnist_minimal.errors import UserError
from mnist_minimal.version import version

if TYPE_CHECKING:
    from mnist_minimal.analysis.published import Publication
    from mnist_minimal.analysis.summaries import StudySummary
    from mnist_minimal.page.digits import Digit

# Rounding differs between machines and may turn an image or two; more than this share of them is another model.
TOLERATED_SHARE = 0.001

# Of a network that is often wrong, a page of all its errors would be long and heavy.
MAX_SHOWN = 200


def write_report(results: Path, out: Path, choice: Choice, publications: "Sequence[Publication]") -> list[str]:
    """Writes the page.

    Args:
        results: The folder with the studies' CSVs and, beside them, their JSON, histories and saved models.
        out: The page; what is there is replaced.
        choice: The data set whose test images are shown; "auto" is the one that the study shown was tested on.
        publications: What was published about the models.

    Returns:
        What the page lacks and why, a line each.

    Raises:
        UserError: if there is no study with a finished trial, or one of its files is damaged or belongs to another.
    """
    files.check_output(out)
    from mnist_minimal.analysis.summaries import find_studies, highlighted
    from mnist_minimal.page import figures, text

    studies = find_studies(results)
    shown = highlighted(studies)
    missing: list[str] = []
    networks = _networks(studies, shown, missing)
    digits = _digits(shown, choice, missing) if networks else []
    script = _script() if networks else ""
    page = _filled(
        "page.html",
        style=_part("style.css"),
        answer=text.answer(studies, shown, publications),
        board=_board(networks, shown, digits) if networks else "",
        plane=figures.plane(studies, publications, text.plane(studies, publications)),
        comparison=text.comparison(studies, publications),
        kept=text.kept(studies),
        highlighted=text.html(text.title(shown)),
        distribution=figures.distribution(shown, publications, text.distribution(shown, publications)),
        curves=_curves(shown, missing),
        gallery=_gallery(shown, digits) if digits else "",
        provenance=text.provenance(studies),
        failures=text.failures(studies),
        version=text.html(version()),
        script=f"<script>{script}</script>" if script else "",
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with files.output(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return missing


def _networks(studies: "Sequence[StudySummary]", shown: "StudySummary", missing: list[str]) -> list[dict[str, Any]]:
    """The best run of every study whose saved model is there, as network.js runs it, that of the study shown first.

    Without a saved model of the study shown there is nothing to draw for, and the list is empty.
    """
    from mnist_minimal.page import text

    networks = []
    for study in [shown, *(study for study in studies if study is not shown)]:
        weights = study.paths.weights(study.best.seed)
        if weights.is_file():
            # Imported here, since these import Keras, and a page without models does without it.
            from mnist_minimal.page.network import describe
            from mnist_minimal.saving.saved_model import load

            try:
                networks.append({"title": text.title(study), **describe(load(weights))})
                continue
            except UserError as error:
                reason = str(error)
        else:
            reason = f"there is no {weights}"
        missing.append(f"the best run of {study.name} can't be asked: {reason}")
        if study is shown:
            return []
    return networks


def _digits(study: "StudySummary", choice: Choice, missing: list[str]) -> "list[Digit]":
    """The test set and what the best run of a study makes of it; [] where that can't be had, or is another's.

    Raises:
        UserError: if the saved model gets another number of images right than the study's CSV says.
    """
    from mnist_minimal.data import sets
    from mnist_minimal.page import digits
    from mnist_minimal.saving.saved_model import load
    from mnist_minimal.training.evaluation import probabilities

    try:
        dataset = sets.load(choice.or_recorded(study.dataset))
    except UserError as error:
        missing.append(f"no digits are shown: {error}")
        return []
    if dataset.name != study.dataset:
        missing.append(
            f"no digits are shown: {study.name} was tested on {study.dataset}, and the images found are of "
            f"{dataset.name}; choose others with --dataset and --data"
        )
        return []
    weights = study.paths.weights(study.best.seed)
    found = digits.read(dataset.x_test, dataset.y_test, probabilities(load(weights), dataset.x_test))
    correct = sum(digit.label == digit.predicted for digit in found)
    if abs(correct - (study.best.test_correct or 0)) > TOLERATED_SHARE * len(found):
        raise UserError(
            f"{weights}: expected the model that gets {study.best.test_correct} test images right, as "
            f"{study.paths.csv} says, found one that gets {correct}; do the two belong together?"
        )
    return found


def _board(networks: list[dict[str, Any]], shown: "StudySummary", digits: "list[Digit]") -> str:
    """The drawing board, and the data that board.js reads."""
    from mnist_minimal.page import text
    from mnist_minimal.page.digits import examples

    content = json.dumps({"networks": networks, "examples": examples(digits)})
    # What ends a script element, or makes a comment of it, begins with <; in JSON that occurs in strings alone.
    return _filled("board.html", data=content.replace("<", "\\u003c"), trial=text.html(text.best_run(shown)))


def _curves(shown: "StudySummary", missing: list[str]) -> str:
    """The training curves of a study's best and median trial, as far as their histories are there."""
    from mnist_minimal.analysis.summaries import median_trial
    from mnist_minimal.page import figures, text

    charts, median = "", median_trial(shown.trials)
    drawn = [("best", shown.best)] + ([("median", median)] if median != shown.best else [])
    for name, trial in drawn:
        history = shown.paths.history(trial.seed)
        if history.is_file():
            charts += f'<figure class="chart">{figures.curves(shown, trial, name, text.curves(trial))}</figure>'
        else:
            missing.append(f"no curves of the {name} run of {shown.name} are drawn: there is no {history}")
    return charts


def _gallery(study: "StudySummary", found: "list[Digit]") -> str:
    """The digits that the best run of the study shown takes for others."""
    from mnist_minimal.page import digits, text

    wrong = [digit for digit in found if digit.label != digit.predicted]
    shown = wrong[:MAX_SHOWN]
    return _filled(
        "gallery.html",
        count=f"{len(wrong):,}",
        size=f"{len(found):,}",
        shown="" if len(shown) == len(wrong) else f"The first {len(shown)} of them: ",
        source=text.html(text.digits_source(study.dataset)),
        digits=digits.gallery(shown),
    )


def _script() -> str:
    """The page's JavaScript, its names kept to itself."""
    parts = "\n".join(_part(f"{name}.js") for name in ("network", "drawing", "board"))
    return f'\n(() => {{\n"use strict";\n\n{parts}}})();\n'


def _filled(template: str, **values: str) -> str:
    return Template(_part(template)).substitute(values)


def _part(name: str) -> str:
    """A file of the folder `page`."""
    return resources.files("mnist_minimal.page").joinpath(name).read_text(encoding="utf-8")
