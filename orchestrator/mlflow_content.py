"""What of a run goes to MLflow, and under which names: all of it made from the run's folder."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from golf_core import records
from golf_core.errors import GolfError
from golf_core.files import MAX_RECORD_BYTES, sha256
from golf_core.results import DataRecord
from orchestrator.claim import RunResult, SeedResult
from orchestrator.mlflow_store import Beginning, Ending, Status, flatten
from orchestrator.redaction import Redactor
from orchestrator.rerun import JOB
from orchestrator.run_view import AttemptView, RunView
from orchestrator.seed_figures import seed_metrics
from orchestrator.seed_run import ARTIFACT, AUDIT, DATA, LOG, PROGRAM, RESULT
from orchestrator.table import claim_table

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a run's description."""


def parent_beginning(view: RunView, redactor: Redactor) -> Beginning:
    """The parent run: the claim."""
    job = view.job
    tags = {**view.provenance, "job_sha256": job.digest, "run_folder": str(view.folder), "verdict": "running"}
    if view.artifacts_of:
        tags["artifacts_of"] = view.artifacts_of
    tags[NOTE] = f"Job `{job.name}`, seeds {list(job.seeds)}"
    return Beginning(
        key=view.key,
        name=view.folder.name,
        parent=None,
        started=view.started,
        params=redactor.redact_value(flatten(job.to_dict())),
        tags=redactor.redact_value(tags),
    )


def attempt_beginning(view: RunView, attempt: AttemptView, parent: str, redactor: Redactor) -> Beginning:
    """A child run: an attempt at a seed."""
    name = f"seed {attempt.seed}" + (f", attempt {attempt.number}" if attempt.number > 1 else "")
    params = {**flatten(view.job.to_dict()), "seed": attempt.seed}
    return Beginning(
        key=f"{view.key}/{attempt.seed}/{attempt.number}",
        name=name,
        parent=parent,
        started=attempt.started,
        params=redactor.redact_value(params),
        tags={"seed": str(attempt.seed), "attempt": str(attempt.number)},
    )


def attempt_ending(view: RunView, attempt: AttemptView, redactor: Redactor) -> Ending:
    """The end of an attempt; the seed's figures and files belong to its newest one."""
    status: Status = "FINISHED" if attempt.status == "finished" else "FAILED" if attempt.status else "KILLED"
    names = ("failure", "stage", "error", "hardware", "node")
    tags = {name: text for name in names if (text := getattr(attempt, name))}
    tags["status"] = attempt.status or "ended without a word"
    time = attempt.ended or max(attempt.started, view.last_sign)
    if not attempt.newest:
        return Ending(status, time, {}, redactor.redact_value(tags), _present([attempt.log]))
    place = view.folder / f"seed-{attempt.seed}"
    result, data = _loaded(SeedResult, place / RESULT), _loaded(DataRecord, place / DATA)
    if data is not None:
        tags |= {f"data.sha256.{name}": digest for name, digest in data.checksums.items()}
        tags["data.sha256.tokenizer"] = data.tokenizer_sha256
    metrics = {} if result is None else seed_metrics(result)
    files = _present([place / name for name in (LOG, ARTIFACT, PROGRAM, RESULT, DATA, AUDIT)])
    return Ending(status, time, metrics, redactor.redact_value(tags), files)


def parent_ending(view: RunView, redactor: Redactor) -> Ending:
    """The verdict, as far as there is one."""
    result = _loaded(RunResult, view.folder / RESULT)
    job = redactor.redact(json.dumps(view.job.to_dict(), indent=2) + "\n")
    if result is None:
        note = f"The run ended without a word; go on with `golf run --resume {view.folder}`"
        tags = {"verdict": "interrupted", NOTE: note}
        return Ending("KILLED", view.last_sign, {}, redactor.redact_value(tags), (), {JOB: job})
    claim = result.claim
    finished = sum(seed.status == "finished" for seed in result.seeds)
    tags = {"verdict": claim.verdict, "hardware": result.provenance.get("hardware", "")}
    tags[NOTE] = f"**{claim.sentence}**\n\n```\n{_as_text(result)}\n```"
    return Ending(
        status="FINISHED" if finished == len(result.seeds) else "FAILED",
        time=view.last_sign,
        metrics=claim_metrics(result),
        tags=redactor.redact_value(tags),
        files=_present([view.folder / RESULT]),
        texts={JOB: job},
    )


def digest_of(ending: Ending) -> str:
    """The same for the same figures, tags and contents of files."""
    files = {path.name: sha256(path) for path in ending.files}
    values = (ending.status, dict(ending.metrics), dict(ending.tags), files, dict(ending.texts))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _present(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_file())


def _loaded(kind: type[Any], path: Path) -> Any:
    try:
        return records.load(kind, path, MAX_RECORD_BYTES)
    except GolfError:
        return None  # not there yet, or damaged: `golf rebuild` makes it anew


def _as_text(result: RunResult) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(claim_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def claim_metrics(result: RunResult) -> dict[str, float]:
    """The claim's figures by metric name; only those that exist."""
    claim = result.claim
    metrics: dict[str, float] = {}
    for name, summary in claim.scores.items():
        metrics[f"bpb_{name}_mean"] = summary.mean
        if summary.sd is not None:
            metrics[f"bpb_{name}_sd"] = summary.sd
    for test, label in zip(claim.tests, ("margin", "zero"), strict=False):
        metrics |= {f"p_{label}": test.p} if test.p is not None else {}
    finished = sum(seed.status == "finished" for seed in result.seeds)
    return metrics | {"seeds_finished": float(finished), "wall_seconds": result.finished - result.started}
