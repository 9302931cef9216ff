"""Compare studies: a table, a test of each pair with its effect size, and the distributions in one picture.

A study is named (`sep997`, found in --results), or its CSV is. A file with one accuracy in [0, 1] a line, or with a
column saved_accuracy, best_accuracy or test_accuracy, is compared as a study of which nothing else is known.
"""

import argparse
import csv
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_minimal import files, ledger
from mnist_minimal.command_line import command_parser, run
from mnist_minimal.errors import UserError
from mnist_minimal.ledger import FAILED, MEASURES, STOPPED, Trial

if TYPE_CHECKING:
    from mnist_minimal.statistics import Estimate, MeanDifference, Superiority

# A file that says nothing of its test set is taken to be about MNIST's.
TEST_SIZE = 10_000


@dataclass(frozen=True)
class Sample:
    """The accuracies of one study, and what must be alike for two studies to be compared.

    Attributes:
        name: What it is called in the table.
        accuracies: One or more, each in [0, 1].
        failed: Number of seeds that failed and have not finished since.
        stopped: Number of seeds that were stopped early and have no accuracy: they are censored.
        test_size: Number of test images; None where that isn't known.
        conditions: What must be alike in all studies; empty where nothing is known.
        training: What must be alike in studies of one model, by model: the cap on the epochs and the recipe.
    """

    name: str
    accuracies: list[float]
    failed: int = 0
    stopped: int = 0
    test_size: int | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    training: dict[str, dict[str, Any]] = field(default_factory=dict)


def find(name: str, results: Path) -> Path:
    """The file that a user names: a path, or the name of a study in the folder of results.

    Raises:
        UserError: if there is neither.
    """
    for path in (Path(name), results / f"{name}.csv"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in results.glob("*.csv"))) or "none"
    raise UserError(f"{name}: expected a file or the name of a study in {results} (there: {known}), found neither")


def read_sample(path: Path, measure: str, name: str | None = None) -> Sample:
    """Reads a study's CSV or a file of accuracies alone.

    Args:
        path: The file.
        measure: One of `ledger.MEASURES`: which accuracy of a trial.
        name: The sample's name; the file's without its suffix where it is None.

    Raises:
        UserError: if the file can't be read as either, or has no accuracy.
    """
    name = path.stem if name is None else name
    try:
        text = files.read(path, ledger.MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected accuracies as text in UTF-8, found what can't be read ({error}); name another file, or "
            "save it as UTF-8"
        ) from error
    lines = text.splitlines()
    if lines and (ledger.is_header(lines[0]) or "status" in lines[0].split(",")):
        sample = _study(path, measure, name)
    else:
        sample = Sample(name, _plain_accuracies(path, lines, f"{measure}_accuracy"))
    if not sample.accuracies:
        raise UserError(f"{path}: expected at least one finished trial, found none; run mnist_minimal.trials first")
    return sample


def _study(path: Path, measure: str, name: str) -> Sample:
    trials = ledger.read(path)
    done = ledger.finished(trials)
    seeds = {trial.seed for trial in done}
    failed = {trial.seed for trial in trials if trial.status == FAILED} - seeds
    stopped = {trial.seed for trial in trials if trial.status == STOPPED} - seeds
    return Sample(
        name,
        ledger.accuracies(done, measure),
        failed=len(failed - stopped),
        stopped=len(stopped),
        test_size=max((trial.test_size for trial in done), default=None),
        conditions={
            "data set": _values(trial.dataset for trial in done),
            "test images": _values(trial.test_size for trial in done),
            "protocol": _values(trial.protocol for trial in done),
            **({} if measure == "test" else {"share of the training set monitored": _monitored(path)}),
        },
        training={model: _training(path, done, model) for model in {trial.model for trial in done}},
    )


def _values(values: Iterable[str | int]) -> str:
    return " and ".join(sorted({str(value) for value in values}))


def _monitored(path: Path) -> str:
    """The share of the training set that a recipe monitors in place of the test set, where the JSON tells."""
    return str(_recipe(path).get("recipe.validation_share", 0.0))


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe in the JSON beside a CSV, as `_flat` gives it.

    It is {} for a CSV that was sent alone and is compared by what its rows say.
    """
    try:
        recipe = files.read_json(path.with_suffix(".json"))["recipe"]
        return _flat(recipe, "recipe") if isinstance(recipe, dict) else {}
    except (OSError, UserError, KeyError, TypeError):
        return {}


def _training(path: Path, trials: Sequence[Trial], model: str) -> dict[str, Any]:
    facts = {"cap on the epochs": _values(trial.max_epochs for trial in trials if trial.model == model)}
    return facts | _recipe(path)


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Nested dictionaries as one, the names joined by dots; without what a recipe says in prose."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}") for key, inner in value.items() if key not in ("source", "assumed")]
    return {key: inner for part in parts for key, inner in part.items()}


def _plain_accuracies(path: Path, lines: Sequence[str], column: str) -> list[float]:
    try:
        rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if row]
    except csv.Error as error:
        raise UserError(f"{path}: expected a CSV, found text that is none ({error}); mend the file") from error
    index = 0
    if rows and not _is_number(rows[0][1][0]):
        if column not in rows[0][1]:
            raise UserError(
                f"{path}: expected the CSV of a study, one accuracy a line, or a column {column}, found the columns "
                f"{', '.join(rows[0][1])[:300]}"
            )
        index = rows.pop(0)[1].index(column)
    accuracies = []
    for number, row in rows:
        text = row[index] if index < len(row) else ""
        if not _is_number(text) or not 0 <= float(text) <= 1:
            raise UserError(f"{path}, line {number}: expected an accuracy in [0, 1], found {text!r}; mend the line")
        accuracies.append(float(text))
    return accuracies


def _is_number(text: str) -> bool:
    return ledger.DECIMAL.fullmatch(text.strip()) is not None


def differences(samples: Sequence[Sample]) -> list[str]:
    """What is not alike although accuracies of one distribution need it to be, each with every study's value."""
    studies = [sample for sample in samples if sample.conditions]
    found = _unlike([(study.name, study.conditions) for study in studies])
    for model in dict.fromkeys(model for study in studies for model in study.training):
        of_model = [(study.name, study.training[model]) for study in studies if model in study.training]
        # Where one recipe is not known, only the rest can be compared.
        if not all(any(key.startswith("recipe") for key in facts) for _, facts in of_model):
            of_model = [(name, {"cap on the epochs": facts["cap on the epochs"]}) for name, facts in of_model]
        found += [f"{difference} of {model}" for difference in _unlike(of_model)]
    return found


def _unlike(facts: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    found = []
    for key in dict.fromkeys(key for _, values in facts for key in values):
        if len({json.dumps(values.get(key)) for _, values in facts}) > 1:
            found.append(f"{key} ({', '.join(f'{name}: {values.get(key)}' for name, values in facts)})")
    return found


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head, padded so that it reads as text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def table(samples: Sequence[Sample], title: str) -> str:
    """n, mean, sd, interval, best and share at 99 % of every sample, as Markdown; the title heads the names."""
    from mnist_minimal.statistics import TARGET, summarize

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
                f"{found.sd:.5f}" if found.n > 1 else "-",
                f"{found.low:.5f} to {found.high:.5f}" if found.n > 1 else "-",
                f"{found.best:.4f}",
                f"{found.reached} of {found.n} ({found.reached_low:.0%} to {found.reached_high:.0%})",
            ]
        )
    return markdown(rows)


def interval(estimate: "Estimate", form: str) -> str:
    """An estimate and its interval in words, each number in the given format."""
    return f"{estimate.value:{form}}, 95 % interval {estimate.low:{form}} to {estimate.high:{form}}"


def compare_pairs(samples: Sequence[Sample]) -> list[str]:
    """What may be said of each pair of samples, one paragraph a pair.

    Welch's t test speaks of the means, Mann and Whitney's test of the order. With more than two samples the p-values of
    each of the two are corrected for the number of pairs by Holm's method.
    """
    from mnist_minimal.statistics import difference_of_means, holm, superiority

    pairs = list(itertools.combinations(samples, 2))
    means = [difference_of_means(first.accuracies, second.accuracies) for first, second in pairs]
    orders = [superiority(first.accuracies, second.accuracies) for first, second in pairs]
    of_means, of_orders = holm([mean.p_value for mean in means]), holm([order.p_value for order in orders])
    return [
        f"{pair[0].name} less {pair[1].name}: "
        + _say_means(pair, mean, of_mean, len(pairs))
        + " "
        + _say_order(pair, order, of_order, len(pairs))
        for pair, mean, of_mean, order, of_order in zip(pairs, means, of_means, orders, of_orders, strict=True)
    ]


def _say_means(pair: tuple[Sample, Sample], found: "MeanDifference", corrected: float, pairs: int) -> str:
    sizes = f"with n = {len(pair[0].accuracies)} and {len(pair[1].accuracies)}"
    if math.isnan(found.p_value):
        difference = f"the means differ by {found.difference.value:+.5f}"
        return f"{difference}; {sizes} and no spread to judge by, nothing can be said."
    difference = f"the means differ by {interval(found.difference, '+.5f')}"
    verdict = "The means are different" if corrected < 0.05 else "The means are not shown to differ"
    return (
        f"{difference} (Welch's t test, {_p(found.p_value, corrected, pairs)}). {verdict}; {sizes}, a difference "
        f"smaller than {found.detectable:.5f} would have been missed more often than one time in five."
    )


def _say_order(pair: tuple[Sample, Sample], found: "Superiority", corrected: float, pairs: int) -> str:
    if math.isnan(found.p_value):
        return "All their accuracies are equal."
    return (
        f"A trial of {pair[0].name} is above one of {pair[1].name} with probability "
        f"{interval(found.probability, '.2f')}, ties counted half (Mann-Whitney, "
        f"{_p(found.p_value, corrected, pairs)})."
    )


def probability(p_value: float) -> str:
    """A p-value in words: "= 0.042", or "< 0.001"."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _p(p_value: float, corrected: float, pairs: int) -> str:
    text = f"p {probability(p_value)}"
    return text if pairs == 1 else f"{text}; corrected for {pairs} pairs p {probability(corrected)}"


def draw(samples: Sequence[Sample], measure: str, path: Path) -> None:
    """Writes the histograms, with common bins, and the distribution functions of all samples as a PNG."""
    from matplotlib.figure import Figure

    from mnist_minimal import plots
    from mnist_minimal.statistics import TARGET

    accuracies = {sample.name: sample.accuracies for sample in samples}
    figure = Figure(figsize=(8, 8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    plots.histogram(accuracies, max(sample.test_size or 0 for sample in samples) or TEST_SIZE, upper)
    plots.ecdf(accuracies, TARGET, lower)
    figure.suptitle(f"{measure} accuracy")
    plots.save_figure(figure, path)


def notes(samples: Sequence[Sample], mixed: Sequence[str]) -> list[str]:
    """What a reader must know besides the figures, a sentence each."""
    found = [f"Compared as asked although not alike: {'; '.join(mixed)}."] if mixed else []
    found += [
        f"{sample.name}: {sample.stopped} trials were stopped early and have no accuracy here; what is said is of the "
        "trials that went on."
        for sample in samples
        if sample.stopped
    ]
    unknown = [sample.name for sample in samples if not sample.conditions]
    if unknown:
        found.append(f"Of {' and '.join(unknown)} nothing but the accuracies is known; the rest is taken to be alike.")
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = command_parser(__doc__, "compare")
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="a study's name, its CSV, or a file of accuracies")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of studies (default: %(default)s)"
    )
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="saved",
        help="the last epoch's accuracy, the best epoch's, or that of the kept weights on the test set "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--mix",
        action="store_true",
        help="compare even where data sets, protocols, or one model's caps on the epochs or recipes differ",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="also draw the distributions")
    return parser.parse_args(arguments)


def read_samples(studies: Sequence[str], results: Path, measure: str) -> list[Sample]:
    """Reads what a user names, each under a name of its own.

    Raises:
        UserError: if fewer than two are named, or one twice, or one can't be read.
    """
    paths = [find(name, results) for name in studies]
    if len(paths) < 2:
        raise UserError(f"expected two studies or more to compare, found {len(paths)}; name another")
    for path, other in itertools.combinations(paths, 2):
        if path.samefile(other):
            raise UserError(f"{path}: expected every study once, found it twice; leave one out")
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    return [read_sample(path, measure, name) for path, name in zip(paths, names, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = parse(arguments)
    if options.out:
        files.check_output(options.out, files.PICTURE)
    samples = read_samples(options.studies, options.results, options.measure)
    unlike = differences(samples)
    if unlike and not options.mix:
        raise UserError(f"these studies are not alike: {'; '.join(unlike)}; compare others, or give --mix")
    print(table(samples, f"{options.measure} accuracy"))
    for paragraph in [*compare_pairs(samples), *notes(samples, unlike)]:
        print(f"\n{paragraph}")
    if options.out:
        draw(samples, options.measure, options.out)
        print(f"\n{options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
