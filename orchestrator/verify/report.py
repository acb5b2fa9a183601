"""What was found out about record folders: typed, saved as JSON, printed for a terminal, written as a Markdown page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.claim.columns import markdown_table
from orchestrator.folder.results import Summary, Test
from orchestrator.verify.figures import Figure, Place, RunReport, Stage, value_text
from orchestrator.verify.folder import plain

FORMAT = 1
Status = Literal["ok", "problem", "note", "absent"]
Verdict = Literal[
    "confirmed", "rounding", "differs", "not in the logs", "absent", "kept", "broken", "holds", "fails", "stated"
]
"""On a figure: confirmed, rounding (the logged figure at the precision given), differs, not in the logs, absent. On a
budget: kept or broken. On anything else that was checked: holds or fails. `stated`: told without a judgement."""
_STATUS: Mapping[Verdict, Status] = {
    **dict.fromkeys(("confirmed", "rounding", "kept", "holds"), "ok"),
    **dict.fromkeys(("differs", "broken", "fails"), "problem"),
    **dict.fromkeys(("not in the logs", "absent"), "absent"),
    "stated": "note",
}
"""What a verdict comes to, where nothing softens it."""
Topic = Literal["files", "seeds", "submission", "readme", "budgets", "statistics", "logs"]
TITLES: Mapping[Topic, str] = {
    "files": "Files",
    "seeds": "Seeds",
    "logs": "Logs",
    "submission": "submission.json",
    "readme": "README.md",
    "budgets": "Budgets",
    "statistics": "Statistics",
}
"""Topics in the order of a report."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    topic: Topic
    subject: str
    """The field, or what was checked."""
    status: Status
    verdict: Verdict
    claimed: str
    """As it stands in submission.json or README.md; nothing where nothing is claimed."""
    found: str
    """What the logs give."""
    detail: str
    evidence: tuple[Place, ...]
    """Lines of the folder's files."""


def finding(
    topic: Topic,
    subject: str,
    verdict: Verdict,
    detail: str = "",
    evidence: tuple[Place, ...] = (),
    claimed: str = "",
    found: str = "",
    status: Status | None = None,
) -> Finding:
    """A finding whose status is that of its verdict, unless another is given."""
    return Finding(topic, subject, status or _STATUS[verdict], verdict, claimed, found, detail, evidence)


@dataclass(frozen=True)
class SeedScore:
    """What a seed's final figure is, from the log that trained it."""

    run: str
    seed: int | None
    val_bpb: Figure
    val_loss: Figure | None


@dataclass(frozen=True)
class FinalStage:
    """Which stage of the logs the folder's claim is about, and how that was told."""

    label: str
    """As the logs name it; nothing for a figure without a name."""
    reason: str
    scores: tuple[SeedScore, ...]
    """One for each seed."""
    bpb: Summary | None
    nats: Summary | None
    population_sd_bpb: float | None
    """With n in place of n - 1, to recognise it where a file gives it."""

    @property
    def figures(self) -> list[Figure]:
        """Bits per byte of each seed."""
        return [score.val_bpb for score in self.scores]


@dataclass(frozen=True)
class Comparison:
    """The folder's figures against a baseline's."""

    baseline: str
    """A folder's name, or what submission.json says of it."""
    source: str
    """Where the baseline's figures come from."""
    mean_bpb: float | None
    mean_nats: float | None
    delta_bpb: float | None
    """Negative where the candidate is better."""
    delta_nats: float | None
    margin_bpb: float | None
    """0.005 nats a token by the candidate's own ratio."""
    tests: tuple[Test, ...]
    note: str


@dataclass(frozen=True)
class FolderReport:
    """Everything that was found out about one folder."""

    folder: str
    runs: tuple[RunReport, ...]
    final: FinalStage | None
    comparison: Comparison | None
    findings: tuple[Finding, ...]
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether nothing that could be checked is wrong."""
        return all(finding.status != "problem" for finding in self.findings)


@dataclass(frozen=True)
class VerifyReport:
    """The report of one command."""

    format: int
    folders: tuple[FolderReport, ...]
    unreadable: tuple[str, ...]
    """A sentence for each folder that could not be read at all."""

    @property
    def exit_code(self) -> int:
        """0: everything that could be checked holds; 1: there is a problem; 2: a folder could not be read."""
        if self.unreadable:
            return 2
        return 0 if all(folder.holds for folder in self.folders) else 1


# --- for the terminal ---------------------------------------------------------------------------------

STYLES: Mapping[Status, str] = {"ok": "green", "problem": "bold red", "note": "yellow", "absent": "dim"}
MOST_PLACES = 3
WIDE = 120
"""Columns from which claims, logs and reasons stand side by side."""
SCORES = ["seed", "log", "kind", "final BPB", "nats"]
COSTS = {
    "eval s": "eval_seconds",
    "steps": "steps",
    "ms/step": "ms_per_step",
    "train s": "train_seconds",
    "weights": "weight_bytes",
    "code": "code_bytes",
    "total": "total_bytes",
}


def report_table(report: FolderReport, width: int) -> Group:
    """Everything about one folder: a verdict on every line, and a sentence at the end. It fits `width` from 80 on."""
    runs, n = [run_cells(run, report) for run in report.runs], len(SCORES)
    return Group(
        Text(f"\n{plain(report.folder)}", "bold"),
        _figures(SCORES, [cells[:n] for cells in runs], text_columns=(1, 2)),
        Text(""),
        _figures(["seed", *COSTS], [[cells[0], *cells[n:]] for cells in runs]),
        Text(""),
        _findings(ordered(report), width),
        Text(""),
        Text(plain_line(report.sentence), "green" if report.holds else "bold red"),
    )


def ordered(report: FolderReport) -> list[Finding]:
    """Findings by topic; within it as they were found."""
    topics = list(TITLES)
    return sorted(report.findings, key=lambda finding: topics.index(finding.topic))


def run_cells(run: RunReport, report: FolderReport) -> list[str]:
    """Which run it is, its final score, its times, steps and bytes, under the titles of `SCORES` and `COSTS`."""
    stage = _stage(run, report)
    file = plain(run.file) + (f" ({run.part})" if run.part > 1 else "")
    figures: dict[str, Figure | None] = {name: run.figures.get(name) for name in COSTS.values()}
    if stage is not None:
        figures |= {"val_bpb": stage.val_bpb, "val_loss": stage.val_loss}
        figures["eval_seconds"] = stage.eval_seconds or figures["eval_seconds"]
    shown = [
        value_text(figure.quantity, name).split(" ")[0] if (figure := figures.get(name)) else "-"
        for name in ("val_bpb", "val_loss", *COSTS.values())
    ]
    return ["-" if run.seed is None else str(run.seed), file, run.kind, *shown]


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
    scores = [score for score in report.final.scores if score.val_bpb.place.file == run.file]
    own = next((score for score in scores if score.seed == run.seed), None)
    for stage in run.stages:
        if stage.val_bpb == own.val_bpb if own is not None else stage.label == report.final.label:
            return stage
    return None


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")


def _figures(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = ()) -> Table:
    table = _plain_table()
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _findings(findings: Sequence[Finding], width: int) -> Table:
    """All findings, side by side where there is room, else one below the other."""
    table = _plain_table()
    table.add_column("verdict", no_wrap=True)
    if width >= WIDE:
        for title, ratio in (("what", 3), ("claimed", 2), ("logs", 2), ("why", 5), ("where", 3)):
            table.add_column(title, overflow="fold", ratio=ratio)
    else:
        table.add_column("what, claimed, in the logs, why, where", overflow="fold")
    topic = ""
    for finding in findings:
        if finding.topic != topic and topic:
            table.add_section()
        topic = finding.topic
        cells = [Text(plain_line(cell)) for cell in _columns(finding)]
        if width < WIDE:
            cells = [Text("\n").join(Text(plain_line(line)) for line in _below(finding))]
        table.add_row(Text(verdict_text(finding), STYLES[finding.status]), *cells)
    return table


def _columns(finding: Finding) -> tuple[str, ...]:
    return finding.subject, finding.claimed, finding.found, finding.detail, evidence_text(finding)


def _below(finding: Finding) -> Iterator[str]:
    figures = (("claimed", finding.claimed), ("logs", finding.found))
    shown = ", ".join(f"{name} {value}" for name, value in figures if value)
    yield f"{finding.subject}: {shown}" if shown else finding.subject
    if finding.detail:
        yield finding.detail
    if finding.evidence:
        yield evidence_text(finding)


# --- as a page ----------------------------------------------------------------------------------------


def page(report: VerifyReport, folders: Sequence[Path], baseline: Path | None, markdown: Path) -> str:
    """The whole page. Of folders only their names are told."""
    blocks = [
        "# Published runs, checked against their logs",
        *_introduction(_command(folders, baseline, markdown)),
        _overview(report),
    ]
    for folder in report.folders:
        blocks += _folder(folder)
    if report.unreadable:
        parted = [sentence.partition(": ") for sentence in report.unreadable]
        lines = [_escaped(f"{Path(place).name}: {rest}") for place, _, rest in parted]
        blocks += ["## Not read", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(blocks) + "\n"


def _introduction(command: str) -> Iterator[str]:
    yield (
        "The folders below are other people's public submissions to the Parameter Golf challenge. Nothing of them is "
        "reproduced here but figures, and what became of each when it was compared with the logs that were filed "
        "beside it. This page is generated (folders are named without their places):"
    )
    yield f"```\n{command}\n```"
    yield (
        "`ok`: the figure is in the logs (*confirmed*), or is the logged figure at the precision given (*rounding*), "
        "or a budget is kept. `problem`: something that could be checked does not hold. `note`: worth knowing, no "
        "fault. `absent`: not given, or not in the logs; nothing is guessed. The training clock is held to 600 s as "
        "written, though published programs stop at the first step past it. Deviations are sample standard "
        "deviations (n - 1), and tests are one-sided."
    )


def _overview(report: VerifyReport) -> str:
    rows = []
    for folder in report.folders:
        final = folder.final
        mean = f"{final.bpb.mean:.5f}" if final is not None and final.bpb is not None else "-"
        spread = f"{final.bpb.sd:.5f}" if final is not None and final.bpb is not None and final.bpb.sd else "-"
        seeds = len(final.scores) if final is not None else 0
        problems = sum(finding.status == "problem" for finding in folder.findings)
        rows.append([_escaped(folder.folder), str(seeds), mean, spread, str(problems)])
    return markdown_table(["folder", "seeds", "mean BPB by the logs", "sd", "problems"], rows, text_columns=1)


def _folder(report: FolderReport) -> Iterator[str]:
    yield f"## {_escaped(report.folder)}"
    yield _escaped(report.sentence)
    rows = [[_escaped(cell) for cell in run_cells(run, report)] for run in report.runs]
    if rows:
        yield markdown_table([*SCORES, *COSTS], rows, text_columns=3)
    findings = ordered(report)
    for topic, title in TITLES.items():
        own = [_row(finding) for finding in findings if finding.topic == topic]
        if own:
            yield f"**{title}**"
            yield markdown_table(["", "what", "claimed", "by the logs", "why", "where"], own)


def _row(finding: Finding) -> list[str]:
    verdict = verdict_text(finding).replace("problem", "**problem**")
    return [verdict, *(_escaped(cell) for cell in _columns(finding))]


def _escaped(text: str) -> str:
    # Underscores inside words are no emphasis in Markdown, so that names of fields stay readable in the source.
    return re.sub(r"[\\|*`[]", r"\\\g<0>", plain_line(text)).replace("<", "&lt;")


def _command(folders: Sequence[Path], baseline: Path | None, markdown: Path) -> str:
    words = ["golf", "verify", *(plain(folder.resolve().name) for folder in folders)]
    if baseline is not None:
        words += ["--baseline", plain(baseline.resolve().name)]
    parts = [shlex.quote(word) for word in words]
    shown = markdown.as_posix() if not markdown.is_absolute() and ".." not in markdown.parts else markdown.name
    return " \\\n    ".join([" ".join(parts[:2]), *parts[2:], f"--markdown {shlex.quote(shown)}"])
