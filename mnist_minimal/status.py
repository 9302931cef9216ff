"""How far trials are, asked from another terminal: done, running, stale, failed, and the time left.

Of each study that is being trained, or has a trial that was left before its end, there is a line for every such trial.
Stale is a trial of which nothing was heard for longer than its epochs explain, or whose process has gone: the same
command that trained it resumes it.
"""

from collections.abc import Sequence

from mnist_minimal.cli.options import add_results, results_folders
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.errors import UserError
from mnist_minimal.study import watching
from mnist_minimal.study.progress import duration
from mnist_minimal.study.watching import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 where a trial is stale."""
    parser = command_parser(__doc__, "status")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="names of studies (default: all that are there)")
    add_results(parser)
    options = parser.parse_args(arguments)
    folders = results_folders(options)
    there = [study for folder in folders for study in watching.find(folder)]
    where = " and ".join(map(str, folders))
    if not there:
        raise UserError(f"{where}: found no study, expected one; run mnist_minimal.trials, or give --results")
    unknown = set(options.studies) - {study.name for study in there}
    if unknown:
        known = ", ".join(study.name for study in there)
        raise UserError(f"{unknown.pop()}: found no such study in {where}, expected one of {known}")
    found = [watching.progress(study) for study in there if not options.studies or study.name in options.studies]
    for study in found:
        print("\n".join(lines(study)))
    return 1 if any(trial.stale for study in found for trial in study.underway) else 0


def lines(found: Progress) -> list[str]:
    """What there is to say of a study, in lines."""
    csv = found.study.csv
    of = "" if found.asked is None else f", {found.asked_done} of the {found.asked} that are asked for"
    failed = f", {found.failed} failed" if found.failed else ""
    left = "" if found.left is None else f"; about {duration(found.left)} left"
    owner = f"trained by {found.owner}" if found.owner else "nobody is training it"
    of_at_most = "" if found.max_epochs is None else f" of at most {found.max_epochs}"
    return [
        f"{csv}: {found.done} done{of}{failed}; {owner}{left}",
        *(
            f"  seed {trial.seed}: {'stale' if trial.stale else 'running'}, epoch {trial.epochs}{of_at_most}, "
            f"monitored accuracy {trial.accuracy:.4f}, last heard of {duration(trial.silent)} ago"
            for trial in found.underway
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(run(main))
