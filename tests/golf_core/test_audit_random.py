"""Scorers drawn at random: the honest raise no alarm, and a leak added to any of them raises one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawing import examples
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from specimens.cheats import OneTooFar
from specimens.experts import F64, Counts, Expert, HashedCounts, Match, Softmax, Static, Uniform
from specimens.online import Online, PlainOnline, RestartableOnline

from golf_core.audit.auditor import audit
from golf_core.audit.report import CAUSAL, NORMALIZED, AuditOptions, AuditReport
from golf_core.audit.scorer import Tokens
from golf_core.audit.text import synthetic_tokens

TOKENS = 96
QUICK = settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def make(kind: str, vocab: int, seed: int) -> Expert:
    match kind:
        case "uniform":
            return Uniform(vocab)
        case "static":
            return Static(vocab, seed, order=seed % 2, sharpness=1.0 + seed)
        case "counts":
            return Counts(vocab, order=seed % 3, smoothing=0.1 + seed, decay=1.0 if seed % 2 else 0.95)
        case "hashed":
            return HashedCounts(vocab, order=2, buckets=1 + seed)
        case "match":
            return Match(vocab, doubt=1e-9)
    return Softmax(vocab, seed, lr=0.1 + 0.2 * (seed % 3))


KINDS = st.sampled_from(["uniform", "static", "counts", "hashed", "match", "softmax"])


@st.composite
def honest(draw: st.DrawFn, restartable: bool = True) -> Online:
    vocab = draw(st.integers(2, 10))
    chosen = draw(st.lists(st.tuples(KINDS, st.integers(0, 6)), min_size=1, max_size=4))
    classes: list[type[Online]] = [PlainOnline, Online, RestartableOnline] if restartable else [PlainOnline]
    return draw(st.sampled_from(classes))(
        vocab,
        lambda v: [make(kind, v, seed) for kind, seed in chosen],
        period=draw(st.sampled_from([1, 1, 7, 16, 32])),
        mixing=draw(st.sampled_from(["fixed", "bayes", "logistic"])),
        epochs=draw(st.integers(1, 2)),
        reset=draw(st.sampled_from([None, None, 1])),
    )


def audited(scorer: Callable[[np.ndarray], np.ndarray], vocab: int, chunk: int | None, seed: int) -> AuditReport:
    tokens = synthetic_tokens(TOKENS, vocab, seed)
    options = AuditOptions(positions=12, cuts=4, checks=6, vocab_size=vocab, chunk_tokens=chunk, seed=seed)
    return audit(scorer, tokens, options)


@QUICK
@given(scorer=honest(), seed=st.integers(0, 1000))
def test_no_false_alarm(scorer: Online, seed: int) -> None:
    report = audited(scorer, scorer.vocab_size, scorer.chunk_tokens, seed)
    assert report.passed, [c for c in report.conditions if c.verdict not in ("holds", "not measured")]


def looks_ahead(losses: F64, tokens: Tokens, vocab: int, ahead: int, size: float) -> F64:
    shifts = np.random.default_rng(ahead).permutation(np.linspace(-size, size, vocab))
    losses[:-ahead] += shifts[tokens[ahead:]]
    return losses


def discounts(losses: F64, tokens: Tokens, vocab: int, ahead: int, size: float) -> F64:
    return losses - size


def takes_the_lesser(losses: F64, tokens: Tokens, vocab: int, ahead: int, size: float) -> F64:
    return np.minimum(losses, np.log(vocab))


@pytest.mark.parametrize(
    ("leak", "condition"), [(looks_ahead, CAUSAL), (discounts, NORMALIZED), (takes_the_lesser, NORMALIZED)]
)
@QUICK
@given(scorer=honest(restartable=False), seed=st.integers(0, 1000), ahead=st.integers(1, 40), size=st.floats(0.005, 1))
def test_any_leak_is_found(
    leak: Callable[..., F64], condition: str, scorer: Online, seed: int, ahead: int, size: float
) -> None:
    vocab = scorer.vocab_size
    if leak is takes_the_lesser:
        losses = scorer(synthetic_tokens(TOKENS, vocab, seed))
        # Where both models are uniform there is nothing to choose; where they seldom are not, few positions show it.
        assume(np.mean(np.abs(losses - np.log(vocab)) > 0.01) > 0.5)
    report = audited(lambda t: leak(scorer(t), t, vocab, ahead, size), vocab, scorer.chunk_tokens, seed)
    assert condition in report.named("violated")


@QUICK
@given(
    vocab=st.integers(3, 10),
    period=st.sampled_from([18, 24, 31]),
    order=st.integers(0, 1),
    declared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_counts_that_reach_over_a_chunk_are_found(
    vocab: int, period: int, order: int, declared: bool, seed: int
) -> None:
    """Declared or not: where chunks end is found out."""

    scorer = PlainOnline(vocab, lambda v: [Counts(v, order), Uniform(v)], period, kind=OneTooFar)
    scorer.chunk_tokens = period if declared else None
    report = audited(scorer, vocab, scorer.chunk_tokens, seed)
    assert NORMALIZED in report.named("violated")
