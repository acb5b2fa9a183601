"""How much each matrix, row and column matters to the loss, found without any data.

The measure is the diagonal of the Fisher information: an error e in a weight raises the expected loss by ½·F·e². F is
the mean square of the gradient of the loss, over targets as probable as the model holds them; the inputs are text that
the model writes itself. Neither training nor validation text is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from golf_core.model.gpt import GPT, model_from

ROWS = 16
ROW_TOKENS = 256
CHUNK = 8
"""Tokens that the model writes in a row: 1 would leave the text uniformly random."""
SEED = 20_240_520


@dataclass(frozen=True)
class Sensitivity:
    """Fisher information of one matrix [rows, cols] in nats a token, as mean · rows_i · cols_j."""

    mean: float
    rows: Tensor
    """[rows] float32, of mean 1."""
    cols: Tensor
    """[cols] float32, of mean 1."""


def sensitivities(model: GPT, names: Sequence[str]) -> dict[str, Sensitivity]:
    """The sensitivities of the matrices called `names`. Deterministic on one machine with one number of threads."""
    twin = model_from(model.config, model.state_dict())  # in full precision, without fake quantisation
    parameters = [twin.get_parameter(name) for name in names]
    generator = torch.Generator().manual_seed(SEED)
    ids = own_text(twin, ROWS, ROW_TOKENS, generator)
    rows = [torch.zeros(p.size(0)) for p in parameters]
    cols = [torch.zeros(p.size(1)) for p in parameters]
    for row in ids:
        logits = twin.logits(twin.hidden(row[None])).float()[0]
        gradients = torch.autograd.grad(logits, parameters, _of_all_targets(logits.detach(), generator))
        for i, gradient in enumerate(gradients):
            square = gradient.float().square()
            rows[i] += square.mean(1)
            cols[i] += square.mean(0)
    return {name: _scaled(rows[i], cols[i]) for i, name in enumerate(names)}


@torch.no_grad()
def own_text(model: GPT, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Token ids [rows, length] (int64) that the model wrote, in pieces of CHUNK tokens.

    The first token of each piece is random, the others are drawn from the model's distributions one after another,
    all pieces at once: so CHUNK - 1 forward passes are enough, whatever the length.
    """
    size = (rows, length)
    ids = torch.randint(model.config.vocab_size, size, generator=generator)
    for place in range(1, CHUNK):
        probabilities = model.logits(model.hidden(ids)).float().softmax(-1)
        drawn = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(size)
        ids[:, place::CHUNK] = drawn[:, place - 1 :: CHUNK][:, : ids[:, place::CHUNK].size(1)]
    return ids


def _of_all_targets(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random gradient of the loss by the logits [tokens, vocab_size] that stands for all targets at once.

    Drawn targets have gradients whose mean square is diag(p) - p pᵀ. So has √p·s - p·Σ √p·s with random signs s, and
    its square is near p at every token of the vocabulary, where that of a drawn target is 0 at nearly all of them.
    Signs that are independent leave no correlation: the square of a sum over positions is, on average, the sum of
    the squares.
    """
    probabilities = logits.softmax(-1)
    signs = torch.randint(2, logits.shape, generator=generator) * 2 - 1
    roots = probabilities.sqrt() * signs
    return roots - probabilities * roots.sum(-1, keepdim=True)


def _scaled(rows: Tensor, cols: Tensor) -> Sensitivity:
    mean = float(rows.mean())
    if mean == 0:
        return Sensitivity(0.0, torch.ones_like(rows), torch.ones_like(cols))
    return Sensitivity(mean / (ROWS * ROW_TOKENS), rows / mean, cols / mean)
