"""What enters the first block: token and hashed-bigram embeddings, the smear gate; and the value embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golf_core.config import ModelConfig
from golf_core.model.layers import Linear

# The odd multipliers of the record's pair hash; the trigram expert of the evaluation uses the same.
HASH_CURRENT = 36313
HASH_PREVIOUS = 27191


def bigram_buckets(ids: Tensor, rows: int) -> Tensor:
    """Bucket of each position of ids [batch, length]: a hash of (token, previous token) in 0..rows - 2.

    Position 0 has no previous token and takes the last bucket, rows - 1. The hash is int32 arithmetic.
    """
    tokens = ids.to(torch.int32)
    mixed = (HASH_CURRENT * tokens[:, 1:]) ^ (HASH_PREVIOUS * tokens[:, :-1])
    first = torch.full_like(tokens[:, :1], rows - 1)
    return torch.cat((first, torch.remainder(mixed, rows - 1)), dim=1).long()


class BigramEmbedding(nn.Module):
    """Embedding of the hashed pair (token, previous token), scaled by a learned scalar."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.bigram_vocab_size, config.bigram_dim)
        same = config.bigram_dim == config.model_dim
        self.proj = None if same else Linear(config.bigram_dim, config.model_dim)
        self.scale = nn.Parameter(torch.tensor(config.bigram_scale_init))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids [batch, length] to [batch, length, model_dim]."""
        x = self.embed(bigram_buckets(ids, self.embed.num_embeddings)).to(dtype)
        if self.proj is not None:
            x = self.proj(x)
        return x * self.scale.to(x.dtype)


class SmearGate(nn.Module):
    """Mix each position with the one before it, by a learned gate a dimension (one half at the start)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, length, dim]; the position before the first is zero."""
        gate = torch.sigmoid(self.gate).to(x.dtype)
        previous = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)
        return (1 - gate) * x + gate * previous


class ValueEmbedding(nn.Module):
    """A token table, shared by some blocks, whose rows are added to their values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.ve_dim)
        same = config.ve_dim == config.kv_dim
        self.proj = None if same else Linear(config.ve_dim, config.kv_dim)
        self.scale = nn.Parameter(torch.tensor(config.ve_scale_init))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids [batch, length] to [batch, length, kv_dim]."""
        x = self.embed(ids).to(dtype)
        if self.proj is not None:
            x = self.proj(x)
        return x * self.scale.to(x.dtype)
