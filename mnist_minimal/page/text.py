"""What was found, in words and tables. Everything that came from a file is escaped here, before it becomes HTML."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from mnist_minimal.analysis.published import Publication
from mnist_minimal.analysis.statistics import TARGET, Estimate, Moments, Summary, difference_from_moments, summarize
from mnist_minimal.analysis.summaries import StudySummary, compared, compared_measure
from mnist_minimal.analysis.tables import (
    MEASURE_NAMES,
    sd_cell,
    share_cell,
    share_count,
    share_interval,
    trial_count,
)
from mnist_minimal.models.parameters import PARAMETERS
from mnist_minimal.trial import Trial

PERCENT = f"{100 * TARGET:g} %"

# Whose the images are, by the name of the data set.
AUTHORS = {
    "mnist": "MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, made from handwriting that NIST had "
    "collected; Keras' documentation gives its licence as CC BY-SA 3.0",
    "digits": "scikit-learn's copy of the Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, made "
    "larger",
}

# A longer list of failures would hide the rest of the page.
MAX_FAILURES = 20


def html(plain: str) -> str:
    """Plain text as HTML; a number and its % stay on one line."""
    return escape(plain).replace(" %", "&nbsp;%")


def title(study: StudySummary) -> str:
    """A study's name for readers, plain text."""
    name = f"{study.model}, {study.params:,} parameters"
    if study.dataset != "mnist":
        name += f", on {study.dataset}"
    if study.protocol != "source":
        name += f", protocol {study.protocol}"
    return name if study.cut is None else f"{name}, cut at {study.cut} epochs"


def answer(studies: Sequence[StudySummary], shown: StudySummary, publications: Sequence[Publication]) -> str:
    """The answer to the question as paragraphs of HTML.

    Args:
        studies: The studies; those that are not comparable with what was published have no part in the answer.
        shown: The study to give an account of.
        publications: What was published.
    """
    counted = [study for study in studies if study.comparable]
    if not counted:
        return _paragraph(
            "There is no answer here yet: it takes trials on MNIST by a whole published recipe, and these studies have "
            "none."
        )
    reached = [study for study in counted if study.share().reached]
    if reached:
        smallest = min(reached, key=lambda study: study.params)
        share = smallest.share()
        lead = (
            f"The smallest network here that reached {PERCENT} on MNIST's test set with the weights it kept has "
            f"{smallest.params:,} parameters ({smallest.model}); {share_count(share)} trials did"
            + (f", {share.stopped:,} of which were stopped early." if share.stopped else ".")
        )
    else:
        trials = sum(len(study.trials) for study in counted)
        kind = "finished trials" if any(study.stopped for study in counted) else "trials"
        best = max(counted, key=lambda study: study.kept.best)
        lead = (
            f"None of the {trials:,} {kind} here reached {PERCENT} on MNIST's test set with the weights it kept. The "
            f"best run, of {best.model} with {best.params:,} parameters, came to {best.kept.best:.4f}."
        )
    # Where the worse trials were stopped, the mean of the others is not the model's.
    steady = [study for study in counted if study.kept.low >= TARGET and not study.stopped]
    if steady:
        surely = min(steady, key=lambda study: study.params)
        lead += (
            " Its mean lies above it with its whole 95 % interval."
            if surely is smallest
            else " The smallest whose mean lies above it with its whole 95 % interval has "
            f"{surely.params:,} ({surely.model})."
        )
    return f'<p class="lead">{html(lead)}</p>' + _paragraph(_account(shown, publications))


def comparison(studies: Sequence[StudySummary], publications: Sequence[Publication]) -> str:
    """The table of what was published beside what came out here, as HTML.

    A row for each published accuracy and each study of its model; ours in it are by the published one's measure.
    """
    head = (
        "model",
        "parameters",
        "published",
        "our trials",
        "compared accuracy",
        "our mean ± 95 %, sd",
        "our best run",
        "ours minus the published mean (95 %)",
        "ours as high",
    )
    of_model: dict[str, list[StudySummary]] = {}
    for study in studies:
        if study.comparable:
            of_model.setdefault(study.model, []).append(study)
    rows: list[Sequence[str]] = []
    for publication in sorted(publications, key=lambda publication: PARAMETERS[publication.model]):
        measure = publication.measure
        for study in of_model.get(publication.model, []):
            summary, difference = summarize(study.accuracies(measure)), _difference(study, publication)
            rows.append(
                (
                    _named(study),
                    f"{study.params:,}",
                    publication.text,
                    _count(study),
                    MEASURE_NAMES[measure],
                    _mean(summary),
                    f"{summary.best:.4f}",
                    f"{_signed(difference.value)} ({_ends(difference)})" if difference else "-",
                    "-" if publication.of == "mean" else share_count(study.share(measure, publication.accuracy)),
                )
            )
        if publication.model not in of_model:
            name, params = publication.model, f"{PARAMETERS[publication.model]:,}"
            rows.append((name, params, publication.text, "none yet", MEASURE_NAMES[measure], *4 * ("-",)))
    return _table(
        "comparison",
        "Published accuracies on MNIST's test set, and those of the trials here by the same measure",
        head,
        rows,
    )


def kept(studies: Sequence[StudySummary]) -> str:
    """The table of the accuracies of the kept weights on the test set, one row a study, as HTML."""
    head = ("model", "parameters", "our trials", "mean ± 95 %, sd", "best run", f"share at {PERCENT} or more (95 %)")
    rows = [
        (
            _named(study),
            f"{study.params:,}",
            _count(study),
            _mean(study.kept),
            f"{study.kept.best:.4f} (seed\u00a0{study.best.seed})",
            share_cell(study.share()),
        )
        for study in studies
        if study.comparable
    ]
    caption = "The trials here by the accuracy of the weights they kept on MNIST's test set"
    return _table("kept", caption, head, rows) if rows else ""


def provenance(studies: Iterable[StudySummary]) -> str:
    """The table of what the trials ran on, one row a study, as HTML."""
    head = ("study", "finished", "stopped early", "failed", "dates (UTC)", "trained by", "package", "begun with")
    rows = []
    for study in studies:
        days = sorted(trial.finished_at[:10] for trial in study.trials)
        versions = (f"{name} {version}" for name, version in study.versions().items() if name != "mnist_minimal")
        rows.append(
            (
                f"{study.name}: {title(study)}",
                f"{len(study.trials):,}",
                f"{len(study.stopped):,}",
                f"{len(study.failed):,}",
                days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
                _distinct(f"{trial.trainer} ({trial.backend})" for trial in study.trials),
                _distinct(trial.version for trial in study.trials),
                ", ".join(versions) or "not recorded",
            )
        )
    return _table("provenance", "The studies that this page is made of, and what they ran on", head, rows)


def failures(studies: Iterable[StudySummary]) -> str:
    """The failed trials as a list of HTML, or a sentence that there are none."""
    found = [(study, trial) for study in studies for trial in study.failed]
    if not found:
        return _paragraph("No trial failed.")
    lines = [f"{study.name}, seed {trial.seed}: {trial.reason}" for study, trial in found[:MAX_FAILURES]]
    if len(found) > MAX_FAILURES:
        lines.append(f"and {len(found) - MAX_FAILURES:,} more")
    return f"<p>Failed trials:</p><ul>{''.join(f'<li>{html(line)}</li>' for line in lines)}</ul>"


def best_run(study: StudySummary) -> str:
    """Which weights of a study the page computes with, in a sentence of plain text."""
    best, epoch = study.best, study.kept_epoch
    weights = "its weights" if epoch is None else f"the weights of its epoch {epoch}"
    return (
        f"The best run of {len(study.trials):,} of {title(study)}, is that of seed {best.seed}: {weights} get "
        f"{best.test_correct:,} of {best.test_size:,} test images right."
    )


def plane(studies: Iterable[StudySummary], publications: Sequence[Publication]) -> str:
    """What the figure of parameters against accuracy shows, for those who don't see it, plain text."""
    ours = []
    for study in studies:
        if study.comparable:
            measure = compared_measure(study, publications)
            summary = summarize(study.accuracies(measure))
            ours.append(
                f"{study.model} at {study.params:,} parameters, {MEASURE_NAMES[measure]}: mean {_mean(summary)}, "
                f"best run {summary.best:.4f}"
            )
    theirs = [
        f"{model} at {PARAMETERS[model]:,} parameters, {publication.text}"
        for model in dict.fromkeys(publication.model for publication in publications)
        for publication in compared(model, publications)
    ]
    return f"Accuracy by number of parameters. Ours: {'; '.join(ours) or 'none'}. Published: {'; '.join(theirs)}."


def distribution(study: StudySummary, publications: Sequence[Publication]) -> str:
    """What the figure of a study's distribution shows, plain text."""
    said = f"Accuracies of {_trials(study)} on the test set."
    for measure in study.measures:
        sample = study.accuracies(measure)
        summary, name = summarize(sample), MEASURE_NAMES[measure].capitalize()
        sd = f", sd {sd_cell(summary)}" if summary.n > 1 else ""
        said += f" {name}: mean {summary.mean:.5f}{sd}, from {min(sample):.4f} to {summary.best:.4f}."
    for publication in compared(study.model, publications):
        if study.comparable and publication.of == "mean":
            said += f" Published: {publication.text}, from {publication.lowest} to {publication.highest}."
    return said


def digits_source(dataset: str) -> str:
    """Where the digits that the page shows come from, in a sentence of plain text; "" where that is not known."""
    return f"The images are of the test set of {AUTHORS[dataset]}." if dataset in AUTHORS else ""


def curves(trial: Trial) -> str:
    """What the figure of a trial's training curves shows, plain text."""
    return (
        f"Training and validation accuracy and learning rate by epoch, {trial.epochs} epochs. The best validation "
        f"accuracy is {trial.best_accuracy:.4f}, the last {trial.saved_accuracy:.4f}."
    )


def _account(study: StudySummary, publications: Sequence[Publication]) -> str:
    """A study in a few sentences."""
    measure, kept = compared_measure(study, publications), study.kept
    ours = summarize(study.accuracies(measure))
    said = f"{title(study)}, {_trials(study)}."
    if study.stopped:
        said += (
            f" {len(study.stopped):,} more were stopped early, as the recipe has it; their accuracies are not known, "
            "and the means are of the others alone."
        )
    said += f" Accuracy of the {MEASURE_NAMES[measure]}: {_mean_in_words(ours)}."
    for publication in compared(study.model, publications):
        said += f" Published: {publication.text}"
        if difference := _difference(study, publication):
            said += f"; ours minus that mean: {_signed(difference.value)} (95 % interval {_ends(difference)}, Welch)"
        said += "."
    # The best epoch's weights are those that some recipes keep.
    if (kept.mean, kept.best) != (ours.mean, ours.best):
        said += f" With the weights that were kept: {_mean_in_words(kept)}."
    share = study.share()
    said += " Depending on the trials that were stopped, " if share.stopped else " "
    said += (
        f"{share_count(share)} trials reached {PERCENT} with the weights that were kept (95 % interval of the share: "
        f"{share_interval(share)}, Wilson)."
    )
    return said + (f" {len(study.failed):,} more failed." if study.failed else "")


def _difference(study: StudySummary, publication: Publication) -> Estimate | None:
    """Our mean minus the published one and Welch's interval; None where there is no such interval."""
    # Where the worse trials were stopped, the mean of the others is not the model's.
    if publication.of != "mean" or publication.sd is None or study.stopped:
        return None
    ours = summarize(study.accuracies(publication.measure))
    found = difference_from_moments(
        Moments(ours.n, ours.mean, ours.sd), Moments(publication.n, publication.accuracy, publication.sd)
    ).difference
    return None if math.isnan(found.low) else found


def _ends(estimate: Estimate) -> str:
    return f"{_signed(estimate.low)} to {_signed(estimate.high)}"


def _named(study: StudySummary) -> str:
    """The model's name, and the study's where it has another."""
    return study.model if study.name == study.model else f"{study.model} ({study.name})"


def _signed(value: float) -> str:
    return f"{value:+.5f}".replace("-", "\u2212")


def _trials(study: StudySummary) -> str:
    number = len(study.trials)
    return f"{number:,} {'finished ' if study.stopped else ''}trial{'' if number == 1 else 's'}"


def _count(study: StudySummary) -> str:
    return trial_count(len(study.trials), len(study.stopped))


def _mean(summary: Summary) -> str:
    if math.isnan(summary.low):
        return f"{summary.mean:.5f}"
    return f"{summary.mean:.5f}\u00a0±\u00a0{summary.high - summary.mean:.5f}, sd\u00a0{summary.sd:.5f}"


def _mean_in_words(summary: Summary) -> str:
    said = f"{summary.mean:.5f} on average"
    if summary.n > 1:
        said += f" (95 % interval {summary.low:.5f} to {summary.high:.5f}), sd {summary.sd:.5f}"
    return f"{said}, {summary.best:.4f} in the best run"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _paragraph(plain: str) -> str:
    return f"<p>{html(plain)}</p>"


def _table(name: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is wider than the screen, by keyboard too."""
    columns = "".join(f'<th scope="col">{html(label)}</th>' for label in head)
    lines = "".join(
        f'<tr><th scope="row">{html(first)}</th>{"".join(f"<td>{html(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="table {name}" role="region" aria-labelledby="{name}" tabindex="0"><table>'
        f'<caption id="{name}">{html(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )
