from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.claim import statistics as s

CANDIDATE = [1.11508120, 1.11437394, 1.11475014]
BASELINE = [1.11922988, 1.12002032, 1.11888882]
BPB_PER_NAT = 0.59226

bpbs = st.lists(st.floats(0.5, 5.0), min_size=2, max_size=8).filter(lambda v: max(v) - min(v) > 1e-6)
margins = st.floats(0.0, 0.1)


def test_one_value_has_a_mean_and_no_spread() -> None:
    assert s.summarize([1.1]) == s.Summary(1, 1.1, None, None)


@given(bpbs)
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    summary = s.summarize(values)
    error = scipy.stats.sem(values)
    expected = scipy.stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=error)
    assert summary.sd == pytest.approx(error * math.sqrt(len(values)))
    assert summary.ci95 == pytest.approx(expected, rel=1e-9)


@given(bpbs, st.floats(0.5, 5.0), margins)
def test_one_sample_agrees_with_scipy(values: list[float], mean: float, margin: float) -> None:
    test = s.one_sample(values, mean, margin)
    expected = scipy.stats.ttest_1samp(values, mean - margin, alternative="less")
    assert test.statistic == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert test.df == len(values) - 1


@given(bpbs, bpbs, margins)
def test_welch_agrees_with_scipy(values: list[float], baseline: list[float], margin: float) -> None:
    test = s.welch(values, baseline, margin)
    expected = scipy.stats.ttest_ind(values, [b - margin for b in baseline], equal_var=False, alternative="less")
    assert test.statistic == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert test.df == pytest.approx(expected.df, rel=1e-6)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(
    ("test", "why"),
    [
        (s.one_sample([1.0], 1.2), "one seed"),
        (s.one_sample([1.1, 1.1, 1.1], 1.2), "all equal"),
        (s.welch([1.0], BASELINE), "one seed"),
        (s.welch(CANDIDATE, [1.2]), "one baseline value"),
        (s.welch([1.1, 1.1, 1.1], [1.2, 1.2]), "all equal"),
        (s.welch([1.1, 1.1, 1.1], BASELINE), "all equal"),
    ],
)
def test_without_spread_there_is_no_p(test: s.Test, why: str) -> None:
    assert (test.statistic, test.df, test.p) == (None, None, None)
    assert why in test.note


def test_a_baseline_without_spread_is_as_good_as_its_mean() -> None:
    two_sided_spread = s.welch(CANDIDATE, [1.12, 1.12], 0.001)
    mean_only = s.one_sample(CANDIDATE, 1.12, 0.001)
    assert two_sided_spread.p == pytest.approx(mean_only.p)
    assert two_sided_spread.df == pytest.approx(2)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_nothing_and_non_finite_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        s.summarize(values)
    with pytest.raises(ValueError, match="finite"):
        s.one_sample(values, 1.0)
    with pytest.raises(ValueError, match="finite"):
        s.welch(values, BASELINE)
    with pytest.raises(ValueError, match="finite"):
        s.welch(CANDIDATE, values)


def test_margin_in_bpb() -> None:
    ratio = 1 / (math.log(2) * BPB_PER_NAT)
    assert s.margin_in_bpb(0.005, ratio) == pytest.approx(0.00296, abs=5e-6)
    # One byte a token: one bit per byte is ln 2 nats a token.
    assert s.margin_in_bpb(math.log(2), 1.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="positive"):
        s.margin_in_bpb(0.005, 0.0)


@given(st.floats(1e-4, 1e-2), st.integers(2, 20))
def test_required_excess_is_where_p_equals_alpha(sd: float, n: int) -> None:
    excess = s.required_excess(sd, n)
    t = excess / (sd / math.sqrt(n))
    assert scipy.stats.t.sf(t, n - 1) == pytest.approx(s.ALPHA, rel=1e-6)


@given(st.floats(1e-5, 1e-2), st.floats(1e-4, 1e-1))
def test_seeds_needed_is_the_least_that_suffices(sd: float, excess: float) -> None:
    n = s.seeds_needed(sd, excess)
    assume(n is not None)
    assert n is not None
    assert s.required_excess(sd, n) < excess
    assert n == 2 or excess <= s.required_excess(sd, n - 1)


def test_no_number_of_seeds_makes_up_for_a_missing_gain() -> None:
    assert s.seeds_needed(0.0024, 0.0) is None
    assert s.seeds_needed(0.0024, -0.01) is None
    assert s.seeds_needed(1.0, 1e-6) is None
