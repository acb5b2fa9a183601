"""How forward passes are run: precision and compilation, for CPU and CUDA in one place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from golf_core.model.gpt import GPT


def autocast(device: torch.device) -> torch.autocast:
    """The precision of forward passes: bfloat16 autocast on CUDA, plain float32 on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def should_compile(requested: bool, device: torch.device) -> bool:
    """torch.compile pays on CUDA; on a CPU its minutes of compilation outlast a small run."""
    return requested and device.type == "cuda"


def loss_function(model: GPT, device: torch.device, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of (ids, targets), both [rows, length], giving losses [rows, length] in float32 nats.

    Compiled, each new shape and each switch of late QAT costs a compilation.
    """
    forward = torch.compile(model, dynamic=False) if compiled else model

    def losses(ids: Tensor, targets: Tensor) -> Tensor:
        with autocast(device):
            return forward(ids, targets)

    return losses


def hidden_function(model: GPT, device: torch.device, compiled: bool) -> Callable[[Tensor], Tensor]:
    """A function of ids [rows, length] giving final states [rows, length, model_dim], without gradients."""
    forward = torch.compile(model.hidden, dynamic=False) if compiled else model.hidden

    @torch.no_grad()
    def hidden(ids: Tensor) -> Tensor:
        with autocast(device):
            return forward(ids)

    return hidden
