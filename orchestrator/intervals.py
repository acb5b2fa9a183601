"""Intervals that say the same as the tests of a claim, and the comparison of two runs on the same text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestrator.claim import SeedResult
from orchestrator.job_sections import Baseline

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
    own, other, df = stdev(values) ** 2 / len(values), 0.0, len(values) - 1.0
    if baseline.bpb is not None:
        other = stdev(baseline.bpb) ** 2 / len(baseline.bpb)
        share = own / (own + other)
        df = 1 / (share**2 / (len(values) - 1) + (1 - share) ** 2 / (len(baseline.bpb) - 1))
    from scipy.special import stdtrit

    return baseline.mean_bpb - fmean(values) - float(stdtrit(df, confidence)) * math.sqrt(own + other)


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
