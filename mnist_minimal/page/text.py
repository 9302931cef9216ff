"""What was found, in words and tables. Everything that came from a file is escaped here, before it becomes HTML."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from mnist_minimal.analysis.published import PARAMETERS, Publication
from mnist_minimal.analysis.statistics import TARGET, Estimate, Moments, Summary, difference_from_moments, summarize
from mnist_minimal.analysis.summaries import NAMES, StudySummary, compared, compared_measure
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


def text(plain: str) -> str:
    """Plain text as HTML; a number and its % stay on one line."""
    return escape(plain).replace(" %", "&nbsp;%")


def title(finding: StudySummary) -> str:
    """A study's name for readers, plain text."""
    name = f"{finding.model}, {finding.params:,} parameters"
    if finding.dataset != "mnist":
        name += f", on {finding.dataset}"
    if finding.protocol != "source":
        name += f", protocol {finding.protocol}"
    return name if finding.cut is None else f"{name}, cut at {finding.cut} epochs"


def answer(findings: Sequence[StudySummary], shown: StudySummary, publications: Sequence[Publication]) -> str:
    """The answer to the question as paragraphs of HTML.

    Args:
        findings: The studies; those that are not comparable with what was published have no part in the answer.
        shown: The study to give an account of.
        publications: What was published.
    """
    counted = [finding for finding in findings if finding.comparable]
    if not counted:
        return _paragraph(
            "There is no answer here yet: it takes trials on MNIST by a whole published recipe, and these studies have "
            "none."
        )
    reached = [finding for finding in counted if finding.kept.reached]
    if reached:
        smallest = min(reached, key=lambda finding: finding.params)
        lead = (
            f"The smallest network here that reached {PERCENT} on MNIST's test set with the weights it kept has "
            f"{smallest.params:,} parameters ({smallest.model}); {smallest.kept.reached:,} of its "
            f"{_trials(smallest)} did."
        )
    else:
        trials = sum(len(finding.trials) for finding in counted)
        kind = "finished trials" if any(finding.stopped for finding in counted) else "trials"
        best = max(counted, key=lambda finding: finding.kept.best)
        lead = (
            f"None of the {trials:,} {kind} here reached {PERCENT} on MNIST's test set with the weights it kept. The "
            f"best run, of {best.model} with {best.params:,} parameters, came to {best.kept.best:.4f}."
        )
    # Where the worse trials were stopped, the mean of the others is not the model's.
    steady = [finding for finding in counted if finding.kept.low >= TARGET and not finding.stopped]
    if steady:
        surely = min(steady, key=lambda finding: finding.params)
        lead += (
            " Its mean lies above it with its whole 95 % interval."
            if surely is smallest
            else " The smallest whose mean lies above it with its whole 95 % interval has "
            f"{surely.params:,} ({surely.model})."
        )
    return f'<p class="lead">{text(lead)}</p>' + _paragraph(_account(shown, publications))


def comparison(findings: Sequence[StudySummary], publications: Sequence[Publication]) -> str:
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
        "ours less the published mean (95 %)",
        "ours as high",
    )
    studies: dict[str, list[StudySummary]] = {}
    for finding in findings:
        if finding.comparable:
            studies.setdefault(finding.model, []).append(finding)
    rows: list[Sequence[str]] = []
    for publication in sorted(publications, key=lambda publication: PARAMETERS[publication.model]):
        for finding in studies.get(publication.model, []):
            summary = summarize(finding.accuracies(publication.measure), publication.accuracy)
            difference = _difference(finding, publication)
            rows.append(
                (
                    _named(finding),
                    f"{finding.params:,}",
                    publication.text,
                    _count(finding),
                    NAMES[publication.measure],
                    _mean(summary),
                    f"{summary.best:.4f}",
                    f"{_signed(difference.value)} ({_ends(difference)})" if difference else "-",
                    "-" if publication.of == "mean" else f"{summary.reached:,} of {summary.n:,}",
                )
            )
        if publication.model not in studies:
            name, params = publication.model, f"{PARAMETERS[publication.model]:,}"
            rows.append((name, params, publication.text, "none yet", NAMES[publication.measure], *4 * ("-",)))
    return _table(
        "comparison",
        "Published accuracies on MNIST's test set, and those of the trials here by the same measure",
        head,
        rows,
    )


def kept(findings: Sequence[StudySummary]) -> str:
    """The table of the accuracies of the kept weights on the test set, one row a study, as HTML."""
    head = ("model", "parameters", "our trials", "mean ± 95 %, sd", "best run", f"share at {PERCENT} or more (95 %)")
    rows = [
        (
            _named(finding),
            f"{finding.params:,}",
            _count(finding),
            _mean(finding.kept),
            f"{finding.kept.best:.4f} (seed\u00a0{finding.best.seed})",
            _share(finding.kept),
        )
        for finding in findings
        if finding.comparable
    ]
    caption = "The trials here by the accuracy of the weights they kept on MNIST's test set"
    return _table("kept", caption, head, rows) if rows else ""


def provenance(findings: Iterable[StudySummary]) -> str:
    """The table of what the trials ran on, one row a study, as HTML."""
    head = ("study", "finished", "stopped early", "failed", "dates (UTC)", "trained by", "package", "begun with")
    rows = []
    for finding in findings:
        days = sorted(trial.finished_at[:10] for trial in finding.trials)
        versions = (f"{name} {version}" for name, version in finding.versions.items() if name != "mnist_minimal")
        rows.append(
            (
                f"{finding.name}: {title(finding)}",
                f"{len(finding.trials):,}",
                f"{len(finding.stopped):,}",
                f"{len(finding.failed):,}",
                days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
                _distinct(f"{trial.trainer} ({trial.backend})" for trial in finding.trials),
                _distinct(trial.version for trial in finding.trials),
                ", ".join(versions) or "not recorded",
            )
        )
    return _table("provenance", "The studies that this page is made of, and what they ran on", head, rows)


def failures(findings: Iterable[StudySummary]) -> str:
    """The failed trials as a list of HTML, or a sentence that there are none."""
    found = [(finding, trial) for finding in findings for trial in finding.failed]
    if not found:
        return _paragraph("No trial failed.")
    lines = [f"{finding.name}, seed {trial.seed}: {trial.reason}" for finding, trial in found[:MAX_FAILURES]]
    if len(found) > MAX_FAILURES:
        lines.append(f"and {len(found) - MAX_FAILURES:,} more")
    return f"<p>Failed trials:</p><ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def best_run(finding: StudySummary) -> str:
    """Which weights of a study the page computes with, in a sentence of plain text."""
    best, epoch = finding.best, finding.kept_epoch
    weights = "its weights" if epoch is None else f"the weights of its epoch {epoch}"
    return (
        f"The best run of {len(finding.trials):,} of {title(finding)}, is that of seed {best.seed}: {weights} get "
        f"{best.test_correct:,} of {best.test_size:,} test images right."
    )


def plane(findings: Iterable[StudySummary], publications: Sequence[Publication]) -> str:
    """What the figure of parameters against accuracy shows, for those who don't see it, plain text."""
    ours = []
    for finding in findings:
        if finding.comparable:
            measure = compared_measure(finding, publications)
            summary = summarize(finding.accuracies(measure))
            ours.append(
                f"{finding.model} at {finding.params:,} parameters, {NAMES[measure]}: mean {_mean(summary)}, best run "
                f"{summary.best:.4f}"
            )
    theirs = [
        f"{model} at {PARAMETERS[model]:,} parameters, {publication.text}"
        for model in dict.fromkeys(publication.model for publication in publications)
        for publication in compared(model, publications)
    ]
    return f"Accuracy by number of parameters. Ours: {'; '.join(ours) or 'none'}. Published: {'; '.join(theirs)}."


def distribution(finding: StudySummary, publications: Sequence[Publication]) -> str:
    """What the figure of a study's distribution shows, plain text."""
    said = f"Accuracies of {_trials(finding)} on the test set."
    for measure in finding.measures:
        sample = finding.accuracies(measure)
        sd = f", sd {summarize(sample).sd:.5f}" if len(sample) > 1 else ""
        name = NAMES[measure].capitalize()
        said += f" {name}: mean {summarize(sample).mean:.5f}{sd}, from {min(sample):.4f} to {max(sample):.4f}."
    for publication in compared(finding.model, publications):
        if finding.comparable and publication.of == "mean":
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


def _account(finding: StudySummary, publications: Sequence[Publication]) -> str:
    """A study in a few sentences."""
    measure, kept = compared_measure(finding, publications), finding.kept
    ours = summarize(finding.accuracies(measure))
    said = f"{title(finding)}, {_trials(finding)}."
    if finding.stopped:
        said += (
            f" {len(finding.stopped):,} more were stopped early, as the recipe has it; their accuracies are not known, "
            "and what follows is of the others alone."
        )
    said += f" Accuracy of the {NAMES[measure]}: {_mean_in_words(ours)}."
    for publication in compared(finding.model, publications):
        said += f" Published: {publication.text}"
        if difference := _difference(finding, publication):
            said += f"; ours less that mean: {_signed(difference.value)} (95 % interval {_ends(difference)}, Welch)"
        said += "."
    reached = f"{kept.reached:,}" if kept.reached else "None"
    # The best epoch's weights are those that some recipes keep.
    if (kept.mean, kept.best) != (ours.mean, ours.best):
        said += f" With the weights that were kept: {_mean_in_words(kept)}."
    said += (
        f" {reached} of the {kept.n:,} reached {PERCENT} with the weights that were kept: the share that does lies "
        f"between {100 * kept.reached_low:.1f} and {100 * kept.reached_high:.1f} % (95 %, Wilson)."
    )
    return said + (f" {len(finding.failed):,} more failed." if finding.failed else "")


def _difference(finding: StudySummary, publication: Publication) -> Estimate | None:
    """Our mean less the published one and Welch's interval; None where there is no such interval."""
    # Where the worse trials were stopped, the mean of the others is not the model's.
    if publication.of != "mean" or publication.sd is None or finding.stopped:
        return None
    ours = summarize(finding.accuracies(publication.measure))
    found = difference_from_moments(
        Moments(ours.n, ours.mean, ours.sd), Moments(publication.n, publication.accuracy, publication.sd)
    ).difference
    return None if math.isnan(found.low) else found


def _ends(estimate: Estimate) -> str:
    return f"{_signed(estimate.low)} to {_signed(estimate.high)}"


def _named(finding: StudySummary) -> str:
    """The model's name, and the study's where it has another."""
    return finding.model if finding.name == finding.model else f"{finding.model} ({finding.name})"


def _signed(value: float) -> str:
    return f"{value:+.5f}".replace("-", "\u2212")


def _trials(finding: StudySummary) -> str:
    number = len(finding.trials)
    return f"{number:,} {'finished ' if finding.stopped else ''}trial{'' if number == 1 else 's'}"


def _count(finding: StudySummary) -> str:
    return f"{len(finding.trials):,}" + (f", {len(finding.stopped):,} more stopped early" if finding.stopped else "")


def _mean(summary: Summary) -> str:
    if math.isnan(summary.low):
        return f"{summary.mean:.5f}"
    return f"{summary.mean:.5f}\u00a0±\u00a0{summary.high - summary.mean:.5f}, sd\u00a0{summary.sd:.5f}"


def _mean_in_words(summary: Summary) -> str:
    said = f"{summary.mean:.5f} on the mean"
    if summary.n > 1:
        said += f" (95 % interval {summary.low:.5f} to {summary.high:.5f}), sd {summary.sd:.5f}"
    return f"{said}, {summary.best:.4f} in the best run"


def _share(summary: Summary) -> str:
    return f"{summary.reached} of {summary.n:,} ({100 * summary.reached_low:.1f} to {100 * summary.reached_high:.1f} %)"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _paragraph(plain: str) -> str:
    return f"<p>{text(plain)}</p>"


def _table(name: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is wider than the screen, by keyboard too."""
    columns = "".join(f'<th scope="col">{text(label)}</th>' for label in head)
    lines = "".join(
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="table {name}" role="region" aria-labelledby="{name}" tabindex="0"><table>'
        f'<caption id="{name}">{text(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )
