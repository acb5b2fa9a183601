"""Muon: momentum whose matrix updates are orthogonalised by Newton-Schulz (K. Jordan and others, 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from golf_core.config import TrainConfig
from golf_core.distributed import Ranks

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NORM_EPS = 1e-7


def newton_schulz(g: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Matrices near the orthogonal factor of each g [n, rows, cols], in `dtype`."""
    a, b, c = COEFFICIENTS
    x = g.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + NORM_EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + (c * gram) @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Nesterov momentum, orthogonalised; matrices of one shape are stacked and shared out over the ranks."""

    def __init__(self, params: Sequence[nn.Parameter], config: TrainConfig, ranks: Ranks, compiled: bool) -> None:
        self._config, self._ranks = config, ranks
        self._dtype = torch.bfloat16 if config.muon_dtype == "bfloat16" else torch.float32
        self._newton_schulz = torch.compile(newton_schulz, dynamic=False) if compiled else newton_schulz
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for param in params:
            by_shape[param.shape].append(param)
        self._groups = [
            (group, torch.zeros(len(group), *shape, device=ranks.device)) for shape, group in by_shape.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The momentum of each group of matrices [n, rows, cols], live; the same on all ranks."""
        return {f"muon.{index}": buffer for index, (_, buffer) in enumerate(self._groups)}

    @torch.no_grad()
    def step(self, lr: float, momentum: float) -> None:
        """One update from the parameters' gradients, which must be the same on all ranks."""
        for params, buffer in self._groups:
            weights: list[Tensor] = list(params)
            grads = torch.stack([p.grad for p in params if p.grad is not None])
            buffer.mul_(momentum).add_(grads)
            update = self._orthogonalise(grads.add_(buffer, alpha=momentum))
            rows, cols = params[0].shape
            scale = max(1.0, rows / cols) ** 0.5
            # Decoupled decay acts on the weights as they were before the update.
            torch._foreach_mul_(weights, 1.0 - lr * self._config.weight_decay)
            torch._foreach_add_(weights, list(update.float().unbind()), alpha=-lr * scale)

    def _orthogonalise(self, direction: Tensor) -> Tensor:
        world, count = self._ranks.world_size, direction.size(0)
        each = -(-count // world)
        if each * world > count:  # equal shares: pad with zeros, which stay zeros
            padding = direction.new_zeros(each * world - count, *direction.shape[1:])
            direction = torch.cat((direction, padding))
        own = direction[self._ranks.rank * each : (self._ranks.rank + 1) * each]
        return self._ranks.gather(self._newton_schulz(own, self._config.muon_steps, self._dtype))[:count]
