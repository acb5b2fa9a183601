"""One block: causal grouped-query attention and the squared leaky-ReLU MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf_core.config import ModelConfig
from golf_core.model.layers import Linear, rms_norm, rotate

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
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(config.model_dim), torch.zeros(config.model_dim))))
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
