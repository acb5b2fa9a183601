"""Linear layers with late fake quantisation, RMS norm, rotary positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = torch.finfo(torch.float32).eps
QAT_LEVELS = 31


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, without gain."""
    return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS)


def soft_round_int6(weight: Tensor, temperature: Tensor) -> Tensor:
    """`weight` [rows, cols] as late QAT sees it: int6 per row with a soft rounding that passes gradients.

    At temperature -> 0 the values are those of int6 rounding; the gradient flows through the tanh alone,
    neither through round() nor through the row scale.
    """
    with torch.no_grad():
        scale = (weight.abs().amax(dim=1, keepdim=True) / QAT_LEVELS).clamp_min(1.0 / QAT_LEVELS)
    scaled = weight / scale
    whole = scaled.detach().round()
    soft = whole + 0.5 * torch.tanh((scaled - whole) / temperature)
    return soft.clamp(-QAT_LEVELS - 1, QAT_LEVELS) * scale


class Linear(nn.Module):
    """y = x Wᵀ with W [out, in] kept in float32 and, once late QAT is on, fake-quantised in the forward pass."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.qat_temperature: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        weight: Tensor = self.weight
        if self.qat_temperature is not None:
            weight = soft_round_int6(weight, self.qat_temperature)
        return F.linear(x, weight.to(x.dtype))


def rotary_tables(
    length: int, dims: int, base: float, train_len: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, each [length, dims / 2].

    Rows longer than `train_len` multiply the base by (length / train_len)^(dims / (dims - 2)).
    """
    if length > train_len:
        base = base * (length / train_len) ** (dims / (dims - 2))
    exponents = torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / base**exponents)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2·cos.size(-1) dimensions of x [batch, length, heads, head_dim], halves convention."""
    half = cos.size(-1)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((a * cos + b * sin, b * cos - a * sin, rest), dim=-1)
