"""The figures of a seed's stages as the ledger has them: what survives when the seed's own result does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from golf_core import strict_json as records
from golf_core.errors import ConfigError
from golf_core.results import AuditRecord, EvalResult, ExportResult, TrainResult
from orchestrator.claim import SeedResult
from orchestrator.job_file import printable
from orchestrator.ledger import Entry

STAGES: Mapping[str, type] = {
    "train": TrainResult,
    "export": ExportResult,
    "evaluate": EvalResult,
    "audit": AuditRecord,
}


def figures_of(result: SeedResult, stage: str) -> Any:
    """A stage's figures for the ledger, in a line that people can read; None where there are none."""
    figures = getattr(result, stage)
    return records.to_dict(without_history(figures) if isinstance(figures, EvalResult) else figures)


def without_history(evaluated: EvalResult) -> EvalResult:
    """Without the scores after each chunk, of which there are thousands."""
    return replace(evaluated, history=())


def figures_in(entries: Sequence[Entry], seed: int, other: SeedResult | None, notes: list[str]) -> dict[str, Any]:
    """Results by stage, as the ledger has them last, without those that a later attempt did not keep.

    Stages that an older ledger names without figures have those of `other`, if there is one. What is lost is said in
    `notes`.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.fields.get("seed") != seed:
            continue
        figures, stage = entry.fields.get("figures"), entry.fields.get("stage")
        if entry.kind == "seed_started":
            kept = entry.fields.get("kept")
            found = {name: found[name] for name in found if isinstance(kept, list) and name in kept}
        elif entry.kind == "stage_finished" and isinstance(stage, str) and stage in STAGES:
            found[stage] = figures
        elif entry.kind == "seed_adopted" and isinstance(figures, Mapping):
            found |= {name: figures[name] for name in ("train", "export") if figures.get(name) is not None}
    return {stage: _result(stage, values, seed, other, notes) for stage, values in found.items()}


def _result(stage: str, values: Any, seed: int, other: SeedResult | None, notes: list[str]) -> Any:
    if values is None:
        figures = None if other is None else getattr(other, stage)
        if figures is None:
            notes.append(f"seed {seed}: the figures of its {stage} are lost")
        return figures
    try:
        return records.from_dict(STAGES[stage], values, where=f"{stage} of seed {seed} in the ledger")
    except ConfigError as error:
        notes.append(f"seed {seed}: the figures of its {stage} are lost: {printable(str(error))}")
        return None
