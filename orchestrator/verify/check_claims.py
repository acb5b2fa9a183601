"""The fields of submission.json and the tables of README.md against the logs.

Every place that a claimed figure may come from is tried in turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import pstdev, stdev
from typing import Literal

from orchestrator.verify.evidence import STAGE_FIGURES, Evidence, described, mean_of, places
from orchestrator.verify.figures import (
    DIMENSIONS,
    NUMBER,
    UNIT,
    Figure,
    Place,
    Quantity,
    Run,
    agreement,
    quantity,
    shown,
    unit_of,
    value_text,
)
from orchestrator.verify.report import Finding, Status, Verdict, finding
from orchestrator.verify.submission import Claim, Digits, Leaf

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


def check_claim(claim: Claim, evidence: Evidence) -> Finding:
    """The finding on one claimed figure of a run, a mean or a spread."""
    candidates = list(_candidates(claim, evidence))
    meant = next((candidate for candidate in candidates if candidate.rank == "meant"), None)
    for candidate in candidates:
        found = agreement(claim.quantity, candidate.quantity, candidate.computed)
        if found == "differs":
            continue
        if candidate.rank == "wrong":
            return _made(claim, "differs", meant or candidate, candidate.what, candidate.evidence)
        return _made(claim, found, candidate, candidate.what, status="note" if candidate.rank == "fair" else None)
    if meant is not None:
        off = claim.quantity.value - meant.quantity.value
        what = f"{meant.what}; " if meant.what else ""
        detail = f"{what}the claim is {_signed(off, claim, meant)} off, and no other place of the logs has it"
        return _made(claim, "differs", meant, detail)
    return _not_logged(claim, evidence)


def check_other(leaf: Leaf, evidence: Evidence) -> Finding:
    """A number of the file that is no figure of the table: it may be a setting, which the logs name alike."""
    claimed = quantity(str(leaf.value))
    assert isinstance(leaf.value, Digits) and claimed is not None
    subject, text, logged = leaf.where, claimed.text, evidence.setting(leaf.key)
    if not logged:
        return finding("submission", subject, "not in the logs", "the logs name no such figure", (leaf.place,), text)
    for figure in logged:
        found = agreement(claimed, figure.quantity)
        if found != "differs":
            where: tuple[Place, ...] = (leaf.place, figure.place)
            return finding("submission", subject, found, f"{leaf.key} in the log", where, text, figure.text)
    values = ", ".join(sorted({figure.text for figure in logged}))
    where = (leaf.place, *places(logged)[:3])
    return finding("submission", subject, "differs", f"{leaf.key} in the logs", where, text, values)


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
    off = total - code - weights
    if off:
        detail += f", {off:+,.0f} bytes from their sum"
    verdict: Verdict = "fails" if off else "holds"
    yield finding("submission", subject, verdict, detail, where, f"{total:,.0f}", f"{code + weights:,.0f} bytes")


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
    if claim.aggregate == "mean":
        yield Candidate(mean_of(values), _mean_words(claim, n, label), "meant", where, n > 1)
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
        yield Candidate(mean, _mean_words(claim, n, label), "meant", places(values), True)
        best = min(figure.value for figure in values)
        for key, figure in figures.items():
            which = f", the lowest of {n}" if figure.value == best else f", one of {n}"
            what = f"it is the figure of {key} alone{which}; their mean is {mean.text}"
            yield Candidate(figure.quantity, what, "wrong", (figure.place,))
    elif n == 1:
        yield Candidate(values[0].quantity, _stage_words(claim, label), "meant", (values[0].place,))
    for run in evidence.sources.second:
        if (other := evidence.figure(run, claim.figure, label)) is not None:
            main = evidence.main(run)
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


def _made(
    claim: Claim,
    verdict: Verdict,
    candidate: Candidate,
    detail: str,
    more: tuple[Place, ...] = (),
    status: Status | None = None,
) -> Finding:
    found = value_text(candidate.quantity, claim.figure)
    where = (claim.place, *dict.fromkeys((*more, *candidate.evidence)))[:MOST_EVIDENCE]
    return finding("submission", claim.subject, verdict, detail, where, claim.quantity.text, found, status)


def _not_logged(claim: Claim, evidence: Evidence) -> Finding:
    status: Status | None = None
    detail = "the logs do not give it"
    if claim.seed is not None and all(run.seed != claim.seed for run in (*evidence.runs, *evidence.sources.second)):
        detail = f"there is no log of seed {claim.seed}"
    elif claim.figure == "val_bpb" and not claim.stage:
        status, detail = "problem", "no log gives a score in bits per byte"
    elif claim.aggregate == "sd" and len(evidence.runs) == 1:
        detail = "one log has no spread"
    where, text = (claim.place,), claim.quantity.text
    return finding("submission", claim.subject, "not in the logs", detail, where, text, status=status)


def _signed(off: float, claim: Claim, meant: Candidate) -> str:
    fine = max(claim.quantity.resolution, meant.quantity.resolution)
    if claim.figure == "ms_per_step":
        return f"{off * 1000:+.3g} ms"
    sign = "+" if off > 0 else ""
    return f"{sign}{shown(off, fine)}{unit_of(claim.figure)}"


def _mean_words(claim: Claim, n: int, label: str | None) -> str:
    stage = _stage_words(claim, label)
    return f"mean over {n} logs" + (f" of {stage}" if stage else "")


def _stage_words(claim: Claim, label: str | None) -> str:
    if claim.figure not in STAGE_FIGURES or label is None:
        return ""
    return f"'{label}'" if label else "the log's summary"


# --- tables of README.md ------------------------------------------------------------------------------

MOST_CELLS = 1_000
SCORES = ("val_bpb", "val_loss")
_CELL = re.compile(rf"~?\s?(?P<number>[\u2212-]?{NUMBER})\s?(?P<unit>{UNIT})?(?:\s?(?:bpb|BPB|nats))?", re.ASCII)
_COLUMNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"ms\s?/\s?step|step_avg|ms per step|ms a step", "ms", ("ms_per_step",)),
    (r"\bgain\b|delta|Δ|diff|improvement", "", ()),
    (r"\bsteps?\b", "", ("steps",)),
    (r"(?<![a-z])bpb\b|bits per byte", "", ("val_bpb",)),
    (r"val_loss|\bnats\b|\bloss\b", "", ("val_loss",)),
    (r"weight bytes|model bytes|weights|model size", "", ("weight_bytes",)),
    (r"code", "", ("code_bytes",)),
    (r"bytes|artifact|size|total", "", ("total_bytes",)),
    (r"train.*(?:\bs\b|time|clock|sec)|wallclock", "", ("train_seconds",)),
    (r"(?:eval|ttt).*(?:\bs\b|time|sec)", "", ("eval_seconds",)),
    (r"param", "", ("parameters",)),
)
"""Headers, the unit that they imply, and the figures that a cell below them may be; the first that fits counts.

A column without a figure is not checked; one whose title is not here may hold a score.
"""


def check_tables(evidence: Evidence) -> Iterator[Finding]:
    """One finding for each cell that could be matched with a kind of figure."""
    count = 0
    for header, rows in _tables(evidence.folder.readme or ()):
        seeds = next((i for i, title in enumerate(header) if re.search(r"\bseed\b", title, re.IGNORECASE)), None)
        if seeds is None:
            continue
        for number, cells in rows:
            for column, (title, cell) in enumerate(zip(header, cells, strict=False)):
                if column == seeds or count >= MOST_CELLS:
                    continue
                row = cells[seeds] if seeds < len(cells) else ""
                found = _cell(title, cell, row, Place("README.md", number), evidence)
                if found is not None:
                    count += 1
                    yield found


def _tables(lines: Sequence[str]) -> Iterator[tuple[list[str], list[tuple[int, list[str]]]]]:
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate([*lines, ""], start=1):
        if not line.lstrip().startswith("|"):
            if rows:
                yield header, rows
            header, rows = [], []
            continue
        cells = [cell.strip().replace("*", "").replace("`", "") for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif not all(set(cell) <= set("-: ") for cell in cells):
            rows.append((number, cells))


def _cell(title: str, cell: str, row: str, place: Place, evidence: Evidence) -> Finding | None:
    found = _CELL.fullmatch(cell)
    if found is None:
        return None
    fits = ((unit, names) for pattern, unit, names in _COLUMNS if re.search(pattern, title, re.IGNORECASE))
    unit, names = next(fits, ("", None))
    if names == ():
        return None
    wanted = names or SCORES
    subject = f"README.md, '{title}' of {row}"[:90]
    mean = re.fullmatch(r"mean|average|avg", row.strip(), re.IGNORECASE)
    run = next((run for run in evidence.runs if row.strip() == str(run.seed)), None)
    if not mean and run is None:
        return None
    options: list[Quantity] = []
    for name in wanted:
        claimed = quantity(found["number"].replace("\u2212", "-"), found["unit"] or unit, DIMENSIONS[name])
        if claimed is None:
            continue
        for value, words, where in _options(name, run, evidence):
            verdict = agreement(claimed, value, computed=mean is not None)
            if verdict != "differs":
                text = value_text(value, name)
                return finding("readme", subject, verdict, words, (place, *where), cell, text)
            options.append(value)
        if options and names:
            detail = "no stage of that log gives it" if name in STAGE_FIGURES else "by that log"
            evident: tuple[Place, ...] = (place,)
            for other, figure in evidence.everywhere(name):
                if run is not None and other.seed != run.seed and agreement(claimed, figure.quantity) != "differs":
                    detail, evident = f"it is the figure of the log of {other.key}", (place, figure.place)
                    break
            return finding("readme", subject, "differs", detail, evident, cell, value_text(options[0], name))
    return None  # a column whose name says nothing, and no score that fits


def _options(name: str, run: Run | None, evidence: Evidence) -> Iterator[tuple[Quantity, str, tuple[Place, ...]]]:
    """What a cell may say: of scores and evaluation times the final stage's first, then all others'."""
    labels = [evidence.label("")]
    if name in STAGE_FIGURES:
        labels += [stage.label for one in evidence.runs for stage in one.stages]
    for label in dict.fromkeys(labels):
        figures = evidence.figures(name, label)
        if run is None and figures:
            values = list(figures.values())
            yield mean_of(values), f"mean over {len(values)} logs", places(values)
        elif run is not None and run.key in figures:
            figure = figures[run.key]
            yield figure.quantity, f"'{figure.label}'" if figure.label else "", (figure.place,)
