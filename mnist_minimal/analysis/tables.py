"""Tables as text: a model's layers, a confusion matrix, the accuracies of studies; and how they put their figures."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_minimal.analysis.samples import Sample
from mnist_minimal.models.counting import LayerRow
from mnist_minimal.study import ledger
from mnist_minimal.trial import Trial

if TYPE_CHECKING:
    import numpy as np

    from mnist_minimal.analysis.statistics import Share, Summary

# What the accuracies that the ledger has of a trial are called.
MEASURE_NAMES = {"saved": "last epoch", "best": "best epoch", "test": "kept model"}

MEASURES_EXPLAINED = (
    "Last epoch: the accuracy on the monitored images after the last epoch (saved_accuracy in the CSV, as in sources); "
    "best epoch: the highest after any epoch; kept model: the accuracy on the test set of the weights in the file."
)


def layer_lines(rows: Sequence[LayerRow], width: int | None = None) -> str:
    """A layer table as lines of text, the totals in the last one; of a graph also whose outputs each layer takes.

    It is broken into blocks of columns where it is wider than `width`.
    """
    branched = any(row.inbound != (place - 1,) for place, row in enumerate(rows))
    head = ("layer", "kind", "output", "trainable", "other", "MACs", "field", "takes")
    lines: list[tuple[str, ...]] = [
        (
            row.name,
            row.kind,
            " x ".join(map(str, row.output_shape)),
            f"{row.trainable:,}",
            f"{row.non_trainable:,}",
            "?" if row.macs is None else f"{row.macs:,}",
            "?" if row.receptive_field is None else f"{row.receptive_field}",
            "" if row.inbound == (place - 1,) else ", ".join(_output_name(rows, source) for source in row.inbound),
        )
        for place, row in enumerate(rows)
    ]
    sums = (
        sum(row.trainable for row in rows),
        sum(row.non_trainable for row in rows),
        sum(row.macs or 0 for row in rows),
    )
    lines = [head, *lines, ("total", "", "", *(f"{each:,}" for each in sums), lines[-1][6], "")]
    lines = [line if branched else line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        text = [_blocks(lines, width)]
    else:
        text = [
            "  ".join(
                f"{cell:>{wide}}" if 3 <= place <= 6 else f"{cell:<{wide}}"
                for place, (cell, wide) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
    if any(row.macs is None for row in rows):
        text.append("?: not known of layers that are not Keras' own, and of some of these; the total is without them.")
    return "\n".join(text)


def _output_name(rows: Sequence[LayerRow], place: int) -> str:
    """The layer whose output a row takes, with the number of its application where it is applied several times."""
    if place < 0:
        return "the input"
    applied = [other for other, row in enumerate(rows) if row.name == rows[place].name]
    return rows[place].name + (f" #{applied.index(place) + 1}" if len(applied) > 1 else "")


def confusion_table(confusion: "np.ndarray") -> str:
    """A confusion matrix as lines of text, with the classes beside the rows and above the columns.

    Args:
        confusion: Counts (classes, classes), by label (row) and predicted class (column).
    """
    head = f"{'true / predicted':<16}" + "".join(f"{label:6}" for label in range(len(confusion)))
    rows = (f"{label:>16}" + "".join(f"{count:6}" for count in row) for label, row in enumerate(confusion))
    return "\n".join([head, *rows])


def markdown(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """A Markdown table, the first row its head, padded so that it reads as text too.

    Args:
        rows: Cells, as many in each row.
        width: Characters in a line of the terminal. A table that is wider is broken into blocks of columns, one below
            the other, each with the first column; a cell that is too wide for a block goes on in its next line.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None and sum(widths) + 3 * len(widths) + 1 > width:
        return _blocks(rows, width)
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _blocks(rows: Sequence[Sequence[str]], width: int) -> str:
    """A table that is wider than a terminal, as Markdown tables of the first column and as many others as have room."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names, *columns = zip(*rows, strict=True)
    first = min(max(map(len, names)), width // 3)
    blocks, room = [], 0
    for column in columns:
        needed = min(max(map(len, column)), width - first - 7) + 3
        if needed > room:
            blocks.append([names])
            room = width - first - 4
        blocks[-1].append(column)
        room -= needed
    texts = []
    for block in blocks:
        table = Table(box=box.MARKDOWN)
        for column in block:
            table.add_column(Text(column[0]), min_width=min(max(map(len, column)), first))
        for cells in zip(*(column[1:] for column in block), strict=True):
            table.add_row(*map(Text, cells))
        console = Console(width=width, color_system=None)
        with console.capture() as captured:
            console.print(table)
        # Above and below it rich has a line of spaces.
        texts.append("\n".join(line for line in captured.get().splitlines() if line.strip()))
    return "\n\n".join(texts)


def sample_table(samples: Sequence[Sample], title: str, width: int | None = None) -> str:
    """n, mean, sd, interval, best and share at 99 % of every sample, as `markdown`; the title heads the names."""
    from mnist_minimal.analysis.statistics import TARGET, share_reaching, summarize

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
                sd_cell(found),
                f"{found.low:.5f} to {found.high:.5f}" if found.n > 1 else "-",
                f"{found.best:.4f}",
                share_cell(share_reaching(sample.accuracies, stopped=sample.stopped)),
            ]
        )
    return markdown(rows, width)


def study_table(trials: Sequence[Trial], *, until: float | None = None, width: int | None = None) -> str:
    """What the trials of one study came to, as lines of text: a table, and under it what a reader must know.

    The table has n, mean, sd, the 95 % interval of the mean, best, and the share at 99 %, of the accuracies of the
    finished trials after the last and the best epoch, and of the kept models.

    Args:
        trials: The rows of a study in the order of its CSV, failed trials and those stopped early among them.
        until: The accuracy at whose first trial the job was to stop, if it was. The number of trials is then no sample
            size fixed beforehand, and has no Wilson interval: said is how many trials it took instead.
        width: Characters in a line of the terminal, as `markdown` takes it.

    Returns:
        The lines without a line end at the end; "" where no trial is finished.
    """
    from mnist_minimal.analysis.statistics import TARGET, share_reaching, summarize

    finished = ledger.finished(trials)
    if not finished:
        return ""
    stopped = len(ledger.done(trials)) - len(finished)
    target = f"at least {TARGET:.0%}"
    rows = [["accuracy", "n", "mean", "sd", "95 % interval", "best", target if until else f"{target} (95 %)"]]
    for measure in ledger.MEASURES:
        accuracies = ledger.accuracies(finished, measure)
        found, share = summarize(accuracies), share_reaching(accuracies, stopped=stopped)
        rows.append(
            [
                MEASURE_NAMES[measure],
                str(found.n),
                f"{found.mean:.5f}",
                sd_cell(found),
                f"{found.low:.5f} to {found.high:.5f}" if found.n > 1 else "-",
                f"{found.best:.4f}",
                share_count(share) if until else share_cell(share),
            ]
        )
    lines = [markdown(rows, width), "", MEASURES_EXPLAINED]
    if stopped:
        lines.append(
            f"Trials stopped early by the median stopping rule: {stopped}. A share is of them too; whether they would "
            "have reached it is not known, so that it lies between two bounds. All other figures are of the finished "
            "trials alone, which were the better ones at the epoch of the rule."
        )
    if until:
        lines.append(_search(ledger.done(trials), until))
    return "\n".join(lines)


def _search(trials: Sequence[Trial], until: float) -> str:
    """How many trials it took to reach an accuracy, and what that says of the chance of one."""
    from mnist_minimal.analysis.statistics import chance_by_first_success

    tries = next((place for place, trial in enumerate(trials, 1) if (trial.best_accuracy or 0) >= until), None)
    if tries is None:
        return f"None of the {len(trials)} trials reached {until:g}."
    chance = chance_by_first_success(tries)
    return (
        f"{until:g} was first reached by seed {trials[tries - 1].seed}, trial number {tries}. The search was to end "
        f"there, so that a share of its trials would be too high; that it took {tries} puts the chance of a trial "
        f"between {chance.low:.1%} and {chance.high:.1%} (95 %, geometric distribution)."
    )


def sd_cell(summary: "Summary") -> str:
    """A sample's sd as tables have it, "-" for a single accuracy."""
    return "-" if math.isnan(summary.sd) else f"{summary.sd:.5f}"


def trial_count(finished: int, stopped: int) -> str:
    """A number of finished trials, and of those stopped early where there are any: "5 (and 3 stopped early)"."""
    return f"{finished:,} (and {stopped:,} stopped early)" if stopped else f"{finished:,}"


def share_count(share: "Share") -> str:
    """How many of how many trials reach a target: "2 of 5", or "2 to 5 of 8" where 3 were stopped early."""
    most = f" to {share.reached + share.stopped:,}" if share.stopped else ""
    return f"{share.reached:,}{most} of {share.trials:,}"


def share_interval(share: "Share") -> str:
    """The 95 % interval of a share: "4% to 62%"."""
    return f"{share.low:.0%} to {share.high:.0%}"


def share_cell(share: "Share") -> str:
    """A share and its 95 % interval as tables have it: "1 of 5 (4% to 62%)"."""
    return f"{share_count(share)} ({share_interval(share)})"
