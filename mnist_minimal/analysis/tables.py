"""Tables as text: Markdown, a model's layers, a confusion matrix, the accuracies of studies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
from typing import TYPE_CHECKING

from mnist_minimal.analysis.samples import Sample
from mnist_minimal.models.counting import LayerRow


def layer_lines(rows: Sequence[LayerRow]) -> str:
    """A layer table as lines of text, the totals in the last one."""
    head = ("layer", "kind", "output", "trainable", "other", "MACs", "field")
    lines: list[tuple[str, ...]] = [
        (
            row.name,
            row.kind,
            " x ".join(map(str, row.output_shape)),
            f"{row.trainable:,}",
            f"{row.non_trainable:,}",
            f"{row.macs:,}",
            f"{row.receptive_field}",
        )
        for row in rows
    ]
    totals = (sum(row.trainable for row in rows), sum(row.non_trainable for row in rows), sum(row.macs for row in rows))
    lines = [head, *lines, ("total", "", "", *(f"{total:,}" for total in totals), f"{rows[-1].receptive_field}")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{text:<{width}}" if place < 3 else f"{text:>{width}}"
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def confusion_table(confusion: "np.ndarray") -> str:
    """A confusion matrix as lines of text, with the classes beside the rows and above the columns.

    Args:
        confusion: Counts (classes, classes), by label (row) and predicted class (column).
    """
    head = f"{'true / predicted':<16}" + "".join(f"{label:6}" for label in range(len(confusion)))
    rows = (f"{label:>16}" + "".join(f"{count:6}" for count in row) for label, row in enumerate(confusion))
    return "\n".join([head, *rows])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head, padded so that it reads as text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def sample_table(samples: Sequence[Sample], title: str) -> str:
    """n, mean, sd, interval, best and share at 99 % of every sample, as Markdown; the title heads the names."""
    from mnist_minimal.analysis.statistics import TARGET, summarize

    reached = f"at least {TARGET:.0%} (95 % interval)"
    head = [title, "n", "failed", "stopped early", "mean", "sd", "95 % interval of the mean", "best"]
    rows = [[*head, reached]]
    for sample in samples:
        found = summarize(sample.accuracies)
        rows.append(
            [
                sample.name,
                str(found.n),
                str(sample.failed),
                str(sample.stopped),
                f"{found.mean:.5f}",
                f"{found.sd:.5f}" if found.n > 1 else "-",
                f"{found.low:.5f} to {found.high:.5f}" if found.n > 1 else "-",
                f"{found.best:.4f}",
                f"{found.reached} of {found.n} ({found.reached_low:.0%} to {found.reached_high:.0%})",
            ]
        )
    return markdown(rows)


def study_table(trials, *, until=None):  # placeholder until merged
    return ""
