"""What changes from step to step, as pure functions of step and clock."""

from __future__ import annotations

import math

from golf_core.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, elapsed_s: float) -> float:
    """Learning-rate factor of step `step` (from 0), `elapsed_s` seconds into the training clock.

    1 until less time remains than `warmdown_steps` average steps take, then down to 0 in proportion to the
    time left. The limit on steps warms down likewise; the smaller factor counts.
    """
    if config.warmdown_steps == 0:
        return 1.0
    factor = min(1.0, (config.iterations - step) / config.warmdown_steps)
    if config.wallclock_seconds is not None and step > 0:
        warmdown_s = config.warmdown_steps * elapsed_s / step
        remaining_s = max(config.wallclock_seconds - elapsed_s, 0.0)
        if remaining_s < warmdown_s:
            factor = min(factor, remaining_s / warmdown_s)
    return factor


def muon_momentum(config: TrainConfig, step: int) -> float:
    """Muon's momentum at step `step` (from 0): linear from start to end over the warm-up steps."""
    share = min(step / max(config.muon_momentum_warmup_steps, 1), 1.0)
    return config.muon_momentum_start + share * (config.muon_momentum - config.muon_momentum_start)


def qat_temperature(config: TrainConfig, step: int, onset: int) -> float:
    """Temperature of the soft rounding: 1 at the step of onset, log-linear to its final value at `iterations`."""
    share = (step - onset) / max(config.iterations - onset, 1)
    return math.exp(share * math.log(config.qat_final_temperature))
