"""What only a GPU can show: the CUDA paths against those of the CPU. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import small_case

from golf_core.config import GolfConfig, override, small
from golf_core.data.shards import TokenStream, write_shard
from golf_core.distributed import single
from golf_core.evaluate.score import Evaluator, PhaseTimes
from golf_core.evaluate.text import validation_text
from golf_core.mixture.contexts import ContextCounts, LongestMatch
from golf_core.results import EvalResult, TrainResult
from golf_core.stages import DataPaths
from golf_core.train.dry_run import dry_run
from golf_core.train.loop import Trainer
from golf_core.train.snapshot import SNAPSHOT_NAME, Snapshots

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SCORES = ("neural", "mixture", "published")


def test_forward_in_float32_is_that_of_the_cpu() -> None:
    case = small_case()
    ids, targets = case.rows()
    with torch.no_grad():
        expected = case.model("random")(ids, targets)
        found = case.model("random").to(CUDA)(ids.to(CUDA), targets.to(CUDA))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_counts_and_matches_are_those_of_the_cpu() -> None:
    """Integers, so not nearly: exactly. Two calls, so that what was learnt counts."""
    tokens = torch.from_numpy(small_case().tokens[:6_001])
    found = []
    for device in (CPU, CUDA):
        here = tokens.to(device)
        counts, matches = ContextCounts(1024, range(5), range(3), here, device), LongestMatch(6, here, device)
        parts = []
        for begin, end in ((0, 3_000), (3_000, 6_000)):
            statistics, matched = counts.look(begin, end), matches.look(begin, end)
            parts += [statistics.count, statistics.total, statistics.distinct, matched.length]
            parts += [matched.predicted.masked_fill(matched.length == 0, 0)]
            parts += [counts.distributions(torch.tensor([begin, end - 1], device=device))]
            counts.learn()
            matches.learn()
        found.append([part.cpu() for part in parts])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert torch.equal(on_cpu, on_gpu)


def evaluate(device: torch.device, compiled: bool) -> EvalResult:
    case = small_case()
    start, count = case.sizes["val_start"], case.sizes["val_tokens"]
    text = validation_text(case.tokens[start : start + count + 1], case.byte_table, device)
    config = case.eval_config(repeat_tail=False, batch_windows=7)
    return Evaluator(case.model("dequantised").to(device), config, text, single(device), compiled=compiled).run()


def test_evaluation_is_that_of_the_cpu_but_for_bfloat16() -> None:
    expected = evaluate(CPU, False)
    plain, compiled = evaluate(CUDA, False), evaluate(CUDA, True)
    for result in (plain, compiled):
        assert (result.tokens, result.bytes) == (expected.tokens, expected.bytes)
        for name in SCORES:
            assert getattr(result, name).bpb == pytest.approx(getattr(expected, name).bpb, abs=2e-3)
        assert result.mean_log_z == pytest.approx(expected.mean_log_z, abs=1e-2)
        assert result.kraft is not None and result.kraft.mixture_max_error < 1e-5
        assert result.kraft.neural_max_error < 1e-5
        assert 0 < sum(result.seconds_by_phase.values()) <= 1.05 * result.seconds
    for name in SCORES:
        assert getattr(compiled, name).bpb == pytest.approx(getattr(plain, name).bpb, abs=2e-3)


def config(**train: object) -> GolfConfig:
    """Late QAT begins in the middle; small sizes whose widths still make every kind of parameter learn."""
    case = small_case()
    changed = replace(
        case.train_config,
        **{
            "batch_tokens": 4096,
            "micro_batches": 4,
            "iterations": 24,
            "warmup_steps": 4,
            "warmdown_steps": 18,
            "qat_threshold": 0.6,
            "log_every": 1,
            **train,
        },
    )
    return GolfConfig(model=case.model_config, train=changed, evaluate=case.eval_config(repeat_tail=False))


def stream_in(folder: Path) -> TokenStream:
    path = folder / "fineweb_train_000000.bin"
    if not path.exists():
        write_shard(path, small_case().tensors["tokens"].astype(np.uint16)[:20_000])
    return TokenStream([path])


def train(folder: Path, device: torch.device, compiled: bool, keeper: Snapshots | None = None) -> TrainResult:
    case = small_case()
    start, count = case.sizes["val_start"], case.sizes["val_tokens"]
    text = validation_text(case.tokens[start : start + count + 1], case.byte_table, device)
    changed = replace(config(), compile=compiled)
    return Trainer(changed, stream_in(folder), text, single(device), 3, keeper=keeper).run()


def test_training_is_that_of_the_cpu_but_for_bfloat16(tmp_path: Path) -> None:
    expected = train(tmp_path, CPU, False)
    for compiled in (False, True):
        result = train(tmp_path, CUDA, compiled)
        assert (result.steps, result.qat_onset_step) == (expected.steps, expected.qat_onset_step)
        assert result.val_loss == pytest.approx(expected.val_loss, abs=0.02)
        assert result.peak_memory_mib > 0


class DiedError(Exception):
    """The end of a process."""


class Mortal(Snapshots):
    """Snapshots of a process that ends after the one at step 9."""

    def keep(self, state, stream):  # type: ignore[no-untyped-def]
        said = super().keep(state, stream)
        if state.progress.step == 9:
            raise DiedError
        return said


def test_training_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    expected = train(tmp_path, CUDA, False)
    keeping = config(snapshot_seconds=1e-9)
    with pytest.raises(DiedError):
        train(tmp_path, CUDA, False, Mortal(tmp_path, keeping, single(CUDA), 3))
    resumed = train(tmp_path, CUDA, False, Snapshots(tmp_path, keeping, single(CUDA), 3, tmp_path / SNAPSHOT_NAME))
    assert resumed.resumed_at_steps == (9,) and resumed.steps == expected.steps
    # Sums of gradients come in any order on a GPU, so not to the bit.
    assert resumed.val_loss == pytest.approx(expected.val_loss, abs=2e-3)


def test_rehearsal_reports_the_memory_of_the_gpu(sample_folder: Path) -> None:
    sizes = {
        "model.model_dim": 64,
        "model.rope_dims": 8,
        "train.warmup_steps": 4,
        "train.batch_tokens": 1024,
        "train.seq_len": 128,
        "train.wallclock_seconds": 60.0,
        "evaluate.seq_len": 128,
        "evaluate.chunk_tokens": 1024,
        "evaluate.hedge_min_tokens": 1000,
    }
    paths = DataPaths(sample_folder, sample_folder / "tokenizer.model")
    dry = dry_run(override(small(), sizes), paths, single(CUDA), steps=8)
    assert dry.device == torch.cuda.get_device_name(CUDA)
    assert dry.memory_mib == pytest.approx(torch.cuda.get_device_properties(CUDA).total_memory / 2**20)
    assert 0 < dry.peak_memory_mib < dry.memory_mib and dry.refused is None
    assert dry.steps_in_budget > 0 and dry.eval_seconds > dry.seconds_per_chunk > 0


def test_phases_are_timed_on_the_device() -> None:
    times = PhaseTimes(CUDA)
    times.start()
    torch.cuda._sleep(50_000_000)  # cycles: tens of milliseconds of work that the host does not wait for
    times.ended("asleep")
    times.ended("nothing")
    found = times.seconds()
    assert found["asleep"] > 0.01 > found["nothing"] >= 0.0
