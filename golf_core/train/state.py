"""Where a training stands between two steps, all that it takes to go on from there, and its clock and schedules."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from golf_core.config import TrainConfig
from golf_core.data.shards import TokenStream
from golf_core.distributed import Ranks
from golf_core.errors import DataError


@dataclass(frozen=True)
class Progress:
    """How far a training has come. It is the same on all ranks, as are its tensors."""

    step: int
    """Steps that are done."""
    elapsed_s: float
    """Seconds on the clock."""
    step_seconds: tuple[float, ...]
    """Seconds of the most recent steps: they tell whether another one fits."""
    loss: float
    """Loss of the last step, nats a token."""
    qat_onset: int | None
    validation_s: float
    stream_position: int
    """Tokens of the stream that all ranks together have gone past."""
    resumed_at: tuple[int, ...]
    """Steps at which the training was resumed before."""


@dataclass(frozen=True)
class TrainState:
    """A training between two steps: figures, and tensors by name (weights, their average, optimizers' moments)."""

    progress: Progress
    tensors: Mapping[str, Tensor]


class Keeper(Protocol):
    """Whoever keeps a training's state so that it can be resumed. Every rank calls, at the same steps."""

    def due(self) -> bool:
        """Whether it is time to keep the state; rank 0's answer counts."""

    def keep(self, state: TrainState, stream: TokenStream) -> str:
        """Keep the state, whose tensors are live; returns a sentence on how that went."""

    def kept(self, stream: TokenStream) -> TrainState | None:
        """The state to resume from, on the CPU; None to begin at the first step. Leaves `stream` as it is.

        Raises `UserError` where there is one that cannot be used.
        """


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Copies of the states of torch's random number generators: the CPU's and that of a CUDA `device`."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["rng.cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators to what `random_states` returned."""
    torch.set_rng_state(states["rng.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["rng.cuda"], device)


@torch.no_grad()
def load_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy `saved` into `live`. Raises `DataError`, with nothing copied, unless names, shapes and types agree."""
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in live.items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in saved.items()}
    if expected != found:
        first = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise DataError(
            f"the snapshot's tensors are not those of this training (first: {first}, found {found.get(first)}, "
            f"expected {expected.get(first)}); another version of the software made it: train from the beginning"
        )
    for name, tensor in live.items():
        tensor.copy_(saved[name])


# --- the clock, and what goes by it ---

RECENT_STEPS = 20
# A step may take a little longer than the longest of its recent predecessors.
SAFETY = 1.1


class TrainingClock:
    """Seconds of training, and whether another step still fits into the budget.

    Rank 0's clock rules: it is the one that is compared with the budget. On CUDA the clock is read when the
    step before the last has finished on the GPU, so that one step is always queued and the GPU never idles.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._events: deque[torch.cuda.Event] = deque()
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._elapsed = 0.0
        self._resumed: float | None = None
        self._last_mark = 0.0

    @property
    def step_seconds(self) -> tuple[float, ...]:
        """How long the most recent steps took."""
        return tuple(self._durations)

    def carry_on(self, elapsed_s: float, step_seconds: Iterable[float]) -> None:
        """Stand where another clock stood when it was stopped. This one must not be running."""
        self._elapsed = self._last_mark = elapsed_s
        self._durations.extend(step_seconds)

    def start(self) -> None:
        """Start the clock, or set it going again after `stop`."""
        self._synchronize()
        self._ranks.barrier()
        self._resumed = time.perf_counter()

    def stop(self) -> float:
        """Wait for all queued work, stop the clock and return the seconds so far (rank 0's, on every rank)."""
        self._synchronize()
        self._elapsed = self._ranks.agree([self.elapsed()])[0]
        self._resumed = None
        return self._elapsed

    def elapsed(self) -> float:
        """Seconds on this rank's clock."""
        running = 0.0 if self._resumed is None else time.perf_counter() - self._resumed
        return self._elapsed + running

    def step_done(self) -> None:
        """Mark the end of a step's launch; waits until at most one step is still running on the GPU."""
        if self._ranks.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self._events.append(event)
            if len(self._events) > 1:
                self._events.popleft().synchronize()
        now = self.elapsed()
        self._durations.append(now - self._last_mark)
        self._last_mark = now

    def fits_another(self, budget_s: float, elapsed_s: float) -> bool:
        """Whether a step begun `elapsed_s` into the clock will end within the budget."""
        if not self._durations:
            return True
        return elapsed_s + (len(self._events) + 1) * max(self._durations) * SAFETY < budget_s

    def _synchronize(self) -> None:
        if self._ranks.device.type == "cuda":
            torch.cuda.synchronize()
        self._events.clear()


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
