"""The stages as a user runs them: from the command line, alone and under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from golf_core.results import EvalResult, ExportResult, TrainResult
from golf_core.strict_json import load

TINY = [
    "--set", "train.iterations=4", "--set", "train.warmup_steps=0", "--set", "train.batch_tokens=1024",
    "--set", "train.seq_len=128", "--set", "evaluate.seq_len=128", "--set", "evaluate.chunk_tokens=1024",
    "--set", "evaluate.max_tokens=4096", "--set", "evaluate.hedge_min_tokens=2000", "--set", "model.model_dim=64",
    "--set", "model.rope_dims=8", "--set", "train.log_every=1", "--threads", "1",
]  # fmt: skip


def python(*arguments: str, launcher: tuple[str, ...] = ("-m", "golf_core")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, *arguments], check=False, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("stages")
    done = python("run", "--preset", "small", "--data", str(sample_folder), "--out", str(out), *TINY)
    assert done.returncode == 0, done.stderr
    assert "train 4/4" in done.stdout and "ETA" in done.stdout
    return out


def test_every_stage_leaves_its_record(finished: Path) -> None:
    train = load(TrainResult, finished / "train.json")
    exported = load(ExportResult, finished / "export.json")
    evaluated = load(EvalResult, finished / "evaluate.json")
    assert train.steps == 4 and train.seed == 42
    assert exported.weight_bytes == (finished / "model.golf").stat().st_size
    assert evaluated.tokens == 4096 and evaluated.mixture is not None and evaluated.kraft is not None
    assert evaluated.kraft.mixture_max_error < 1e-5
    assert set(evaluated.seconds_by_phase) == {"loading", "scoring", "mixing", "adaptation"}
    assert all(seconds > 0 for seconds in evaluated.seconds_by_phase.values())
    assert 0.8 * evaluated.seconds < sum(evaluated.seconds_by_phase.values()) <= evaluated.seconds
    assert evaluated.kraft.published_formula_max_error < 1e-5
    kinds = [json.loads(line)["kind"] for line in (finished / "log.jsonl").read_text().splitlines()]
    assert kinds.count("train_step") == 4 and kinds.count("chunk") == 4


def test_torchrun_with_two_ranks_gives_the_same_figures(finished: Path, sample_folder: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "golf_core")
    arguments = ("evaluate", str(finished / "model.golf"), "--config", str(finished / "config.json"))
    place = ("--data", str(sample_folder), "--out", str(tmp_path), "--threads", "1")
    done = python(*arguments, *place, launcher=torchrun)
    assert done.returncode == 0, done.stderr
    alone, two = load(EvalResult, finished / "evaluate.json"), load(EvalResult, tmp_path / "evaluate.json")
    assert (alone.world_size, two.world_size) == (1, 2)
    for name in ("neural", "mixture", "published"):
        assert getattr(two, name).bpb == pytest.approx(getattr(alone, name).bpb, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--data", "/nonexistent"], "/nonexistent"),
        (["train", "--set", "train.iteratons=3"], "did you mean 'iterations'?"),
        (["train", "--set", "train.batch_tokens=1000"], "not a multiple"),
        (["evaluate", __file__], "not an artifact"),
        (["export", __file__], "not a checkpoint"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(
    arguments: list[str], sentence: str, sample_folder: Path, tmp_path: Path
) -> None:
    if "--data" not in arguments:
        arguments = [*arguments, "--data", str(sample_folder)]
    done = python(*arguments, "--preset", "small", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
