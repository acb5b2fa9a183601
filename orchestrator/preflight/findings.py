"""What a check finds: one line each, with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from golf_core import strict_json
from golf_core.errors import UserError
from golf_core.train.projection import DryRun, describe
from orchestrator.preflight.plan import CostEstimate, Plan, PowerPlan

Level = Literal["error", "warning", "ok"]


class PreflightError(UserError):
    """A check found what would fail the run; the sentences are those of its errors."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    """What was found, with figures."""
    where: str
    """Field of the job file, path, package, or machine."""
    remedy: str = ""
    """What to do about it; empty for `ok`."""


@dataclass(frozen=True)
class Preflight:
    """All findings of a check, and what the run is expected to take."""

    findings: tuple[Finding, ...]
    projections: DryRun | None = None
    """None where nothing was rehearsed."""
    cost: CostEstimate | None = None
    notes: tuple[str, ...] = field(default=())
    """What the figures assume."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid the run."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that deserve a look."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def exit_code(self) -> int:
        """2 where anything forbids the run, else 0."""
        return 2 if self.errors else 0

    def refuse_errors(self) -> None:
        """Raise `PreflightError` with one line for each error, if there are any."""
        if self.errors:
            raise PreflightError("\n".join(sentence(finding) for finding in self.errors))


def ok(what: str, where: str) -> Finding:
    """Something that is as it should be."""
    return Finding("ok", what, where)


def warning(what: str, where: str, remedy: str) -> Finding:
    """Something that may cost time or the claim."""
    return Finding("warning", what, where, remedy)


def error(what: str, where: str, remedy: str) -> Finding:
    """Something that would fail the run."""
    return Finding("error", what, where, remedy)


def from_error(problem: UserError, where: str) -> list[Finding]:
    """The sentences of a user's mistake as errors. Ours read 'place: what; remedy'."""
    found = []
    for line in str(problem).splitlines():
        place, colon, rest = line.partition(": ")
        text = rest if colon else line
        what, _, remedy = text.rpartition("; ")
        found.append(Finding("error", what or text, place if colon else where, remedy if what else ""))
    return found


def sentence(finding: Finding) -> str:
    """A finding as one line of text."""
    return f"{finding.where}: {finding.what}" + (f"; {finding.remedy}" if finding.remedy else "")


def plain(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as JSON-ready values, to travel between processes."""
    return [strict_json.to_dict(finding) for finding in findings]


def read(values: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The findings that `plain` made."""
    return [strict_json.from_dict(Finding, value) for value in values]


# --- findings in the terminal ---

MARKS = {"ok": ("✓ ok", "green"), "warning": ("! warning", "yellow"), "error": ("✗ error", "red")}
ORDER = ("ok", "warning", "error")
WHERE_WIDTH = 36


def show_preflight(result: Preflight, console: Console) -> None:
    """Findings, errors last, where they are read first; then the rehearsal, the cost, and a verdict."""
    show_findings(result.findings, console)
    if result.projections is not None:
        console.print(_heading("Rehearsed"))
        for line in describe(result.projections):
            console.print(Text(line), soft_wrap=True)
    if result.cost is not None:
        console.print(_heading("Expected"), cost_lines(result.cost))
    for note in result.notes:
        console.print(Text(note, "dim"))
    console.print(Text(f"\n{verdict(result)}", "bold"))


def show_findings(findings: Iterable[Finding], console: Console) -> None:
    """Errors last. A terminal gets columns; a file gets one whole line for each finding, fit for grep."""
    ordered = sorted(findings, key=lambda finding: ORDER.index(finding.level))
    if not console.is_terminal:
        for finding in ordered:
            console.print(Text(f"{MARKS[finding.level][0]:9}  {sentence(finding)}"), soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=WHERE_WIDTH)
    table.add_column(overflow="fold")
    for finding in ordered:
        mark, style = MARKS[finding.level]
        what = finding.what + (f"; {finding.remedy}" if finding.remedy else "")
        table.add_row(Text(mark, style), Text(finding.where), Text(what))
    console.print(table)


def verdict(result: Preflight) -> str:
    """A sentence."""
    errors, warnings = len(result.errors), len(result.warnings)
    shown = f"{errors} error{'s' if errors != 1 else ''}, {warnings} warning{'s' if warnings != 1 else ''}"
    return f"{'Not ready to run' if errors else 'Ready to run'}: {shown}."


def cost_lines(cost: CostEstimate) -> RenderableType:
    """Time and price, expected and at worst, and what the figures assume."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("")
    for title in ("a seed", "the run", "node-hours", "cost"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row(
        "expected",
        time_text(cost.seed_seconds),
        time_text(cost.wall_seconds),
        f"{cost.node_hours:.2f}",
        _money(cost.cost),
    )
    table.add_row(
        "worst case",
        time_text(cost.seed_seconds_worst),
        time_text(cost.wall_seconds_worst),
        f"{cost.node_hours_worst:.2f}",
        _money(cost.cost_worst),
    )
    said = list(cost.assumptions)
    if cost.per_node_hour is None:
        said.append("no price: set cost.per_node_hour")
    return Group(table, *(Text(line, "dim") for line in said))


def plan_view(plan: Plan) -> RenderableType:
    """The whole of `golf plan`."""
    parts: list[RenderableType] = [Text(f"{plan.name}: {plan.runs}")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("stage of a seed")
    table.add_column("budget", justify="right")
    table.add_column("ended after", justify="right")
    for stage in plan.stages:
        table.add_row(stage.name, "-" if stage.budget is None else time_text(stage.budget), time_text(stage.limit))
    parts += [table, _heading("Time and cost"), cost_lines(plan.cost)]
    if plan.power is not None:
        parts += [_heading("Seeds for the claim"), *(Text(line) for line in power_lines(plan.power))]
    return Group(*parts, *(Text(f"note: {note}") for note in plan.notes))


def power_lines(power: PowerPlan) -> list[str]:
    """How many seeds the claim needs, in sentences."""
    lines = [
        f"margin {power.margin_bpb:.5f} BPB, p < 0.01; deviation between seeds {power.sd:.5f} BPB ({power.sd_source})"
    ]
    if power.least_gain is None:
        lines.append(f"{power.seeds} seed{'' if power.seeds == 1 else 's'} can show no gain at all")
    else:
        lines.append(
            f"{power.seeds} seeds show a true gain of {power.least_gain:.5f} BPB with a chance of {power.power:.0%}"
        )
    if power.gain is not None:
        needed = "no number of seeds" if power.seeds_needed is None else f"{power.seeds_needed} seeds"
        lines.append(f"a true gain of {power.gain:.5f} BPB needs {needed} for a chance of {power.power:.0%}")
        lines.append("chance by seeds: " + ", ".join(f"{n}: {chance:.0%}" for n, chance in power.chances))
    else:
        lines.append("with --gain BPB: how many seeds an expected gain needs")
    return lines


def time_text(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold")
