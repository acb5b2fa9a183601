"""submission.json against the logs: every place that a claimed figure may come from is tried in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import pstdev, stdev
from typing import Literal

from orchestrator.verify.claims import Claim
from orchestrator.verify.evidence import STAGE_FIGURES, Evidence, places
from orchestrator.verify.figures import Figure, Place
from orchestrator.verify.final import described, mean_of
from orchestrator.verify.patterns import DIMENSIONS
from orchestrator.verify.quantities import Quantity, agreement, quantity, shown
from orchestrator.verify.report import Finding, Status, Verdict
from orchestrator.verify.submission_reader import SUBMISSION, Digits, Leaf

UNITS = {"score": "", "time": " s", "bytes": " bytes", "memory": " MiB", "count": ""}
MOST_EVIDENCE = 12


@dataclass(frozen=True)
class Candidate:
    """A figure that the logs give, which a claim may be meant to say."""

    quantity: Quantity
    what: str
    """Where it comes from, in words."""
    rank: Literal["meant", "fair", "wrong"]
    """Wrong: if the claim is this figure, it is not what the field says."""
    evidence: tuple[Place, ...]
    computed: bool = False


def check(claim: Claim, evidence: Evidence) -> Finding:
    """The finding on one claimed figure of a run, a mean or a spread."""
    candidates = list(_candidates(claim, evidence))
    for candidate in candidates:
        found = agreement(claim.quantity, candidate.quantity, candidate.computed)
        if found != "differs":
            return _finding(claim, candidate, found, _meant(candidates))
    meant = _meant(candidates)
    if meant is not None:
        off = claim.quantity.value - meant.quantity.value
        what = f"{meant.what}; " if meant.what else ""
        detail = f"{what}the claim is {_signed(off, claim, meant)} off, and no other place of the logs has it"
        return _made(claim, "problem", "differs", meant, detail)
    return _not_logged(claim, evidence)


def check_other(leaf: Leaf, evidence: Evidence) -> Finding:
    """A number of the file that is no figure of the table: it may be a setting, which the logs name alike."""
    assert isinstance(leaf.value, Digits)
    claimed = quantity(leaf.value)
    assert claimed is not None
    return check_setting(leaf.where, leaf.key, claimed, Place(SUBMISSION, leaf.line), evidence)


def check_setting(subject: str, key: str, claimed: Quantity, place: Place, evidence: Evidence) -> Finding:
    """A setting by the name that it has in the logs."""
    logged = evidence.setting(key)
    if not logged:
        detail = "the logs name no such figure"
        return Finding("submission", subject, "absent", "not in the logs", claimed.text, "", detail, (place,))
    for figure in logged:
        found = agreement(claimed, figure.quantity)
        if found != "differs":
            where: tuple[Place, ...] = (place, figure.place)
            return Finding("submission", subject, "ok", found, claimed.text, figure.text, f"{key} in the log", where)
    values = ", ".join(sorted({figure.text for figure in logged}))
    where = (place, *places(logged)[:3])
    return Finding("submission", subject, "problem", "differs", claimed.text, values, f"{key} in the logs", where)


def check_sum(claims: Sequence[Claim]) -> Iterator[Finding]:
    """The file's own parts against its own total."""
    by_figure = {claim.figure: claim for claim in claims if claim.seed is None and claim.aggregate in ("", "max")}
    names = ("total_bytes", "code_bytes", "weight_bytes")
    if not all(name in by_figure for name in names):
        return
    total, code, weights = (by_figure[name].quantity.value for name in names)
    subject = f"{by_figure['code_bytes'].subject} + {by_figure['weight_bytes'].subject}"
    detail = f"the file's own code and weights; {by_figure['total_bytes'].subject} is {total:,.0f}"
    where = tuple(by_figure[name].place for name in names)
    parts = f"{code + weights:,.0f} bytes"
    if code + weights == total:
        yield Finding("submission", subject, "ok", "holds", f"{total:,.0f}", parts, detail, where)
    else:
        detail += f", {total - code - weights:+,.0f} bytes from their sum"
        yield Finding("submission", subject, "problem", "fails", f"{total:,.0f}", parts, detail, where)


# --- candidates -----------------------------------------------------------------------------------


def _candidates(claim: Claim, evidence: Evidence) -> Iterator[Candidate]:
    label = evidence.label(claim.stage)
    if claim.seed is not None:
        yield from _of_seed(claim, evidence, label)
        return
    figures = evidence.figures(claim.figure, label)
    if claim.aggregate in ("mean", "sd", "max", "min"):
        yield from _aggregated(claim, figures, label)
    elif claim.figure in ("val_bpb", "val_loss"):
        yield from _headline(claim, evidence, figures, label)
    else:
        yield from _whole(claim, evidence, figures)
    yield from _elsewhere(claim, evidence)


def _of_seed(claim: Claim, evidence: Evidence, label: str | None) -> Iterator[Candidate]:
    own = [run for run in evidence.runs if run.seed == claim.seed]
    for run in own:
        if (figure := evidence.figure(run, claim.figure, label)) is not None:
            yield Candidate(figure.quantity, _stage_words(claim, label), "meant", (figure.place,))
    for run in evidence.sources.second:
        if run.seed == claim.seed and (figure := evidence.figure(run, claim.figure, label)) is not None:
            yield Candidate(figure.quantity, f"it stands in {run.file}, {described(run)}", "wrong", (figure.place,))
    for run, figure in evidence.everywhere(claim.figure):
        words = f"it is the figure of the log of {run.key}"
        if run.seed == claim.seed:
            staged = claim.figure in STAGE_FIGURES
            words = (
                f"it is the figure of another stage ('{figure.label}')" if staged else "the log gives it, but not last"
            )
        yield Candidate(figure.quantity, words, "wrong", (figure.place,))


def _aggregated(claim: Claim, figures: dict[str, Figure], label: str | None) -> Iterator[Candidate]:
    if not figures:
        return
    values = list(figures.values())
    n, where = len(values), places(values)
    stage = _stage_words(claim, label)
    if claim.aggregate == "mean":
        yield Candidate(mean_of(values), f"mean over {n} logs{_of(stage)}", "meant", where, n > 1)
    elif claim.aggregate in ("max", "min"):
        chosen = (max if claim.aggregate == "max" else min)(figures.items(), key=lambda item: item[1].value)
        word = "largest" if claim.aggregate == "max" else "smallest"
        yield Candidate(chosen[1].quantity, f"the {word} of {n} logs, {chosen[0]}", "meant", (chosen[1].place,))
    elif n > 1:
        fine = max(figure.resolution for figure in values)
        sample, whole = stdev(f.value for f in values), pstdev([f.value for f in values])
        words = f"sample standard deviation (n - 1) over {n} logs"
        yield Candidate(Quantity(sample, fine, f"{sample:.3g}"), words, "meant", where, True)
        words = f"it is the population standard deviation (n); the sample one (n - 1) is {shown(sample, fine)}"
        yield Candidate(Quantity(whole, fine, f"{whole:.3g}"), words, "fair", where, True)


def _headline(claim: Claim, evidence: Evidence, figures: dict[str, Figure], label: str | None) -> Iterator[Candidate]:
    values = list(figures.values())
    n = len(values)
    if n > 1:
        mean = mean_of(values)
        yield Candidate(mean, f"mean over {n} logs{_of(_stage_words(claim, label))}", "meant", places(values), True)
        best = min(figure.value for figure in values)
        for key, figure in figures.items():
            which = f", the lowest of {n}" if figure.value == best else f", one of {n}"
            what = f"it is the figure of {key} alone{which}; their mean is {mean.text}"
            yield Candidate(figure.quantity, what, "wrong", (figure.place,))
    elif n == 1:
        yield Candidate(values[0].quantity, _stage_words(claim, label), "meant", (values[0].place,))
    for run in evidence.sources.second:
        if (other := evidence.figure(run, claim.figure, label)) is not None:
            main = next((one for one in evidence.runs if one.key == run.key), None)
            what = f"it stands in {run.file}, {described(run)}"
            if main is not None and main.kind == "training" and (trained := figures.get(run.key)) is not None:
                what += f"; {main.file}, which trained the weights, gives {value_text(trained.quantity, claim.figure)}"
            yield Candidate(other.quantity, what, "wrong", (other.place, *places(values)))


def _whole(claim: Claim, evidence: Evidence, figures: dict[str, Figure]) -> Iterator[Candidate]:
    """A figure of the submission that is neither a score nor said to be a mean."""
    if not figures:
        return
    values = list(figures.values())
    n = len(values)
    largest = max(values, key=lambda figure: figure.value)
    sized = DIMENSIONS.get(claim.figure) == "bytes"
    if len({figure.value for figure in values}) == 1:
        what = "the same in all logs" if n > 1 else ""
        yield Candidate(values[0].quantity, what, "meant", places(values))
        return
    yield Candidate(largest.quantity, f"the largest of {n} logs", "meant", (largest.place,))
    if not sized:
        yield Candidate(mean_of(values), f"mean over {n} logs", "meant", places(values), True)
    for key, figure in figures.items():
        what = f"the log of {key}"
        if sized:
            what += f" alone; the largest of {n} is {value_text(largest.quantity, claim.figure)}"
        yield Candidate(figure.quantity, what, "fair" if sized else "meant", (figure.place,))
    if claim.figure == "eval_seconds":
        for run in evidence.runs:
            passes = evidence.passes(run)
            spent = Quantity(sum(figure.value for figure in passes), 0.001 * len(passes), "")
            yield Candidate(spent, f"all passes of {run.key} together", "fair", places(passes), True)


def _elsewhere(claim: Claim, evidence: Evidence) -> Iterator[Candidate]:
    if claim.aggregate in ("", "mean"):
        for run, figure in evidence.everywhere(claim.figure):
            of = f" for '{figure.label}'" if claim.figure in STAGE_FIGURES and figure.label else ""
            yield Candidate(figure.quantity, f"it stands in the log of {run.key}{of}", "wrong", (figure.place,))


# --- words ----------------------------------------------------------------------------------------


def _finding(claim: Claim, candidate: Candidate, found: Verdict, meant: Candidate | None) -> Finding:
    if candidate.rank == "meant":
        return _made(claim, "ok", found, candidate, candidate.what)
    if candidate.rank == "fair":
        return _made(claim, "note", found, candidate, candidate.what)
    return _made(claim, "problem", "differs", meant or candidate, candidate.what, candidate.evidence)


def _made(
    claim: Claim,
    status: Status,
    verdict: Verdict,
    candidate: Candidate,
    detail: str,
    more: tuple[Place, ...] = (),
) -> Finding:
    found = value_text(candidate.quantity, claim.figure)
    where = (claim.place, *dict.fromkeys((*more, *candidate.evidence)))[:MOST_EVIDENCE]
    return Finding("submission", claim.subject, status, verdict, claim.quantity.text, found, detail, where)


def value_text(value: Quantity, figure: str) -> str:
    """A figure in its unit."""
    dimension = DIMENSIONS.get(figure, "score")
    if figure == "ms_per_step":
        return f"{shown(1000 * value.value, max(1000 * value.resolution, 0.01))} ms"
    if dimension == "time":
        return f"{shown(value.value, max(value.resolution, 0.001))} s"
    fine = value.resolution or (0.0 if value.value == int(value.value) else 0.001)
    return shown(value.value, fine) + UNITS[dimension]


def _not_logged(claim: Claim, evidence: Evidence) -> Finding:
    where = (claim.place,)
    subject, text = claim.subject, claim.quantity.text
    if claim.seed is not None and all(run.seed != claim.seed for run in (*evidence.runs, *evidence.sources.second)):
        detail = f"there is no log of seed {claim.seed}"
        return Finding("submission", subject, "absent", "not in the logs", text, "", detail, where)
    if claim.figure == "val_bpb" and not claim.stage:
        detail = "no log gives a score in bits per byte"
        return Finding("submission", subject, "problem", "not in the logs", text, "", detail, where)
    many = claim.aggregate == "sd" and len(evidence.runs) == 1
    detail = "one log has no spread" if many else "the logs do not give it"
    return Finding("submission", subject, "absent", "not in the logs", text, "", detail, where)


def _meant(candidates: Sequence[Candidate]) -> Candidate | None:
    return next((candidate for candidate in candidates if candidate.rank == "meant"), None)


def _signed(off: float, claim: Claim, meant: Candidate) -> str:
    fine = max(claim.quantity.resolution, meant.quantity.resolution)
    if claim.figure == "ms_per_step":
        return f"{off * 1000:+.3g} ms"
    sign = "+" if off > 0 else ""
    return f"{sign}{shown(off, fine)}{UNITS[DIMENSIONS.get(claim.figure, 'score')]}"


def _stage_words(claim: Claim, label: str | None) -> str:
    if claim.figure not in STAGE_FIGURES or label is None:
        return ""
    return f"'{label}'" if label else "the log's summary"


def _of(words: str) -> str:
    return f" of {words}" if words else ""
