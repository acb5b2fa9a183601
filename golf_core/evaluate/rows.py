"""The plain figure: whole rows, each from its own start, no adaptation. Validation and round trip use it."""

from __future__ import annotations

import torch

from golf_core.distributed import Ranks
from golf_core.model.compute import loss_function
from golf_core.model.gpt import GPT
from golf_core.results import Score
from golf_core.text import ValidationText, bits_per_byte


@torch.no_grad()
def score_rows(model: GPT, text: ValidationText, seq_len: int, batch_rows: int, ranks: Ranks) -> Score:
    """Score `text` in rows of `seq_len` at temperature 1; rows are shared out over the ranks.

    A last row that would be cut is scored as far as it goes.
    """
    losses = loss_function(model, ranks.device, compiled=False)
    whole_rows, rest = divmod(text.num_targets, seq_len)
    own = ranks.share(whole_rows)
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for first in range(own.start, own.stop, batch_rows):
        last = min(first + batch_rows, own.stop)
        span = text.tokens[first * seq_len : last * seq_len + 1]
        total += losses(span[:-1].view(-1, seq_len), span[1:].view(-1, seq_len)).double().sum()
    if rest and ranks.rank == ranks.world_size - 1:
        span = text.tokens[whole_rows * seq_len :]
        total += losses(span[None, :-1], span[None, 1:]).double().sum()
    nats = float(ranks.sum_(total))
    return Score(nats / text.num_targets, bits_per_byte(nats, float(text.target_bytes.sum())))
