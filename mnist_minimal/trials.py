"""Train a model again and again and record every trial: saved and best accuracies in a CSV, models, histories.

A job goes on where it was stopped: the same command skips the seeds that are finished.
"""

import argparse
import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mnist_minimal.cli.options import add_arguments, from_arguments, model_name
from mnist_minimal.cli.parser import command_parser
from mnist_minimal.cli.run import run
from mnist_minimal.data.choice import Choice
from mnist_minimal.engines.processes import WorkerProcesses, reason
from mnist_minimal.errors import UserError
from mnist_minimal.models import lookup
from mnist_minimal.models.lookup import OWN_FORM
from mnist_minimal.recipes import RECIPES, Recipe
from mnist_minimal.study import ledger
from mnist_minimal.study.median_stopping import Comparison, LeftError
from mnist_minimal.study.progress import Display, display
from mnist_minimal.study.study import Study, open_study, recipe_epochs
from mnist_minimal.study.worker import Job, failed_trial, make_train
from mnist_minimal.trial import FAILED, EpochReport, Train, Trial

if TYPE_CHECKING:
    from mnist_minimal.data.sets import Dataset

# So many new failures one after the other are no accident of training, and a job without end would go on failing.
MAX_FAILURES_IN_A_ROW = 3

SECONDS_BETWEEN_LOOKS = 0.2


class StoppedError(Exception):
    """A trial noticed that its job was stopped."""


def run_trials(
    train: Train,
    failed: Callable[[int, str], Trial],
    study: Study,
    seeds: Iterable[int],
    shown: Display,
    *,
    jobs: int = 1,
    until: float | None = None,
    comparison: Comparison | None = None,
    stop_training: Callable[[], None] = lambda: None,
    interrupted: threading.Event | None = None,
) -> list[int]:
    """Trains every seed that is not done yet and appends each trial to the study's CSV when it ends.

    A seed that another runner on the same study is training is left to it. A trial that fails is recorded with its
    reason, and the next one starts.

    Args:
        train: Trains one seed; called from `jobs` threads, from the calling thread where `jobs` is 1.
        failed: The row of a failed trial, from its seed and the reason.
        study: Where the trials belong.
        seeds: The seeds, in rising order; may have no end.
        shown: Shows what happens.
        jobs: Trials that run side by side.
        until: Stop as soon as a trial's best accuracy is at least this.
        comparison: Stops the worse half of the trials early; None trains all to their end. A seed that another runner
            was training when it was stopped is then taken over where a trial has to be compared with it.
        stop_training: Ends `train` in the other threads when the job is stopped.
        interrupted: Set from outside to end the job at the next epoch, as Ctrl-C does at once.

    Returns:
        The seeds that were left to other runners.

    Raises:
        UserError: if three trials in a row failed for the first time, or a file can't be written or read.
        KeyboardInterrupt: on Ctrl-C; what was finished is recorded.
    """
    source, stop, guard = iter(seeds), threading.Event(), threading.RLock()
    interrupted = interrupted or threading.Event()
    taken: list[int] = []
    held: set[int] = set()
    errors: list[BaseException] = []
    failures_in_a_row = 0

    def left() -> list[int]:
        # Some of them have been finished since, here or by the runner that had them.
        return sorted(held - {trial.seed for trial in ledger.done(ledger.read(study.csv))})

    def report(epoch: EpochReport) -> str:
        if stop.is_set() or interrupted.is_set():
            raise StoppedError
        with guard:
            shown.epoch_ended(epoch)
        if comparison and epoch.epoch == comparison.rule.epoch:
            return comparison.reason_to_stop(epoch.seed, list(taken), wait)
        return ""

    def wait() -> None:
        if stop.wait(SECONDS_BETWEEN_LOOKS) or interrupted.is_set():
            raise StoppedError

    def record(trial: Trial) -> None:
        nonlocal failures_in_a_row
        # A seed that failed before, and fails again, must not keep the job from the seeds behind it.
        again = any(before.seed == trial.seed for before in ledger.read(study.csv))
        ledger.append(study.csv, trial)
        shown.trial_ended(trial, len(ledger.done(ledger.read(study.csv))))
        failures_in_a_row = 0 if trial.status != FAILED else failures_in_a_row if again else failures_in_a_row + 1
        if failures_in_a_row == MAX_FAILURES_IN_A_ROW:
            raise UserError(f"{failures_in_a_row} trials in a row failed, the last one with: {trial.reason}")
        if reaches(trial, until):
            stop.set()

    def train_seed(seed: int) -> None:
        if any(trial.seed == seed for trial in ledger.done(ledger.read(study.csv))):
            # A kill may have come between the row and this.
            study.checkpoint(seed).unlink(missing_ok=True)
            return
        with guard:
            shown.trial_started(seed)
        while True:
            try:
                trial = train(seed, report)
                break
            except UserError:
                raise
            except LeftError as left:
                # Trained here, or awaited if another thread or runner is faster; then this trial goes on.
                train_claimed(left.seed, claim(left.seed))
            except Exception as error:
                if stop.is_set() or interrupted.is_set():
                    return
                trial = failed(seed, reason(error))
                break
        with guard:
            record(trial)
        # Kept until the row is on disk: a kill before it costs no epoch.
        study.checkpoint(seed).unlink(missing_ok=True)

    def claim(seed: int) -> FileLock | None:
        claimed = FileLock(study.claim(seed), timeout=0)
        try:
            claimed.acquire()
        except Timeout:
            held.add(seed)
            return None
        held.discard(seed)
        return claimed

    def train_claimed(seed: int, claimed: FileLock | None) -> None:
        if claimed is None:
            return
        try:
            train_seed(seed)
            # A runner that opened the file before it goes finds the seed done, or may well try it again.
            with contextlib.suppress(OSError):
                study.claim(seed).unlink()
        finally:
            claimed.release()

    def work() -> None:
        while not stop.is_set() and not interrupted.is_set():
            # Claimed as it is taken, so that no other thread finds it taken and not being trained.
            with guard:
                seed = next(source, None)
                if seed is None:
                    return
                taken.append(seed)
                claimed = claim(seed)
            train_claimed(seed, claimed)

    def work_in_thread() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stop.set()

    if jobs == 1:
        work()
        if interrupted.is_set():
            raise KeyboardInterrupt
        return left()
    threads = [threading.Thread(target=work_in_thread, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        while not stop.is_set() and not interrupted.is_set() and any(thread.is_alive() for thread in threads):
            stop.wait(0.2)
    finally:
        # Reached, failed, interrupted: the other trials end here; they are trained anew when the job goes on.
        stop.set()
        stop_training()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    if interrupted.is_set():
        raise KeyboardInterrupt
    return left()


def reaches(trial: Trial, target: float | None) -> bool:
    """Whether the trial's best accuracy is at least the target."""
    return target is not None and trial.best_accuracy is not None and trial.best_accuracy >= target


def print_summary(study: Study) -> None:
    """Prints n, mean, sd, 95 % interval, best and how many reached 99 % of a study's finished trials.

    Trials that were stopped early are counted, and left out of the figures.
    """
    from mnist_minimal.analysis.statistics import TARGET, summarize

    trials = ledger.read(study.csv)
    done = ledger.finished(trials)
    failures = len({trial.seed for trial in trials} - {trial.seed for trial in ledger.done(trials)})
    stopped = len(ledger.done(trials)) - len(done)
    noun = "trial" if len(done) == 1 else "trials"
    title = f"{study.model} on {study.dataset}, protocol {study.protocol}: {len(done)} finished {noun}"
    early = f", {stopped} stopped early by the rule" if stopped else ""
    print(f"\n{title}{early}, {failures} failed ({study.csv})")
    caps = sorted({trial.max_epochs for trial in ledger.done(trials)})
    whole = recipe_epochs(study.csv)
    if caps and whole and caps[0] < whole:
        print(f"The epochs were capped at {caps[0]}; the recipe has up to {whole}.")
    if not done:
        return
    columns: dict[str, list[float | None]] = {
        "saved accuracy": [trial.saved_accuracy for trial in done],
        "best accuracy": [trial.best_accuracy for trial in done],
        "test accuracy": [trial.test_correct / trial.test_size for trial in done if trial.test_correct is not None],
    }
    print(f"{'':16}{'n':>4}  {'mean':>8}  {'sd':>8}  {'95 % interval':>18}  {'best':>7}  at least {TARGET:.0%}")
    for name, accuracies in columns.items():
        summary = summarize([accuracy for accuracy in accuracies if accuracy is not None])
        interval = f"{summary.low:.5f} .. {summary.high:.5f}" if summary.n > 1 else "-"
        sd = f"{summary.sd:.5f}" if summary.n > 1 else "-"
        print(
            f"{name:16}{summary.n:>4}  {summary.mean:.6f}  {sd:>8}  {interval:>18}  {summary.best:>7.4f}  "
            f"{summary.reached} of {summary.n} (95 %: {summary.reached_low:.0%} to {summary.reached_high:.0%})"
        )
    if stopped:
        print(
            f"The {stopped} stopped early are censored: they were in the worse half then, and what they would have "
            "reached is not known, so they are in none of these figures."
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "trials")
    parser.add_argument(
        "--model",
        required=True,
        type=model_name,
        metavar="MODEL",
        help=f"the model, trained by its recipe: {', '.join(RECIPES)}, or {OWN_FORM}",
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="train a model of your own by this published recipe (default: the one in its module)",
    )
    parser.add_argument(
        "--runs", type=_positive, metavar="N", help="how many trials (default: go on until Ctrl-C, or --until)"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="BASE", help="the first trial's seed (default: 0)")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="a cap on the epochs of each trial")
    parser.add_argument(
        "--until",
        type=_accuracy,
        metavar="ACCURACY",
        help="stop at the first trial whose best accuracy reaches this; --runs is then the cap",
    )
    parser.add_argument(
        "--protocol",
        choices=("source", "holdout"),
        default="source",
        help="what is monitored: the test set, as in the sources, or images held out of the training set "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--trainer", choices=("auto", "native", "keras"), default="auto", help="what trains (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="trials side by side (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="the folder of results (default: %(default)s)"
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.seed + (options.runs or 0) > 2**32:
        parser.error(f"expected seeds up to 4294967295, found {options.runs} runs from {options.seed}; lower either")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 where a trial failed, 130 after Ctrl-C."""
    options = parse(arguments)
    from mnist_minimal.data import sets

    recipe = lookup.recipe(options.model, options.recipe)
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        # The exception alone is not enough: Python drops one that is raised while an object is being deleted.
        interrupted.set()
        raise KeyboardInterrupt

    # A batch system asks with SIGTERM, a closed terminal with SIGHUP; they get what Ctrl-C gets.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
    dataset = sets.load(from_arguments(options))
    if dataset.notice:
        print(dataset.notice)
    study = Study(options.out, options.model, dataset.name, options.protocol)
    options.epochs = min(options.epochs or recipe.max_epochs, recipe.max_epochs)
    open_study(study, recipe, options.epochs)
    status = 0
    try:
        status = run_job(options, study, recipe, dataset, interrupted)
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.")
        status = 130
    print_summary(study)
    return status


def run_job(
    options: argparse.Namespace, study: Study, recipe: Recipe, dataset: "Dataset", interrupted: threading.Event
) -> int:
    """Runs what of the job is not done; returns 0, or 1 where a seed of it failed and is not done since."""
    from mnist_minimal.data import sets

    seeds: range | itertools.count[int]
    seeds = itertools.count(options.seed) if options.runs is None else range(options.seed, options.seed + options.runs)

    def of_this_job(trial: Trial) -> bool:
        return options.seed <= trial.seed and (options.runs is None or trial.seed < options.seed + options.runs)

    done = [trial for trial in ledger.done(ledger.read(study.csv)) if of_this_job(trial)]
    for trial in done:
        if reaches(trial, options.until):
            print(f"Seed {trial.seed} has reached {options.until} before, with {trial.best_accuracy}.")
            return 0
    if len(done) == options.runs:
        # A kill may have come between the last row and this.
        for trial in done:
            study.checkpoint(trial.seed).unlink(missing_ok=True)
        return 0
    job = make_job(options, study, recipe, dataset)
    for trial in ledger.done(ledger.read(study.csv)):
        if trial.params != job.params:
            raise UserError(
                f"{study.csv}: seed {trial.seed} was trained with {trial.params:,} parameters, and {study.model} has "
                f"{job.params:,} now; restore the model or use another --out"
            )
    comparison = None
    if recipe.median_stopping and recipe.median_stopping.epoch < options.epochs:
        monitored = sets.split(dataset, study.protocol, recipe.validation_share).y_val
        comparison = Comparison(study, recipe.median_stopping, len(monitored))
    # The core trains in threads. Keras does not: its seeds and TensorFlow's state are one for the whole process.
    in_processes = job.trainer == "keras" and options.jobs > 1
    workers = WorkerProcesses(partial(make_train, job), options.jobs) if in_processes else None
    shown = display(options.runs, len(done), options.jobs)
    try:
        held = run_trials(
            workers or make_train(job, dataset),
            partial(failed_trial, job),
            study,
            seeds,
            shown,
            jobs=options.jobs,
            until=options.until,
            comparison=comparison,
            stop_training=workers.stop if workers else lambda: None,
            interrupted=interrupted,
        )
    finally:
        shown.close()
    if held:
        print(f"Left to other runners that are training them: seed {', '.join(map(str, held))}.")
    trials = [trial for trial in ledger.read(study.csv) if of_this_job(trial)]
    return 1 if {trial.seed for trial in trials} > {trial.seed for trial in ledger.done(trials)} else 0


def make_job(options: argparse.Namespace, study: Study, recipe: Recipe, dataset: "Dataset") -> Job:
    """The job of these options, with what has to be known of the model."""
    from mnist_minimal.models.counting import trainable_parameters
    from mnist_minimal.training.trainers import choose

    model = lookup.builder(study.model)()
    trainer, notice = choose(options.trainer, model)
    if notice:
        print(notice)
    return Job(
        study=study,
        recipe=recipe,
        # Where the digits took MNIST's place, the workers need not look for it again.
        choice=Choice("digits") if dataset.name == "digits" else from_arguments(options),
        trainer=trainer,
        max_epochs=options.epochs,
        jobs=options.jobs,
        params=trainable_parameters(model),
        test_size=len(dataset.x_test),
    )


def _positive(text: str) -> int:
    # Of decimal digits Python knows those of all scripts.
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 4294967295, found {text!r}")
    return int(text)


def _accuracy(text: str) -> float:
    try:
        accuracy = float(text)
    except ValueError:
        accuracy = float("nan")
    if not 0 < accuracy <= 1:
        raise argparse.ArgumentTypeError(f"expected an accuracy above 0 and at most 1, such as 0.99, found {text!r}")
    return accuracy


if __name__ == "__main__":
    raise SystemExit(run(main))
