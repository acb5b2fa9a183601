"""Jobs and seed results made up for the tests of claim and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from golf_core.results import AuditRecord, EvalResult, ExportResult, KraftSums, Score, TrainResult
from orchestrator.claim.judge import judge
from orchestrator.folder.results import RunResult, SeedResult
from orchestrator.job.load import Job, load_job

BASELINE = (1.11922988, 1.12002032, 1.11888882)
CANDIDATE = (1.11508120, 1.11437394, 1.11475014)
RATIO = 2.43593
PROJECT = Path(__file__).parents[2]
THREE_SEED = PROJECT / "jobs" / "three_seed.yaml"


def job(**changes: Any) -> Job:
    """jobs/three_seed.yaml with fields replaced; `a__b` stands for a.b."""
    return load_job(THREE_SEED, {name.replace("__", "."): value for name, value in changes.items()})


def train_result(seed: int, **changes: Any) -> TrainResult:
    result = TrainResult(
        seed=seed,
        world_size=8,
        device="NVIDIA H100 80GB HBM3",
        parameters=26_993_766,
        steps=6104,
        train_seconds=598.25,
        warmup_seconds=31.5,
        validation_seconds=12.0,
        ms_per_step=98.01,
        tokens_per_second=8.02e6,
        train_loss=1.93,
        val_loss=1.93,
        val_bpb=1.1425,
        qat_onset_step=5600,
        peak_memory_mib=22016.0,
    )
    return replace(result, **changes)


def export_result(**changes: Any) -> ExportResult:
    result = ExportResult(
        15_705_672, 94_378, "0" * 64, 18.5, {"int6": 25_000_000, "int8": 1_000_000, "float16": 50_000}
    )
    return replace(result, **changes)


def eval_result(bpb: float, **changes: Any) -> EvalResult:
    kraft = KraftSums(15_144, 2e-7, 4e-7, 81.0, 1e-6)
    result = EvalResult(
        world_size=8,
        device="NVIDIA H100 80GB HBM3",
        seconds=486.0,
        tokens=62_021_632,
        bytes=62_021_632 * RATIO,
        chunks=1893,
        neural=Score(1.90, bpb + 0.001),
        mixture=Score(1.89, bpb),
        published=Score(1.757687, 1.041004),
        mean_log_z=2.0123,
        expert_bpb={"neural": bpb, "unigram": 3.2, "bigram": 2.6, "trigram": 2.2, "entropy": 1.5},
        kraft=kraft,
        history=(),
        repeat_tail=False,
    )
    return replace(result, **changes)


def finished(seed: int, bpb: float, **changes: Any) -> SeedResult:
    result = SeedResult(
        seed,
        "finished",
        None,
        train_result(seed),
        export_result(),
        eval_result(bpb),
        1.7e9,
        1.7e9 + 1300,
        "node-a",
        audit_record(),
    )
    return replace(result, **changes)


def audit_record(**changes: Any) -> AuditRecord:
    record = AuditRecord(8, 49_153, 95.0, (), 3e-7, 2e-7, 81.4, 81.39999, 1e-6)
    return replace(record, **changes)


def failed(seed: int, error: str = "rank 3 ran out of memory") -> SeedResult:
    return SeedResult(seed, "failed", error, train_result(seed), None, None, 1.7e9, 1.7e9 + 700, "node-a")


def three(bpbs: Sequence[float] = CANDIDATE) -> tuple[SeedResult, ...]:
    return tuple(finished(seed, bpb) for seed, bpb in zip((42, 1337, 2024), bpbs, strict=True))


def run_result(the_job: Job, seeds: Sequence[SeedResult]) -> RunResult:
    return RunResult(
        name=the_job.name,
        run_id="20260401-120000-abcdef",
        job=the_job,
        provenance={"git_commit": "0" * 40, "git_dirty": "false"},
        seeds=tuple(seeds),
        claim=judge(the_job, seeds),
        started=1.7e9,
        finished=1.7e9 + 1400,
    )
