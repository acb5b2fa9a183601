"""Gradients of many parameters in one buffer: one all-reduce, one norm, no copies for float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from golf_core.distributed import Ranks

CLIP_EPS = 1e-6


class FlatGradients:
    """`.grad` of every float32 parameter is a view into one float32 buffer.

    The buffer ends in one more element, `extra`, that travels with the gradients. Parameters of another type
    have gradients of their own, which are copied in and out.
    """

    def __init__(self, params: Sequence[Tensor], ranks: Ranks) -> None:
        self._ranks = ranks
        sizes = [p.numel() for p in params]
        self._buffer = torch.zeros(sum(sizes) + 1, device=ranks.device)
        views = self._buffer[:-1].split(sizes)
        self._params = [(p, view.view_as(p)) for p, view in zip(params, views, strict=True)]

    @property
    def extra(self) -> Tensor:
        """The element that travels along, a scalar view."""
        return self._buffer[-1]

    def zero(self) -> None:
        """Clear all gradients and the extra element."""
        self._buffer.zero_()
        for param, view in self._params:
            param.grad = view if param.dtype == view.dtype else None

    def reduce_and_clip(self, max_norm: float) -> None:
        """Sum over the ranks, then scale down to a total norm of at most `max_norm`."""
        other = [(p, view) for p, view in self._params if p.dtype != view.dtype]
        for param, view in other:
            if param.grad is not None:
                view.copy_(param.grad)
        self._ranks.sum_(self._buffer)
        gradients = self._buffer[:-1]
        gradients.mul_((max_norm / (gradients.norm() + CLIP_EPS)).clamp_max(1.0))
        for param, view in other:
            param.grad = view.to(param.dtype)
