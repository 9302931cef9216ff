"""What a table of trials looks like as text: its columns by name, its delimiter, and one row.

The tables are written with commas and the columns of COLUMNS. A spreadsheet may have made another table of the same
trials since: with semicolons or tabs, decimal commas, whole numbers as 9881.0, the columns in another order, columns of
the user's own among them, rows of empty cells. It is read all the same, and rows are added to it in its own way.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import TextIO

from mnist_minimal.errors import plain
from mnist_minimal.trial import FAILED, FINISHED, STOPPED, Trial

COLUMNS = tuple(field.name for field in fields(Trial))


HEADER = ",".join(COLUMNS)


DELIMITERS = ",;\t"


# No count here comes near it, and all arithmetic with it is exact.
MAX_INTEGER = 10**12


# What an integer may be, both ends included.
_INTEGERS = {
    "params": (1, MAX_INTEGER),
    "seed": (0, 2**32 - 1),
    "epochs": (1, MAX_INTEGER),
    "best_epoch": (1, MAX_INTEGER),
    "test_correct": (0, MAX_INTEGER),
    "test_size": (1, MAX_INTEGER),
    "max_epochs": (1, MAX_INTEGER),
}


# The largest that another number may be; none is negative.
_FLOATS = {"saved_accuracy": 1.0, "best_accuracy": 1.0, "train_seconds": math.inf, "cpu_seconds": math.inf}


# A trial that failed may lack them.
_FIGURES = ("epochs", "best_epoch", "saved_accuracy", "best_accuracy", "test_correct", "train_seconds", "cpu_seconds")


# Python's own int() and float() take `1_000`, digits of other scripts, and "nan". A column of whole numbers with a gap
# becomes one of floats in pandas, 9881.0; but 10.000 may be ten thousand.
_INTEGER = re.compile(r"([0-9]{1,13})(?:[.,]00?)?")


_DECIMAL = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


# A decimal comma; 1,234 may be a thousand.
_DECIMAL_COMMA = re.compile(r"(?![1-9][0-9]{0,2}(?:,[0-9]{3})+\Z)[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")


_STATUS = COLUMNS.index("status")


_OF_FIGURES = [COLUMNS.index(name) for name in _FIGURES]


_OF_FLOATS = [COLUMNS.index(name) for name in _FLOATS]


class HeaderError(ValueError):
    """A header that is none of a table of trials; says what was found, and what is to be done."""


class ForeignError(HeaderError):
    """A first line that is no header of a table of trials at all."""


class RowError(ValueError):
    """A row that is no trial; says what was found.

    Attributes:
        line: The number of its first line, counted from 1; 0 where it is in no file.
    """

    def __init__(self, found: str, line: int = 0) -> None:
        super().__init__(found)
        self.line = line


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
        names: Its columns; those of COLUMNS once each, and any others.
        delimiter: One of DELIMITERS.
    """

    names: tuple[str, ...] = COLUMNS
    delimiter: str = ","

    @cached_property
    def positions(self) -> list[int]:
        """Where each of COLUMNS stands in a row."""
        return [self.names.index(name) for name in COLUMNS]

    @cached_property
    def least_fields(self) -> int:
        """How many fields a row has to have: Excel leaves out empty ones at its end."""
        return max(self.positions) + 1

    @property
    def status_last(self) -> bool:
        """Whether a row that was cut short is known by its status, of which no part is another."""
        return self.least_fields == self.positions[_STATUS] + 1


def read_header(header: str) -> Layout:
    """How a table with a header, one line, is written.

    Raises:
        ForeignError: if it has none of the columns.
        HeaderError: if it lacks one or has one twice.
    """
    names, delimiter = max(
        ((split(header, delimiter), delimiter) for delimiter in DELIMITERS), key=lambda read: _known(read[0])
    )
    if not _known(names):
        raise ForeignError(header)
    for name in COLUMNS:
        if names.count(name) > 1:
            raise HeaderError(f"found the column {name} twice in its header; remove or rename one")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        more = f" and {len(missing) - 5} more of a table of trials" if len(missing) > 5 else ""
        raise HeaderError(
            f"found no column {', '.join(missing[:5])}{more} in its header; restore what was removed or renamed, or "
            "use another --out"
        )
    return Layout(tuple(names), delimiter)


def split(header: str, delimiter: str) -> list[str]:
    """The names in a header, one line; [] where it is no CSV with this delimiter."""
    try:
        names = next(csv.reader([header.rstrip("\r\n")], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []
    return [name.strip() for name in names]


def is_header(line: str) -> bool:
    """Whether a line names most of the columns of a table of trials; `read_header` says whether all."""
    return max(_known(split(line, delimiter)) for delimiter in DELIMITERS) > len(COLUMNS) // 2


def read_rows(lines: TextIO, layout: Layout, first_line: int) -> Iterator[tuple[int, Trial, bool]]:
    """The trials of a table behind its header; rows of empty fields say nothing.

    Args:
        lines: Whole lines, read with their ends; bytes that are no UTF-8 are in them as lone surrogates.
        layout: How they are written.
        first_line: The number of the first of them.

    Yields:
        The number of the trial's first line, the trial, and whether its figures have decimal commas.

    Raises:
        RowError: for a row that is none.
    """
    rows = csv.reader(lines, delimiter=layout.delimiter, strict=True)
    start = first_line
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return
            after = first_line + rows.line_num
            if any(row):
                if after > start + 1:
                    _check_lines(row, layout)
                trial, commas = _trial(row, layout)
                yield start, trial, commas
        except csv.Error as error:
            raise RowError(f"text that is no CSV ({error})", start) from error
        except ValueError as error:
            raise RowError(str(error), start) from error
        start = after


def read_row(line: str, layout: Layout) -> Trial | None:
    """The trial in one line; None where its fields are empty.

    Raises:
        RowError: if it is none.
    """
    return next((trial for _, trial, _ in read_rows(io.StringIO(line, newline=""), layout, 0)), None)


def format_row(trial: Trial, layout: Layout = Layout(), line_end: str = "\n", decimal_comma: bool = False) -> str:
    """A trial as one line of a table, whatever its texts contain; columns of the user's own are empty."""
    fields = [""] * len(layout.names)
    for position, value in zip(layout.positions, astuple(trial), strict=True):
        fields[position] = _written(value, decimal_comma)
    row = io.StringIO(newline="")
    csv.writer(
        row,
        delimiter=layout.delimiter,
        # Where another field than the status is the last one, a row that was cut short is known by an open quote.
        quoting=csv.QUOTE_MINIMAL if layout.status_last else csv.QUOTE_ALL,
        lineterminator=line_end,
    ).writerow(fields)
    return row.getvalue()


def decimal(text: str) -> float | None:
    """A number that is not negative, with a decimal point or comma; None where the text is none, or 1,234."""
    if not _DECIMAL.fullmatch(text):
        if not _DECIMAL_COMMA.fullmatch(text):
            return None
        text = text.replace(",", ".")
    return float(text)


def _known(names: Sequence[str]) -> int:
    return len(set(COLUMNS).intersection(names))


def _check_lines(row: Sequence[str], layout: Layout) -> None:
    """Refuses a row of several lines, unless it is a note of the user's own that has them."""
    for name, text in zip(layout.names, row, strict=False):
        inner = re.split(r"\r\n|\r|\n", text)
        # A quote that nobody closed takes the rows up to the next one into its field.
        taken_in = any(part.count(layout.delimiter) > len(COLUMNS) - 2 for part in inner)
        if len(inner) > 1 and (name in COLUMNS or taken_in):
            raise ValueError(f"a quote in the column {plain(name, 60)} that is not closed on its line")


def _trial(row: list[str], layout: Layout) -> tuple[Trial, bool]:
    if len(row) != len(layout.names) and (len(row) < layout.least_fields or any(row[len(layout.names) :])):
        raise ValueError(f"{len(row)} fields instead of {len(layout.names)}")
    texts = [row[position] for position in layout.positions]
    if not "".join(texts).isascii():
        _check_encoding(texts)
    values = [read(text) for read, text in zip(_READERS, texts, strict=True)]
    trial = Trial(*values)  # type: ignore[arg-type]
    if trial.status != FAILED:
        if trial.status not in (FINISHED, STOPPED):
            raise ValueError(f"status {trial.status[:60]!r} instead of {FINISHED}, {STOPPED} or {FAILED}")
        for index in _OF_FIGURES:
            if values[index] is None:
                raise ValueError(f"a {trial.status} trial with an empty field, {COLUMNS[index]}")
    if (trial.test_correct or 0) > trial.test_size:
        raise ValueError(f"{trial.test_correct} of {trial.test_size} test images right")
    return trial, any("," in texts[index] for index in _OF_FLOATS)


def _check_encoding(texts: Sequence[str]) -> None:
    for name, text in zip(COLUMNS, texts, strict=True):
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(f"bytes that are no UTF-8 in the column {name}")


def _reader(name: str) -> Callable[[str], str | int | float | None]:
    """What reads a column's fields; raises ValueError for what is none of them."""
    may_be_empty = name in _FIGURES

    def integer(text: str) -> int | None:
        found = _INTEGER.fullmatch(text)
        if found and low <= (value := int(found[1])) <= high:
            return value
        if may_be_empty and not text:
            return None
        raise ValueError(f"{name} {text[:60]!r} instead of a whole number from {low} to {high}")

    def figure(text: str) -> float | None:
        value = decimal(text)
        if value is not None and value <= highest and math.isfinite(value):
            return value
        if may_be_empty and not text:
            return None
        expected = f"in [0, {highest:g}]" if math.isfinite(highest) else "of at least 0"
        raise ValueError(f"{name} {text[:60]!r} instead of a number {expected}")

    if name in _INTEGERS:
        low, high = _INTEGERS[name]
        return integer
    if name in _FLOATS:
        highest = _FLOATS[name]
        return figure
    return str


_READERS = [_reader(name) for name in COLUMNS]


def _written(value: str | float | None, decimal_comma: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return plain(value)
    text = str(value)
    # What could not be read again with a comma keeps its point: 123,456 may be a hundred thousand.
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text.replace(".", ",")):
        return text.replace(".", ",")
    return text
