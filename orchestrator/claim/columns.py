"""A seed's figures under one name each, for tables and MLflow."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from orchestrator.folder.results import RunResult, SeedResult

if TYPE_CHECKING:
    import pandas


def seed_metrics(result: SeedResult) -> dict[str, float]:
    """A seed's final figures by metric name; only those that exist.

    Grouped (`bpb/…`, `train/…`, `artifact/…`, `eval/…`, `kraft/…`, `audit/…`), and none is the name of a series.
    """
    parts = (_training(result), _artifact(result), _evaluation(result), _audit(result))
    figures = {name: value for part in parts for name, value in part.items()}
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def _training(result: SeedResult) -> dict[str, float | None]:
    t = result.train
    if t is None:
        return {}
    return {
        "train/seconds": t.train_seconds,
        "train/steps": t.steps,
        "train/mean_ms_per_step": t.ms_per_step,
        "train/mean_tokens_per_second": t.tokens_per_second,
        "train/final_loss": t.train_loss,
        "train/val_bpb": t.val_bpb,
        "train/warmup_seconds": t.warmup_seconds,
        "train/validation_seconds": t.validation_seconds,
        "train/peak_memory_mib": t.peak_memory_mib,
        "train/parameters": t.parameters,
    }


def _artifact(result: SeedResult) -> dict[str, float | None]:
    e = result.export
    if e is None:
        return {}
    return {
        "artifact/total_bytes": e.total_bytes,
        "artifact/weight_bytes": e.weight_bytes,
        "artifact/code_bytes": e.code_bytes,
        "artifact/export_seconds": e.export_seconds,
        "artifact/zero_share": e.zero_share,
        "artifact/distortion_nats": e.distortion,
        **{f"artifact/bytes_{group}": number for group, number in e.bytes_by_group.items()},
        **{f"artifact/bits_{group}": bits for group, bits in e.bits_per_weight.items()},
    }


def _evaluation(result: SeedResult) -> dict[str, float | None]:
    v = result.evaluate
    if v is None:
        return {}
    scores = {"neural": v.neural, "mixture": v.mixture, "published": v.published}
    return {
        **{f"bpb/{name}": None if score is None else score.bpb for name, score in scores.items()},
        **{f"bpb/expert_{name}": bpb for name, bpb in v.expert_bpb.items()},
        "eval/seconds": v.seconds,
        **{f"eval/seconds_{phase}": seconds for phase, seconds in v.seconds_by_phase.items()},
        "eval/tokens": v.tokens,
        "eval/tokens_per_second": v.tokens_per_second,
        "eval/mean_log_z": v.mean_log_z,
        **({} if v.kraft is None else {f"kraft/{name}": value for name, value in asdict(v.kraft).items()}),
    }


def _audit(result: SeedResult) -> dict[str, float | None]:
    if result.audit is None:
        return {}
    figures = {**asdict(result.audit), "violated": len(result.audit.violated)}
    return {f"audit/{name}": value for name, value in figures.items()}


def seed_frame(result: RunResult) -> pandas.DataFrame:
    """One row a seed: seed, status, error, and its final figures under their MLflow names."""
    import pandas

    rows = [{"seed": s.seed, "status": s.status, "error": s.error, **seed_metrics(s)} for s in result.seeds]
    return pandas.DataFrame(rows)
