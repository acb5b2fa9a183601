"""Test-time training: adapt on text that has been scored, score with the Polyak average."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from golf_core.config import EvalConfig
from golf_core.distributed import FlatGradients, Ranks
from golf_core.evaluate.text import ValidationText
from golf_core.model.gpt import GPT, adapted_names, loss_function


def adaptation_lr(config: EvalConfig, chunk: int, num_chunks: int) -> float:
    """Learning rate after chunk `chunk` (from 0) of `num_chunks`: a cosine to zero times a ramp up."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * chunk / max(num_chunks - 1, 1)))
    ramp = 1.0 + config.ttt_lr_ramp * min(chunk / (config.ttt_ramp_share * num_chunks), 1.0)
    return config.ttt_lr * cosine * ramp


class TestTimeTrainer:
    """AdamW on some of the weights of a copy of `model`; `scorer` holds their Polyak average.

    `model` itself becomes the adapted copy. The AdamW moments persist over chunks.
    """

    __test__ = False  # the name begins like a test's; pytest would try to collect it

    def __init__(self, model: GPT, config: EvalConfig, text: ValidationText, ranks: Ranks, compiled: bool) -> None:
        self._config, self._text, self._ranks = config, text, ranks
        self.model, self.scorer = model, copy.deepcopy(model)
        names = set(adapted_names(model, config.ttt_blocks))
        for name, param in model.named_parameters():
            param.requires_grad_(name in names)
        self._live: list[Tensor] = [p for name, p in model.named_parameters() if name in names]
        self._average: list[Tensor] = [p for name, p in self.scorer.named_parameters() if name in names]
        self._gradients = FlatGradients(self._live, ranks)
        self._optimizer = torch.optim.AdamW(
            self._live,
            lr=config.ttt_lr,
            betas=(config.ttt_beta1, config.ttt_beta2),
            weight_decay=0.0,
            fused=ranks.device.type == "cuda",
        )
        self._losses: Callable[[Tensor, Tensor], Tensor] = loss_function(model, ranks.device, compiled)

    def adapt(self, chunk: int, num_chunks: int) -> None:
        """All epochs over chunk number `chunk`, which must have been scored, its next token included."""
        for group in self._optimizer.param_groups:
            group["lr"] = adaptation_lr(self._config, chunk, num_chunks)
        seq_len = self._config.seq_len
        begin = chunk * self._config.chunk_tokens
        rows = min(self._config.chunk_tokens, self._text.num_targets - begin) // seq_len
        for _ in range(self._config.ttt_epochs):
            for first in range(0, rows, self._config.ttt_rows_per_step):
                last = min(first + self._config.ttt_rows_per_step, rows)
                self._step(self._text.tokens[begin + first * seq_len : begin + last * seq_len + 1])

    def _step(self, span: Tensor) -> None:
        """One update on the rows of `span` [rows · seq_len + 1], which are shared out over the ranks.

        The loss is the mean over all rows of nll · b / mean(b), b the target's base bytes. As the sums are taken
        over all ranks, the update is the same on any number of them.
        """
        ids, targets = span[:-1].view(-1, self._config.seq_len), span[1:].view(-1, self._config.seq_len)
        total_bytes = self._text.base_bytes[targets].sum().clamp_min(1.0)
        self._gradients.zero()
        own = self._ranks.share(len(ids))
        if len(own):
            part = slice(own.start, own.stop)
            weights = self._text.base_bytes[targets[part]]
            loss = (self._losses(ids[part], targets[part]) * weights).sum() / total_bytes
            loss.backward()
        self._gradients.reduce_and_clip(self._config.ttt_grad_clip)
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._live, 1.0 - self._config.polyak_decay)
