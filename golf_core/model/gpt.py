"""The record's transformer: U-Net skips, value residual, value embedding, tied soft-capped head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from golf_core.config import ModelConfig
from golf_core.model.blocks import BigramEmbedding, Block, Linear, SmearGate, ValueEmbedding, rms_norm, rotary_tables

ORTHOGONAL_MIN_SIDE = 64


class GPT(nn.Module):
    """State-dict names and shapes are those of the published checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_encoder_layers = config.num_layers // 2
        self.skip_weights = nn.Parameter(torch.ones(self.num_encoder_layers, config.model_dim))
        self.tok_emb = nn.Embedding(config.vocab_size, config.model_dim)
        self.bigram = BigramEmbedding(config)
        self.smear = SmearGate(config.model_dim)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.ve_shared = ValueEmbedding(config) if config.ve_layers else None
        self.ve_layer_scales = nn.ParameterList(torch.ones(1) for _ in config.ve_layers)
        self.vrl_scales = nn.ParameterList(torch.zeros(1) for _ in range(config.num_layers - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all weights from torch's generator (the record's scheme); nothing on the meta device."""
        if self.skip_weights.is_meta:
            return
        config = self.config
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                _init_linear(name, module.weight, config.num_layers)
        nn.init.normal_(self.tok_emb.weight, std=config.tok_emb_init_std)
        nn.init.zeros_(self.bigram.embed.weight)
        if self.ve_shared is not None:
            nn.init.normal_(self.ve_shared.embed.weight, std=config.ve_init_std)
        _store_tables(self)

    def hidden(self, ids: Tensor) -> Tensor:
        """ids [batch, length] to final normed states [batch, length, model_dim], in the compute dtype."""
        dtype = _compute_dtype(ids.device)
        x = self.tok_emb(ids).to(dtype) + self.bigram(ids, dtype)
        x = self.smear(rms_norm(x).to(dtype))
        x0, config = x, self.config
        rotary = rotary_tables(
            ids.size(1), config.rope_dims, config.rope_base, config.rope_train_len, ids.device, dtype
        )
        value_embedding = self.ve_shared(ids, dtype) if self.ve_shared is not None else None
        first_value: Tensor | None = None
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i >= self.num_encoder_layers and skips:
                x = x + self.skip_weights[i - self.num_encoder_layers].to(dtype) * skips.pop()
            added = self._added_value(i, value_embedding, first_value)
            x, own_value = block(x, x0, added, rotary)
            if first_value is None:
                first_value = own_value
            if i < self.num_encoder_layers:
                skips.append(x)
        return rms_norm(x).to(dtype)

    def _added_value(self, i: int, value_embedding: Tensor | None, first_value: Tensor | None) -> Tensor | None:
        """What block i adds to its values: the value embedding (some blocks) and block 0's values (VRL)."""
        added: Tensor | None = None
        if value_embedding is not None and i in self.config.ve_layers:
            scale = self.ve_layer_scales[self.config.ve_layers.index(i)]
            added = scale.to(value_embedding.dtype) * value_embedding
        if first_value is not None:
            residual = self.vrl_scales[i - 1].to(first_value.dtype) * first_value
            added = residual if added is None else added + residual
        return added

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., model_dim] to soft-capped logits [..., vocab_size], in the compute dtype."""
        cap = self.config.logit_softcap
        return cap * torch.tanh(F.linear(hidden, self.tok_emb.weight.to(hidden.dtype)) / cap)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """ids, targets [batch, length] to the loss of each position [batch, length], float32 nats."""
        logits = self.logits(self.hidden(ids)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def set_qat_temperature(self, temperature: Tensor | None) -> None:
        """Turn late QAT on (all linear layers share the scalar tensor `temperature`) or off (None)."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.qat_temperature = temperature


def model_from(config: ModelConfig, weights: Mapping[str, Tensor]) -> GPT:
    """The model with the given weights, on the CPU, without the cost of initialising it first.

    `weights` must have the model's names and shapes; vectors and matrices become float32, tables the
    configured type.
    """
    model = _without_weights(config)
    model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    _store_tables(model)
    return model


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of a model with this configuration."""
    return {name: tuple(value.shape) for name, value in _without_weights(config).state_dict().items()}


class _Unfilled(TorchFunctionMode):
    """Embeddings are not filled: on the meta device that imports torch's compiler first, most of two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def _without_weights(config: ModelConfig) -> GPT:
    with torch.device("meta"), _Unfilled():
        return GPT(config)


def embedding_tables(model: GPT) -> list[nn.Parameter]:
    """The embedding tables, which have an optimizer group of their own."""
    modules = [model.tok_emb, model.bigram.embed]
    if model.ve_shared is not None:
        modules.append(model.ve_shared.embed)
    return [module.get_parameter("weight") for module in modules]


def adapted_names(model: GPT, last_blocks: int) -> list[str]:
    """Names of the parameters that test-time training adapts: by name everywhere, whole in the last blocks."""
    prefixes = tuple(f"blocks.{i}." for i in range(len(model.blocks) - last_blocks, len(model.blocks)))
    marks = ("norm", "scale", "lm_head", "tok_emb")
    return [n for n, _ in model.named_parameters() if n.startswith(prefixes) or any(m in n for m in marks)]


def _store_tables(model: GPT) -> None:
    if model.config.table_dtype == "bfloat16":
        for table in embedding_tables(model):
            table.data = table.data.bfloat16()


def _compute_dtype(device: torch.device) -> torch.dtype:
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32


def _init_linear(name: str, weight: Tensor, num_layers: int) -> None:
    wide = min(weight.shape) >= ORTHOGONAL_MIN_SIDE
    embedding_projection = name in ("bigram.proj", "ve_shared.proj")
    if name.endswith(("attn.proj", "mlp.proj")) or (embedding_projection and not wide):
        nn.init.zeros_(weight)
    elif wide:
        nn.init.orthogonal_(weight, gain=(2 * num_layers) ** -0.5 if embedding_projection else 1.0)
    else:
        bound = weight.size(1) ** -0.5
        nn.init.uniform_(weight, -bound, bound)


# --- how it is called ---


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
