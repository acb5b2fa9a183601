"""Statistics over seeds: summaries, one-sided t tests against a baseline, and how many seeds a gain needs.

Lower is better throughout: values are losses (BPB). Source of the rule: the challenge asks for a mean loss at
least 0.005 nats a token below the best earlier record at p < 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestrator.folder.results import SeedResult, Summary, Test
from orchestrator.job.sections import Baseline

MARGIN_NATS = 0.005
"""By how much a record must beat the one before, nats a token."""
ALPHA = 0.01
"""A claim's p must be below this."""
MOST_SEEDS = 1000
GRID, NEAREST = 400, 8.0


def summarize(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and 95% t interval. Raises `ValueError` for no or non-finite values."""
    _check(values)
    n, mean = len(values), fmean(values)
    if n == 1:
        return Summary(n, mean, None, None)
    sd = stdev(values)
    half = _t_quantile(0.975, n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, (mean - half, mean + half))


def one_sample(values: Sequence[float], mean: float, margin: float = 0.0) -> Test:
    """Test `values` against a baseline of which only the mean is known (its own spread then counts as zero).

    Raises `ValueError` for no or non-finite values. A single value, or values without any spread, give no p:
    equal figures from different seeds mean that the seeds changed nothing, which is no certainty.
    """
    _check([*values, mean, margin], least=3)
    name, null = "one-sample t test", _null(margin)
    if len(values) < 2:
        return Test(name, null, None, None, None, margin, "one seed has no spread")
    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return Test(name, null, None, None, None, margin, "the seeds' figures are all equal")
    return _student(name, null, (fmean(values) - (mean - margin)) / error, len(values) - 1, margin)


def welch(values: Sequence[float], baseline: Sequence[float], margin: float = 0.0) -> Test:
    """Test `values` against the baseline's own values, with unequal variances (Welch 1947).

    Raises `ValueError` for no or non-finite values. No p where either side has a single value, or where
    `values` have no spread (see `one_sample`); a baseline without spread is taken at its word.
    """
    _check(values)
    _check([*baseline, margin], least=2)
    name, null = "Welch's t test", _null(margin)
    if min(len(values), len(baseline)) < 2:
        which = "one seed" if len(values) < 2 else "one baseline value"
        return Test(name, null, None, None, None, margin, f"{which} has no spread")
    if stdev(values) ** 2 == 0:
        return Test(name, null, None, None, None, margin, "the seeds' figures are all equal")
    variance, df = _of_difference(values, baseline)
    t = (fmean(values) - (fmean(baseline) - margin)) / math.sqrt(variance)
    return _student(name, null, t, df, margin)


def _of_difference(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Variance of the difference of two means, and its degrees of freedom (Welch 1947)."""
    own, other = stdev(values) ** 2 / len(values), stdev(baseline) ** 2 / len(baseline)
    share = own / (own + other)
    return own + other, 1 / (share**2 / (len(values) - 1) + (1 - share) ** 2 / (len(baseline) - 1))


def margin_in_bpb(nats: float, bytes_per_token: float) -> float:
    """Nats a token as bits per byte of a text with `bytes_per_token` bytes a token."""
    if not bytes_per_token > 0:
        raise ValueError(f"bytes_per_token must be positive, not {bytes_per_token}")
    return nats / (math.log(2) * bytes_per_token)


def required_excess(sd: float, n: int) -> float:
    """By how much the observed gain must exceed the margin for p < `ALPHA` (one-sample, n >= 2, unit of `sd`)."""
    return _t_quantile(1 - ALPHA, n - 1) * sd / math.sqrt(n)


def seeds_needed(sd: float, excess: float) -> int | None:
    """The least number of seeds at which a gain `excess` above the margin with spread `sd` gives p < `ALPHA`.

    One-sample, and without reserve: it takes the observed gain and spread for the true ones. None when
    `excess` is not positive or `MOST_SEEDS` do not suffice.
    """
    if not excess > 0:
        return None
    return next((n for n in range(2, MOST_SEEDS + 1) if required_excess(sd, n) < excess), None)


def reachable_p(values: Sequence[float], remaining: int, test: Callable[[Sequence[float]], float | None]) -> float:
    """The least p that `remaining` more values could still bring, whatever they are; 1 where there is none.

    For a given mean equal values bring the least spread, so that one number is sought: up to 1 below the mean
    of `values`. Takes `GRID` tests.
    """
    if remaining == 0:
        alone = test(values)
        return 1.0 if alone is None else alone
    # A value above the mean is never better than its mirror image below; logarithmic steps find the best distance.
    distances = (10 ** (-NEAREST * (1 - part / GRID)) for part in range(GRID + 1))
    center = fmean(values)
    found = [test([*values, *[center - distance] * remaining]) for distance in distances]
    return min((p for p in found if p is not None), default=1.0)


def _student(name: str, null: str, t: float, df: float, margin: float) -> Test:
    from scipy.special import stdtr  # scipy.special loads in a tenth of the time of scipy.stats

    return Test(name, null, t, float(df), float(stdtr(df, t)), margin)


def _t_quantile(probability: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _null(margin: float) -> str:
    return f"lower than the baseline by {margin:.5f} BPB" if margin else "equal to the baseline"


def _check(values: Sequence[float], least: int = 1) -> None:
    if len(values) < least or not all(math.isfinite(value) for value in values):
        raise ValueError(f"finite values are needed, at least one, not {list(values)}")


# --- intervals ---

RESAMPLES = 2000
MIN_BLOCKS = 8


def gain_bound(baseline: Baseline, seeds: Sequence[SeedResult], confidence: float) -> float | None:
    """Lower end of the one-sided interval of the gain over the baseline, in BPB.

    It lies beyond the margin exactly where the claim's test has p < 1 - `confidence` (Welch's test with the
    baseline's seeds, the one-sample test with its mean alone). None where the test has no p.
    """
    values = [s.evaluate.mixture.bpb for s in seeds if s.status == "finished" and s.evaluate and s.evaluate.mixture]
    if len(values) < 2 or not all(map(math.isfinite, values)) or stdev(values) == 0:
        return None
    variance, df = stdev(values) ** 2 / len(values), len(values) - 1.0
    if baseline.bpb is not None:
        variance, df = _of_difference(values, baseline.bpb)
    return baseline.mean_bpb - fmean(values) - _t_quantile(confidence, df) * math.sqrt(variance)


@dataclass(frozen=True)
class Paired:
    """The difference of two runs, paired by stretches of the same text: second less first, in nats a token."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    pairs: int
    block: int
    """Neighbours that are drawn together."""


def paired(first: Sequence[float], second: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Paired | None:
    """Mean difference of two runs' losses, with a 95 % interval by the moving-block bootstrap (Künsch 1989).

    `first`, `second` [n] are total nats of n stretches of the same text in order, `tokens` [n] their lengths.
    Neighbouring stretches resemble each other, so that whole blocks of about the square root of n are drawn. The
    interval is over text: it says nothing about other seeds. None for too few stretches.
    """
    import numpy as np

    n = len(tokens)
    block = max(1, round(math.sqrt(n)))
    if n < MIN_BLOCKS:
        return None
    gaps = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    sizes = np.asarray(tokens, dtype=np.float64)
    starts = np.random.default_rng(seed).integers(0, n - block + 1, size=(RESAMPLES, math.ceil(n / block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]
    means = gaps[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Paired(float(gaps.sum() / sizes.sum()), float(low), float(high), n, block)
