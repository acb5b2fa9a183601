"""What a check finds: one line each, with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from golf_core import strict_json
from golf_core.errors import UserError
from golf_core.train.projection import DryRun
from orchestrator.preflight.plan import CostEstimate

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
