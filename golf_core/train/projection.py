"""What a rehearsal of a run measured and projects, as values; `golf_core.train.dry_run` makes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from golf_core.config import TrainConfig


@dataclass(frozen=True)
class AllReduce:
    """One all-reduce over the gang, timed."""

    world_size: int
    mib: float
    """Size of the tensor that every rank contributes."""
    seconds: float
    """Seconds of one all-reduce, the slowest rank's."""
    bus_gb_per_s: float
    """2 (n - 1) / n times the tensor's bytes a second, as nccl-tests defines the bus bandwidth; 10^9 bytes."""


@dataclass(frozen=True)
class DryRun:
    """What a few steps and chunks measured, and what they project for the whole run."""

    world_size: int
    device: str
    steps: int
    """Measured, warm-up excluded."""
    parameters: int
    ms_per_step: float
    """Milliseconds of the compiled step, mean over the measured ones."""
    ms_per_step_late: float
    """The same under late QAT; equal where the configuration has none."""
    warmup_seconds: float
    """Compilation and warm-up, which the training clock leaves out."""
    steps_in_budget: int
    train_seconds: float
    """Projected reading of the training clock."""
    chunks: int
    """Chunks of the whole evaluation."""
    chunks_measured: int
    seconds_per_chunk: float
    """Scored and adapted."""
    eval_seconds: float
    """Projected for the whole text: reading, compilation, scoring, adaptation."""
    export_seconds: float
    """Measured; weights that have hardly been trained take less than trained ones."""
    weight_bytes: int
    """Measured, of the weights after these steps. They compress better than trained ones."""
    weight_bytes_projected: int
    """The published quantisation of Gaussian weights, under LZMA: about the most that trained weights take."""
    code_bytes: int
    refused: str | None
    """Why the exporter found no way to fit even these weights; None where it did."""
    peak_memory_mib: float
    """Projected, largest over the ranks: what was seen, and the rest of the text."""
    memory_mib: float | None
    """Memory of the smallest GPU, MiB; None on a CPU."""
    seconds: float
    """What the rehearsal itself took."""


def steps_in_budget(config: TrainConfig, ms_per_step: float, ms_late: float) -> tuple[int, float]:
    """How many steps the training clock allows, and what it will read.

    Late QAT lasts for the last `qat_threshold` of the warm-down, in which steps take `ms_late` milliseconds.
    """
    late = math.ceil(min(config.qat_threshold, 1.0) * config.warmdown_steps)
    steps = config.iterations
    if config.wallclock_seconds is not None:
        budget = 1e3 * config.wallclock_seconds
        fitting = budget / ms_late if budget <= late * ms_late else late + (budget - late * ms_late) / ms_per_step
        steps = min(steps, int(fitting))
    late = min(late, steps)
    return steps, ((steps - late) * ms_per_step + late * ms_late) / 1e3


def describe(dry: DryRun) -> list[str]:
    """The projection in lines for people."""
    lines = [
        f"{dry.world_size} x {dry.device}: {dry.ms_per_step:.1f} ms a step, {dry.ms_per_step_late:.1f} under late QAT; "
        f"{dry.steps_in_budget:,} steps in {dry.train_seconds:.0f} s; compiled and warmed up in "
        f"{dry.warmup_seconds:.0f} s",
        f"evaluation {dry.eval_seconds:.0f} s for {dry.chunks:,} chunks at {dry.seconds_per_chunk:.2f} s "
        f"({dry.chunks_measured} measured)",
        f"weights {dry.weight_bytes_projected:,} bytes if trained ones look Gaussian "
        f"({dry.weight_bytes:,} measured on hardly trained ones), code {dry.code_bytes:,}",
    ]
    memory = f" of {dry.memory_mib:,.0f}" if dry.memory_mib is not None else ""
    return [*lines, f"memory {dry.peak_memory_mib:,.0f}{memory} MiB a rank; rehearsed in {dry.seconds:.0f} s"]
