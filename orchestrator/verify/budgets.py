"""The caps of the challenge against the logs: bytes, the training clock, the evaluation, the program shipped."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.job.load import Budgets
from orchestrator.verify.check_claims import value_text
from orchestrator.verify.claims import Claim
from orchestrator.verify.evidence import Evidence, places
from orchestrator.verify.figures import Place, Run
from orchestrator.verify.folder import PROGRAMS, WEIGHTS
from orchestrator.verify.quantities import Quantity
from orchestrator.verify.report import Finding
from orchestrator.verify.submission_reader import SUBMISSION, Submission

CAPS = Budgets()
"""16,000,000 bytes, 600 s of training, 600 s of evaluation."""
LEAST_SEEDS = 3


def check_budgets(evidence: Evidence, claims: list[Claim], submission: Submission) -> Iterator[Finding]:
    """All caps, for every seed, and what submission.json says of keeping them."""
    findings = []
    for run in evidence.runs:
        findings += [*_bytes(run), *_clock(run), *_evaluation(run, evidence), *_work(run)]
    findings += [*_claimed_total(claims), *_program(evidence, claims)]
    yield from findings
    yield from _compliance(submission, findings, len(evidence.runs))


def _bytes(run: Run) -> Iterator[Finding]:
    subject = f"total bytes, {run.key}"
    total, code, weights = (run.figures.get(name) for name in ("total_bytes", "code_bytes", "weight_bytes"))
    if total is None and (code is None or weights is None):
        detail = f"{run.file} gives neither a total nor code and weights"
        yield Finding("budgets", subject, "absent", "absent", "", "", detail, (Place(run.file, 0),))
        return
    size = total.value if total is not None else code.value + weights.value  # type: ignore[union-attr]
    where = places([figure for figure in (total, code, weights) if figure is not None])
    parts = ""
    if code is not None and weights is not None:
        parts = f"code {code.value:,.0f} + weights {weights.value:,.0f}"
        if total is not None and code.value + weights.value != total.value:
            detail = f"{parts} = {code.value + weights.value:,.0f}, but the log's total is {total.value:,.0f}"
            yield Finding("budgets", f"sum of bytes, {run.key}", "problem", "fails", "", "", detail, where)
    yield _within(subject, Quantity(size, 0.0, ""), CAPS.artifact_bytes, "total_bytes", parts, where)


def _clock(run: Run) -> Iterator[Finding]:
    subject = f"training clock, {run.key}"
    clock = run.figures.get("train_seconds")
    if clock is None:
        detail = "the log shows no training" if run.kind != "training" else "the log gives no training time"
        yield Finding("budgets", subject, "absent", "absent", "", "", detail, (Place(run.file, 0),))
        return
    detail = ""
    step = run.figures.get("ms_per_step")
    if clock.value > CAPS.train_seconds and step is not None and step.value > 0:
        steps = (clock.value - CAPS.train_seconds) / step.value
        detail = f"{steps:.1f} steps of {1000 * step.value:.2f} ms"
    yield _within(subject, clock.quantity, CAPS.train_seconds, "train_seconds", detail, (clock.place,))
    cap = run.figures.get("train_cap_seconds")
    if cap is not None and cap.value > CAPS.train_seconds:
        detail = f"the run was given {cap.value:g} s where the challenge allows {CAPS.train_seconds:g}"
        where = (cap.place,)
        yield Finding("budgets", f"training limit, {run.key}", "note", "stated", "", f"{cap.value:g} s", detail, where)


def _evaluation(run: Run, evidence: Evidence) -> Iterator[Finding]:
    subject = f"evaluation, {run.key}"
    label = evidence.label("")
    spent = evidence.figure(run, "eval_seconds", label)
    passes = evidence.passes(run)
    if spent is None:
        detail = "the log gives no time for the stage of the final figure"
        yield Finding("budgets", subject, "absent", "absent", "", "", detail, (Place(run.file, 0),))
    else:
        yield _within(subject, spent.quantity, CAPS.eval_seconds, "eval_seconds", _words(label), (spent.place,))
    total = sum(figure.value for figure in passes)
    if len(passes) > 1 and total > CAPS.eval_seconds:
        detail = f"all {len(passes)} passes that the log times: over {CAPS.eval_seconds:g} s, if all of them count"
        found = f"{total:.3f} s"
        where = places(passes)
        yield Finding("budgets", f"all evaluation, {run.key}", "note", "stated", "", found, detail, where)


def _work(run: Run) -> Iterator[Finding]:
    """Work that the log times outside both clocks."""
    if not run.work:
        return
    clock = run.figures.get("train_seconds")
    spent = sum(figure.value for figure in run.work)
    names = "; ".join(f"{figure.label}: {figure.text}" for figure in run.work[:3])
    where = places(run.work[:5])
    detail, late = f"{names}; in neither clock", False
    if clock is not None:
        total = clock.value + spent
        late = total > CAPS.train_seconds
        detail += f"; with the training clock {total:.1f} s, {'over' if late else 'within'} {CAPS.train_seconds:g} s"
    if run.training_data is not None:
        detail += "; the log speaks of training data here"
        where = (*where, run.training_data)
    subject, found = f"other timed work, {run.key}", f"{spent:.1f} s"
    if late and run.training_data is not None:
        # Quantisation calibrated on training data after the clock is training data at evaluation.
        yield Finding("budgets", subject, "problem", "broken", "", found, detail, where)
    else:
        yield Finding("budgets", subject, "note", "stated", "", found, detail, where)


def _claimed_total(claims: list[Claim]) -> Iterator[Finding]:
    for claim in claims:
        if claim.figure == "total_bytes" and claim.aggregate in ("", "max") and claim.seed is None:
            value = Quantity(claim.quantity.value, 0.0, "")
            yield _within(f"claimed {claim.subject}", value, CAPS.artifact_bytes, "total_bytes", "", (claim.place,))


def _program(evidence: Evidence, claims: list[Claim]) -> Iterator[Finding]:
    """The files that lie in the folder against the bytes that were counted."""
    for name, size in evidence.folder.sizes.items():
        if name not in PROGRAMS and not name.lower().endswith(WEIGHTS):
            continue
        figure = "code_bytes" if name in PROGRAMS else "weight_bytes"
        logged = {run.key: run.figures[figure] for run in evidence.runs if figure in run.figures}
        stated = [claim for claim in claims if claim.figure == figure and claim.seed is None]
        fits = [found for found in logged.values() if found.value == size]
        subject, found = f"size of {name}", f"{size:,} bytes"
        where = (Place(name, 0), *places(fits or list(logged.values())))
        if fits or any(claim.quantity.value == size for claim in stated):
            detail = "as counted in the logs" if fits else f"as in {SUBMISSION}, but not in the logs"
            yield Finding("files", subject, "ok" if fits else "note", "holds", "", found, detail, where)
        elif logged or stated:
            counted = next(iter(logged.values())).value if logged else stated[0].quantity.value
            detail = f"{counted:,.0f} bytes were counted; the file in the folder is another"
            yield Finding("files", subject, "problem", "fails", f"{counted:,.0f}", found, detail, where)


def _compliance(submission: Submission, findings: list[Finding], seeds: int) -> Iterator[Finding]:
    """What the file says of keeping the caps, against the caps."""
    kept = {
        "artifact_under_16mb": [f for f in findings if f.subject.startswith("total bytes")],
        "training_under_600s": [f for f in findings if f.subject.startswith("training clock")],
        "eval_under_600s": [f for f in findings if f.subject.startswith("evaluation")],
    }
    for leaf in submission.leaves:
        if not isinstance(leaf.value, bool):
            continue
        if leaf.key == "three_seeds":
            true = seeds >= LEAST_SEEDS
        elif leaf.key in kept and any(f.verdict in ("kept", "broken") for f in kept[leaf.key]):
            true = all(f.verdict != "broken" for f in kept[leaf.key])
        else:
            continue
        said, where = str(leaf.value).lower(), (Place(SUBMISSION, leaf.line),)
        if true == leaf.value:
            yield Finding("submission", leaf.where, "ok", "confirmed", said, str(true).lower(), "by the logs", where)
        else:
            found = str(true).lower()
            yield Finding("submission", leaf.where, "problem", "differs", said, found, "by the logs", where)


def _within(subject: str, found: Quantity, cap: float, figure: str, detail: str, where: tuple[Place, ...]) -> Finding:
    text = value_text(found, figure)
    limit = f"{cap:,.0f} bytes" if figure == "total_bytes" else f"{cap:g} s"
    if found.value <= cap < found.value + found.resolution / 2 and found.resolution > 0.5:
        words = f"given to {found.resolution:g} s only, which does not show whether {limit} were kept"
        return Finding("budgets", subject, "note", "stated", "", text, words, where)
    if found.value <= cap:
        return Finding("budgets", subject, "ok", "kept", "", text, detail, where)
    over = value_text(Quantity(found.value - cap, found.resolution, ""), figure)
    words = f"over {limit} by {over}" + (f" ({detail})" if detail else "")
    return Finding("budgets", subject, "problem", "broken", "", text, words, where)


def _words(label: str | None) -> str:
    return f"'{label}'" if label else ""
