"""Texts, random neural distributions and a drive for the valid mixture, which several test modules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from golf_core.config import MixerConfig
from golf_core.data.tokenizer import BOS
from golf_core.distributed import single
from golf_core.mixture.mixer import Mixer

RANKS = single(torch.device("cpu"))
NOTHING = torch.empty(0, dtype=torch.int64)
Floats = NDArray[np.float64]
Neural = Callable[[int, int], Tensor]
"""ln q [end - begin, vocab] of positions begin..end - 1."""

CONFIGS = st.builds(
    MixerConfig,
    orders=st.integers(0, 5),
    document_orders=st.integers(0, 4),
    match_tokens=st.sampled_from((0, 1, 3, 6)),
    tilt=st.booleans(),
    confidence=st.booleans(),
    context_weights=st.booleans(),
    update_tokens=st.sampled_from((1, 7, 32, 1000)),
)


@dataclass(frozen=True)
class Case:
    """A text and what a neural model says of it."""

    vocab: int
    tokens: Tensor
    log_probs: Tensor

    @property
    def count(self) -> int:
        return len(self.log_probs)

    def neural(self, begin: int, end: int) -> Tensor:
        return self.log_probs[begin:end]

    @property
    def neural_nll(self) -> Floats:
        return -self.log_probs.gather(1, self.tokens[1:, None])[:, 0].double().numpy()


@dataclass(frozen=True)
class Outcome:
    """Losses [n]; the whole distributions [m, vocab] at the measured positions [m]; the mixer itself."""

    nll: Floats
    at: Tensor
    distributions: Tensor
    mixer: Mixer


def go(mixer: Mixer, neural: Neural, edges: Sequence[int], ends: Sequence[int], batch: int, at: Tensor) -> Outcome:
    """Score stretch by stretch; those that stop at one of `ends` end a chunk."""
    nlls, where, distributions = [], [], []
    for begin, end in pairwise(edges):
        mixer.look(begin, end, at[(at >= begin) & (at < end)])
        for first in range(begin, end, batch):
            mixer.observe(first, neural(first, min(first + batch, end)))
        scores = mixer.score(chunk_ends=end in ends)
        nlls.append(scores.nll)
        where.append(scores.measured_at)
        distributions.append(scores.measured)
    return Outcome(np.concatenate(nlls), torch.cat(where), torch.cat(distributions), mixer)


def chunks(count: int, size: int) -> list[int]:
    return [*range(0, count, size), count]


def mixed(config: MixerConfig, case: Case, chunk: int, batch: int = 50, at: Tensor = NOTHING) -> Outcome:
    """The whole text in chunks of `chunk`, each in one call."""
    edges = chunks(case.count, chunk)
    return go(Mixer(config, case.vocab, case.tokens, RANKS), case.neural, edges, edges, batch, at)


def repetitive(vocab: int, count: int, seed: int) -> NDArray[np.int64]:
    """Words, phrases and documents that come back, so that every expert has something to say."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, vocab, rng.integers(1, 12)) for _ in range(6)]
    pieces: list[NDArray[np.int64]] = []
    while sum(map(len, pieces)) < count:
        kind = rng.integers(0, 8)
        if kind == 0:
            pieces.append(np.full(rng.integers(1, 4), BOS))  # empty documents among them
        elif kind < 5:
            pieces.append(phrases[rng.integers(0, len(phrases))])
        else:
            pieces.append(rng.integers(0, vocab, rng.integers(1, 6)))
    return np.concatenate(pieces)[:count].astype(np.int64)


def case_of(vocab: int, count: int, seed: int, sharpness: float = 2.0, dtype: torch.dtype = torch.float64) -> Case:
    """A text of `count` + 1 tokens, and random neural distributions that know a little about it."""
    tokens = torch.from_numpy(repetitive(vocab, count + 1, seed))
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(count, vocab, generator=generator, dtype=torch.float64)
    logits[torch.arange(count), tokens[1:]] += sharpness * torch.rand(count, generator=generator, dtype=torch.float64)
    return Case(vocab, tokens, torch.log_softmax(logits, dim=1).to(dtype))
