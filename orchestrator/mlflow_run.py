"""What of a run goes to MLflow, and under which names."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from golf_core.events import Event
from orchestrator.claim import RunResult, SeedResult
from orchestrator.mlflow_store import default_uri, flatten
from orchestrator.seed_run import ARTIFACT, AUDIT, DATA, LOG, PROGRAM, RESULT, SeedRun
from orchestrator.spec import Job
from orchestrator.table import claim_table
from orchestrator.tracking import Tracker

CLOSE_TIMEOUT_S = 60.0


class MlflowRun:
    """The parent run (the claim) and a child for each seed. Never fails a run: see `Tracker`."""

    def __init__(self, job: Job, folder: Path, origin: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        uri = job.mlflow.tracking_uri or default_uri(folder.parent)
        self._tracker = Tracker(uri, job.mlflow.experiment, say)
        self._params = flatten(job.to_dict())
        tags = {**origin, "job_sha256": job.digest, "run_folder": str(folder), "verdict": "running"}
        self._tracker.start(folder.name, self._params, tags, f"Job `{job.name}`, seeds {list(job.seeds)}")

    def seed_started(self, seed: int) -> None:
        """Open the seed's child run."""
        self._tracker.seed_started(seed, {**self._params, "seed": seed}, {"seed": str(seed)})

    def seed_event(self, seed: int, event: Event) -> None:
        """Log the event's figures."""
        self._tracker.seed_event(seed, event)

    def seed_finished(self, run: SeedRun) -> None:
        """Log the seed's final figures and files, and close its run."""
        result = run.result
        tags = {"status": result.status, "node": result.node, "hardware": run.hardware}
        if result.error:
            tags["error"] = result.error
        if run.data is not None:
            tags |= {f"data.sha256.{name}": digest for name, digest in run.data.checksums.items()}
            tags["data.sha256.tokenizer"] = run.data.tokenizer_sha256
        files = [run.folder / name for name in (LOG, ARTIFACT, PROGRAM, RESULT, DATA, AUDIT)]
        present = [path for path in files if path.exists()]
        self._tracker.seed_finished(result.seed, seed_metrics(result), tags, present, result.status == "finished")

    def finish(self, result: RunResult) -> None:
        """Log the claim to the parent run, close it, and wait for MLflow to have it all."""
        claim = result.claim
        metrics: dict[str, float] = {}
        for name, summary in claim.scores.items():
            metrics[f"bpb_{name}_mean"] = summary.mean
            if summary.sd is not None:
                metrics[f"bpb_{name}_sd"] = summary.sd
        for test, label in zip(claim.tests, ("margin", "zero"), strict=False):
            metrics |= {f"p_{label}": test.p} if test.p is not None else {}
        finished = sum(seed.status == "finished" for seed in result.seeds)
        metrics |= {"seeds_finished": float(finished), "wall_seconds": result.finished - result.started}
        table = _as_text(result)
        description = f"**{claim.sentence}**\n\n```\n{table}\n```"
        tags = {"verdict": claim.verdict, "hardware": result.provenance.get("hardware", "")}
        files = [self._folder / "result.json", self._folder / "job.json"]
        ok = finished == len(result.seeds)
        self._tracker.finish(metrics, tags, files, description, ok)
        missing = self._tracker.close(CLOSE_TIMEOUT_S)
        if missing:
            self._say(f"MLflow: {missing} items were not written; the run's folder has them all")


def _as_text(result: RunResult) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(claim_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


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
