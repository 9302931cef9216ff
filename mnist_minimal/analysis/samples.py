"""Accuracies to compare, out of a study's CSV or any file of accuracies, and what must be alike for that.

A file with one accuracy in [0, 1] a line, or with a column saved_accuracy, best_accuracy or test_accuracy, is a sample
of which nothing else is known.
"""

import csv
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_minimal import content, files
from mnist_minimal.analysis.monitored import images, validation_share
from mnist_minimal.errors import UserError, plain
from mnist_minimal.study import identity, ledger, table
from mnist_minimal.study.study import Study
from mnist_minimal.trial import FAILED, STOPPED, Trial

# A file that says nothing of its test set is taken to be about MNIST's.
TEST_SIZE = 10_000

# Two recipes may differ in all of their fields.
MAX_NAMED = 3


@dataclass(frozen=True)
class Sample:
    """The accuracies of one study, and what must be alike for two studies to be compared.

    Attributes:
        name: What it is called in the table.
        accuracies: One or more, each in [0, 1].
        failed: Number of seeds that failed and have not finished since.
        stopped: Number of seeds that were stopped early and have no accuracy: they are censored.
        images: Number of images that the accuracies are of; None where that isn't known.
        conditions: What must be alike in all studies; empty where nothing is known.
        training: What must be alike in studies of one model, by model: the cap on the epochs and the recipe.
    """

    name: str
    accuracies: list[float]
    failed: int = 0
    stopped: int = 0
    images: int | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    training: dict[str, dict[str, Any]] = field(default_factory=dict)


def find(name: str, folders: Sequence[Path]) -> Path:
    """The file that a user names: a path, or the name of a study in one of the folders of results.

    Raises:
        UserError: if there is neither, or the name is in several folders.
    """
    if Path(name).is_file():
        return Path(name)
    found = [path for folder in folders if (path := folder / f"{name}.csv").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name}: found {' and '.join(map(str, found))}, expected one; name the file")
    known = ", ".join(str(path.with_suffix("")) for folder in folders for path in ledger.find(folder)) or "none"
    where = " and ".join(map(str, folders))
    raise UserError(
        f"{name}: found no file of this name and no study in {where}, expected one (there: {plain(known, 200)}); train "
        "it with mnist_minimal.trials, or name its folder with --results"
    )


def read_sample(path: Path, measure: str, name: str | None = None) -> Sample:
    """Reads a study's CSV or a file of accuracies alone.

    Args:
        path: The file.
        measure: One of `ledger.MEASURES`: which accuracy of a trial.
        name: The sample's name; the file's without its suffix where it is None.

    Raises:
        UserError: if the file can't be read as either, or has no accuracy.
    """
    name = path.stem if name is None else name
    try:
        data = files.read(path, ledger.MAX_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: found no such file, expected accuracies; check the name") from error
    foreign = content.refusal(
        data[: content.FIRST_BYTES],
        f"the CSV of a study, or accuracies as text, one a line or in a column {measure}_accuracy",
        "name another file",
        content.TEXT_STEPS,
    )
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {foreign}") from error
    if not lines:
        raise UserError(f"{path}: {foreign}")
    if table.is_header(lines[0]) or any("status" in table.split(lines[0], one) for one in table.DELIMITERS):
        sample = _study(path, measure, name)
    else:
        sample = Sample(name, _plain_accuracies(path, lines, f"{measure}_accuracy", foreign))
    if not sample.accuracies:
        raise UserError(f"{path}: found no finished trial in it, expected one or more; run mnist_minimal.trials first")
    return sample


def _study(path: Path, measure: str, name: str) -> Sample:
    trials = ledger.read(path)
    done = ledger.finished(trials)
    seeds = {trial.seed for trial in done}
    failed = {trial.seed for trial in trials if trial.status == FAILED} - seeds
    stopped = {trial.seed for trial in trials if trial.status == STOPPED} - seeds
    return Sample(
        name,
        ledger.accuracies(done, measure),
        failed=len(failed - stopped),
        stopped=len(stopped),
        images=images(Study.at(path), done[0], measure) if done else None,
        conditions={
            "data set": _values(trial.dataset for trial in done),
            "test images": _values(trial.test_size for trial in done),
            "protocol": _values(trial.protocol for trial in done),
            **({} if measure == "test" else {"share of the training set monitored": _monitored(path, done)}),
        },
        training={model: _training(path, done, model) for model in {trial.model for trial in done}},
    )


def _values(values: Iterable[str | float]) -> str:
    return " and ".join(sorted({str(value) for value in values}))


def _monitored(path: Path, trials: Sequence[Trial]) -> str:
    """The share of the training set that the recipe monitors in place of the test set; 0.0 where nothing tells."""
    return _values(float(validation_share(Study.at(path), trial.model) or 0) for trial in trials)


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe in the JSON beside a CSV, as `_flat` gives it.

    It is {} for a CSV that was sent alone and is compared by what its rows say.
    """
    try:
        recipe = identity.read(Study.at(path))["recipe"]
        return _flat(recipe, "recipe") if isinstance(recipe, dict) else {}
    except (OSError, UserError, KeyError, TypeError):
        return {}


def _training(path: Path, trials: Sequence[Trial], model: str) -> dict[str, Any]:
    facts = {"cap on the epochs": _values(trial.max_epochs for trial in trials if trial.model == model)}
    return facts | _recipe(path)


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Nested dictionaries as one, the names joined by dots; without a recipe's name and its prose."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}") for key, inner in value.items() if key not in ("model", "source", "assumed")]
    return {key: inner for part in parts for key, inner in part.items()}


def _plain_accuracies(path: Path, lines: Sequence[str], column: str, foreign: str) -> list[float]:
    empty = f' "{table.DELIMITERS}'
    rows = [(number, [line.strip(empty)]) for number, line in enumerate(lines, start=1) if line.strip(empty)]
    index = 0
    if rows and table.decimal(rows[0][1][0]) is None:
        names, rows = _columns(path, lines[rows[0][0] - 1 :], column, rows, foreign)
        index = names.index(column)
    accuracies = []
    for number, row in rows:
        text = row[index].strip() if index < len(row) else ""
        accuracy = table.decimal(text)
        if accuracy is None or accuracy > 1:
            raise UserError(
                f"{path}, line {number}: expected an accuracy in [0, 1], found {plain(text, 60)!r}; fix the line"
            )
        accuracies.append(accuracy)
    return accuracies


def _columns(
    path: Path, lines: Sequence[str], column: str, rows: list[tuple[int, list[str]]], foreign: str
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of a table's columns, and its rows behind them by the numbers of their lines.

    Args:
        path: The file, for errors.
        lines: The table's lines, the header first.
        column: The column that it must have.
        rows: The lines that are not empty by their numbers, as tables of one column.
        foreign: What to say where it has not that column.
    """
    delimiter = next((one for one in table.DELIMITERS if column in table.split(lines[0], one)), "")
    if not delimiter:
        raise UserError(f"{path}: {foreign}")
    names, first = table.split(lines[0], delimiter), rows[0][0]
    if len(names) == 1:
        return names, rows[1:]  # Each line is a number, which may have a comma in it.
    reader = csv.reader(lines[1:], delimiter=delimiter)
    found = []
    try:
        for row in reader:
            number = first + reader.line_num
            if any(row[len(names) :]):
                raise UserError(f"{path}, line {number}: expected {len(names)} fields, found {len(row)}; fix the line")
            if any(row):
                found.append((number, row))
    except csv.Error as error:
        raise UserError(f"{path}: found text that is no CSV ({error}), expected one; fix the file") from error
    return names, found


def differences(samples: Sequence[Sample]) -> list[str]:
    """What is not alike although accuracies of one distribution need it to be, each with every study's value."""
    studies = [sample for sample in samples if sample.conditions]
    found = _unlike([(study.name, study.conditions) for study in studies])
    for model in dict.fromkeys(model for study in studies for model in study.training):
        of_model = [(study.name, study.training[model]) for study in studies if model in study.training]
        # Where one recipe is not known, only the rest can be compared.
        if not all(any(key.startswith("recipe") for key in facts) for _, facts in of_model):
            of_model = [(name, {"cap on the epochs": facts["cap on the epochs"]}) for name, facts in of_model]
        found += [f"{difference} of {model}" for difference in _unlike(of_model)]
    return found


def named(unlike: Sequence[str]) -> str:
    """Some of what `differences` gives, for an error of a line."""
    more = f"; and {len(unlike) - MAX_NAMED} more" if len(unlike) > MAX_NAMED else ""
    return plain("; ".join(unlike[:MAX_NAMED]), 250) + more


def _unlike(facts: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    found = []
    for key in dict.fromkeys(key for _, values in facts for key in values):
        if len({json.dumps(values.get(key)) for _, values in facts}) > 1:
            found.append(f"{key} ({', '.join(f'{name}: {values.get(key)}' for name, values in facts)})")
    return found


def read_samples(studies: Sequence[str], folders: Sequence[Path], measure: str) -> list[Sample]:
    """Reads what a user names, each under a name of its own.

    Raises:
        UserError: if fewer than two are named, or one twice, or one can't be read.
    """
    paths = [find(name, folders) for name in studies]
    if len(paths) < 2:
        raise UserError(f"expected two studies or more to compare, found {len(paths)}; name another")
    for path, other in itertools.combinations(paths, 2):
        if path.samefile(other):
            raise UserError(f"{path}: expected every study once, found it twice; leave one out")
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    return [read_sample(path, measure, name) for path, name in zip(paths, names, strict=True)]
