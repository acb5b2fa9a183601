"""The stages of one seed as a service runs them: on every rank, from files to files in one folder.

Each function has the name of its stage. What it is given is a `Work`; on rank 0 it returns the figures. Heavy modules
are imported by the functions that need them, so that whoever lists the stages need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from golf_core.events import Listener, Note, PhaseFinished, PhaseStarted
from golf_core.results import AuditRecord, EvalResult, ExportResult, TrainResult

if TYPE_CHECKING:
    from golf_core.config import GolfConfig
    from golf_core.distributed import Ranks
    from golf_core.stages import DataPaths


@dataclass(frozen=True)
class Work:
    """What a stage is given."""

    config: GolfConfig
    paths: DataPaths
    ranks: Ranks
    seed: int
    folder: Path
    """This rank's own: here lie the files that the stage begins with, and here it leaves its own."""
    listener: Listener
    audit_positions: int


def train(work: Work) -> TrainResult:
    """Leaves the checkpoint. Goes on from a snapshot in the folder, where there is one and the job asks for them."""
    from golf_core.stages import train_stage
    from golf_core.train.snapshot import Snapshots, latest_snapshot

    resumes = work.ranks.is_first and work.config.train.snapshot_seconds is not None
    resume = latest_snapshot(work.folder) if resumes else None
    keeper = Snapshots(work.folder, work.config, work.ranks, work.seed, resume)
    return train_stage(work.config, work.paths, work.ranks, work.seed, work.folder, work.listener, keeper)


def export(work: Work) -> ExportResult | None:
    """Leaves the artifact and both forms of the program."""
    from golf_core.artifact.export import CHECKPOINT_NAME
    from golf_core.artifact.program import READABLE_NAME, readable_program
    from golf_core.files import write_text
    from golf_core.stages import export_stage

    checkpoint = work.folder / CHECKPOINT_NAME
    result = export_stage(work.config, checkpoint, work.ranks, work.folder, work.listener)
    if work.ranks.is_first:
        write_text(work.folder / READABLE_NAME, readable_program(work.config))
    return result


def evaluate(work: Work) -> EvalResult:
    """Evaluates the artifact in the folder; leaves a breakdown of the losses."""
    from golf_core.artifact.export import ARTIFACT_NAME
    from golf_core.evaluate.breakdown import BREAKDOWN, TokenLosses, breakdown_stage, scorers_of
    from golf_core.stages import evaluate_stage

    (work.folder / BREAKDOWN).unlink(missing_ok=True)
    kept = TokenLosses(work.ranks)
    artifact = work.folder / ARTIFACT_NAME
    result = evaluate_stage(work.config, artifact, work.paths, work.ranks, work.folder, work.listener, kept)
    breakdown_stage(kept, scorers_of(result), work.config, work.paths, work.ranks, work.folder, work.listener)
    return result


def audit(work: Work) -> AuditRecord:
    """Audits the evaluation of the artifact in the folder, on one rank alone; leaves the whole report.

    The seed draws the positions, so that the seeds of a run try different ones.
    """
    from golf_core.artifact.export import ARTIFACT_NAME
    from golf_core.audit.report import AuditOptions
    from golf_core.evaluate.auditable import AUDIT_RECORD, audit_evaluation, in_short
    from golf_core.strict_json import save

    def progress(line: str) -> None:
        work.listener(Note(f"audit: {line}"))

    work.listener(PhaseStarted("audit"))
    config = work.folder / "config.json"
    save(work.config, config)
    options = AuditOptions(parts=("kraft",), positions=work.audit_positions, checks=1, seed=work.seed)
    paths = (work.folder / ARTIFACT_NAME, work.paths.folder, work.paths.tokenizer, config)
    report = audit_evaluation(*paths, options, progress=progress)
    save(report, work.folder / AUDIT_RECORD)
    work.listener(PhaseFinished("audit", report.seconds))
    return in_short(report)
