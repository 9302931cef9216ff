"""Studies that several machines have trained apart, joined into one: their rows, histories, models and JSON.

What belongs together is of one name and was begun alike: all that their JSONs tell, and all that their rows have in
common, must be the same. Nothing is written into what is joined, and the joined folder is there whole or not at all.

The median stopping rule has compared each trial with those of its own study; joined rows say what it decided there.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnist_minimal import files
from mnist_minimal.errors import UserError, plain
from mnist_minimal.files import atomic_write, not_written, reject_symlink
from mnist_minimal.study import history, identity, ledger, numerics, table
from mnist_minimal.study.study import Study
from mnist_minimal.study.verification import NOT_TRAINED_BY, difference_of_rows
from mnist_minimal.trial import FAILED, Trial

# What all rows of a study have in common.
COMMON = ("model", "params", "dataset", "protocol", "trainer", "test_size", "max_epochs")


@dataclass(frozen=True)
class Joined:
    """A study that was joined.

    Attributes:
        study: Where it lies now.
        trials: Its rows.
        parts: How many seeds came to their end in each study that it was joined of, by the study's folder.
        twice: How many of these seeds more than one of them had.
        models: How many of them have a model.
    """

    study: Study
    trials: list[Trial]
    parts: dict[Path, int]
    twice: int
    models: int


def merge(folders: Sequence[Path], out: Path) -> list[Joined]:
    """Joins all studies of the same names in several folders; one that is in a single folder is copied.

    The rows stand in the order of the folders, and in it as they ended. Of a seed that several studies have, the first
    one's row, history and model are taken, or those of the next that has kept them. A study may be in training: what
    is recorded of it is joined.

    Args:
        folders: Folders of studies, one or more.
        out: The folder of what is joined, which must not be there yet, or be empty.

    Returns:
        What was joined, by name.

    Raises:
        UserError: if two studies of a name do not belong together, named by what differs; if they have different rows
            of a seed; if there is no study; if `out` holds anything; if a file can't be read or written. Nothing is
            written then.
    """
    if reject_symlink(out).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: expected a new or empty folder, found something in its place; give another --out")
    found: dict[str, list[Study]] = {}
    for folder in folders:
        csvs = [csv for csv in ledger.find(folder) if ledger.is_ledger(csv)]
        if not csvs:
            raise UserError(f"{folder}: found no study in this folder, expected one or more; check the name")
        for csv in csvs:
            found.setdefault(csv.stem, []).append(Study.at(csv))
    rows = {name: _rows(parts) for name, parts in sorted(found.items())}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            whole = Path(temporary) / "merged"
            whole.mkdir()
            joined = [_write(found[name], trials, Study(whole, name)) for name, trials in rows.items()]
            os.replace(whole, out)
    except OSError as error:
        raise UserError(not_written(out, error)) from error
    return [replace(one, study=Study(out, one.study.name)) for one in joined]


def _rows(studies: Sequence[Study]) -> list[Trial]:
    """The rows of studies that belong together, one a seed that came to its end; those of failed trials too."""
    first, *others = studies
    rows = ledger.read(first.csv)
    done = {trial.seed: trial for trial in ledger.done(rows)}
    facts, failed = _facts(first, rows), {trial for trial in rows if trial.status == FAILED}
    for other in others:
        found = ledger.read(other.csv)
        _check_alike(first, facts, other, _facts(other, found))
        for trial in found:
            if trial.status == FAILED:
                if trial not in failed:
                    rows.append(trial)
            elif trial.seed not in done:
                rows.append(trial)
                done[trial.seed] = trial
            elif different := difference_of_rows(done[trial.seed], trial):
                raise UserError(
                    f"{other.csv}: expected the same row of seed {trial.seed} as the study joined before has, found "
                    f"another in {different}; leave one of the folders out, or remove one of the rows"
                )
    return rows


def _facts(study: Study, rows: Sequence[Trial]) -> dict[str, Any]:
    """All that must be alike in studies that are joined."""
    recorded = {name: fact for name, fact in identity.read(study).items() if name not in NOT_TRAINED_BY}
    common: dict[str, Any] = {}
    for name in COMMON if rows else ():
        values = {getattr(trial, name) for trial in rows}
        if len(values) > 1:
            raise UserError(
                f"{study.csv}: expected rows of one {name}, found {' and '.join(map(str, sorted(values)))}; they do "
                "not belong in one study"
            )
        common[name] = values.pop()
    # Versions of before recorded neither the trainer nor its bits.
    return {**common, **recorded, "numerics": numerics.recorded(study, ledger.done(rows))}


def _check_alike(first: Study, facts: dict[str, Any], other: Study, found: dict[str, Any]) -> None:
    """Refuses to join two studies, naming the first fact that differs."""
    # One without a row tells less, if its JSON tells the rest.
    names = [name for name in {**facts, **found} if name not in COMMON or (name in facts and name in found)]
    for name in names:
        if different := identity.first_difference(name, facts.get(name), found.get(name)):
            what, *values = different
            begun, wanted = ("nothing recorded" if value is None else plain(str(value), 100) for value in values)
            raise UserError(
                f"{other.csv}: expected a study that belongs to {first.csv}, which has {what} {begun}, found {wanted}; "
                "join only trials of one kind"
            )


def _write(parts: Sequence[Study], trials: list[Trial], to: Study) -> Joined:
    """Writes a joined study into a folder that has nothing of its name."""
    to.folder.mkdir()
    seeds = {trial.seed for trial in ledger.done(trials)}
    models = 0
    for seed in sorted(seeds):
        if text := next((history.text(path) for part in parts if history.exists(path := part.history(seed))), None):
            _write_bytes(to.history(seed), text.encode())
        if model := next((path for part in parts if (path := part.weights(seed)).is_file()), None):
            models += 1
            _write_bytes(to.weights(seed), files.read(model, ledger.MAX_BYTES))
    if json := next((part.json for part in parts if part.json.is_file()), None):
        _write_bytes(to.json, files.read(json, files.MAX_TEXT_BYTES))
    rows = "".join(map(table.format_row, trials))
    _write_bytes(to.csv, f"{table.HEADER}\n{rows}".encode())
    own = {part.out: {trial.seed for trial in ledger.done(ledger.read(part.csv))} for part in parts}
    counts = {folder: len(ended) for folder, ended in own.items()}
    return Joined(to, trials, counts, sum(sum(seed in ended for ended in own.values()) > 1 for seed in seeds), models)


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
