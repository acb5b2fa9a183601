"""Record folders made up for the tests of `golf verify`: logs in the style of published programs, and their claims."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from orchestrator.verify.report import Finding, FolderReport, report_table
from orchestrator.verify.verifier import verify

NATS_PER_BPB = 1.6884


@dataclass(frozen=True)
class MadeRun:
    """The figures of one made-up run."""

    seed: int
    bpb: float
    steps: int = 6_900
    train_ms: int = 599_400
    step_ms: float = 86.87
    eval_ms: int = 98_000
    weight_bytes: int = 15_800_000
    code_bytes: int = 90_000

    @property
    def nats(self) -> float:
        return round(self.bpb * NATS_PER_BPB, 8)

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.code_bytes


RUNS = (
    MadeRun(42, 1.11912345, steps=6_900, weight_bytes=15_800_123),
    MadeRun(1337, 1.11822345, steps=6_910, weight_bytes=15_812_345),
    MadeRun(2024, 1.11872345, steps=6_895, weight_bytes=15_798_765),
)


def log_lines(run: MadeRun) -> list[str]:
    """A training log in the style of the published programs."""
    return [
        "val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/tok.model",
        "model_params:26993766",
        "world_size:8 grad_accum_steps:1",
        "train_batch_tokens:786432 train_seq_len:2048 iterations:20000 warmup_steps:20 max_wallclock_seconds:600.000",
        f"seed:{run.seed}",
        "warmup_step:1/20",
        "step:0/20000 val_loss:6.9301 val_bpb:4.1044 train_time:0ms step_avg:0.02ms",
        "step:1/20000 train_loss:6.9318 train_time:148ms step_avg:147.68ms",
        "step:500/20000 train_loss:2.3833 train_time:46087ms step_avg:92.17ms",
        f"step:{run.steps}/20000 val_loss:1.9304 val_bpb:1.1433 train_time:{run.train_ms}ms step_avg:{run.step_ms}ms",
        f"stopping_early: wallclock_cap train_time:{run.train_ms}ms step:{run.steps}/20000",
        "peak memory allocated: 22016 MiB reserved: 22362 MiB",
        "DIAGNOSTIC post_ema val_loss:1.9290 val_bpb:1.1425 eval_time:2064ms",
        "Serialized model: 106181533 bytes",
        f"Code size: {run.code_bytes} bytes",
        f"Serialized model int6+lzma: {run.weight_bytes} bytes",
        f"Total submission size int6+lzma: {run.total_bytes} bytes",
        "final_int6_roundtrip_exact val_loss:1.94159290 val_bpb:1.14992068",
        f"final_int6_sliding_window val_loss:{run.nats:.4f} val_bpb:{run.bpb:.4f} stride:64 eval_time:{run.eval_ms}ms",
        f"final_int6_sliding_window_exact val_loss:{run.nats:.8f} val_bpb:{run.bpb:.8f}",
    ]


def claims(runs: tuple[MadeRun, ...] = RUNS, **changes: Any) -> dict[str, Any]:
    """A submission.json that says what the logs of these runs say; None takes a field away."""
    described = {
        "name": "made up",
        "val_bpb": round(fmean(run.bpb for run in runs), 8),
        "val_loss": round(fmean(run.nats for run in runs), 8),
        "bytes_total": max(run.total_bytes for run in runs),
        "seeds": [run.seed for run in runs],
        "seed_results": {
            str(run.seed): {
                "val_loss": run.nats,
                "val_bpb": run.bpb,
                "artifact_bytes": run.total_bytes,
                "steps": run.steps,
                "ms_per_step": run.step_ms,
                "train_seconds": run.train_ms / 1000,
                "eval_seconds": run.eval_ms / 1000,
            }
            for run in runs
        },
    } | changes
    return {name: value for name, value in described.items() if value is not None}


def write_folder(
    place: Path,
    runs: tuple[MadeRun, ...] = RUNS,
    submission: Mapping[str, Any] | str | None = None,
    **changes: Any,
) -> Path:
    """A record folder with a log for each run; `submission` in place of the true one, or `changes` of it."""
    place.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (place / f"train_seed{run.seed}.log").write_text("\n".join(log_lines(run)) + "\n")
    content = claims(runs, **changes) if submission is None else submission
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    (place / "submission.json").write_text(text)
    return place


def report_of(place: Path, baseline: Path | None = None) -> FolderReport:
    """The report on one folder, which must be readable."""
    report = verify([place], baseline)
    assert not report.unreadable
    return report.folders[0]


def finding(report: FolderReport, subject: str) -> Finding:
    """The one finding on `subject`."""
    found = [f for f in report.findings if f.subject == subject]
    assert len(found) == 1, (subject, [f.subject for f in report.findings])
    return found[0]


def problems(report: FolderReport) -> set[str]:
    """Subjects of all problems."""
    return {f.subject for f in report.findings if f.status == "problem"}


def printed(report: FolderReport, width: int = 160) -> str:
    """The table as a terminal of this width shows it."""
    text = StringIO()
    Console(width=width, file=text).print(report_table(report, width))
    return text.getvalue()
