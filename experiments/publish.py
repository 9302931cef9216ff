"""Copies a finished study to where the project publishes, and keeps of it what cannot be made again.

    python experiments/publish.py runs/sep997.csv --out results

That is its CSV, its JSON, the histories of all its trials packed in one file (`study.packed`), and the models of four
trials by the number of test images that they get right: the best, the median and the two quartiles. It takes seconds,
and 2,000 trials take about 10 MB. `python -m mnist_minimal.verify` makes the other models again, bit by bit. Nothing is
removed: a study that is published already has to be removed by hand before, so that nothing of it remains.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mnist_minimal.analysis.samples import find
from mnist_minimal.cli.options import PUBLISHED_RESULTS, add_results, expanded_path, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.files import atomic_write
from mnist_minimal.study import history, ledger, packed
from mnist_minimal.study.numerics import unverifiable
from mnist_minimal.study.ownership import owned
from mnist_minimal.study.study import Study
from mnist_minimal.trial import Trial


def kept_models(trials: Sequence[Trial]) -> dict[int, str]:
    """The seeds of the trials whose models are kept, and what each of them is; one or more trials.

    They are ranked by the number of test images that the kept weights get right, of several with the same by the seed,
    the lower seed above. The median is the lower of two, the quartiles those of the lower and the upper half.
    """
    ranked = sorted(trials, key=lambda trial: (trial.test_correct or 0, -trial.seed))
    last = len(ranked) - 1
    # What comes last stands, where a few trials are several of them.
    places = {last // 4: "lower quartile", 3 * last // 4: "upper quartile", last // 2: "median", last: "best"}
    return {ranked[place].seed: name for place, name in places.items()}


def publish(study: Study, out: Path) -> dict[int, str]:
    """Copies a study to another folder, its histories packed, with the models of `kept_models`.

    Args:
        study: The study; it is left as it is.
        out: The folder; a study of its name must not be there.

    Returns:
        What `kept_models` gives.

    Raises:
        UserError: if it has no finished trial, or lacks a history or one of these models, or the study is there
            already: nothing is written then; if a file can't be written.
    """
    to = Study(out, study.name)
    if found := [path for path in (to.csv, to.json, to.folder) if path.exists()]:
        raise UserError(
            f"{found[0]}: expected no study of this name, found one; remove it before, or use another --out"
        )
    with owned(study):
        rows = ledger.read(study.csv)
        trials = ledger.finished(rows)
        if not trials:
            raise UserError(f"{study.csv}: found no finished trial in it, expected one or more; name another study")
        kept = kept_models(trials)
        if missing := [seed for seed in kept if not study.weights(seed).is_file()]:
            raise UserError(f"{study.weights(missing[0])}: found no such file, expected a model that is to be kept")
        histories = {trial.seed: history.text(study.history(trial.seed)) for trial in ledger.done(rows)}
        content = packed.pack(histories)
        out.mkdir(parents=True, exist_ok=True)
        to.folder.mkdir()
        with atomic_write(to.folder / packed.NAME) as temporary:
            temporary.write_bytes(content)
        for seed in kept:
            shutil.copyfile(study.weights(seed), to.weights(seed))
        if study.json.is_file():
            shutil.copyfile(study.json, to.json)
        # Last, since it is what makes a study of the rest.
        shutil.copyfile(study.csv, to.csv)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Publishes a study and says what was kept."""
    parser = command_parser(__doc__)
    parser.add_argument("study", metavar="STUDY", help="a study's name, or its CSV")
    add_results(parser)
    parser.add_argument("--out", type=expanded_path, default=PUBLISHED_RESULTS, metavar="DIR", help="default: results")
    options = parser.parse_args(arguments)
    study = Study.at(find(options.study, results_folders(options)))
    kept = publish(study, options.out)
    to = Study(options.out, study.name)
    rows = ledger.read(to.csv)
    size = sum(path.stat().st_size for path in (to.csv, to.json, *to.folder.iterdir()) if path.is_file())
    print(f"{to.csv}: {len(ledger.finished(rows))} finished trials, {size:,} bytes with all that belongs to them")
    print(f"Models kept: {', '.join(f'{name} (seed {seed})' for seed, name in reversed(kept.items()))}.")
    if reason := unverifiable(to, rows):
        print(f"The others can't be made again: {reason}.")
    else:
        print(f"The others are made again by python -m mnist_minimal.verify {to.csv} --keep {to.folder}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
