"""The histories of a published study in one file, `histories.csv.gz`: a CSV with the column `seed` before the others.

Each row is that of the seed's own history, to the letter, and the same histories give the same bytes. pandas.read_csv
reads it.
"""

import gzip
import io
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mnist_minimal import content, files
from mnist_minimal.errors import UserError, one_line, plain

NAME = "histories.csv.gz"

SEED = "seed"

# 2,000 trials of 2,000 epochs have 360 MB, and are packed to less than half of it.
MAX_BYTES = 1_000_000_000

EXPECTED = "the packed histories of a study"

RESTORE = "restore the file"


def pack(histories: Mapping[int, str]) -> bytes:
    """The content of a packed file, seeds in ascending order.

    Args:
        histories: The texts of histories by seed, one or more, all with the same columns.

    Raises:
        UserError: if the columns differ.
    """
    seeds = sorted(histories)
    tables = {seed: histories[seed].splitlines() for seed in seeds}
    header = tables[seeds[0]][0]
    lines = [f"{SEED},{header}"]
    for seed, (own_header, *rows) in tables.items():
        if own_header != header:
            raise UserError(
                f"expected histories of the same columns, found {plain(header, 100)} of seed {seeds[0]} and "
                f"{plain(own_header, 100)} of seed {seed}; leave one out"
            )
        lines += [f"{seed},{row}" for row in rows]
    packed = io.BytesIO()
    # Neither a name nor a time, which would make other bytes of the same histories.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write("".join(f"{line}\r\n" for line in lines).encode())
    return packed.getvalue()


def read(path: Path) -> dict[int, str]:
    """The texts of the histories in a packed file, by seed; {} where there is no such file.

    Raises:
        UserError: if it can't be read as one.
    """
    try:
        found = path.stat()
    except OSError:
        return {}
    return dict(_read(path, found.st_mtime_ns, found.st_size))


# Whoever draws the curves of a study asks for one seed after the other.
@lru_cache(maxsize=2)
def _read(path: Path, modified: int, size: int) -> dict[int, str]:
    data = files.read(path, MAX_BYTES)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        header, *lines = text.decode().splitlines()
        name, _, columns = header.partition(",")
        if name != SEED:
            raise ValueError(f"the columns {plain(header, 100)}")
        rows: dict[int, list[str]] = {}
        for line in lines:
            seed, _, row = line.partition(",")
            rows.setdefault(int(seed), []).append(row)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        beginning = data[: content.FIRST_BYTES]
        if content.kind_of(beginning) != content.GZIP:
            raise UserError(f"{path}: {content.refusal(beginning, EXPECTED, RESTORE)}") from error
        raise UserError(f"{path}: found {one_line(error)}, expected {EXPECTED}; {RESTORE}") from error
    return {seed: "".join(f"{line}\r\n" for line in [columns, *found]) for seed, found in rows.items()}
