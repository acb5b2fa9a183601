"""What was found out about a record folder: typed, saved as JSON, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.folder.results import Summary, Test
from orchestrator.verify.figures import Figure, LossPoint, Place, Stage

FORMAT = 1
Status = Literal["ok", "problem", "note", "absent"]
Verdict = Literal[
    "confirmed", "rounding", "differs", "not in the logs", "absent", "kept", "broken", "holds", "fails", "stated"
]
"""Of a figure: confirmed, rounding (the logged figure at the precision given), differs, not in the logs, absent. Of a
budget: kept or broken. Of anything else that was checked: holds or fails. `stated`: told without a judgement."""
Topic = Literal["files", "seeds", "submission", "readme", "budgets", "statistics", "logs"]


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


@dataclass(frozen=True)
class RunReport:
    """One run of a log, with every figure that was read."""

    file: str
    part: int
    """Which run of the file, from 1."""
    seed: int | None
    seed_source: Literal["log", "file name", "unknown"]
    kind: Literal["training", "evaluation only", "figures only", "no figures"]
    figures: Mapping[str, Figure]
    stages: tuple[Stage, ...]
    losses: tuple[LossPoint, ...]
    losses_cut: bool
    mixed: str


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
