"""The checks inside a gang, and what a rehearsal means for the job."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import OVERRIDES, write_job

sys.path.append(str(Path(__file__).resolve().parents[1] / "golf_core"))
from ranks import on_ranks

from golf_core import strict_json
from golf_core.distributed import Ranks, single
from golf_core.errors import ConfigError
from golf_core.train.projection import AllReduce, DryRun
from orchestrator.job.load import Job, load_job
from orchestrator.preflight.findings import Preflight, PreflightError
from orchestrator.preflight.on_rank import (
    RankReport,
    check_rank,
    judge_dry_run,
    judge_gpu_all_reduce,
    judge_ranks,
    request_of,
)

REPO = Path(__file__).resolve().parents[2]

GOOD = DryRun(
    world_size=8,
    device="NVIDIA H100 80GB HBM3",
    steps=20,
    parameters=27_000_000,
    ms_per_step=90.0,
    ms_per_step_late=95.0,
    warmup_seconds=60.0,
    steps_in_budget=6600,
    train_seconds=599.0,
    chunks=1893,
    chunks_measured=4,
    seconds_per_chunk=0.2,
    eval_seconds=400.0,
    export_seconds=30.0,
    weight_bytes=5_000_000,
    weight_bytes_projected=15_800_000,
    code_bytes=44_000,
    refused=None,
    peak_memory_mib=30_000.0,
    memory_mib=81_000.0,
    seconds=100.0,
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    overrides = OVERRIDES | {"train.iterations": 100, "evaluate.max_tokens": 1024}
    return load_job(write_job(tmp_path, overrides=overrides))


@pytest.fixture(scope="module")
def record() -> Job:
    return load_job(REPO / "jobs/three_seed.yaml")


def ask(ranks: Ranks, config: dict[str, Any], request: dict[str, Any], data: dict[str, str] | None) -> dict[str, Any]:
    return check_rank(config, data, ranks, request)


def arguments(job: Job, steps: int = 8) -> tuple[dict[str, Any], dict[str, Any]]:
    return strict_json.to_dict(job.config), strict_json.to_dict(request_of(job, steps))


def test_two_ranks_check_one_node_and_rehearse(job: Job, sample_folder: Path) -> None:
    job = job.model_copy(update={"resources": job.resources.model_copy(update={"ranks": 2})})
    reports = on_ranks(2, ask, *arguments(job), None)
    json.dumps(reports)  # plain values, whatever carries them
    result = judge_ranks(job, reports)
    assert result.exit_code == 0, result.errors
    first, second = (strict_json.from_dict(RankReport, report) for report in reports)
    assert first.dry_run == second.dry_run == result.projections and result.projections is not None
    assert first.findings and not second.findings  # the node is looked at once
    names = " ".join(finding.where for finding in result.findings)
    for part in ("temporary folder", "shared memory", "all-reduce over 2 ranks", "rehearsed training"):
        assert part in names
    assert result.cost is not None and "as rehearsed" in result.cost.assumptions[0]
    assert strict_json.from_dict(Preflight, strict_json.to_dict(result)) == result


def test_nothing_is_rehearsed_where_the_node_is_at_fault(job: Job, tmp_path: Path) -> None:
    data = {"path": str(tmp_path / "nowhere"), "tokenizer": str(tmp_path / "none.model")}
    report = ask(single(torch.device("cpu")), *arguments(job), data)
    assert report["dry_run"] is None and report["all_reduce"] is None
    result = judge_ranks(job, [report])
    assert result.exit_code == 2
    with pytest.raises(PreflightError, match="no such data folder"):
        result.refuse_errors()


def test_a_rank_without_a_gpu_is_found_and_mistakes_in_the_request_are_named(job: Job) -> None:
    job = job.model_copy(update={"resources": job.resources.model_copy(update={"accelerator": "H100"})})
    config, request = arguments(job)
    cpu = single(torch.device("cpu"))
    wheres = [finding.where for finding in judge_ranks(job, [ask(cpu, config, request, None)]).errors]
    assert any(where.startswith("rank 0") for where in wheres) and "gang" in wheres
    with pytest.raises(ConfigError, match="stepz"):
        ask(cpu, config, request | {"stepz": 1}, None)


@pytest.mark.parametrize(
    ("change", "level", "where", "words"),
    [
        ({"eval_seconds": 601.0}, "error", "evaluation", "budgets.eval_seconds is 600"),
        ({"eval_seconds": 560.0}, "warning", "evaluation", "less than 10%"),
        ({"train_seconds": 601.0}, "error", "training", "budgets.train_seconds is 600"),
        ({"warmup_seconds": 1000.0}, "error", "training", "the limit is 1500 s"),
        ({"steps_in_budget": 0}, "error", "training", "not one step"),
        ({"steps_in_budget": 3000}, "warning", "training", "warmdown_steps = 3,500"),
        ({"weight_bytes": 16_000_000}, "error", "artifact", "the cap is 16,000,000"),
        ({"refused": "the smallest artifact is too large"}, "error", "artifact", "smallest artifact"),
        ({"weight_bytes_projected": 17_000_000}, "ok", "artifact", "the exporter fits"),
        ({"peak_memory_mib": 80_000.0}, "warning", "memory", "less than 10%"),
        ({"peak_memory_mib": 82_000.0}, "error", "memory", "82,000 of 81,000 MiB"),
    ],
)
def test_each_budget_out_of_reach_is_named(
    record: Job, change: dict[str, Any], level: str, where: str, words: str
) -> None:
    findings = judge_dry_run(record, replace(GOOD, **change))
    (finding,) = [finding for finding in findings if finding.where == f"rehearsed {where}"]
    assert finding.level == level and words in finding.what
    assert (finding.remedy == "") == (level == "ok")
    assert {finding.level for finding in judge_dry_run(record, GOOD)} == {"ok"}
    assert all(other.level == "ok" for other in findings if other != finding)


def test_weights_that_may_not_be_fitted_are_a_warning(record: Job) -> None:
    config = replace(record.config, artifact=replace(record.config.artifact, requantize=False))
    fixed = record.model_copy(update={"config": config})
    findings = judge_dry_run(fixed, replace(GOOD, weight_bytes_projected=17_000_000))
    assert [finding.level for finding in findings].count("warning") == 1


def test_a_slow_interconnect_within_a_node_is_a_warning() -> None:
    fast, slow = AllReduce(8, 64.0, 4e-4, 300.0), AllReduce(8, 64.0, 1e-2, 12.0)
    assert judge_gpu_all_reduce(fast, 1).level == "ok"
    assert judge_gpu_all_reduce(slow, 1).level == "warning"
    assert judge_gpu_all_reduce(slow, 2).level == "ok"
    assert judge_gpu_all_reduce(AllReduce(1, 64.0, 1e-3, 0.0), 1).level == "ok"
