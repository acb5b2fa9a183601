"""Schedules, the clock, late QAT, averages: what changes from step to step."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_case import small_case
from hypothesis import given
from hypothesis import strategies as st

from golf_core.config import EvalConfig, GolfConfig, TrainConfig
from golf_core.data.shards import TokenStream, write_shard
from golf_core.distributed import single
from golf_core.errors import RunError
from golf_core.evaluate.adaptation import adaptation_lr
from golf_core.events import Event
from golf_core.model.blocks import soft_round_int6
from golf_core.train.loop import Trainer
from golf_core.train.state import TrainingClock, lr_factor, muon_momentum, qat_temperature

RECORD = TrainConfig()
CPU = torch.device("cpu")


class TestSchedule:
    def test_published_run(self) -> None:
        """6,104 steps of 98.36 ms: full rate until 3,500 average steps remain, then down in proportion."""
        seconds = 0.09836
        assert lr_factor(RECORD, 0, 0.0) == 1.0
        assert lr_factor(RECORD, 2500, 2500 * seconds) == 1.0
        factor = lr_factor(RECORD, 4350, 4350 * seconds)
        assert factor == pytest.approx((600 - 4350 * seconds) / (3500 * seconds))
        assert lr_factor(RECORD, 6100, 600.0) == 0.0

    @given(step=st.integers(1, 20_000), elapsed=st.floats(0.0, 700.0))
    def test_factor_stays_within_bounds(self, step: int, elapsed: float) -> None:
        assert 0.0 <= lr_factor(RECORD, step, elapsed) <= 1.0

    def test_steps_alone_warm_down_without_a_clock(self) -> None:
        config = replace(RECORD, wallclock_seconds=None, iterations=100, warmdown_steps=50)
        assert [lr_factor(config, step, 1e9) for step in (0, 50, 75, 99)] == [1.0, 1.0, 0.5, 0.02]

    def test_momentum(self) -> None:
        assert muon_momentum(RECORD, 0) == 0.92
        assert muon_momentum(RECORD, 750) == pytest.approx(0.955)
        assert muon_momentum(RECORD, 9000) == pytest.approx(0.99)

    def test_qat_temperature_is_log_linear_to_the_last_step(self) -> None:
        assert qat_temperature(RECORD, 5800, 5800) == 1.0
        assert qat_temperature(RECORD, 12_900, 5800) == pytest.approx(math.sqrt(0.05))
        assert qat_temperature(RECORD, 20_000, 5800) == pytest.approx(0.05)

    def test_adaptation_rate(self) -> None:
        config = EvalConfig()
        assert adaptation_lr(config, 0, 1893) == 5e-4
        assert adaptation_lr(config, 1892, 1893) == pytest.approx(0.0, abs=1e-18)
        middle = 0.5 * (1 + math.cos(math.pi * 946 / 1892)) * 3.0
        assert adaptation_lr(config, 946, 1893) == pytest.approx(5e-4 * middle)
        assert adaptation_lr(config, 0, 1) == 5e-4


class TestSoftRounding:
    def test_cold_is_int6_rounding(self) -> None:
        weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
        scale = (weight.abs().amax(1, keepdim=True) / 31).clamp_min(1 / 31)
        soft = soft_round_int6(weight, torch.tensor(1e-6))
        # round(x) ± 0.5: the published function leaves half a step, whatever the temperature.
        whole = (weight / scale).round()
        expected = (whole + 0.5 * torch.sign(weight / scale - whole)).clamp(-32, 31) * scale
        between = (weight / scale - whole).abs() > 1e-4  # a value on the grid (the row's largest) has no side
        torch.testing.assert_close(soft[between], expected[between])
        assert between.sum() > 190

    def test_gradient_passes_through_the_tanh_alone(self) -> None:
        weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        temperature = torch.tensor(0.5, dtype=torch.float64)
        soft_round_int6(weight, temperature).sum().backward()
        with torch.no_grad():
            scale = (weight.abs().amax(1, keepdim=True) / 31).clamp_min(1 / 31)
            part = weight / scale - (weight / scale).round()
            expected = 0.5 / temperature * (1 - torch.tanh(part / temperature) ** 2)
            inside = (weight / scale).round() + 0.5 * torch.tanh(part / temperature)
            expected[(inside < -32) | (inside > 31)] = 0.0
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected)


class FakeTime:
    """A clock that moves when told, and by `tick` seconds with every look at it."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


class TestClock:
    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> FakeTime:
        fake = FakeTime()
        monkeypatch.setattr("golf_core.train.state.time", fake)
        return fake

    def test_stands_still_while_stopped(self, fake: FakeTime) -> None:
        clock = TrainingClock(single(CPU))
        clock.start()
        fake.now += 2.0
        assert clock.stop() == 2.0
        fake.now += 5.0
        assert clock.elapsed() == 2.0
        clock.start()
        fake.now += 1.0
        assert clock.stop() == 3.0

    def test_stops_before_the_budget_would_be_crossed(self, fake: FakeTime) -> None:
        clock = TrainingClock(single(CPU))
        clock.start()
        assert clock.fits_another(600.0, 0.0)
        for seconds in (0.09, 0.1, 0.08):
            fake.now += seconds
            clock.step_done()
        # The longest of the recent steps, and a tenth more, must fit.
        assert clock.fits_another(600.0, 599.88)
        assert not clock.fits_another(600.0, 599.90)


@pytest.fixture
def stream(tmp_path: Path) -> TokenStream:
    path = tmp_path / "fineweb_train_000000.bin"
    write_shard(path, small_case().tensors["tokens"].astype(np.uint16)[:20_000])
    return TokenStream([path])


def config(**changes: object) -> GolfConfig:
    case = small_case()
    base = replace(case.train_config, batch_tokens=512, micro_batches=2, muon_dtype="float32", log_every=1)
    return GolfConfig(model=case.model_config, train=replace(base, **changes), evaluate=case.eval_config())


def test_ends_under_its_budget(stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf_core.train.state.time", FakeTime(tick=0.01))
    events: list[Event] = []
    changed = config(iterations=100_000, wallclock_seconds=2.0, warmup_steps=2, warmdown_steps=30, val_every=5)
    result = Trainer(changed, stream, small_case().text, single(CPU), 1, events.append).run()
    assert 1.9 < result.train_seconds < 2.0
    assert 50 < result.steps < 200  # each step looks at the clock two or three times
    factors = [e.fields["lr_factor"] for e in events if e.kind == "train_step"]
    assert factors[0] == 1.0 and factors[-1] < 0.1
    # Validation passes are off the clock, and are counted.
    assert result.validation_seconds > 0
    assert sum(e.kind == "validation" for e in events) == result.steps // 5 + 1


def test_warm_up_leaves_no_trace(stream: TokenStream) -> None:
    def losses(warmup_steps: int) -> list[float]:
        events: list[Event] = []
        changed = config(iterations=4, warmup_steps=warmup_steps)
        Trainer(changed, copy.copy(stream), small_case().text, single(CPU), 1, events.append).run()
        return [e.fields["loss"] for e in events if e.kind == "train_step"]

    assert losses(0) == losses(5)


def test_loss_that_is_no_number_ends_the_run(stream: TokenStream) -> None:
    trainer = Trainer(config(iterations=10, table_lr=1e30, grad_clip=1e30), stream, small_case().text, single(CPU), 1)
    with pytest.raises(RunError, match="loss is nan"):
        trainer.run()


def test_events_tell_the_progress(stream: TokenStream) -> None:
    events: list[Event] = []
    Trainer(config(iterations=3), stream, small_case().text, single(CPU), 1, events.append).run()
    steps = [e.fields for e in events if e.kind == "train_step"]
    assert [f["step"] for f in steps] == [1, 2, 3]
    for name in ("loss", "lr_factor", "ms_per_step", "tokens_per_s", "eta_s", "elapsed_s"):
        assert all(name in f for f in steps)
    phases = [(e.kind, e.fields["phase"]) for e in events if e.kind.startswith("phase")]
    assert phases == [
        ("phase_started", "warmup"),
        ("phase_finished", "warmup"),
        ("phase_started", "train"),
        ("phase_finished", "train"),
    ]
