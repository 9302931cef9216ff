"""List the published models: parameters, multiply-accumulates, what was published and what the saved results say."""

from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.command_line import command_parser
from mnist_minimal.compare import markdown
from mnist_minimal.objectives import censored, studied
from mnist_minimal.published import PUBLISHED
from mnist_minimal.recipes import RECIPES
from mnist_minimal.summary import layer_table, trainable_parameters


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
    from mnist_minimal import ledger
    from mnist_minimal.statistics import summarize

    _, trials, stopped = studied(name, results)
    if not trials:
        return "no trial yet"
    found = summarize(ledger.accuracies(trials, measure))
    if found.n == 1:
        return f"one run{censored(stopped)}: {found.best:.4f}"
    return f"n = {found.n}{censored(stopped)}, mean {found.mean:.5f}, sd {found.sd:.5f}, best run {found.best:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = command_parser(__doc__, "models")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results)"
    )
    options = parser.parse_args(arguments)
    print(listing(options.results))
    return 0
