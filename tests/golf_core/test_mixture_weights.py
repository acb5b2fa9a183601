"""The weights of the valid mixture: average posteriors, and Fixed-Share with its bound."""

from __future__ import annotations

import mixture_reference as plain
import numpy as np
import pytest
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core.mixture.ladder import ContextWeights, FixedShare, log_sum


def test_weights_are_average_posteriors() -> None:
    rng = np.random.default_rng(0)
    prior = np.array([0.2, 0.5, 0.3])
    weights = ContextWeights(4, prior, strength=3.0)
    np.testing.assert_allclose(weights.of(np.array([0, 3])), [prior, prior])
    sums, seen = np.tile(prior * 3.0, (4, 1)), np.zeros(4)
    for size in (1, 7, 0, 30):
        bucket, posterior = rng.integers(0, 3, size), rng.dirichlet(np.ones(3), size)
        weights.learn(bucket, posterior)
        for which, row in zip(bucket, posterior, strict=True):
            sums[which] += row
            seen[which] += 1
        np.testing.assert_allclose(weights.of(np.arange(4)), sums / (3.0 + seen)[:, None], rtol=1e-12)
    np.testing.assert_allclose(weights.of(np.array([3])), [prior])  # nothing was ever seen there


def test_a_bucket_that_gives_all_to_one_expert_keeps_doing_so() -> None:
    """Exactly: what it learns confirms it. The others are none of its business."""
    rng = np.random.default_rng(2)
    weights = ContextWeights(3, np.array([[0.0, 1.0], [0.2, 0.8], [0.2, 0.8]]))
    for _ in range(20):
        bucket, probs = rng.integers(0, 3, 50), rng.uniform(1e-12, 1.0, (50, 2))
        weighted = weights.of(bucket) * probs
        mixed = weighted.sum(axis=1)
        np.testing.assert_array_equal(mixed[bucket == 0], probs[bucket == 0, 1])
        weights.learn(bucket, weighted / mixed[:, None])
    first, second, third = weights.of(np.arange(3))
    assert first.tolist() == [0.0, 1.0] and 0.2 < second[0] < 1.0 and 0.2 < third[0] < 1.0


def test_weights_approach_the_best_fixed_mixture() -> None:
    """Of each bucket's own; the distance to it is mostly made up early."""
    rng, count, stretch = np.random.default_rng(1), 12_000, 50
    bucket = rng.integers(0, 2, count)
    truth = np.array([[0.7, 0.2, 0.1], [0.05, 0.4, 0.55]])
    # Each expert's probability of the realised token: high where it produced it, low and varied elsewhere.
    source = np.array([rng.choice(3, p=truth[b]) for b in bucket])
    probs = rng.uniform(0.001, 0.06, (count, 3))
    probs[np.arange(count), source] = rng.uniform(0.3, 0.9, count)
    weights, nlls = ContextWeights(2, np.full(3, 1 / 3)), np.empty(count)
    for first in range(0, count, stretch):
        part = slice(first, first + stretch)
        weighted = weights.of(bucket[part]) * probs[part]
        mixed = weighted.sum(axis=1)
        nlls[part] = -np.log(mixed)
        weights.learn(bucket[part], weighted / mixed[:, None])
    for which in range(2):
        own, best = probs[bucket == which], np.full(3, 1 / 3)
        for _ in range(300):  # expectation maximisation over the whole text
            posterior = best * own
            best = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
        regret = nlls[bucket == which] + np.log(own @ best)
        assert 0.0 < regret.sum() < 0.004 * len(own)
        assert regret[len(own) // 2 :].sum() < 0.3 * regret.sum()
        np.testing.assert_allclose(weights.of(np.array([which]))[0], best, atol=0.02)


STRETCHES = st.lists(
    st.lists(st.lists(st.floats(-60.0, 0.0), min_size=3, max_size=3), min_size=1, max_size=6), min_size=1, max_size=12
)


@settings(max_examples=examples(150))
@given(stretches=STRETCHES, raw=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_fixed_share_keeps_its_bound(stretches: list[list[list[float]]], raw: list[float]) -> None:
    """After every token, against every expert, whatever their losses; and Bayes inside a stretch, by hand."""
    prior = np.array(raw) / sum(raw)
    share, reference = FixedShare(prior), plain.PlainShare(prior.tolist())
    total, experts = 0.0, np.zeros(3)
    for rows in stretches:
        logs = np.array(rows)
        weights = share.of(logs)
        np.testing.assert_allclose(log_sum(weights), 0.0, atol=1e-9)
        for row, used in zip(logs, weights, strict=True):
            mixed = float(log_sum(used + row))
            expected = reference.mix(list(np.exp(row)[:, None]), 0)
            assert mixed == pytest.approx(float(np.log(expected[0])), abs=1e-8)
            total, experts = total - mixed, experts - row
            for expert in range(3):
                assert total - experts[expert] <= share.bound(expert) + 1e-8
        share.learn(logs)
        reference.learn()
        np.testing.assert_allclose(np.exp(share.log_weights), reference.weights, atol=1e-9)


@pytest.mark.parametrize("favourite", [0, 1])
def test_fixed_share_against_an_adversary(favourite: int) -> None:
    """The adversary makes the heaviest expert fail in every stretch; then one expert is right for ever."""
    prior = np.array([0.8, 0.2])
    share, total, experts = FixedShare(prior), 0.0, np.zeros(2)
    for stretch in range(400):
        heaviest = int(share.log_weights.argmax()) if stretch < 200 else 1 - favourite
        logs = np.full((16, 2), -0.01)
        logs[:, heaviest] = -25.0
        total -= float(log_sum(share.of(logs) + logs).sum())
        experts -= logs.sum(axis=0)
        share.learn(logs)
        for expert in range(2):
            assert total - experts[expert] <= share.bound(expert) + 1e-6
    # It does far better than either, having followed the switches.
    assert total < 0.5 * experts.min()


def test_fixed_share_with_impossible_tokens() -> None:
    """An expert that gave a token no probability is out for the stretch, and comes back with its share."""
    share = FixedShare(np.array([0.8, 0.2]))
    logs = np.array([[-1.0, -2.0], [-np.inf, -2.0], [-1.0, -2.0]])
    weights = np.exp(share.of(logs))
    np.testing.assert_allclose(weights[2], [0.0, 1.0])
    share.learn(logs)
    np.testing.assert_allclose(np.exp(share.log_weights), [0.4, 0.6])


def test_weights_in_force_do_not_depend_on_the_token() -> None:
    """Not even in the last digit."""
    rng = np.random.default_rng(4)
    logs = np.log(rng.uniform(1e-6, 1.0, (60, 4)))
    share = FixedShare(np.array([0.8, 0.1, 0.05, 0.05]))
    expected = share.of(logs)
    for t in (0, 1, 30, 59):
        changed = logs.copy()
        changed[t:] = np.log(rng.uniform(1e-6, 1.0, changed[t:].shape))
        np.testing.assert_array_equal(share.of(changed)[: t + 1], expected[: t + 1])
