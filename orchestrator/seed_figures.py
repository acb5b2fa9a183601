"""A seed's figures under one name each, for tables and MLflow."""

from __future__ import annotations

import math
from dataclasses import asdict

from orchestrator.claim import SeedResult


def seed_metrics(result: SeedResult) -> dict[str, float]:
    """A seed's final figures by metric name; only those that exist."""
    metrics: dict[str, float | None] = {}
    if result.train is not None:
        t = result.train
        metrics |= {
            "train_seconds": t.train_seconds,
            "steps": float(t.steps),
            "ms_per_step": t.ms_per_step,
            "train_tokens_per_second": t.tokens_per_second,
            "peak_memory_mib": t.peak_memory_mib,
            "val_bpb_after_training": t.val_bpb,
            "warmup_seconds": t.warmup_seconds,
        }
    if result.export is not None:
        e = result.export
        metrics |= {
            "artifact_bytes": float(e.total_bytes),
            "weight_bytes": float(e.weight_bytes),
            "code_bytes": float(e.code_bytes),
            "export_seconds": e.export_seconds,
        }
    if result.evaluate is not None:
        v = result.evaluate
        for name in ("neural", "mixture", "published"):
            score = getattr(v, name)
            metrics[f"bpb_{name}"] = None if score is None else score.bpb
        metrics |= {"mean_log_z": v.mean_log_z, "eval_seconds": v.seconds}
        metrics |= {"eval_tokens_per_second": v.tokens_per_second}
        metrics |= {f"bpb_expert_{name}": bpb for name, bpb in v.expert_bpb.items()}
        if v.kraft is not None:
            metrics |= {f"kraft_{k}": float(x) for k, x in asdict(v.kraft).items()}
    if result.audit is not None:
        figures = asdict(result.audit)
        figures["violated"] = len(result.audit.violated)
        metrics |= {f"audit_{k}": float(x) for k, x in figures.items()}
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
