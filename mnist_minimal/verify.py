"""Train recorded trials again and compare them with what was recorded, bit by bit: row, history and weights.

The trials of the C++ core give the same bits on every machine, so that anyone can check any of them. They are trained
as they were, by the recipe in the study's JSON, in a temporary folder; nothing is written into the study. Not compared
are times, dates, the package's version and the instruction set.

Of a study that JAX trained, which promises no bits, the core trains the same seeds, and the figures have to be close:
in the first epoch the monitored loss within 10 per cent and the monitored accuracy within 3 binomial deviations, in the
end the test accuracy within 5 deviations of the difference of two seeds.
"""

import argparse
import os
from collections.abc import Sequence

from mnist_minimal.analysis.samples import find
from mnist_minimal.cli.options import (
    add_arguments,
    add_results,
    expanded_path,
    from_arguments,
    model_name,
    positive,
    results_folders,
    seed,
)
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import interruptible, run
from mnist_minimal.errors import UserError
from mnist_minimal.models.lookup import OWN_FORM, builder
from mnist_minimal.study import ledger, teaching
from mnist_minimal.study.progress import display
from mnist_minimal.study.study import Study
from mnist_minimal.study.verification import Verdict, by_jax, sampled, verify
from mnist_minimal.trial import FAILED, Trial


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "verify")
    parser.add_argument("study", type=os.path.expanduser, metavar="STUDY", help="a study's name, or its CSV")
    add_results(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=seeds, metavar="SEED,SEED", help="these trials alone, as 3,17 (default: all)")
    which.add_argument(
        "--sample", type=positive, metavar="N", help="N trials at random; the same ones whenever it is asked"
    )
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="MODEL",
        help=f"what builds the model, where the study does not tell: {OWN_FORM}",
    )
    parser.add_argument(
        "--teacher", type=expanded_path, metavar="FILE", help="the teacher's file, where the trials were trained by one"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="trials side by side (default: one a core)",
    )
    parser.add_argument(
        "--keep",
        type=expanded_path,
        metavar="DIR",
        help="a folder for the models of the trials that come out the same, as SEED.h5; what is there stays",
    )
    add_arguments(parser, auto="what the study was trained on")
    return parser.parse_args(arguments)


def seeds(text: str) -> list[int]:
    """Seeds as an argument of the command: 3,17."""
    return sorted({seed(part.strip()) for part in text.split(",")})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 where all trials came out the same, 1 where one did not, 130 after Ctrl-C."""
    options = parse(arguments)
    import joblib

    study = Study.at(find(options.study, results_folders(options)))
    rows = ledger.read(study.csv)
    chosen = chosen_seeds(study, rows, options.seeds)
    if options.sample is not None:
        chosen = sampled(study, chosen, options.sample)
        print(f"Sampled, the same for this number and study: seeds {', '.join(map(str, chosen))}.")
    elif options.seeds is None:
        done = {trial.seed for trial in ledger.done(rows)}
        for trial in rows:
            if trial.status == FAILED and trial.seed not in done:
                print(f"seed {trial.seed} failed when it was recorded and is left out: {trial.reason}")
    with interruptible() as interrupted:
        verdicts = verify(
            study,
            chosen,
            from_arguments(options),
            build=builder(options.model) if options.model else None,
            teacher=teaching.read(options.teacher) if options.teacher else None,
            jobs=options.jobs or joblib.cpu_count(),
            keep=options.keep,
            say=print,
            display=display,
            interrupted=interrupted,
        )
    print(f"\n{study.csv}: {sum_of(verdicts, 'close to the core' if by_jax(rows) else 'the same, bit by bit')}")
    return 0 if all(verdict.same for verdict in verdicts) else 1


def chosen_seeds(study: Study, rows: Sequence[Trial], asked: Sequence[int] | None) -> list[int]:
    """The seeds that are asked for, or all that are finished or stopped."""
    done = sorted(trial.seed for trial in ledger.done(rows))
    if not done:
        raise UserError(f"{study.csv}: found no finished trial in it, expected one or more; name another study")
    for one in asked or ():
        if one not in done:
            failed = next((f", which failed: {trial.reason}" for trial in rows if trial.seed == one), "")
            raise UserError(
                f"{study.csv}: found no finished trial of seed {one}{failed}; expected some of {done[0]} to {done[-1]}"
            )
    return list(asked or done)


def sum_of(verdicts: Sequence[Verdict], same: str) -> str:
    """What came of all, in a sentence; `same` says what those are that came out well."""
    differing = sorted(verdict.seed for verdict in verdicts if not verdict.same)
    trials = f"{len(verdicts)} {'trial' if len(verdicts) == 1 else 'trials'} trained again"
    if not differing:
        return f"{trials}, {'all ' if len(verdicts) > 1 else ''}{same}."
    several = "seeds" if len(differing) > 1 else "seed"
    return (
        f"{trials}, {len(verdicts) - len(differing)} {same}, {len(differing)} not: "
        f"{several} {', '.join(map(str, differing))}."
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
