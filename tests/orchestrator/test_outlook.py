"""When a claim is out of reach before all seeds are done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from claim_builders import BASELINE, CANDIDATE, audit_record, eval_result, failed, finished, job
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.claim.judge import out_of_reach
from orchestrator.claim.statistics import ALPHA, one_sample, reachable_p, welch


def test_good_seeds_leave_it_within_reach() -> None:
    done = [finished(42, CANDIDATE[0]), finished(1337, CANDIDATE[1])]
    assert out_of_reach(job(), []) is None
    assert out_of_reach(job(), done[:1]) is None and out_of_reach(job(), done) is None


def test_one_bad_seed_decides() -> None:
    """The spread that it brings is more than any other seeds can make up for."""
    why = out_of_reach(job(), [finished(42, BASELINE[0] + 0.01), finished(1337, CANDIDATE[1])])
    assert why is not None and "whatever the remaining seeds bring" in why and "0.01 is needed" in why


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (failed(42), "seed 42 failed"),
        (replace(finished(42, CANDIDATE[0]), evaluate=eval_result(CANDIDATE[0], seconds=601.0)), "evaluation time"),
        (replace(finished(42, CANDIDATE[0]), audit=audit_record(violated=("2 normalised",))), "audit passed"),
    ],
)
def test_a_broken_condition_decides(seed: object, reason: str) -> None:
    why = out_of_reach(job(), [seed])  # type: ignore[list-item]
    assert why is not None and reason in why


def test_what_the_job_rules_out_is_no_news() -> None:
    assert out_of_reach(job(baseline=None), [finished(42, CANDIDATE[0])]) is None


@settings(max_examples=examples(40))
@given(
    st.lists(st.floats(-0.02, 0.02), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_no_drawn_seeds_do_better(offsets: list[float], remaining: int, seed: int, many: bool) -> None:
    """What is said to be the least p is not beaten by random values."""
    baseline, margin = [1.2, 1.2004, 1.1997], 0.002
    values = [1.2 + offset for offset in offsets]

    def p_of(all_values: list[float]) -> float | None:
        test = welch(all_values, baseline, margin) if many else one_sample(all_values, 1.2, margin)
        return test.p

    best = reachable_p(values, remaining, p_of)  # type: ignore[arg-type]
    generator = np.random.default_rng(seed)
    for scale in (1e-4, 1e-3, 1e-2, 1e-1):
        drawn = (min(values) - scale * generator.exponential(size=(20, remaining))).tolist()
        found = [p for extra in drawn if (p := p_of([*values, *extra])) is not None]
        assert min(found, default=1.0) >= 0.9 * best - 1e-9


def test_with_none_remaining_it_is_the_test_itself() -> None:
    values = [1.1, 1.101, 1.1005]
    assert reachable_p(values, 0, lambda v: one_sample(v, 1.12).p) == one_sample(values, 1.12).p
    assert ALPHA == 0.01
