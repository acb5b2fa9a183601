"""The valid mixture as a whole: against a plain reference, and its properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mixture_reference as plain
import numpy as np
import pytest
import torch
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_cases import CONFIGS, RANKS, Case, Floats, Outcome, case_of, chunks, go, mixed

from golf_core.config import MixerConfig
from golf_core.data.tokenizer import BOS
from golf_core.mixture.mixer import Mixer

SWITCHES = {
    "all": MixerConfig(update_tokens=16),
    "no text": MixerConfig(orders=0, update_tokens=16),
    "unigram and bigram": MixerConfig(orders=1, update_tokens=16),
    "no document": MixerConfig(document_orders=0, update_tokens=16),
    "no match": MixerConfig(match_tokens=0, update_tokens=16),
    "no tilt": MixerConfig(tilt=False, update_tokens=16),
    "no confidence": MixerConfig(confidence=False, update_tokens=16),
    "single weights": MixerConfig(context_weights=False, update_tokens=16),
    "nothing": MixerConfig(0, 0, 0, tilt=False, confidence=False, context_weights=False, update_tokens=16),
}


def reference(config: MixerConfig, case: Case, ends: Sequence[int]) -> tuple[Floats, plain.PlainMixture]:
    """The plain mixture's distributions [n, vocab]."""
    mixture = plain.PlainMixture(config, case.vocab, case.tokens.tolist())
    return mixture.run(case.log_probs.double().numpy(), ends), mixture


# --- against the reference ---------------------------------------------------------------------------------------


def agree(config: MixerConfig, case: Case, chunk: int, batch: int) -> None:
    """Every loss, every whole distribution and the last weights."""
    ours = mixed(config, case, chunk, batch, torch.arange(case.count))
    expected, mixture = reference(config, case, chunks(case.count, chunk))
    np.testing.assert_allclose(ours.nll, plain.losses(expected, case.tokens.tolist()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.distributions.numpy(), expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(ours.at.numpy(), np.arange(case.count))
    np.testing.assert_allclose(list(ours.mixer.ladder.shares().values()), mixture.share.weights, atol=1e-9)


@pytest.mark.parametrize("name", SWITCHES)
def test_mixture_against_the_reference(name: str) -> None:
    agree(SWITCHES[name], case_of(11, 420, 7), chunk=150, batch=40)


@settings(max_examples=examples(60))
@given(
    config=CONFIGS,
    vocab=st.integers(2, 12),
    count=st.integers(1, 130),
    seed=st.integers(0, 2**16),
    sharpness=st.sampled_from((0.0, 1.0, 6.0)),
    chunk=st.sampled_from((20, 64, 200)),
    batch=st.integers(1, 70),
)
def test_random_mixtures_against_the_reference(
    config: MixerConfig, vocab: int, count: int, seed: int, sharpness: float, chunk: int, batch: int
) -> None:
    # A little off the round probabilities of a uniform distribution, which may fall on a bin's edge.
    agree(config, case_of(vocab, count, seed, sharpness + 1e-3), chunk, batch)


# --- properties --------------------------------------------------------------------------------------------------


def is_distribution(outcome: Outcome, case: Case, tolerance: float) -> None:
    """Sums to one, is positive everywhere, and is what the score says."""
    rows = outcome.distributions
    assert rows.shape == (len(outcome.at), case.vocab) and rows.dtype == torch.float64
    assert float((rows.sum(1) - 1.0).abs().max()) < tolerance
    assert float(rows.min()) > 0.0
    said = -rows.gather(1, case.tokens[outcome.at + 1, None])[:, 0].log().numpy()
    np.testing.assert_allclose(outcome.nll[outcome.at.numpy()], said, rtol=1e-9, atol=1e-9)
    assert np.isfinite(outcome.nll).all() and (outcome.nll > -1e-9).all()


@settings(max_examples=examples(20))
@given(
    config=CONFIGS,
    vocab=st.sampled_from((2, 7, 33)),
    seed=st.integers(0, 2**16),
    sharpness=st.sampled_from((0.5, 5.0, 40.0, 1000.0)),
    single_precision=st.booleans(),
)
def test_a_distribution_at_every_position(
    config: MixerConfig, vocab: int, seed: int, sharpness: float, single_precision: bool
) -> None:
    """Even where the neural expert gives the token no probability that float64 can hold."""
    dtype = torch.float32 if single_precision else torch.float64
    case = case_of(vocab, 200, seed, sharpness, dtype)
    outcome = mixed(config, case, 90, 33, torch.arange(0, 200, 3))
    # float32 distributions do not sum to one exactly, and a mixture of them does not either.
    is_distribution(outcome, case, 1e-5 if single_precision else 1e-9)


@pytest.mark.parametrize("vocab", [7, 1024, 8192])
def test_vocabularies(vocab: int) -> None:
    """In single precision, as in an evaluation, nearly the same."""
    case = case_of(vocab, 300, vocab)
    outcome = mixed(MixerConfig(update_tokens=64), case, 128, 64, torch.arange(0, 300, 13))
    is_distribution(outcome, case, 1e-9)
    single_precision = replace(case, log_probs=case.log_probs.float())
    again = mixed(MixerConfig(update_tokens=64), single_precision, 128, 64, torch.arange(0, 300, 13))
    is_distribution(again, single_precision, 1e-5)
    np.testing.assert_allclose(again.nll, outcome.nll, atol=1e-4)


@pytest.mark.parametrize("lowest", [-1000.0, -torch.inf])
def test_tokens_that_the_model_rules_out(lowest: float) -> None:
    """The model is certain, and wrong nearly always: the mixture stays finite, and learns better."""
    case = case_of(20, 600, 3)
    log_probs = torch.full((600, 20), lowest)
    log_probs[:, 3] = 0.0
    outcome = mixed(MixerConfig(update_tokens=32), replace(case, log_probs=log_probs), 200, at=torch.arange(600))
    is_distribution(outcome, case, 1e-6)
    assert outcome.nll[300:].mean() < np.log(20)


@pytest.mark.parametrize("config", [MixerConfig(update_tokens=32), MixerConfig(update_tokens=7, context_weights=False)])
def test_nothing_is_known_of_later_tokens(config: MixerConfig) -> None:
    """Other tokens after position t, and what a model would make of them, change nothing up to t: not a bit."""
    case, chunk = case_of(9, 320, 5), 128
    where = torch.tensor([0, 1, 31, 32, 100, 127, 128, 129, 255, 256, 318, 319])
    expected = mixed(config, case, chunk, at=where)
    rng = np.random.default_rng(0)
    for row, t in enumerate(where.tolist()):
        tokens, log_probs = case.tokens.clone(), case.log_probs.clone()
        tokens[t + 1 :] = torch.from_numpy(rng.integers(0, 9, 320 - t))
        tokens[t + 1] = (case.tokens[t + 1] + 1) % 9
        log_probs[t + 1 :] = torch.log_softmax(torch.from_numpy(rng.normal(size=(319 - t, 9))), dim=1)
        found = mixed(config, Case(9, tokens, log_probs), chunk, at=where)
        np.testing.assert_array_equal(found.nll[:t], expected.nll[:t])
        # The distribution at t itself: everything but which token came out.
        np.testing.assert_array_equal(found.distributions[: row + 1].numpy(), expected.distributions[: row + 1].numpy())
        assert found.nll[t] != expected.nll[t]


@settings(max_examples=examples(35))
@given(config=CONFIGS, halts=st.lists(st.integers(1, 199), max_size=5), seed=st.integers(0, 2**16))
def test_chunks_in_several_calls(config: MixerConfig, halts: list[int], seed: int) -> None:
    """The weights learn where a call ends, too; after that, at multiples of update_tokens as before."""
    case, ends = case_of(8, 200, seed), [0, 90, 200]
    where = torch.tensor([0, 1, 77, 89, 90, 150, 199])
    ours = go(Mixer(config, 8, case.tokens, RANKS), case.neural, sorted({*ends, *halts}), ends, 30, where)
    expected = plain.PlainMixture(config, 8, case.tokens.tolist()).run(case.log_probs.numpy(), ends, halts)
    np.testing.assert_allclose(ours.nll, plain.losses(expected, case.tokens.tolist()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.distributions.numpy(), expected[where], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tokens", [[BOS] * 60, [BOS, BOS, 0] * 20, [0] * 59 + [BOS], [3] * 60, [0, BOS]])
def test_odd_texts(tokens: list[int]) -> None:
    """Empty documents, no documents, and a text of a single prediction."""
    count = len(tokens) - 1
    log_probs = torch.log_softmax(torch.randn(count, 5, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    case = Case(5, torch.tensor(tokens), log_probs)
    outcome = mixed(MixerConfig(update_tokens=8), case, 32, 9, torch.arange(count))
    is_distribution(outcome, case, 1e-9)
    agree(MixerConfig(update_tokens=8), case, 32, 9)
    if count > 50:
        assert outcome.nll[-20:].mean() < 0.7 * case.neural_nll.mean()
