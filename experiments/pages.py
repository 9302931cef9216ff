"""The tables of results/README.md and experiments/README.md, made again from the published studies and ledgers.

    python -m experiments.pages

It takes seconds, and says how many it changed. A table on a page is known by its head; of several with one head the
first is the first again. The sentences around them are left as they are, and have to be read again afterwards. Not
among the tables are those that measure time, and `experiments.rounding`'s, which takes minutes.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments import fast_recipes, folds, frontier, held_out, leads, pyramid_suspects, ten_networks
from mnist_minimal.analysis import objectives
from mnist_minimal.analysis.frontier import frontier_table, ways_of_counting
from mnist_minimal.analysis.published import OBJECTIVES
from mnist_minimal.analysis.summaries import find_studies
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write

RESULTS, EXPERIMENTS = Path("results"), Path("experiments")


def frontiers() -> str:
    """Those of `experiments.frontier`."""
    countings = ways_of_counting(find_studies(RESULTS), frontier.of_searches())
    return "\n\n".join(frontier_table(counting.entries) for counting in countings)


def answered_questions() -> str:
    """Those of `experiments.fast_recipes`, of the questions whose trials are all there."""
    path = EXPERIMENTS / "fast_recipes.csv"
    rows = held_out.read(path, fast_recipes.Row)
    return fast_recipes.tables(path, [each for each in fast_recipes.QUESTIONS if fast_recipes.chosen(rows, each)])


PAGES: Mapping[Path, Sequence[Callable[[], str]]] = {
    RESULTS / "README.md": (
        frontiers,
        lambda: objectives.comparison(tuple(OBJECTIVES), [RESULTS]),
        lambda: ten_networks.table(RESULTS),
        lambda: folds.table(EXPERIMENTS / "ten_folds"),
        lambda: pyramid_suspects.table(EXPERIMENTS / "suspects"),
    ),
    EXPERIMENTS / "README.md": (answered_questions, lambda: leads.tables(EXPERIMENTS / "leads.csv", leads.NETWORKS)),
}


def tables(text: str) -> list[list[str]]:
    """The Markdown tables of a text, each as its lines, cells without padding."""
    blocks = itertools.groupby(text.splitlines(), lambda line: line.startswith("|"))
    return [[_unpadded(line) for line in lines] for is_table, lines in blocks if is_table]


def _unpadded(line: str) -> str:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return "|" + "---|" * len(cells) if all(set(cell) == {"-"} for cell in cells) else f"| {' | '.join(cells)} |"


def renewed(page: str, fresh: str) -> str:
    """A page with the tables of another text in place of its own with the same heads.

    Raises:
        UserError: if a head is not on the page as often as in the text.
    """
    by_head: dict[str, list[list[str]]] = {}
    for table in tables(fresh):
        by_head.setdefault(table[0], []).append(table)
    parts: list[str] = []
    for is_table, lines in itertools.groupby(page.splitlines(keepends=True), lambda line: line.startswith("|")):
        text = "".join(lines)
        waiting = by_head.get(tables(text)[0][0]) if is_table else None
        parts.append("".join(f"{line}\n" for line in waiting.pop(0)) if waiting else text)
    if left := [head for head, waiting in by_head.items() if waiting]:
        raise UserError(
            f"expected a table with the head {left[0]}, found none, or too few; write the head where it belongs"
        )
    return "".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the tables of both pages again; returns 0."""
    command_parser(__doc__).parse_args(arguments)
    for page, sources in PAGES.items():
        old = page.read_text(encoding="utf-8")
        new = renewed(old, "\n\n".join(source() for source in sources))
        with atomic_write(page) as temporary:
            temporary.write_text(new, encoding="utf-8")
        print(f"{page}: {sum(a != b for a, b in zip(tables(old), tables(new), strict=True))} tables changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
