"""The rehearsal: what it measures, what it projects, and that it leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks

from golf_core import strict_json
from golf_core.artifact.codec import encode
from golf_core.artifact.quantize import quantize_all
from golf_core.config import GolfConfig, TrainConfig, override, small
from golf_core.data.manifest import load_manifest
from golf_core.distributed import Ranks, single
from golf_core.errors import ConfigError, RunError
from golf_core.model.gpt import expected_shapes
from golf_core.stages import DataPaths
from golf_core.train.dry_run import dry_run, gaussian_bytes, time_all_reduce
from golf_core.train.projection import DryRun, describe, steps_in_budget

TINY = {
    "model.model_dim": 64,
    "model.rope_dims": 8,
    "train.iterations": 5000,
    "train.warmup_steps": 2,
    "train.batch_tokens": 1024,
    "train.seq_len": 128,
    "train.wallclock_seconds": 60.0,
    "train.warmdown_steps": 400,
    "evaluate.seq_len": 128,
    "evaluate.chunk_tokens": 1024,
    "evaluate.hedge_min_tokens": 1000,
}


def tiny(**changes: Any) -> GolfConfig:
    return override(small(), TINY | {name.replace("__", "."): value for name, value in changes.items()})


def paths_of(folder: Path) -> DataPaths:
    return DataPaths(folder, folder / "tokenizer.model")


@pytest.fixture(scope="module")
def dry(sample_folder: Path) -> DryRun:
    torch.set_num_threads(1)
    return dry_run(tiny(), paths_of(sample_folder), single(torch.device("cpu")), steps=12)


def test_projections_follow_from_what_was_measured(dry: DryRun, sample_folder: Path) -> None:
    assert dry.steps == 12 and dry.world_size == 1 and dry.device == "cpu"
    assert dry.ms_per_step > 0 and dry.ms_per_step_late > 0 and dry.warmup_seconds > 0
    assert (dry.steps_in_budget, dry.train_seconds) == steps_in_budget(
        tiny().train, dry.ms_per_step, dry.ms_per_step_late
    )
    # The text is far longer than what was evaluated: its time is projected, chunk by chunk.
    tokens = sum(shard.tokens for shard in load_manifest(sample_folder).val)
    assert dry.chunks == pytest.approx(tokens / 1024, abs=1) and dry.chunks_measured == 4
    assert dry.eval_seconds > (dry.chunks - 1) * dry.seconds_per_chunk
    assert dry.refused is None and dry.weight_bytes > 0 and dry.code_bytes > 0
    assert f"{dry.chunks:,} chunks" in " ".join(describe(dry))
    assert dry.memory_mib is None and dry.peak_memory_mib > 0


def test_it_can_be_saved_and_read_back(dry: DryRun, tmp_path: Path) -> None:
    strict_json.save(dry, tmp_path / "dry.json")
    assert strict_json.load(DryRun, tmp_path / "dry.json") == dry


def test_a_short_text_is_evaluated_whole_and_nothing_is_left_behind(
    sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dry = dry_run(tiny(evaluate__max_tokens=2048), paths_of(sample_folder), single(torch.device("cpu")), steps=8)
    assert dry.chunks == dry.chunks_measured == 2
    assert dry.eval_seconds >= 2 * dry.seconds_per_chunk
    assert list(tmp_path.iterdir()) == []


def test_a_cap_that_cannot_be_met_is_reported(sample_folder: Path) -> None:
    config = tiny(artifact__cap_bytes=10_000, evaluate__max_tokens=1024)
    dry = dry_run(config, paths_of(sample_folder), single(torch.device("cpu")), steps=8)
    assert dry.refused is not None and "over the cap" in dry.refused
    assert dry.weight_bytes == 0


def test_too_few_steps_are_refused(sample_folder: Path) -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        dry_run(tiny(), paths_of(sample_folder), single(torch.device("cpu")), steps=3)


def rehearse(ranks: Ranks, config: GolfConfig, folder: Path) -> tuple[DryRun, float, float]:
    reduced = time_all_reduce(ranks, mib=0.5)
    return dry_run(config, paths_of(folder), ranks, steps=8), reduced.seconds, reduced.bus_gb_per_s


def test_all_ranks_report_the_same(sample_folder: Path) -> None:
    (one, seconds, rate), (two, *other) = on_ranks(2, rehearse, tiny(evaluate__max_tokens=4096), sample_folder)
    assert one == two
    assert [seconds, rate] == other and seconds > 0
    assert rate == pytest.approx(0.5 * 2**20 / seconds / 1e9)  # two ranks: 2 (n - 1) / n is 1
    assert one.world_size == 2


def late_reduce(ranks: Ranks) -> str:
    try:
        time_all_reduce(ranks, mib=16, repeats=8, limit_s=0.0)
    except RunError as error:
        return str(error)
    return "in time"


def test_a_slow_all_reduce_is_given_up() -> None:
    assert all("did not end within 0 s" in answer for answer in on_ranks(2, late_reduce))


def test_one_rank_reduces_nothing() -> None:
    assert time_all_reduce(single(torch.device("cpu")), mib=0.1).bus_gb_per_s == 0.0


# --- projections ------------------------------------------------------------------------------------

clocks = st.builds(
    TrainConfig,
    iterations=st.integers(1, 20_000),
    wallclock_seconds=st.one_of(st.none(), st.floats(1.0, 1000.0)),
    warmdown_steps=st.integers(0, 5000),
    qat_threshold=st.floats(0.0, 1.0),
)


@given(clocks, st.floats(1.0, 5000.0), st.floats(1.0, 2.0))
def test_projected_steps_fit_into_the_clock(config: TrainConfig, ms: float, slower: float) -> None:
    steps, seconds = steps_in_budget(config, ms, ms * slower)
    assert 0 <= steps <= config.iterations
    assert steps * ms / 1e3 <= seconds + 1e-6 <= steps * ms * slower / 1e3 + 2e-6
    if config.wallclock_seconds is None:
        assert steps == config.iterations
    else:
        assert seconds <= config.wallclock_seconds * (1 + 1e-9)
        if steps < config.iterations:
            assert seconds + 2 * ms * slower / 1e3 > config.wallclock_seconds


def test_steps_of_the_record_without_late_qat() -> None:
    assert steps_in_budget(TrainConfig(), 100.0, 100.0) == (6000, pytest.approx(600.0))
    # 525 of the steps are under late QAT and take twice as long: 525 fewer fit.
    assert steps_in_budget(TrainConfig(), 100.0, 200.0) == (5475, pytest.approx(600.0))


def test_gaussian_bytes_are_those_of_a_gaussian_model() -> None:
    config = override(small(), {"artifact.float16_max_elements": 4096})
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(shape, generator=generator) * 40 for name, shape in expected_shapes(config.model).items()
    }
    actual = len(encode(config.model, quantize_all(weights, config.artifact), config.artifact.lzma_preset))
    assert gaussian_bytes(config.model, config.artifact) == pytest.approx(actual, rel=0.03)
