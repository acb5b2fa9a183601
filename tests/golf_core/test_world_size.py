"""The same figures on any number of ranks: evaluation to 1e-6 BPB, training of the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import small_case
from ranks import on_ranks

from golf_core.config import GolfConfig
from golf_core.data.shards import TokenStream, write_shard
from golf_core.distributed import Ranks, single
from golf_core.evaluate.score import Evaluator
from golf_core.results import EvalResult, TrainResult
from golf_core.train.loop import Trainer
from golf_core.train.optimizers import Muon, newton_schulz


def evaluate(ranks: Ranks) -> EvalResult:
    case = small_case()
    config = case.eval_config(repeat_tail=False, batch_windows=7)
    return Evaluator(case.model("dequantised"), config, case.text, ranks).run()


def test_evaluation_agrees_on_1_2_and_3_ranks() -> None:
    alone = evaluate(single(torch.device("cpu")))
    assert alone.tokens == small_case().sizes["val_tokens"]  # each token once, without the published repetition
    for world_size in (2, 3):
        for result in on_ranks(world_size, evaluate):
            assert result.tokens == alone.tokens and result.bytes == alone.bytes
            for name in ("neural", "mixture", "published"):
                assert getattr(result, name).bpb == pytest.approx(getattr(alone, name).bpb, abs=1e-6)
            assert result.mean_log_z == pytest.approx(alone.mean_log_z, abs=1e-6)
            np.testing.assert_allclose(result.history[-1].log_weights, alone.history[-1].log_weights, atol=1e-6)
            assert result.kraft is not None and alone.kraft is not None
            assert result.kraft.positions == alone.kraft.positions
            assert result.kraft.published_mean_sum == pytest.approx(alone.kraft.published_mean_sum, rel=1e-5)


def train_config() -> GolfConfig:
    case = small_case()
    train = replace(
        case.train_config,
        batch_tokens=512,
        micro_batches=8,
        iterations=6,
        warmup_steps=2,
        warmdown_steps=4,
        qat_threshold=0.6,
        muon_dtype="float32",
        log_every=1,
    )
    return GolfConfig(model=case.model_config, train=train, evaluate=case.eval_config(repeat_tail=False))


def train(ranks: Ranks, shard: Path) -> tuple[TrainResult, float]:
    trainer = Trainer(train_config(), TokenStream([shard]), small_case().text, ranks, seed=3)
    result = trainer.run()
    checksum = sum(float(p.detach().double().abs().sum()) for p in trainer.model.parameters())
    return result, checksum


def test_training_repeats_itself_and_agrees_on_3_ranks(tmp_path: Path) -> None:
    shard = tmp_path / "fineweb_train_000000.bin"
    write_shard(shard, small_case().tensors["tokens"].astype(np.uint16)[:20_000])
    alone, checksum = train(single(torch.device("cpu")), shard)
    again, same = train(single(torch.device("cpu")), shard)
    assert (again.train_loss, again.val_bpb, same) == (alone.train_loss, alone.val_bpb, checksum)
    assert alone.qat_onset_step is not None
    for result, other in on_ranks(3, train, shard):  # 8 spans on 3 ranks: uneven shares
        assert result.steps == alone.steps == 6
        assert result.qat_onset_step == alone.qat_onset_step
        assert result.train_loss == pytest.approx(alone.train_loss, abs=1e-3)
        assert result.val_bpb == pytest.approx(alone.val_bpb, abs=1e-3)
        assert other == pytest.approx(checksum, rel=1e-3)


MATRICES = [(8, 4)] * 5 + [(4, 8)] * 2 + [(6, 6)]


def muon_steps(ranks: Ranks) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in MATRICES]
    muon = Muon(params, train_config().train, ranks, compiled=False)
    for step in range(3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        muon.step(0.02, 0.9 + 0.01 * step)
    return [p.detach() for p in params]


def test_muon_against_a_plain_reference() -> None:
    """One matrix at a time, written from the recipe; the ranks share them out."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(*shape, generator=generator) for shape in MATRICES]
    buffers = [torch.zeros_like(w) for w in weights]
    for step in range(3):
        momentum = 0.9 + 0.01 * step
        for i, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=generator)
            buffers[i] = momentum * buffers[i] + gradient
            update = newton_schulz((gradient + momentum * buffers[i])[None], 5, torch.float32)[0]
            scale = max(1.0, weight.size(0) / weight.size(1)) ** 0.5
            weights[i] = weight * (1 - 0.02 * 0.04) - 0.02 * scale * update
    for result in (muon_steps(single(torch.device("cpu"))), *on_ranks(3, muon_steps)):
        for found, expected in zip(result, weights, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_newton_schulz_orthogonalises() -> None:
    x = newton_schulz(torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0)), 5, torch.float32)
    singular = torch.linalg.svdvals(x)
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.3
