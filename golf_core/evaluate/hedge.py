"""The Hedge mixer (Freund and Schapire 1997): expert weights by accumulated loss, updated between chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from golf_core.results import EXPERTS


class Hedge:
    """Log weights of the record's five experts (float64 [5])."""

    def __init__(self, neural_log_weight: float, eta: float, device: torch.device) -> None:
        self._eta = eta
        self.log_weights = torch.zeros(len(EXPERTS), dtype=torch.float64, device=device)
        self.log_weights[0] = neural_log_weight

    def published_nll(self, nlls: Tensor) -> Tensor:
        """ "nll" [n] of the published mixture, from the experts' nlls [n, 5]. Not a code length."""
        return -torch.logsumexp(torch.log_softmax(self.log_weights, dim=0) - nlls.double(), dim=1)

    def log_z(self, entropy: Tensor, vocab_size: int) -> Tensor:
        """ln of the published mixture's sum over the vocabulary [n]: 1 + w (V exp(-H) - 1), w the fifth weight."""
        weight = torch.softmax(self.log_weights, dim=0)[-1]
        return torch.log1p(weight * (vocab_size * torch.exp(-entropy.double()) - 1.0))

    def update(self, mean_nlls: Tensor) -> None:
        """Move every log weight by -eta times its expert's mean nll [5] over the chunk."""
        self.log_weights -= self._eta * mean_nlls
