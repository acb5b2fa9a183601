"""The audit's measurements one by one, each against something known by other means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specimens import cheats
from specimens.catalogue import CHUNK, V
from specimens.experts import Counts, adaptive, fixed
from specimens.online import Online, PlainOnline, RestartableOnline, RunSnapshot

from golf_core.audit.auditor import audit
from golf_core.audit.isolation import weigh
from golf_core.audit.normalization import estimated_sums, likely_first
from golf_core.audit.report import CAUSAL, NORMALIZED, PARTS, SINGLE_PASS, AuditOptions, AuditReport
from golf_core.audit.scorer import (
    ScorerError,
    ScorerSpec,
    Subject,
    WrongCountError,
    beyond,
    differences,
)
from golf_core.audit.text import synthetic_tokens, tokens_of_file
from golf_core.audit.trials import (
    Edges,
    Position,
    Watch,
    changes,
    choose_cuts,
    choose_positions,
    interleaved,
    look_back,
)
from golf_core.data.shards import write_shard
from golf_core.errors import ArtifactError, DataError, UserError

TEXT = synthetic_tokens(160, V, seed=0)
QUICK = AuditOptions(positions=8, cuts=3, checks=4)


Losses = Callable[[np.ndarray], np.ndarray]


def verdict(report: AuditReport, name: str, score: str | None = "loss") -> str:
    return next(c.verdict for c in report.conditions if c.name == name and c.score == score)


def constant(loss: float) -> Losses:
    """Every token costs `loss` nats."""
    return lambda tokens: np.full(len(tokens), loss)


# Where to measure.


def test_positions_cover_every_kind_and_are_reproducible() -> None:
    found = choose_positions(TEXT, 0, 24, Edges(CHUNK, 1), np.random.default_rng(3))
    kinds = {kind for place in found for kind in place.where}
    assert kinds >= {"chunk start", "chunk end", "after chunk start", "document start", "after document start"}
    assert kinds >= {"text start", "text end", "recurring"}
    assert [p.index for p in found] == sorted({p.index for p in found}) and len(found) == 24
    assert CHUNK in [p.index for p in found], "the first edge, where little was learned, always"
    assert found == choose_positions(TEXT, 0, 24, Edges(CHUNK, 1), np.random.default_rng(3))
    for place in found:
        assert ("chunk start" in place.where) == (place.index % CHUNK == 0 and place.index > 0)
        assert ("document start" in place.where) == (TEXT[place.index] == 1)
    order = interleaved(found)
    assert sorted(p.index for p in order) == [p.index for p in found]
    assert len({kind for place in order[:8] for kind in place.where}) >= 8, "every beginning of the order is varied"
    unscored = choose_positions(TEXT[:20], 1, 50, Edges(8, 1), np.random.default_rng(0))
    assert [p.index for p in unscored] == list(range(1, 20))


@pytest.mark.parametrize("edges", [Edges(CHUNK), Edges(), Edges(updates=(32, 64))])
def test_cuts_lie_inside_and_begin_early(edges: Edges) -> None:
    cuts = choose_cuts(160, 0, 8, edges, np.random.default_rng(0))
    assert len(cuts) == 9 and all(0 < cut.index < 160 for cut in cuts)
    assert cuts[0].index == 20


def test_changes_keep_what_is_before_the_cut() -> None:
    for cut in (1, 40, 159):
        made = changes(TEXT, cut, V, np.random.default_rng(cut))
        assert len({change.name for change in made}) == len(made) >= 3
        for change in made:
            assert np.array_equal(change.tokens[:cut], TEXT[:cut])
            assert not np.array_equal(change.tokens, TEXT)
            if change.single:
                assert np.array_equal(change.tokens[cut + 1 :], TEXT[cut + 1 :])
                assert change.tokens[cut] != TEXT[cut]


# What is learned, and where.


def test_memory_finds_chunks_and_tells_who_does_not_learn() -> None:
    def memory(scorer: Online) -> tuple[tuple[bool, ...], tuple[int, ...]]:
        found = look_back(Watch(Subject(scorer, "s", V), TEXT, 1e-5), np.random.default_rng(0))
        return found.remembers, found.updates

    learns, updates = memory(PlainOnline(V, adaptive, CHUNK))
    assert learns == (True,) and set(updates) <= {32, 33, 34, 64, 65, 66, 96, 97, 98, 128, 129, 130} and updates
    assert memory(PlainOnline(V, fixed, mixing="fixed")) == ((False,), ())


# Differences.


def test_differences_and_tolerance() -> None:
    """Infinities agree with themselves alone; the tolerance grows with the loss."""
    inf = np.inf
    apart = differences(np.array([inf, inf, -inf, 1.0]), np.array([inf, 1.0, inf, 1.5]))
    assert apart.tolist() == [0.0, inf, inf, 0.5]
    assert beyond(apart, np.array([inf, 1.0, inf, 1.5]), 1e-5).tolist() == [False, True, True, True]
    base = np.array([0.0, 99.0])
    assert not beyond(np.array([0.9e-5, 0.9e-3]), base, 1e-5).any()
    assert beyond(np.array([1.1e-5, 1.1e-3]), base, 1e-5).all()


# Sums.


@pytest.mark.parametrize(
    ("total", "expected"), [(V * 0.15, "violated"), (1 + 2e-4, "violated"), (1 + 0.5e-4, "holds"), (0.5, "holds")]
)
def test_sums_of_a_known_scorer(total: float, expected: str) -> None:
    report = audit(constant(np.log(V) - np.log(total)), TEXT, QUICK)
    assert [s.total for s in report.sums] == pytest.approx([total] * 8)
    assert verdict(report, NORMALIZED) == expected
    assert all(s.exact and s.symbols == V for s in report.sums)


def test_a_probability_above_one_is_enough() -> None:
    """Where sums were not asked for: the other parts are left out."""
    report = audit(constant(-0.01), TEXT, AuditOptions(parts=("causal",), cuts=2))
    assert verdict(report, NORMALIZED) == "violated" and not report.sums
    assert verdict(report, CAUSAL) == "holds" and verdict(report, SINGLE_PASS, None) == "not measured"


class Made:
    """A source of sums with given probabilities."""

    method = "plain"

    def __init__(self, probs: np.ndarray) -> None:
        self.probs = probs

    def losses(self, position: Position, symbols: np.ndarray) -> np.ndarray:
        return -np.log(self.probs[None, symbols])

    def expected(self, position: Position) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_estimates_hold_what_they_promise(scale: float) -> None:
    """99.9 % intervals over 200 random distributions: the true sum lies in nearly all of them."""
    rng = np.random.default_rng(0)
    options = AuditOptions(exact_limit=2048)
    covered = 0
    for _ in range(200):
        probs = np.exp(rng.normal(0, 1, 20_000))
        probs *= scale / probs.sum()
        source = Made(probs)
        (found,) = estimated_sums(source, Position(0, ()), ["p"], rng.permutation(20_000), options, rng)
        assert found.low <= found.total <= found.high and not found.exact
        assert found.symbols <= 2048
        covered += found.low <= scale <= found.high
    assert covered >= 196


def test_an_estimate_is_never_below_what_was_measured() -> None:
    """One symbol has nearly all the probability, and it is drawn: the interval begins there."""
    probs = np.full(5000, 1e-6)
    probs[17] = 0.99
    ranking = np.concatenate(([17], np.delete(np.arange(5000), 17)))
    options = AuditOptions(exact_limit=512)
    (found,) = estimated_sums(Made(probs), Position(0, ()), ["p"], ranking, options, np.random.default_rng(0))
    assert found.low >= 0.99 and found.high == pytest.approx(probs.sum(), rel=1e-3)


def test_a_suspicious_estimate_is_made_exact() -> None:
    options = AuditOptions(positions=2, cuts=0, exact_limit=256, vocab_size=600)
    report = audit(constant(np.log(600) - np.log(1.5)), TEXT, options)
    assert verdict(report, NORMALIZED) == "violated"
    assert all(s.exact and s.total == pytest.approx(1.5) for s in report.sums)


def test_ranking_begins_with_what_followed_before() -> None:
    tokens = np.array([5, 3, 0, 5, 3, 7, 5, 2, 7, 7, 5, 4])
    ranking = likely_first(tokens, 11, 9)
    assert ranking[0] == 4 and set(ranking[1:3].tolist()) == {3, 2} and ranking[1] == 3
    assert sorted(ranking.tolist()) == list(range(9))


# Snapshots and distributions.


class WrongSnapshot(RunSnapshot):
    """A thousandth off."""

    def score(self, tokens: np.ndarray, stop: int) -> np.ndarray:
        return np.asarray(super().score(tokens, stop) + 1e-3)


class LeakySnapshot(RunSnapshot):
    """Keeps what it learned while it answered."""

    def score(self, tokens: np.ndarray, stop: int) -> np.ndarray:
        return self._run.scorer.losses(self._run, tokens.tolist(), self.position, stop)


@pytest.mark.parametrize("kind", [WrongSnapshot, LeakySnapshot])
def test_snapshots_that_disagree_are_not_believed(kind: type[RunSnapshot]) -> None:
    scorer = RestartableOnline(V, adaptive)
    scorer.snapshot, scorer.distributions = kind, None  # type: ignore[assignment]
    report = audit(scorer, TEXT, QUICK)
    assert report.fast_path is not None and not report.fast_path.trusted
    assert max(report.fast_path.largest_difference, report.fast_path.unchanged) >= 1e-3
    assert all(s.method != "snapshot" for s in report.sums)
    assert any("do not agree with the plain scorer" in note for note in report.notes)
    assert report.passed, "the plain scorer itself is honest"


def test_snapshots_save_runs_and_give_the_same_sums() -> None:
    def experts(vocab: int) -> list[Counts]:
        return [Counts(vocab, 1), Counts(vocab, 0)]

    plain = audit(PlainOnline(V, experts, CHUNK), TEXT, QUICK)
    fast = audit(RestartableOnline(V, experts, CHUNK), TEXT, QUICK)
    assert fast.fast_path is not None and fast.fast_path.trusted and fast.fast_path.checked == QUICK.checks
    assert fast.runs < plain.runs
    swept = [s for s in fast.sums if s.method == "snapshot"]
    assert [s.position for s in swept] == [s.position for s in plain.sums]
    assert [s.total for s in swept] == pytest.approx([s.total for s in plain.sums], abs=1e-12)


def test_several_scores_cost_one_sweep() -> None:
    def both(tokens: np.ndarray) -> dict[str, np.ndarray]:
        return {"a": constant(np.log(V))(tokens), "b": constant(0.9 * np.log(V))(tokens)}

    report = audit(both, TEXT, QUICK)
    assert report.runs == audit(constant(np.log(V)), TEXT, QUICK).runs
    assert verdict(report, NORMALIZED, "a") == "holds" and verdict(report, NORMALIZED, "b") == "violated"


def test_distributions_of_another_scorer_do_not_count() -> None:
    class Other(Online):
        def distributions(self, tokens: np.ndarray, positions: list[int]) -> np.ndarray:  # type: ignore[override]
            return np.full((len(positions), V), -np.log(V))

    report = audit(Other(V, fixed), TEXT, QUICK)
    assert all(s.method == "plain" for s in report.sums) and report.passed
    assert any("not those that it scores with" in note for note in report.notes)


# Once, and the same again.


def test_a_scorer_that_keeps_state_and_cannot_be_renewed() -> None:
    report = audit(cheats.KeepsState(V, adaptive), TEXT, QUICK)
    assert verdict(report, SINGLE_PASS, None) == "violated"
    assert verdict(report, NORMALIZED) == "not measured", "sums of a scorer that changes meanwhile mean nothing"
    assert verdict(report, CAUSAL) == "not measured"


def test_state_from_another_text_alone_is_found() -> None:
    """The same text twice in a row gives the same; another one in between changes it."""
    seen: list[int] = []

    def scorer(tokens: np.ndarray) -> np.ndarray:
        key = int(np.dot(tokens, np.arange(len(tokens))) % 997)
        seen.append(key)
        return np.full(len(tokens), np.log(V) + 0.01 * len(set(seen)))

    report = audit(scorer, TEXT, QUICK)
    assert report.repeat is not None and report.repeat.keeps_state and not report.repeat.random
    assert report.repeat.same_object == 0.0 and report.repeat.after_other_text == pytest.approx(0.01)


def test_noise_raises_no_alarm_elsewhere() -> None:
    rng = np.random.default_rng(0)

    def scorer(tokens: np.ndarray) -> np.ndarray:
        return np.log(V) + rng.normal(0, 1e-3, len(tokens))

    report = audit(scorer, TEXT, QUICK)
    assert report.named("violated", "undecided") == (SINGLE_PASS,)


def test_length_alone_may_matter() -> None:
    def scorer(tokens: np.ndarray) -> np.ndarray:
        return np.full(len(tokens), np.log(V) + 1.0 / len(tokens))

    report = audit(scorer, TEXT, QUICK)
    assert report.passed and any("goes by the length" in note for note in report.notes)
    assert report.repeat is not None and report.repeat.prefix == pytest.approx(1 / 106 - 1 / 160)


def test_a_reach_is_measured() -> None:
    """Looks exactly 40 tokens ahead, which is more than a glance and less than the text."""

    def scorer(tokens: np.ndarray) -> np.ndarray:
        losses = np.full(len(tokens), np.log(V))
        losses[:-40] += 0.1 * (tokens[40:] == 4) - 0.1 * (tokens[40:] == 5)
        return losses

    report = audit(scorer, TEXT, QUICK)
    assert report.causal is not None
    assert max(i.cut - i.first for i in report.causal.influences) == 40
    assert verdict(report, CAUSAL) == "violated" and verdict(report, SINGLE_PASS) == "undecided"


# Text, options, and scorers that cannot be audited.


def fails(tokens: np.ndarray) -> np.ndarray:
    raise RuntimeError("out of memory\nand more")


@pytest.mark.parametrize(
    ("tokens", "options", "scorer", "sentence"),
    [
        (np.zeros((4, 4), dtype=np.int64), {}, np.ones_like, r"tokens: expected integers \[n\]"),
        (np.zeros(100), {}, np.ones_like, r"tokens: expected integers \[n\], got float64"),
        (np.arange(5), {}, np.ones_like, "too few to audit"),
        (np.arange(40) - 3, {}, np.ones_like, "-3 is no token"),
        (TEXT, {"parts": ("kraft", "luck")}, np.ones_like, "no part named luck"),
        (TEXT, {"vocab_size": 3}, np.ones_like, r"holds token \d+, its alphabet 3"),
        (TEXT, {"positions": 0}, np.ones_like, "positions and checks"),
        (TEXT, {"kraft_tolerance": 0.0}, np.ones_like, "tolerances"),
        (TEXT, {"claims": ("mixture",)}, np.ones_like, "no score named mixture; it has loss"),
        (TEXT, {}, fails, r"s: failed \(RuntimeError: out of memory\)$"),
        (TEXT, {}, lambda t: np.full(len(t), np.nan), r"NaN \(first at index 0\)"),
        (TEXT, {}, lambda t: np.ones((len(t), 3)), r"shape \[160, 3\] for 160 tokens"),
        (TEXT, {}, lambda t: "losses", "returned no numbers"),
        (TEXT, {}, lambda t: {}, "no losses at all"),
        (TEXT, {}, lambda t: {"a": np.ones(len(t)), "b": np.ones(len(t) - 1)}, r"shape \[160\], \[159\]"),
    ],
)
def test_what_cannot_be_audited(tokens: np.ndarray, options: dict[str, Any], scorer: Losses, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        audit(scorer, tokens, AuditOptions(**options), label="s")


def test_scores_must_keep_their_names() -> None:
    names = iter("ab")

    def scorer(tokens: np.ndarray) -> dict[str, np.ndarray]:
        return {next(names): np.ones(len(tokens))}

    with pytest.raises(ScorerError, match="scores named b, not a as before"):
        audit(scorer, TEXT)


def test_a_wrong_count_in_a_changed_text_is_a_verdict() -> None:
    """The original has every loss; other texts lose those of one symbol."""

    def scorer(tokens: np.ndarray) -> np.ndarray:
        losses = np.full(len(tokens), np.log(V))
        return losses if np.array_equal(tokens, TEXT) else losses[tokens != 3]

    report = audit(scorer, TEXT, QUICK)
    assert report.named("violated") == (SINGLE_PASS,)
    with pytest.raises(WrongCountError):
        Subject(scorer, "s", V).run(TEXT[::-1].copy())


def test_time_is_kept() -> None:
    slow = PlainOnline(V, adaptive)
    report = audit(slow, TEXT, AuditOptions(positions=200, cuts=200, time_budget_s=0.5))
    assert report.seconds < 5.0
    assert any("the time was up" in note or "left out" in note for note in report.notes)
    none = audit(slow, TEXT, AuditOptions(time_budget_s=1e-9))
    assert {c.verdict for c in none.conditions} == {"not measured"} and len(none.notes) >= len(PARTS) - 2


# Naming a scorer, and its text.


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (ScorerSpec("numpy"), "name a scorer as module:function"),
        (ScorerSpec("no_such_module_at_all:f"), "cannot be imported"),
        (ScorerSpec("numpy:no_such_function"), "module numpy has no no_such_function"),
        (ScorerSpec("numpy:pi"), "a float cannot be called"),
        (ScorerSpec("numpy:cumsum", arguments={"a": 1}), "arguments are for a class or a factory"),
        (ScorerSpec("numpy:zeros", True, {"shape": 2}), "built a ndarray, which cannot be called"),
        (ScorerSpec("numpy:zeros", True, {"colour": 2}), "could not be built"),
    ],
)
def test_specs_that_cannot_work(spec: ScorerSpec, sentence: str) -> None:
    with pytest.raises(ScorerError, match=sentence):
        spec.build()


def test_tokens_of_shards_and_arrays(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.bin", TEXT.astype(np.uint16))
    np.save(tmp_path / "x.npy", TEXT.astype(np.int32))
    for name in ("x.bin", "x.npy"):
        found = tokens_of_file(tmp_path / name, 100)
        assert found.dtype == np.int64 and np.array_equal(found, TEXT[:100])
    np.save(tmp_path / "y.npy", np.ones(4))
    for name, sentence in (("y.npy", "holds float64"), ("z.npy", "z.npy: not an array"), ("t.txt", "name a shard")):
        with pytest.raises(DataError, match=sentence):
            tokens_of_file(tmp_path / name)


def test_shipped_files_are_weighed_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    found = weigh((tmp_path / "a",), {"train": 1.0}, cap_bytes=5)
    assert found.total_bytes == 5 and list(found.files.values()) == [5]
    with pytest.raises(ArtifactError, match="named twice"):
        weigh((tmp_path / "a", tmp_path / "." / "a"), {})
    with pytest.raises(ArtifactError, match="no such file"):
        weigh((tmp_path / "b",), {})
