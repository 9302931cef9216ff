"""What was found, in words and tables. Everything that came from a file is escaped here, before it becomes HTML."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from mnist_minimal.ledger import Trial
from mnist_minimal.page.findings import Finding
from mnist_minimal.page.publication import Publication
from mnist_minimal.statistics import TARGET, Summary

PERCENT = f"{100 * TARGET:g} %"

# A longer list of failures would hide the rest of the page.
MAX_FAILURES = 20


def text(plain: str) -> str:
    """Plain text as HTML; a number and its % stay on one line."""
    return escape(plain).replace(" %", "&nbsp;%")


def title(finding: Finding) -> str:
    """A study's name for readers, plain text."""
    name = f"{finding.model}, {finding.params:,} parameters"
    if finding.dataset != "mnist":
        name += f", on {finding.dataset}"
    if finding.protocol != "source":
        name += f", protocol {finding.protocol}"
    return name if finding.cut is None else f"{name}, cut at {finding.cut} epochs"


def answer(findings: Sequence[Finding], shown: Finding, publications: Iterable[Publication]) -> str:
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
            f"The smallest network here that reached {PERCENT} on MNIST's test set has {smallest.params:,} parameters "
            f"({smallest.model}); {smallest.kept.reached:,} of its {_trials(smallest.kept.n)} did."
        )
    else:
        trials = sum(len(finding.trials) for finding in counted)
        best = max(counted, key=lambda finding: finding.kept.best)
        lead = (
            f"None of the {_trials(trials)} here reached {PERCENT} on MNIST's test set. The best run, of "
            f"{best.model} with {best.params:,} parameters, came to {best.kept.best:.4f}."
        )
    steady = [finding for finding in counted if finding.kept.low >= TARGET]
    if steady:
        smallest = min(steady, key=lambda finding: finding.params)
        lead += (
            " The smallest whose mean lies above it with its whole 95 % interval has "
            f"{smallest.params:,} ({smallest.model})."
        )
    return f'<p class="lead">{text(lead)}</p>' + _paragraph(_account(shown, publications))


def comparison(findings: Sequence[Finding], publications: Sequence[Publication]) -> str:
    """The table of what was published beside what came out here, one row a model and study, as HTML."""
    head = (
        "model",
        "parameters",
        "published",
        "our trials",
        "last epochs: mean ± 95 %, sd",
        "kept epochs: mean ± 95 %, sd",
        "best run",
        f"share at {PERCENT} or more (95 %)",
    )
    published: dict[str, list[Publication]] = {}
    for publication in publications:
        published.setdefault(publication.model, []).append(publication)
    rows: list[tuple[int, Sequence[str]]] = []
    for finding in findings:
        if finding.comparable:
            texts = [publication.text for publication in published.get(finding.model, [])]
            figures = (f"{len(finding.trials):,}", _mean(finding.last), _mean(finding.kept))
            best = f"{finding.kept.best:.4f} (seed {finding.best.seed})"
            cells = ("; ".join(texts) or "none", *figures, best, _share(finding.kept))
            rows.append((finding.params, (finding.model, f"{finding.params:,}", *cells)))
    retrained = {finding.model for finding in findings if finding.comparable}
    for model, found in published.items():
        if model in retrained:
            continue
        texts = [publication.text for publication in found]
        rows.append((found[0].params, (model, f"{found[0].params:,}", "; ".join(texts), "none yet", *4 * ("-",))))
    return _table(
        "comparison",
        "Published accuracies on MNIST's test set, and those of the trials here",
        head,
        [row for _, row in sorted(rows, key=lambda row: row[0])],
    )


def provenance(findings: Iterable[Finding]) -> str:
    """The table of what the trials ran on, one row a study, as HTML."""
    head = ("study", "trials", "failed", "dates (UTC)", "trained by", "package", "begun with")
    rows = []
    for finding in findings:
        days = sorted(trial.finished_at[:10] for trial in finding.trials)
        versions = (f"{name} {version}" for name, version in finding.versions.items() if name != "mnist_minimal")
        rows.append(
            (
                f"{finding.name}: {title(finding)}",
                f"{len(finding.trials):,}",
                f"{len(finding.failed):,}",
                days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
                _distinct(f"{trial.trainer} ({trial.backend})" for trial in finding.trials),
                _distinct(trial.version for trial in finding.trials),
                ", ".join(versions) or "not recorded",
            )
        )
    return _table("provenance", "The studies that this page is made of, and what they ran on", head, rows)


def failures(findings: Iterable[Finding]) -> str:
    """The failed trials as a list of HTML, or a sentence that there are none."""
    found = [(finding, trial) for finding in findings for trial in finding.failed]
    if not found:
        return _paragraph("No trial failed.")
    lines = [f"{finding.name}, seed {trial.seed}: {trial.reason}" for finding, trial in found[:MAX_FAILURES]]
    if len(found) > MAX_FAILURES:
        lines.append(f"and {len(found) - MAX_FAILURES:,} more")
    return f"<p>Failed trials:</p><ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def best_run(finding: Finding) -> str:
    """Which weights of a study the page computes with, in a sentence of plain text."""
    best = finding.best
    return (
        f"The best run of {len(finding.trials):,} of {title(finding)}, is that of seed {best.seed}: the weights of its "
        f"epoch {best.best_epoch} get {best.test_correct:,} of {best.test_size:,} test images right."
    )


def plane(findings: Iterable[Finding], publications: Iterable[Publication]) -> str:
    """What the figure of parameters against accuracy shows, for those who don't see it, plain text."""
    ours = (
        f"{finding.model} at {finding.params:,} parameters: mean of the last epochs {_mean(finding.last)}, best run "
        f"{finding.kept.best:.4f}"
        for finding in findings
        if finding.comparable
    )
    theirs = (
        f"{publication.model} at {publication.params:,} parameters: {publication.text}" for publication in publications
    )
    return f"Accuracy by number of parameters. Ours: {'; '.join(ours) or 'none'}. Published: {'; '.join(theirs)}."


def distribution(finding: Finding, publications: Iterable[Publication]) -> str:
    """What the figure of a study's distribution shows, plain text."""
    shown = f"Accuracies of {_trials(len(finding.trials))}. Last epoch: {_spread(finding.last, finding.trials)}."
    shown += f" Kept epoch: mean {finding.kept.mean:.5f}, highest {finding.kept.best:.4f}."
    for publication in publications:
        if publication.model == finding.model and publication.of == "mean":
            shown += f" Published: {publication.text}, from {publication.lowest} to {publication.highest}."
    return shown


def curves(trial: Trial) -> str:
    """What the figure of a trial's training curves shows, plain text."""
    return (
        f"Training and validation accuracy and learning rate by epoch, {trial.epochs} epochs. The best validation "
        f"accuracy is {trial.best_accuracy:.4f}, the last {trial.saved_accuracy:.4f}."
    )


def _account(finding: Finding, publications: Iterable[Publication]) -> str:
    """A study in a few sentences."""
    last, kept = finding.last, finding.kept
    reached = f"{kept.reached:,}" if kept.reached else "None"
    said = f"{title(finding)}, {_trials(kept.n)}. Accuracy after the last epoch: {last.mean:.5f} on the mean"
    if last.n > 1:
        said += f" (95 % interval {last.low:.5f} to {last.high:.5f}), sd {last.sd:.5f}"
    published = [publication.text for publication in publications if publication.model == finding.model]
    if published:
        said += f"; published: {'; '.join(published)}"
    said += (
        f". With the weights that were kept: {kept.mean:.5f} on the mean, {kept.best:.4f} in the "
        f"best run. {reached} of the {kept.n:,} reached {PERCENT}: the share that "
        f"does lies between {100 * kept.reached_low:.1f} and {100 * kept.reached_high:.1f} % (95 %, Wilson)."
    )
    return said + (f" {len(finding.failed):,} more failed." if finding.failed else "")


def _trials(number: int) -> str:
    return f"{number:,} trial{'' if number == 1 else 's'}"


def _mean(summary: Summary) -> str:
    if math.isnan(summary.low):
        return f"{summary.mean:.5f}"
    return f"{summary.mean:.5f}\u00a0±\u00a0{summary.high - summary.mean:.5f}, sd\u00a0{summary.sd:.5f}"


def _share(summary: Summary) -> str:
    return f"{summary.reached} of {summary.n:,} ({100 * summary.reached_low:.1f} to {100 * summary.reached_high:.1f} %)"


def _spread(summary: Summary, trials: Sequence[Trial]) -> str:
    lowest = min(trial.saved_accuracy or 0.0 for trial in trials)
    sd = "" if math.isnan(summary.sd) else f", sd {summary.sd:.5f}"
    return f"mean {summary.mean:.5f}{sd}, from {lowest:.4f} to {summary.best:.4f}"


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
