"""The published models in one table: parameters, multiply-accumulates, what was published, what the results say."""

from pathlib import Path

from mnist_minimal.analysis.objectives import censored, studied
from mnist_minimal.analysis.published import PUBLISHED
from mnist_minimal.analysis.tables import markdown
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
                f"{sum(row.macs for row in layer_table(model)):,}",
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
    if found.n == 1:
        return f"one run{censored(stopped)}: {found.best:.4f}"
    return f"n = {found.n}{censored(stopped)}, mean {found.mean:.5f}, sd {found.sd:.5f}, best run {found.best:.4f}"
