"""The record's experts and Hedge against plain references."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core.evaluate.experts import Hedge, NgramCounts, Positions, expert_nlls, neural_terms

CPU = torch.device("cpu")
VOCAB, BUCKETS, SMOOTHING = 24, 64, 0.1


def positions(tokens: np.ndarray, at: np.ndarray) -> Positions:
    ids = torch.from_numpy(tokens)
    index = torch.from_numpy(at)
    return Positions(ids[index], torch.where(index > 0, ids[(index - 1).clamp_min(0)], 0), ids[index + 1])


def reference_nlls(history: list[np.ndarray], token: int, before: int, target: int) -> list[float]:
    """Counts with dictionaries, chunk by chunk, straight from the recipe."""

    def bucket(x1: int, x2: int) -> int:
        return ((36313 * x2) ^ (27191 * x1)) % BUCKETS

    one: Counter[int] = Counter()
    two: Counter[tuple[int, int]] = Counter()
    three: Counter[tuple[int, int]] = Counter()
    for chunk in history:
        one.update(chunk.tolist())
        two.update(zip(chunk.tolist(), chunk.tolist()[1:], strict=False))
        three.update((bucket(chunk[i + 1], chunk[i]), int(chunk[i + 2])) for i in range(len(chunk) - 2))
    context = bucket(token, before)
    totals = (
        sum(one.values()),
        sum(n for (a, _), n in two.items() if a == token),
        sum(n for (h, _), n in three.items() if h == context),
    )
    counts = (one[target], two[token, target], three[context, target])
    return [-np.log((c + SMOOTHING) / (t + SMOOTHING * VOCAB)) for c, t in zip(counts, totals, strict=True)]


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**16), sizes=st.lists(st.integers(3, 60), min_size=0, max_size=4))
def test_ngram_experts_match_the_reference(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    counts = NgramCounts(VOCAB, BUCKETS, SMOOTHING, CPU)
    history = [rng.integers(0, VOCAB, size) for size in sizes]
    for chunk in history:
        counts.update(torch.from_numpy(chunk))
    tokens = rng.integers(0, VOCAB, 20)
    at = positions(tokens, np.arange(19))
    found = torch.stack(counts.nlls(at), dim=1).numpy()
    for i in range(19):
        before = int(tokens[i - 1]) if i else 0
        expected = reference_nlls(history, int(tokens[i]), before, int(tokens[i + 1]))
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


def filled(seed: int) -> tuple[NgramCounts, Hedge, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    counts = NgramCounts(VOCAB, BUCKETS, SMOOTHING, CPU)
    counts.update(torch.randint(VOCAB, (500,), generator=generator))
    hedge = Hedge(2.0, 0.1, CPU)
    hedge.update(torch.rand(5, generator=generator, dtype=torch.float64) * 30)
    return counts, hedge, generator


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**16), sharpness=st.floats(0.1, 20.0))
def test_experts_sum_to_one_and_published_to_z(seed: int, sharpness: float) -> None:
    counts, hedge, generator = filled(seed)
    neural = neural_terms(sharpness * torch.randn(1, VOCAB, generator=generator), 0.98)
    token = torch.randint(VOCAB, (1,), generator=generator).repeat(VOCAB)
    at = Positions(token, token, torch.arange(VOCAB))
    nlls = expert_nlls(neural, torch.zeros(VOCAB, dtype=torch.int64), counts, at)
    for expert in range(4):
        assert float(torch.exp(-nlls[:, expert]).sum()) == pytest.approx(1.0, abs=1e-5)
    z = float(torch.exp(hedge.log_z(neural.entropy, VOCAB)))
    assert z >= 1.0 - 1e-6
    assert float(torch.exp(-hedge.published_nll(nlls)).sum()) == pytest.approx(z, rel=1e-5)


def test_hedge_moves_weight_to_the_better_expert() -> None:
    hedge = Hedge(2.0, 0.1, CPU)
    before = torch.softmax(hedge.log_weights, 0)
    hedge.update(torch.tensor([3.0, 1.0, 3.0, 3.0, 3.0], dtype=torch.float64))
    after = torch.softmax(hedge.log_weights, 0)
    assert after[1] > before[1] and after[0] < before[0]
    np.testing.assert_allclose(hedge.log_weights.numpy(), [1.7, -0.1, -0.3, -0.3, -0.3])
