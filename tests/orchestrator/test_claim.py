from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from claim_builders import (
    CANDIDATE,
    RATIO,
    audit_record,
    eval_result,
    export_result,
    failed,
    finished,
    job,
    run_result,
    three,
    train_result,
)
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core import strict_json
from golf_core.results import KraftSums, Score
from orchestrator.claim.judge import judge
from orchestrator.folder.results import Claim, Condition, RunResult, SeedResult


def condition(claim: Claim, start: str) -> Condition:
    (found,) = [c for c in claim.conditions if c.name.startswith(start)]
    return found


def changed(**fields: Any) -> list[SeedResult]:
    """Three seeds, with figures of the second's evaluation replaced."""
    first, second, third = three()
    assert second.evaluate is not None
    return [first, replace(second, evaluate=replace(second.evaluate, **fields)), third]


def resumed() -> list[SeedResult]:
    first, second, third = three()
    assert second.train is not None
    return [first, replace(second, train=replace(second.train, resumed_at_steps=(900,))), third]


def test_the_worked_example_is_a_claim() -> None:
    claim = judge(job(), three())
    assert claim.verdict == "claim"
    assert all(c.holds for c in claim.conditions)
    with_margin, without = claim.tests
    assert with_margin.statistic == pytest.approx(-4.29, abs=5e-3)
    assert with_margin.p == pytest.approx(0.0095, abs=5e-5)
    assert "0.00296" in with_margin.null and without.margin_bpb == 0.0
    assert without.statistic == pytest.approx(-11.83, abs=5e-3)
    assert without.p == pytest.approx(0.0004, abs=5e-5)
    assert claim.margin_bpb == pytest.approx(0.00296, abs=5e-6)
    (note,) = claim.notes
    assert "published score violates" in note and "sum to 81.40000" in note and "81.39999" in note
    assert "p = 0.0095" in claim.sentence and "1.11474" in claim.sentence
    assert set(claim.scores) == {"neural", "mixture", "published"}


def test_only_the_mixture_counts() -> None:
    # A model and a published score far below the baseline carry nothing when the mixture is above it.
    seeds = [
        finished(seed, 1.13, evaluate=eval_result(bpb, neural=Score(1.0, 0.6), published=Score(0.9, 0.5)))
        for seed, bpb in zip((42, 1337, 2024), (1.130, 1.131, 1.132), strict=True)
    ]
    claim = judge(job(), seeds)
    assert claim.verdict == "no claim"
    assert "the gain is not above the margin" in condition(claim, "better").detail


def test_a_gain_that_is_real_and_under_the_margin_or_spread_too_far_is_none() -> None:
    under = judge(job(), three((1.1165, 1.1166, 1.1167)))
    assert under.tests[1].p is not None and under.tests[1].p < 0.01
    assert [c.name for c in under.conditions if c.holds is False] == ["better by the margin, p < 0.01"]
    spread = judge(job(), three((1.110, 1.114, 1.118)))
    assert under.verdict == spread.verdict == "no claim"
    assert "is not below 0.01" in spread.sentence
    assert any("takes at least" in note for note in spread.notes)  # so many seeds


@pytest.mark.parametrize(
    ("seeds", "name", "figure"),
    [
        ([finished(42, 1.1, train=train_result(42, train_seconds=600.411))], "training time", "600.411 s"),
        ([finished(42, 1.1, train=train_result(42, train_seconds=600.00001))], "training time", "600.00001 s"),
        ([finished(42, 1.1, train=train_result(42, train_seconds=math.nan))], "training time", "nan"),
        ([finished(42, 1.1, evaluate=eval_result(1.1, seconds=601.0))], "evaluation time", "601 s"),
        ([finished(42, 1.1, export=export_result(weight_bytes=15_905_672))], "artifact size", "16,000,050 bytes"),
        (changed(repeat_tail=True), "each token scored once", "seed 1337"),
        (resumed(), "trained in one go", "resumed in the middle (seed 1337: step 900)"),
        (changed(tokens=62_021_631), "each token scored once", "62,021,631"),
        (changed(mixture=None, kraft=None), "mixture score present", "seed 1337"),
        (changed(mixture=Score(math.nan, math.nan)), "mixture score present", "seed 1337"),
        (changed(kraft=None), "mixture normalised", "not measured for seed 1337"),
        (changed(kraft=KraftSums(0, 0.0, 0.0, 1.0, 0.0)), "mixture normalised", "not measured"),
        (changed(kraft=KraftSums(8, 0.0, 2e-4, 1.0, 0.0)), "mixture normalised", "off by 0.0002"),
        (changed(kraft=KraftSums(8, 0.0, math.nan, 1.0, 0.0)), "mixture normalised", "off by nan"),
        ([finished(42, 1.1, audit=None)], "audit passed", "not audited for seed 42"),
        ([finished(42, 1.1, audit=audit_record(positions=0))], "audit passed", "not audited for seed 42"),
        ([finished(42, 1.1, audit=audit_record(violated=("1 causal",)))], "audit passed", "seed 42: 1 causal"),
    ],
)
def test_each_failed_condition_is_named_with_its_figure(seeds: list[SeedResult], name: str, figure: str) -> None:
    results = seeds if len(seeds) == 3 else [*seeds, *three()[1:]]
    claim = judge(job(), results)
    assert claim.verdict == "no claim"
    assert condition(claim, name).holds is False
    assert figure in condition(claim, name).detail
    assert name in claim.sentence and figure in claim.sentence


def test_budgets_are_inclusive() -> None:
    seeds = [
        finished(
            seed,
            bpb,
            train=train_result(seed, train_seconds=600.0),
            export=export_result(weight_bytes=16_000_000 - 94_378),
            evaluate=eval_result(bpb, seconds=600.0),
        )
        for seed, bpb in zip((42, 1337, 2024), CANDIDATE, strict=True)
    ]
    assert judge(job(), seeds).verdict == "claim"


@pytest.mark.parametrize(
    ("seeds", "detail"),
    [
        (three()[:2], "seed 2024 is not reported"),
        ((*three()[:2], failed(2024)), "seed 2024 failed (rank 3 ran out of memory)"),
        ((*three(), finished(7, 1.1)), "seed 7 is not in the job"),
        ((*three(), three()[0]), "seed 42 is reported twice"),
        ((*three()[:2], replace(three()[2], evaluate=None)), "seed 2024 finished without its results"),
        ((), "seed 42 is not reported"),
    ],
)
def test_no_seed_may_be_dropped_added_or_lost(seeds: tuple[SeedResult, ...], detail: str) -> None:
    claim = judge(job(), seeds)
    assert claim.verdict == "no claim"
    assert detail in condition(claim, "every seed").detail


def test_too_few_seeds_when_only_their_number_is_wanting() -> None:
    claim = judge(job(seeds=[42, 1337]), three()[:2])
    assert claim.verdict == "too few seeds"
    assert claim.sentence == "Too few seeds: 2 finished, at least 3 needed."
    one = judge(job(seeds=[42]), three()[:1])
    assert one.verdict == "too few seeds"
    assert condition(one, "better").holds is None and "no p" in condition(one, "better").detail
    over = finished(42, 1.1, train=train_result(42, train_seconds=601.0))
    assert judge(job(seeds=[42, 1337]), [over, three()[1]]).verdict == "no claim"
    # A gain under the margin is judged with any number of seeds.
    assert judge(job(seeds=[42]), [finished(42, 1.2)]).verdict == "no claim"


@pytest.mark.parametrize(
    ("changes", "bpbs", "sentence"),
    [
        ({"overrides__evaluate__max_tokens": 1_048_576}, CANDIDATE, "evaluate.max_tokens stops after 1,048,576 tokens"),
        ({}, (1.1, 1.1, 1.1), "all equal"),
        ({"baseline": None}, CANDIDATE, "the job names none"),
    ],
    ids=["a part of the text", "equal figures", "no baseline"],
)
def test_what_is_not_to_be_judged(changes: dict[str, Any], bpbs: tuple[float, ...], sentence: str) -> None:
    claim = judge(job(**changes), three(bpbs))
    assert claim.verdict == "no claim" and sentence in claim.sentence
    assert ("not to be judged" in claim.sentence) == (sentence == "all equal")
    if "baseline" in changes:
        assert claim.tests == () and claim.margin_bpb == pytest.approx(0.00296, abs=5e-6)


def test_a_baseline_of_which_the_mean_is_known_and_wider_budgets_are_noted() -> None:
    baseline = {"name": "b", "mean": 1.12, "bytes_per_token": RATIO}
    claim = judge(job(baseline=baseline, budgets__eval_seconds=900), three())
    assert {test.name for test in claim.tests} == {"one-sample t test"}
    assert claim.verdict == "claim"
    assert any("only the mean" in note for note in claim.notes)
    assert any("budgets.eval_seconds" in note and "train" not in note for note in claim.notes)


def test_another_tokenizer_converts_the_margin_with_its_own_ratio() -> None:
    tokens = 62_021_632
    seeds = [
        finished(seed, bpb, evaluate=eval_result(bpb, bytes=tokens * 3.0))
        for seed, bpb in zip((42, 1337, 2024), CANDIDATE, strict=True)
    ]
    claim = judge(job(), seeds)
    assert claim.margin_bpb == pytest.approx(0.005 / (math.log(2) * 3.0))
    assert any("Tokenizer or text differs" in note for note in claim.notes)
    close = judge(job(baseline__bytes_per_token=RATIO * 1.004), three())
    assert not any("Tokenizer" in note for note in close.notes)


def test_a_run_result_reads_back_and_is_judged_alike(tmp_path: Path) -> None:
    result = run_result(job(), [*three()[:2], failed(2024)])
    path = tmp_path / "result.json"
    strict_json.save(result, path)
    read = strict_json.load(RunResult, path)
    assert read == result
    assert judge(read.job, read.seeds) == result.claim


maybe_nan = st.one_of(st.floats(0, 1e4), st.just(math.nan))


@settings(max_examples=examples(150))
@given(st.data())
def test_a_claim_never_stands_on_a_broken_rule(data: st.DataObject) -> None:
    seeds = []
    for seed in data.draw(st.lists(st.sampled_from([42, 1337, 2024, 7]), max_size=4)):
        bpb = data.draw(st.one_of(st.sampled_from(CANDIDATE), maybe_nan))
        evaluate = eval_result(
            bpb,
            seconds=data.draw(st.one_of(st.just(500.0), maybe_nan)),
            repeat_tail=data.draw(st.booleans()),
            kraft=data.draw(
                st.sampled_from([None, KraftSums(8, 0.0, 1e-6, 1.0, 0.0), KraftSums(8, 0.0, 1.0, 1.0, 0.0)])
            ),
        )
        audit = data.draw(st.sampled_from([None, audit_record(), audit_record(violated=("2 normalised",))]))
        seeds.append(data.draw(st.sampled_from([finished(seed, 1.1, evaluate=evaluate, audit=audit), failed(seed)])))
    claim = judge(job(), seeds)
    sound = (
        [s.seed for s in sorted(seeds, key=lambda s: s.seed)] == [42, 1337, 2024]
        and all(s.status == "finished" for s in seeds)
        and all(s.evaluate is not None and s.evaluate.seconds <= 600 and not s.evaluate.repeat_tail for s in seeds)
        and all(s.evaluate and s.evaluate.kraft and s.evaluate.kraft.mixture_max_error < 1e-4 for s in seeds)
        and all(s.audit is not None and not s.audit.violated for s in seeds)
    )
    assert sound or claim.verdict != "claim"
    assert claim.sentence
