"""What was stored, in figures: bytes and bits of each group of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from golf_core.artifact.packed import contexts, spread_classes
from golf_core.artifact.quantize import Quantized
from golf_core.artifact.rans import MAX_CONTEXTS, MAX_SYMBOL

WIDTH = 2 * MAX_SYMBOL + 1
SCALE_BITS = 16


def group_of(name: str) -> str:
    """The group that a tensor is reported with."""
    if ".attn." in name:
        return "attention"
    if ".mlp." in name:
        return "mlp"
    return "embeddings" if name.startswith(("tok_emb.", "bigram.", "ve_shared.")) else "other"


def bytes_by_group(tensors: Mapping[str, Quantized], total: int, by_context: bool) -> dict[str, int]:
    """`total` bytes shared out by the groups' code lengths: under one table a context, or one for each kind."""
    counts: dict[str, NDArray[np.int64]] = {}
    bits: Counter[str] = Counter()
    for name, tensor in tensors.items():
        group = group_of(name)
        counts.setdefault(group, np.zeros(MAX_CONTEXTS * WIDTH, np.int64))
        if tensor.scale is None:
            bits[group] += 16 * tensor.values.numel()
            continue
        bits[group] += SCALE_BITS * tensor.scale.numel()
        values = tensor.values.numpy()
        context = contexts(*spread_classes(values)) if by_context else np.full(1, tensor.kind == "int8", np.uint8)
        at = context.astype(np.int64) * WIDTH + values + MAX_SYMBOL
        counts[group] += np.bincount(at.reshape(-1), minlength=MAX_CONTEXTS * WIDTH)
    tables = sum(counts.values(), np.zeros(MAX_CONTEXTS * WIDTH, np.int64)).reshape(MAX_CONTEXTS, WIDTH)
    cost = np.log2(np.maximum(tables.sum(1, keepdims=True), 1) / np.maximum(tables, 1)).reshape(-1)
    for group, count in counts.items():
        bits[group] += round(float(count @ cost))
    return _shared(total, bits)


def zero_share(tensors: Mapping[str, Quantized]) -> float | None:
    """The share of zeros among all integers; None where there are none."""
    coded = [tensor.values for tensor in tensors.values() if tensor.scale is not None and tensor.values.numel()]
    return sum(int((v == 0).sum()) for v in coded) / sum(v.numel() for v in coded) if coded else None


def bits_per_weight(tensors: Mapping[str, Quantized], sizes: Mapping[str, int]) -> dict[str, float]:
    """Bits for each weight of the groups whose bytes are `sizes`."""
    return {group: 8 * size / _weights(tensors, group) for group, size in sizes.items()}


def _weights(tensors: Mapping[str, Quantized], group: str) -> int:
    return sum(tensor.values.numel() for name, tensor in tensors.items() if group_of(name) == group)


def _shared(total: int, bits: Mapping[str, int]) -> dict[str, int]:
    """Whole shares that sum to `total`."""
    shares: dict[str, int] = {}
    before = 0
    for group, part in bits.items():
        before += part
        shares[group] = round(total * before / sum(bits.values())) - sum(shares.values())
    return shares
