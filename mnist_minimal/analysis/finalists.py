"""The finalists of searches, which met the test set once, after they were chosen: as their searches recorded them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.frontier import Entry
from mnist_minimal.errors import UserError

# The rung of the trainings that the test set judged, and the columns that are read.
FINAL = "final"
_COLUMNS = {"name", "params", "rung", "accuracy"}


def finalists(folder: Path) -> list[Entry]:
    """The finalists of a search, by the trainings in its ledger that the test set judged.

    Raises:
        UserError: if the folder has no ledger of a search.
    """
    path = folder / "ledger.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["rung"] == FINAL]
        found: dict[str, tuple[int, list[float]]] = {}
        for row in rows:
            found.setdefault(row["name"], (int(row["params"]), []))[1].append(float(row["accuracy"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected the ledger of a search, found none ({error}); name its folder") from error
    return [
        Entry(name, name.partition("_")[0], params, tuple(accuracies), "network")
        for name, (params, accuracies) in found.items()
    ]


def find_finalists(folders: Sequence[Path]) -> list[Entry]:
    """Those of the searches whose folders are among some folders or lie right in one of them.

    Raises:
        UserError: if the ledger of a search is damaged.
    """
    ledgers = [path for folder in folders for form in ("ledger.csv", "*/ledger.csv") for path in folder.glob(form)]
    searches = dict.fromkeys(path.parent.resolve() for path in ledgers if _is_of_search(path))
    return [each for folder in searches for each in finalists(folder)]


def _is_of_search(path: Path) -> bool:
    """Whether a table is the ledger of a search; a study may be called "ledger" too."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return set(next(csv.reader(file), ())) >= _COLUMNS
