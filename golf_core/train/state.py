"""All that training is, between two steps: enough to go on from there as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from golf_core.data.shards import TokenStream
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
