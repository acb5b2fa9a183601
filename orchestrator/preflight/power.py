"""The chance that a claim's test succeeds, given the true gain and spread: how many seeds does it need?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from orchestrator.spec import Baseline
from orchestrator.statistics import ALPHA, MARGIN_NATS, margin_in_bpb

ASSUMED_SD = 0.0005
"""BPB between seeds, where nothing is known."""
MOST_SEEDS = 200
QUANTILES = 2000


@dataclass(frozen=True)
class PowerPlan:
    """How many seeds a claim needs."""

    margin_bpb: float
    """By which the mean must beat the baseline."""
    sd: float
    """Between seeds, BPB."""
    sd_source: str
    power: float
    """Wanted chance of p < 0.01, if the gain is as expected."""
    seeds: int
    """Of the job."""
    least_gain: float | None
    """The gain below the baseline that the job's own seeds show with this power; None where no gain does."""
    gain: float | None
    """Expected, BPB below the baseline."""
    seeds_needed: int | None
    """For that gain; None where it is not given, or no number of seeds suffices."""
    chances: tuple[tuple[int, float], ...]
    """Of a success with so many seeds, for that gain."""


def plan_power(
    baseline: Baseline, seeds: int, power: float, sd: float | None, gain: float | None, least: int = 2
) -> PowerPlan:
    """What the test against `baseline` needs; at least `least` seeds in any case.

    `sd` defaults to the spread of the baseline's own seeds, else to `ASSUMED_SD`.
    Raises `ValueError` for a power outside (0, 1) or a negative sd.
    """
    if not 0 < power < 1:
        raise ValueError(f"a power lies between 0 and 1, not {power:g}")
    source = "given"
    if sd is None:
        own = stdev(baseline.bpb) if baseline.bpb is not None else 0.0
        sd, source = (own, "that of the baseline's own seeds") if own else (ASSUMED_SD, "an assumption")
    margin = margin_in_bpb(MARGIN_NATS, baseline.bytes_per_token)
    other = baseline.bpb
    needed = None if gain is None else seeds_for(gain - margin, sd, power, other, least)
    shown = sorted({max(least, 2), 3, 4, 5, 6, 8, 10, seeds, *([needed] if needed else [])})
    chances = [] if gain is None else [(n, success(gain - margin, sd, n, other)) for n in shown if n >= 2]
    enough = least_excess(sd, seeds, power, other)
    return PowerPlan(
        margin_bpb=margin,
        sd=sd,
        sd_source=source,
        power=power,
        seeds=seeds,
        least_gain=None if enough is None else margin + enough,
        gain=gain,
        seeds_needed=needed,
        chances=tuple(chances),
    )


def success(excess: float, sd: float, n: int, baseline: Sequence[float] | None = None, alpha: float = ALPHA) -> float:
    """The chance of p < `alpha` with `n` seeds when the true gain exceeds the margin by `excess` BPB.

    Against a mean alone it is the one-sample test's power (a noncentral t); against a baseline's values Welch's,
    these values being what they are. 0 for fewer than two seeds. Raises `ValueError` for a negative sd.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    if not sd >= 0:
        raise ValueError(f"the standard deviation between seeds must not be negative, not {sd:g}")
    if n < 2:
        return 0.0
    if sd == 0:  # a limit: the test itself gives no p without any spread
        sd = 1e-12
    # Over the sampling distribution of the sample variance, at the middles of equally likely parts.
    tail = (np.arange(QUANTILES) + 0.5) / QUANTILES
    own = sd**2 * chdtri(n - 1, tail) / (n - 1) / n
    other = stdev(baseline) ** 2 / len(baseline) if baseline is not None else 0.0
    share = own / (own + other)
    df = (n - 1) / share**2 if baseline is None else 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (len(baseline) - 1))
    threshold = stdtrit(df, 1 - alpha) * np.sqrt(own + other)
    return float(ndtr((excess - threshold) / (sd / math.sqrt(n))).mean())


def seeds_for(
    excess: float, sd: float, power: float, baseline: Sequence[float] | None = None, least: int = 2
) -> int | None:
    """The least number of seeds with that power, from `least` on; None where `MOST_SEEDS` do not suffice."""
    if not excess > 0:
        return None
    # One by one: against few baseline values Welch's test loses degrees of freedom as seeds are added.
    return next((n for n in range(max(least, 2), MOST_SEEDS + 1) if success(excess, sd, n, baseline) >= power), None)


def least_excess(sd: float, n: int, power: float, baseline: Sequence[float] | None = None) -> float | None:
    """The least gain above the margin that `n` seeds show with that power; None for fewer than two."""
    if n < 2:
        return None
    low, high = 0.0, 1e-6
    while success(high, sd, n, baseline) < power:
        low, high = high, 2 * high
        if high > 1e3:
            return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if success(middle, sd, n, baseline) >= power else (middle, high)
    return high
