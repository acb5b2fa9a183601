"""The report as a Markdown page: figures and verdicts, nothing else of other people's files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.verify.folder import plain
from orchestrator.verify.report import Finding, FolderReport, VerifyReport
from orchestrator.verify.table import COSTS, SCORES, cost_cells, evidence_text, ordered, plain_line, run_cells

STATUS = {"ok": "ok", "problem": "**problem**", "note": "note", "absent": "absent"}
TITLES = {
    "files": "Files",
    "seeds": "Seeds",
    "logs": "Logs",
    "submission": "submission.json",
    "readme": "README.md",
    "budgets": "Budgets",
    "statistics": "Statistics",
}


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
        blocks += ["## Not read", "\n".join(f"- {_escaped(line)}" for line in _named(report.unreadable))]
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
    return _table(["folder", "seeds", "mean BPB by the logs", "sd", "problems"], rows, numbers=4)


def _folder(report: FolderReport) -> Iterator[str]:
    yield f"## {_escaped(report.folder)}"
    yield _escaped(report.sentence)
    rows = [[*run_cells(run, report), *cost_cells(run, report)] for run in report.runs]
    if rows:
        header = [*SCORES, *(title for title, _ in COSTS)]
        yield _table(header, [[_escaped(cell) for cell in row] for row in rows], numbers=9)
    findings = ordered(report)
    for topic, title in TITLES.items():
        own = [_row(finding) for finding in findings if finding.topic == topic]
        if own:
            yield f"**{title}**"
            yield _table(["", "what", "claimed", "by the logs", "why", "where"], own, numbers=0)


def _row(finding: Finding) -> list[str]:
    verdict = STATUS[finding.status]
    if finding.verdict != finding.status:
        verdict += f": {finding.verdict}"
    cells = (finding.subject, finding.claimed, finding.found, finding.detail, evidence_text(finding))
    return [verdict, *(_escaped(cell) for cell in cells)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table whose last `numbers` columns are set to the right."""
    rule = ["---" if i < len(header) - numbers else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _escaped(text: str) -> str:
    plain_text = plain_line(text)
    for sign in ("\\", "|", "<", "*", "`", "["):
        plain_text = plain_text.replace(sign, "&lt;" if sign == "<" else "\\" + sign)
    # Underscores inside words are no emphasis in Markdown, so that names of fields stay readable in the source.
    return plain_text


def _command(folders: Sequence[Path], baseline: Path | None, markdown: Path) -> str:
    words = ["golf", "verify", *(plain(folder.resolve().name) for folder in folders)]
    if baseline is not None:
        words += ["--baseline", plain(baseline.resolve().name)]
    parts = [shlex.quote(word) for word in words]
    shown = markdown.as_posix() if not markdown.is_absolute() and ".." not in markdown.parts else markdown.name
    return " \\\n    ".join([" ".join(parts[:2]), *parts[2:], f"--markdown {shlex.quote(shown)}"])


def _named(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        place, _, rest = sentence.partition(": ")
        yield f"{Path(place).name}: {rest}"
