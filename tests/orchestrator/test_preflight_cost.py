"""Time, price and the number of seeds, against figures worked out in another way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.job.load import Job, load_job, phase_limits
from orchestrator.job.sections import Baseline
from orchestrator.preflight.command import judge_cost
from orchestrator.preflight.plan import DRY_RUN_S, estimate, least_excess, plan, plan_power, seeds_for, success

REPO = Path(__file__).resolve().parents[2]
BASELINE = [1.11922988, 1.12002032, 1.11888882]


def record(**changes: Any) -> Job:
    return load_job(REPO / "jobs/three_seed.yaml", {"cost.per_node_hour": 25.0} | changes)


def test_the_price_is_that_of_the_nodes_for_the_whole_run() -> None:
    one, two, three = (estimate(record(), places) for places in (1, 2, 3))
    assert one == estimate(record())
    assert one.wall_seconds == pytest.approx(3 * one.seed_seconds + DRY_RUN_S)
    assert one.cost == pytest.approx(25 * one.wall_seconds / 3600)
    # Two minutes more than the budgets of training and evaluation at the least.
    assert one.seed_seconds > 600 + 600 + 120
    assert any("whole budgets" in line for line in one.assumptions)
    # Side by side is quicker, and an idle node is paid too.
    assert two.wall_seconds == pytest.approx(2 * one.seed_seconds + DRY_RUN_S)
    assert two.node_hours == pytest.approx(2 * two.wall_seconds / 3600)
    assert three.wall_seconds == pytest.approx(one.seed_seconds + DRY_RUN_S)
    assert estimate(record(), 9) == three
    assert estimate(record(**{"resources.nodes": 2})).node_hours == pytest.approx(2 * one.node_hours)


def test_the_worst_case_is_every_limit_in_every_attempt() -> None:
    job = record(**{"limits.retries": 2})
    limits = phase_limits(job)
    every = limits.start + limits.train + limits.export + limits.evaluate + limits.audit
    assert estimate(job).seed_seconds_worst == pytest.approx(3 * every)
    assert estimate(record(**{"audit.positions": 0})).seed_seconds_worst == pytest.approx(2 * (every - limits.audit))


def test_a_price_above_the_most_is_refused() -> None:
    cost = estimate(record())
    assert cost.cost is not None and cost.cost_worst is not None
    assert judge_cost(cost, None) == []
    assert [f.level for f in judge_cost(cost, cost.cost - 0.01)] == ["error"]
    assert [f.level for f in judge_cost(cost, cost.cost + 0.01)] == ["warning"]
    assert [f.level for f in judge_cost(cost, cost.cost_worst)] == ["ok"]
    (finding,) = judge_cost(estimate(record(**{"cost.per_node_hour": None})), 100.0)
    assert finding.level == "error" and "cost.per_node_hour" in finding.remedy


# --- seeds ------------------------------------------------------------------------------------------


@given(st.floats(1e-5, 5e-3), st.floats(1e-4, 2e-3), st.integers(2, 30))
def test_power_against_a_mean_is_that_of_the_noncentral_t(excess: float, sd: float, n: int) -> None:
    expected = scipy.stats.nct.sf(scipy.stats.t.isf(0.01, n - 1), n - 1, excess / sd * math.sqrt(n))
    if math.isfinite(expected):  # scipy gives up far out in the tail
        assert success(excess, sd, n) == pytest.approx(expected, abs=2e-3)


@settings(max_examples=5)
@given(st.floats(1e-3, 3e-3), st.integers(3, 8), st.integers(0, 1000))
def test_power_against_values_is_that_of_welchs_test(excess: float, n: int, seed: int) -> None:
    """Against the test itself on many samples."""
    from orchestrator.claim.statistics import welch

    sd, margin, samples = 6e-4, 0.003, 3000
    random = np.random.default_rng(seed)
    drawn = random.normal(np.mean(BASELINE) - margin - excess, sd, (samples, n))
    won = sum((p := welch(list(row), BASELINE, margin).p) is not None and p < 0.01 for row in drawn)
    assert success(excess, sd, n, BASELINE) == pytest.approx(won / samples, abs=0.04)


@given(st.floats(1e-4, 1e-2), st.floats(1e-4, 2e-3), st.floats(0.5, 0.95), st.sampled_from([None, BASELINE]))
@settings(max_examples=examples(20))
def test_seeds_for_is_the_least_that_suffices(
    excess: float, sd: float, power: float, baseline: list[float] | None
) -> None:
    n = seeds_for(excess, sd, power, baseline)
    if n is None:
        assert success(excess, sd, 200, baseline) < power
        return
    assert success(excess, sd, n, baseline) >= power
    assert n == 2 or success(excess, sd, n - 1, baseline) < power


@given(st.floats(1e-4, 2e-3), st.integers(2, 10), st.floats(0.5, 0.95))
@settings(max_examples=examples(20))
def test_least_excess_just_suffices(sd: float, n: int, power: float) -> None:
    excess = least_excess(sd, n, power)
    assert excess is not None
    assert success(excess, sd, n) == pytest.approx(power, abs=1e-3)


def test_without_a_gain_above_the_margin_no_seeds_suffice() -> None:
    assert seeds_for(0.0, 5e-4, 0.8) is None
    assert success(1.0, 1e-4, 1) == 0.0 and least_excess(5e-4, 1, 0.8) is None
    with pytest.raises(ValueError, match="negative"):
        success(0.001, -1.0, 3)


def test_the_deviation_comes_from_the_baseline_or_is_an_assumption() -> None:
    of_seeds = plan_power(Baseline(name="a", bpb=(1.0, 1.002), bytes_per_token=2.4), 3, 0.8, None, None)
    assert of_seeds.sd == pytest.approx(0.002 / math.sqrt(2)) and "baseline's own" in of_seeds.sd_source
    of_mean = plan_power(Baseline(name="a", mean=1.0, bytes_per_token=2.4), 3, 0.8, None, None)
    assert (of_mean.sd, of_mean.sd_source) == (0.0005, "an assumption")
    assert plan_power(Baseline(name="a", mean=1.0, bytes_per_token=2.4), 3, 0.8, 0.001, None).sd == 0.001
    with pytest.raises(ValueError, match="between 0 and 1"):
        plan_power(Baseline(name="a", mean=1.0, bytes_per_token=2.4), 3, 1.0, None, None)


def test_the_plan_of_the_record() -> None:
    planned = plan(record(), gain=0.005)
    assert planned.power is not None and planned.power.seeds_needed == 4
    assert dict(planned.power.chances)[3] < 0.8 <= dict(planned.power.chances)[4]
    assert any("add seeds" in note for note in planned.notes)
    assert [stage.name for stage in planned.stages] == ["start", "train", "export", "evaluate", "audit"]
    hopeless = plan(record(), gain=0.001)
    assert any("not above the margin" in note for note in hopeless.notes)
