"""Weights to few bits and back: int6 and int8 with a scale per row, float16 for what is small.

A fourth kind, "grid", has a step for each row times one for each column; `fit` chooses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from golf_core.config import ArtifactConfig

Kind = Literal["int6", "int8", "float16", "grid"]
INT6_MAX = 31
INT8_MAX = 127


@dataclass(frozen=True)
class Quantized:
    """One stored tensor.

    int6, int8: integers [rows, cols] (int8) and row scales [rows] (float16). float16: the values. grid: integers
    [rows, cols] (int16), a unit [] (float32), and exponents of the square root of 2, [rows] and [cols] (int8).
    """

    kind: Kind
    values: Tensor
    scale: Tensor | None = None
    rows: Tensor | None = None
    cols: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes before compression."""
        return sum(part.nbytes for part in (self.values, self.scale, self.rows, self.cols) if part is not None)

    def dequantize(self) -> Tensor:
        """The float32 tensor that the model computes with."""
        if self.scale is None:
            return self.values.float()
        if self.rows is None or self.cols is None:
            return self.values.float() * self.scale.float()[:, None]
        return self.values.float() * grid_steps(self.scale, self.rows, self.cols)


def grid_steps(unit: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """The steps [rows, cols] (float32) of a grid: unit · √2^rows · √2^cols, the same on any machine."""
    powers = torch.tensor([2.0 ** (k / 2) for k in range(-128, 128)])
    return (unit * powers[rows.long() + 128])[:, None] * powers[cols.long() + 128]


def quantize_int6(weight: Tensor, quantiles: tuple[float, ...]) -> Quantized:
    """weight [rows, cols] float32 to -31..31 with a float16 scale per row.

    Rows are clipped at a quantile of |w|; of the candidates, one for the whole tensor, the least mean square
    error decides. Values are rounded with the scale as stored.
    """
    best, best_error = None, float("inf")
    for clip in torch.quantile(weight.abs(), torch.tensor(quantiles), dim=1):  # sorts the rows once
        scale = (clip / INT6_MAX).clamp_min(1.0 / INT6_MAX).half()
        values = torch.round(weight / scale.float()[:, None]).clamp(-INT6_MAX, INT6_MAX).to(torch.int8)
        candidate = Quantized("int6", values, scale)
        error = float((weight - candidate.dequantize()).square().mean())
        if best is None or error < best_error:
            best, best_error = candidate, error
    assert best is not None
    return best


def quantize_int8(weight: Tensor, quantile: float) -> Quantized:
    """weight [rows, cols] float32 to -127..127 with a float16 scale per row.

    Values are clipped at the quantile of |w| and rounded with the scale in float32, before it is stored.
    """
    clip = torch.quantile(weight.abs(), quantile, dim=1)
    scale = (clip / INT8_MAX).clamp_min(1.0 / INT8_MAX)
    clipped = weight.clamp(-clip[:, None], clip[:, None])
    values = torch.round(clipped / scale[:, None]).clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return Quantized("int8", values, scale.half())


def storage_kind(name: str, weight: Tensor, config: ArtifactConfig) -> Kind:
    """How the tensor called `name` is stored."""
    if weight.numel() <= config.float16_max_elements or weight.ndim != 2:
        return "float16"
    return "int6" if ".attn." in name or ".mlp." in name else "int8"


def quantize(name: str, weight: Tensor, config: ArtifactConfig) -> Quantized:
    """Store one tensor as its name and size demand."""
    weight = weight.detach().float().cpu()
    kind = storage_kind(name, weight, config)
    if kind == "int6":
        return quantize_int6(weight, config.int6_quantiles)
    if kind == "int8":
        return quantize_int8(weight, config.int8_quantile)
    return Quantized("float16", weight.half())


def quantize_all(weights: Mapping[str, Tensor], config: ArtifactConfig) -> dict[str, Quantized]:
    """All tensors of a state dict, in its order."""
    return {name: quantize(name, weight, config) for name, weight in weights.items()}
