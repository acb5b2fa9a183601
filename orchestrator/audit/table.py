"""What `golf audit` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from golf_core.audit.report import AuditReport, KraftSum

MARKS = {
    "holds": "[green]✓ holds[/]",
    "violated": "[red]✗ violated[/]",
    "undecided": "[yellow]? undecided[/]",
    "not measured": "[dim]- not measured[/]",
}
SHOWN_SUMS = 8


def show_report(report: AuditReport) -> None:
    """Conditions, the sums furthest from 1, notes, and the command that repeats the audit."""
    console = _console()
    console.print(_conditions(report))
    if report.sums:
        console.print(_sums(report.sums))
    if report.isolation is not None:
        for line in report.isolation.means:
            console.print(f"isolation: {escape(line)}")
        for program in report.isolation.processes:
            console.print(f"isolation: started {escape(program)}, whose doings are not observed")
    if report.fast_path is not None:
        fast = report.fast_path
        found = "agree" if fast.trusted else "do NOT agree"
        console.print(
            f"snapshots {found} with plain runs: {fast.checked} random substitutes, largest difference "
            f"{fast.largest_difference:.1e} nats; {fast.base_difference:.1e} on the unchanged text"
        )
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    losses = ", ".join(f"{name} {value:.5f}" for name, value in report.mean_loss.items())
    scored = f"{report.runs:,} runs in {report.seconds:.1f} s; nats a token: {losses}. " if losses else ""
    console.print(f"{scored}{_verdict(report)}", highlight=False)
    if report.reproduce:
        console.print(f"again: {report.reproduce}", highlight=False, markup=False, soft_wrap=True)


def _verdict(report: AuditReport) -> str:
    """A sentence on what is claimed, and one on each other score that violates something."""
    named = ", ".join(report.named("violated", "undecided"))
    sentence = f"Not met: {named}." if named else "No condition that was measured is violated."
    if report.options.claims:
        sentence = f"Of {', '.join(report.options.claims)}: {sentence[0].lower()}{sentence[1:]}"
    others: dict[str, list[str]] = {}
    for condition in report.conditions:
        if condition.score is not None and condition not in report.judged and condition.verdict == "violated":
            others.setdefault(condition.score, []).append(condition.name)
    return sentence + "".join(f" Not claimed: {score} violates {', '.join(what)}." for score, what in others.items())


def _conditions(report: AuditReport) -> Table:
    title = f"{report.scorer or 'figures'}: {report.tokens:,} tokens, alphabet of {report.vocab_size:,}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    several = len(report.mean_loss) > 1
    for column in ("condition", *(["score"] if several else []), "verdict", ""):
        table.add_column(column, overflow="fold")
    for condition in report.conditions:
        score = [condition.score or ""] if several else []
        table.add_row(condition.name, *score, MARKS[condition.verdict], escape(condition.summary))
    return table


def _sums(sums: Sequence[KraftSum]) -> Table:
    worst = sorted(sums, key=lambda s: -abs(s.total - 1.0))[:SHOWN_SUMS]
    table = Table(
        box=None, pad_edge=False, title=f"Sums over the alphabet, {len(worst)} of {len(sums)}", title_justify="left"
    )
    for column in ("score", "position", "where", "sum", "99.9 % interval", "formula", "from"):
        table.add_column(column, justify="right" if column in ("position", "sum", "formula") else "left")
    for s in worst:
        interval = "exact" if s.exact else f"{s.low:.4g} to {s.high:.4g} ({s.symbols:,} symbols)"
        formula = "" if s.expected is None else f"{s.expected:.6f}"
        table.add_row(s.score, f"{s.position:,}", ", ".join(s.where), f"{s.total:.6f}", interval, formula, s.method)
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)
