"""Intervals agree with the tests that they picture; pairs of stretches of text."""

from __future__ import annotations

import math
import random

import pytest
from claim_builders import finished
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.claim.statistics import ALPHA, gain_bound, one_sample, paired, welch
from orchestrator.job.sections import Baseline

BPBS = st.lists(st.floats(0.9, 1.3), min_size=2, max_size=6)


@given(BPBS, st.one_of(BPBS, st.floats(0.9, 1.3)), st.floats(0.0, 0.05))
def test_the_interval_lies_beyond_the_margin_where_p_is_small(
    values: list[float], other: list[float] | float, margin: float
) -> None:
    if max(values) - min(values) < 1e-6:
        return
    mean_alone = isinstance(other, float)
    baseline = Baseline(
        name="b", bpb=None if mean_alone else tuple(other), mean=other if mean_alone else None, bytes_per_token=2.4
    )  # type: ignore[arg-type]
    bound = gain_bound(baseline, [finished(i, v) for i, v in enumerate(values)], 1 - ALPHA)
    test = one_sample(values, other, margin) if isinstance(other, float) else welch(values, other, margin)
    assert bound is not None and test.p is not None
    if abs(test.p - ALPHA) > 1e-9:
        assert (bound > margin) is (test.p < ALPHA)


def test_no_interval_without_spread() -> None:
    baseline = Baseline(name="b", mean=1.2, bytes_per_token=2.4)
    assert gain_bound(baseline, [finished(42, 1.1)], 0.99) is None
    assert gain_bound(baseline, [finished(42, 1.1), finished(43, 1.1)], 0.99) is None


def test_an_even_difference_is_certain() -> None:
    tokens = [100, 50, 200] * 10
    first = [2.0 * n for n in tokens]
    found = paired(first, [x + 0.25 * n for x, n in zip(first, tokens, strict=True)], tokens)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.pairs == 30 and found.block == 5


def test_the_interval_covers_the_truth_where_neighbours_resemble_each_other() -> None:
    """Of 95 % intervals of autoregressive differences, most cover the mean; intervals of single pairs would not."""
    covered, truth, trials = 0, 0.01, 150
    for trial in range(trials):
        chance, noise, gaps = random.Random(trial), 0.0, []
        for _ in range(400):
            noise = 0.7 * noise + chance.gauss(0, 0.05)
            gaps.append(truth + noise)
        found = paired([0.0] * 400, [1000 * gap for gap in gaps], [1000] * 400)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered >= 0.84 * trials, covered


def test_too_few_stretches() -> None:
    assert paired([1.0] * 7, [1.0] * 7, [1] * 7) is None


@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9), st.integers(1, 500)), min_size=8, max_size=60))
def test_the_mean_is_over_tokens(rows: list[tuple[float, float, int]]) -> None:
    first, second, tokens = ([row[i] for row in rows] for i in range(3))
    found = paired(first, second, tokens)  # type: ignore[arg-type]
    assert found is not None
    assert found.mean == pytest.approx(math.fsum(b - a for a, b, _ in rows) / sum(tokens), abs=1e-12)
    assert found.low <= found.high
    swapped = paired(second, first, tokens)  # type: ignore[arg-type]
    assert swapped is not None and swapped.mean == pytest.approx(-found.mean, abs=1e-12)
