"""The published models in one table: parameters, multiply-accumulates, what was published, what the results say."""

from pathlib import Path

from mnist_minimal.analysis.objectives import studied
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.analysis.tables import markdown, sd_cell, trial_count
from mnist_minimal.models.counting import layer_table, trainable_parameters
from mnist_minimal.recipes import RECIPES


def listing(results: Path) -> str:
    """All models as a Markdown table, the largest first.

    Args:
        results: Folder of the results; a model without finished trials there is listed without.
    """
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
                said(name, published.measure, results),
                RECIPES[name].source,
            )
        )
    return markdown(rows)


def said(name: str, measure: str, results: Path) -> str:
    """What the saved results say of a model, in the measure that was published."""
    from mnist_minimal.analysis.statistics import summarize
    from mnist_minimal.study import ledger

    _, trials, stopped = studied(name, results)
    if not trials:
        return "no trial yet"
    found = summarize(ledger.accuracies(trials, measure))
    n = f"n = {trial_count(found.n, stopped)}"
    if found.n == 1:
        return f"{n}: {found.best:.4f}"
    return f"{n}, mean {found.mean:.5f}, sd {sd_cell(found)}, best run {found.best:.4f}"
