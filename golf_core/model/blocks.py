"""One block: causal grouped-query attention and the squared leaky-ReLU MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf_core.config import ModelConfig

LEAKY_SLOPE = 0.5


class Attention(nn.Module):
    """Causal attention with RMS-normed q and k, partial RoPE, a learned gain per query head, optional XSA."""

    def __init__(self, config: ModelConfig, exclude_self: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        self.exclude_self = exclude_self
        self.c_q = Linear(config.model_dim, config.model_dim)
        self.c_k = Linear(config.model_dim, config.kv_dim)
        self.c_v = Linear(config.model_dim, config.kv_dim)
        self.proj = Linear(config.model_dim, config.model_dim)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain_init))

    def forward(self, x: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """x [batch, length, model_dim] and its values v [batch, length, kv_dim] to [batch, length, model_dim]."""
        batch, length, _ = x.shape
        q = self.c_q(x).view(batch, length, self.num_heads, self.head_dim)
        k = self.c_k(x).view(batch, length, self.num_kv_heads, self.head_dim)
        v = v.view(batch, length, self.num_kv_heads, self.head_dim)
        q = rotate(rms_norm(q).to(v.dtype), *rotary) * self.q_gain.to(v.dtype)[:, None]
        k = rotate(rms_norm(k).to(v.dtype), *rotary)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        ).transpose(1, 2)
        if self.exclude_self:
            y = remove_own_value(y, v)
        return self.proj(y.reshape(batch, length, -1))


def remove_own_value(y: Tensor, v: Tensor) -> Tensor:
    """XSA: y [batch, length, heads, head_dim] less its projection on the position's own value direction.

    v [batch, length, kv_heads, head_dim]; a query head answers to its key/value head.
    """
    batch, length, heads, head_dim = y.shape
    direction = F.normalize(v, dim=-1).unsqueeze(3)
    grouped = y.reshape(batch, length, v.size(2), heads // v.size(2), head_dim)
    along = (grouped * direction).sum(dim=-1, keepdim=True) * direction
    return (grouped - along).reshape(batch, length, heads, head_dim)


class MLP(nn.Module):
    """Up, leaky ReLU (slope 0.5), square, down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc = Linear(config.model_dim, config.mlp_mult * config.model_dim)
        self.proj = Linear(config.mlp_mult * config.model_dim, config.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., model_dim] to [..., model_dim]."""
        return self.proj(F.leaky_relu(self.fc(x), LEAKY_SLOPE).square())


class Block(nn.Module):
    """A residual block that also reads the network's input x0; its norms are damped by 1/sqrt(index + 1)."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attn = Attention(config, exclude_self=index >= config.num_layers - config.xsa_last_n)
        self.mlp = MLP(config)
        self.attn_scale = nn.Parameter(torch.ones(config.model_dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.model_dim))
        self.resid_mix = nn.Parameter(torch.tensor([[1.0], [0.0]]).repeat(1, config.model_dim))
        self.norm_factor = (index + 1) ** -0.5

    def forward(
        self, x: Tensor, x0: Tensor, added_value: Tensor | None, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One block.

        x, x0 [batch, length, model_dim]; `added_value` [batch, length, kv_dim] joins this block's values.
        Returns the new x and this block's own value projection (before the addition).
        """
        mix = self.resid_mix.to(x.dtype)
        x = mix[0] * x + mix[1] * x0
        normed = rms_norm(x).to(x.dtype) * self.norm_factor
        own_value = self.attn.c_v(normed)
        value = own_value if added_value is None else own_value + added_value
        x = x + self.attn_scale.to(x.dtype) * self.attn(normed, value, rotary)
        normed = rms_norm(x).to(x.dtype) * self.norm_factor
        return x + self.mlp_scale.to(x.dtype) * self.mlp(normed), own_value


# --- parts of a block: norm, gates, MLP ---

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


# --- embeddings ---

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
