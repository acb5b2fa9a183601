"""All optimizers of a run as one, stepped together; Muon among them; and the average of the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from golf_core.config import TrainConfig
from golf_core.distributed import FlatGradients, Ranks
from golf_core.model.gpt import GPT, embedding_tables
from golf_core.train.state import muon_momentum

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NORM_EPS = 1e-7


def parameter_groups(model: GPT) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """(matrices for Muon, embedding tables, vectors and scalars and control matrices)."""
    tables = embedding_tables(model)
    table_ids = {id(p) for p in tables}
    matrices: list[nn.Parameter] = []
    controls: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if id(param) in table_ids:
            continue
        is_matrix = param.ndim == 2 and (".attn." in name or ".mlp." in name or name.endswith("proj.weight"))
        (matrices if is_matrix else controls).append(param)
    return matrices, tables, controls


class Optimizers:
    """Muon for matrices, AdamW for the rest.

    The loss travels with the gradients in the same all-reduce.
    """

    def __init__(self, model: GPT, config: TrainConfig, ranks: Ranks, compiled: bool) -> None:
        self._config = config
        self._gradients = FlatGradients(list(model.parameters()), ranks)
        matrices, tables, controls = parameter_groups(model)
        self._muon = Muon(matrices, config, ranks, compiled)
        self._adam = torch.optim.AdamW(
            [
                {"params": tables, "lr": config.table_lr, "base_lr": config.table_lr},
                {"params": controls, "lr": config.scalar_lr, "base_lr": config.scalar_lr},
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=ranks.device.type == "cuda",
        )

    def tensors(self) -> dict[str, Tensor]:
        """All state of the optimizers by name, live; the same on all ranks."""
        found = self._muon.tensors()
        params = [param for group in self._adam.param_groups for param in group["params"]]
        for index, param in enumerate(params):
            moments = self._adam.state[param]
            if not moments:  # before the first step: what AdamW begins with
                count_device = param.device if param.device.type == "cuda" else torch.device("cpu")
                moments["step"] = torch.zeros((), device=count_device)
                moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
            found |= {f"adam.{index}.{name}": moment for name, moment in moments.items()}
        return found

    def zero(self) -> None:
        """Clear all gradients and the loss."""
        self._gradients.zero()

    def add_loss(self, loss: Tensor) -> None:
        """Add this rank's part of the step's mean loss."""
        self._gradients.extra.add_(loss.detach())

    def step(self, step: int, lr_factor: float) -> Tensor:
        """Sum gradients over the ranks, clip, update. Returns the step's loss (scalar, nats a token)."""
        self._gradients.reduce_and_clip(self._config.grad_clip)
        for group in self._adam.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        self._adam.step()
        self._muon.step(self._config.muon_lr * lr_factor, muon_momentum(self._config, step))
        return self._gradients.extra.clone()


class WeightAverage:
    """Exponential moving average of all weights, in float32."""

    def __init__(self, model: GPT, decay: float) -> None:
        self._decay = decay
        self._params = list(model.parameters())
        self._average = [p.detach().float().clone() for p in self._params]

    def tensors(self) -> dict[str, Tensor]:
        """The averages in the order of the model's parameters, live; the same on all ranks."""
        return {f"average.{index}": average for index, average in enumerate(self._average)}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights by 1 - decay."""
        current = [p.detach().float() for p in self._params]
        torch._foreach_lerp_(self._average, current, 1.0 - self._decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the model's weights by their average."""
        for param, average in zip(self._params, self._average, strict=True):
            param.copy_(average)


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
