"""The validation text on a device: tokens, and what each of them weighs in bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf_core.data.tokenizer import ByteTable


@dataclass(frozen=True)
class ValidationText:
    """Tokens [n + 1] (int64) of which the last n are predicted, each from those before it."""

    tokens: Tensor
    base_bytes: Tensor
    """[vocab_size] float32: bytes of each token without its leading space."""
    target_bytes: Tensor
    """[n] float64: bytes of tokens[1:], leading spaces included."""

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted."""
        return self.tokens.numel() - 1


def validation_text(tokens: np.ndarray, table: ByteTable, device: torch.device) -> ValidationText:
    """Put `tokens` [n + 1] on `device` and weigh its targets with the tokenizer's byte table."""
    ids = np.asarray(tokens, dtype=np.int64)
    weights = table.token_bytes(ids[:-1], ids[1:])
    return ValidationText(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(table.base_bytes.astype(np.float32)).to(device),
        torch.from_numpy(weights.astype(np.float64)).to(device),
    )


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """BPB of a total of `nats` spent on `num_bytes` of text."""
    return float(nats / (math.log(2.0) * num_bytes))
