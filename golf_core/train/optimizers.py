"""All optimizers of a run as one, stepped together; and the average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golf_core.config import TrainConfig
from golf_core.distributed import Ranks
from golf_core.flat_gradients import FlatGradients
from golf_core.model.gpt import GPT, embedding_tables
from golf_core.train.muon import Muon
from golf_core.train.schedule import muon_momentum


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
