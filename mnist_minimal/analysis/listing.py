"""The models in one table: parameters, multiply-accumulates, what was published, what the results say."""

from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.objectives import folders_with, studied
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.analysis.tables import MEASURE_NAMES, markdown, sd_cell, trial_count
from mnist_minimal.models.counting import layer_table, trainable_parameters
from mnist_minimal.recipes import RECIPES


def listing(folders: Sequence[Path], width: int | None = None) -> str:
    """The published models as a Markdown table, the largest first, and below them the other studies that are there.

    Args:
        folders: Folders of results; a published model without finished trials there is listed without.
        width: Characters in a line of the terminal, as `tables.markdown` takes it.
    """
    from mnist_minimal.analysis.summaries import studies_in
    from mnist_minimal.models import MODELS

    rows = [("name", "parameters", "multiply-accumulates", "published", "here", "source")]
    for name, builder in MODELS.items():
        model = builder()
        published = next(publication for publication in PUBLISHED if publication.model == name)
        rows.append(
            (
                name,
                f"{trainable_parameters(model):,}",
                f"{sum(row.macs or 0 for row in layer_table(model)):,}",
                published.text,
                in_folders(name, published.measure, folders_with(name, folders)),
                RECIPES[name].source,
            )
        )
    rows += [
        (study.name, f"{study.params:,}", "", "", in_words("test", study.accuracies("test"), len(study.stopped)), "")
        for study in studies_in(folders)
        if not study.comparable
    ]
    return markdown(rows, width)


def in_folders(name: str, measure: str, folders: Sequence[Path]) -> str:
    """What each folder says of a model, with its own name where there are several."""
    if len(folders) == 1:
        return said(name, measure, folders[0])
    return "; ".join(f"{folder}: {said(name, measure, folder)}" for folder in folders)


def said(name: str, measure: str, results: Path) -> str:
    """What the saved results say of a model, in the measure that was published."""
    from mnist_minimal.study import ledger

    _, trials, stopped = studied(name, results)
    if not trials:
        return "no trial yet"
    return in_words(measure, ledger.accuracies(trials, measure), stopped)


def in_words(measure: str, accuracies: Sequence[float], stopped: int) -> str:
    """How many trials there are and what they came to, by one of `ledger.MEASURES`."""
    from mnist_minimal.analysis.statistics import summarize

    found = summarize(accuracies)
    n = f"n = {trial_count(found.n, stopped)}, {MEASURE_NAMES[measure]}"
    if found.n == 1:
        return f"{n}: {found.best:.4f}"
    return f"{n}: mean {found.mean:.5f}, sd {sd_cell(found)}, best run {found.best:.4f}"
