"""The report for the terminal: a verdict on every line, and a sentence at the end. It fits 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.verify.check_claims import value_text
from orchestrator.verify.figures import Stage
from orchestrator.verify.folder import plain
from orchestrator.verify.report import Finding, FolderReport, RunReport, SeedScore

STYLES = {"ok": "green", "problem": "bold red", "note": "yellow", "absent": "dim"}
TOPICS = ("files", "seeds", "logs", "submission", "readme", "budgets", "statistics")
MOST_PLACES = 3
WIDE = 120
"""Columns from which claims, logs and reasons stand side by side."""
COSTS = (
    ("eval s", "eval_seconds"),
    ("steps", "steps"),
    ("ms/step", "ms_per_step"),
    ("train s", "train_seconds"),
    ("weights", "weight_bytes"),
    ("code", "code_bytes"),
    ("total", "total_bytes"),
)


def report_table(report: FolderReport) -> Group:
    """Everything about one folder."""
    runs = [[run_cells(run, report), cost_cells(run, report)] for run in report.runs]
    seeds = [scores[0] for scores, _ in runs]
    parts: list[RenderableType] = [
        Text(f"\n{plain(report.folder)}", "bold"),
        _figures(SCORES, [scores for scores, _ in runs], text_columns=(1, 2)),
        Text(""),
        _figures(["seed", *(title for title, _ in COSTS)], [[s, *c] for s, (_, c) in zip(seeds, runs, strict=True)]),
        Text(""),
        _Findings(ordered(report)),
        Text(""),
        Text(plain_line(report.sentence), "green" if report.holds else "bold red"),
    ]
    return Group(*parts)


def ordered(report: FolderReport) -> list[Finding]:
    """Findings by topic; within it as they were found."""
    return sorted(report.findings, key=lambda finding: TOPICS.index(finding.topic))


SCORES = ["seed", "log", "kind", "final BPB", "nats"]
"""The titles of `run_cells`."""


def run_cells(run: RunReport, report: FolderReport) -> list[str]:
    """Which run it is, and its final score."""
    stage = _stage(run, report)
    file = plain(run.file) + (f" ({run.part})" if run.part > 1 else "")
    scores = [("val_bpb", stage.val_bpb if stage else None), ("val_loss", stage.val_loss if stage else None)]
    shown = [value_text(figure.quantity, name) if figure else "-" for name, figure in scores]
    return ["-" if run.seed is None else str(run.seed), file, run.kind, *shown]


def cost_cells(run: RunReport, report: FolderReport) -> list[str]:
    """Its times, steps and bytes, in the units of `COSTS`."""
    stage = _stage(run, report)
    figures = dict(run.figures)
    if stage is not None and stage.eval_seconds is not None:
        figures["eval_seconds"] = stage.eval_seconds
    return [value_text(figures[n].quantity, n).split(" ")[0] if n in figures else "-" for _, n in COSTS]


def evidence_text(finding: Finding) -> str:
    """The first places of a finding."""
    shown = [plain(str(place)) for place in finding.evidence[:MOST_PLACES]]
    more = len(finding.evidence) - len(shown)
    return " ".join(shown) + (f" +{more}" if more > 0 else "")


def verdict_text(finding: Finding) -> str:
    """Status and verdict, where they are not the same word."""
    return finding.status if finding.verdict == finding.status else f"{finding.status}: {finding.verdict}"


def plain_line(text: str) -> str:
    """Text from other people's files on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _stage(run: RunReport, report: FolderReport) -> Stage | None:
    """The stage of the run's final figure."""
    if report.final is None:
        return None
    own = next((score for score in report.final.scores if _is_of(score, run)), None)
    for stage in run.stages:
        if stage.val_bpb == own.val_bpb if own is not None else stage.label == report.final.label:
            return stage
    return None


def _is_of(score: SeedScore, run: RunReport) -> bool:
    return score.val_bpb.place.file == run.file and score.seed == run.seed


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")


def _figures(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = ()) -> Table:
    table = _plain_table()
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


class _Findings:
    """All findings, side by side where there is room, else one below the other."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = findings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _plain_table()
        table.add_column("verdict", no_wrap=True)
        if options.max_width >= WIDE:
            for title, ratio in (("what", 3), ("claimed", 2), ("logs", 2), ("why", 5), ("where", 3)):
                table.add_column(title, overflow="fold", ratio=ratio)
        else:
            table.add_column("what, claimed, in the logs, why, where", overflow="fold")
        topic = ""
        for finding in self.findings:
            if finding.topic != topic and topic:
                table.add_section()
            topic = finding.topic
            verdict = Text(verdict_text(finding), STYLES[finding.status])
            cells = [Text(plain_line(cell)) for cell in _columns(finding)]
            if options.max_width < WIDE:
                cells = [Text("\n").join(Text(plain_line(line)) for line in _below(finding))]
            table.add_row(verdict, *cells)
        yield table


def _columns(finding: Finding) -> tuple[str, ...]:
    return finding.subject, finding.claimed, finding.found, finding.detail, evidence_text(finding)


def _below(finding: Finding) -> Iterator[str]:
    figures = [
        f"claimed {finding.claimed}" if finding.claimed else "",
        f"logs {finding.found}" if finding.found else "",
    ]
    shown = ", ".join(figure for figure in figures if figure)
    yield f"{finding.subject}: {shown}" if shown else finding.subject
    if finding.detail:
        yield finding.detail
    if finding.evidence:
        yield evidence_text(finding)
