"""Tables of README.md with a column of seeds: each cell against that seed's log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.verify.check_claims import value_text
from orchestrator.verify.evidence import STAGE_FIGURES, Evidence
from orchestrator.verify.figures import Place, Run
from orchestrator.verify.final import mean_of
from orchestrator.verify.patterns import DIMENSIONS
from orchestrator.verify.quantities import NUMBER, UNIT, Quantity, agreement, quantity
from orchestrator.verify.report import Finding

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
"""Headers, the unit that they imply, and the figures that a cell below them may be; the first that fits counts."""


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
                finding = _cell(
                    title, cell, cells[seeds] if seeds < len(cells) else "", Place("README.md", number), evidence
                )
                if finding is not None:
                    count += 1
                    yield finding


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
    unit, names = _column(title)
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
                return Finding("readme", subject, "ok", verdict, cell, text, words, (place, *where))
            options.append(value)
        if options and names:
            return _wrong(subject, cell, name, claimed, options[0], run, place, evidence)
    return None  # a column whose name says nothing, and no score that fits


def _column(title: str) -> tuple[str, tuple[str, ...] | None]:
    """The unit and the figures of a column; None where its title tells nothing, () where it is not to be checked."""
    for pattern, unit, names in _COLUMNS:
        if re.search(pattern, title, re.IGNORECASE):
            return unit, names
    return "", None


def _options(name: str, run: Run | None, evidence: Evidence) -> Iterator[tuple[Quantity, str, tuple[Place, ...]]]:
    labels = [evidence.label("")] if name not in STAGE_FIGURES else _labels(evidence)
    for label in labels:
        figures = evidence.figures(name, label)
        if run is None and figures:
            values = list(figures.values())
            yield mean_of(values), f"mean over {len(values)} logs", tuple(figure.place for figure in values)
        elif run is not None and run.key in figures:
            figure = figures[run.key]
            yield figure.quantity, f"'{figure.label}'" if figure.label else "", (figure.place,)


def _labels(evidence: Evidence) -> list[str | None]:
    """The final stage first, then all others."""
    labels: list[str | None] = [evidence.label("")]
    labels += [stage.label for run in evidence.runs for stage in run.stages]
    return list(dict.fromkeys(labels))


def _wrong(
    subject: str,
    cell: str,
    name: str,
    claimed: Quantity,
    expected: Quantity,
    run: Run | None,
    place: Place,
    evidence: Evidence,
) -> Finding:
    detail = "no stage of that log gives it" if name in STAGE_FIGURES else "by that log"
    where: tuple[Place, ...] = (place,)
    for other, figure in evidence.everywhere(name):
        if run is not None and other.seed != run.seed and agreement(claimed, figure.quantity) != "differs":
            detail, where = f"it is the figure of the log of {other.key}", (place, figure.place)
            break
    return Finding("readme", subject, "problem", "differs", cell, value_text(expected, name), detail, where)
