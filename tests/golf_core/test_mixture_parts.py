"""The parts of the valid mixture, each against a plain reference."""

from __future__ import annotations

from itertools import pairwise

import mixture_reference as plain
import numpy as np
import pytest
import torch
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from golf_core.data.tokenizer import BOS
from golf_core.mixture import mixer as tilting
from golf_core.mixture.contexts import (
    FIBONACCI,
    FIRST_CAPACITY,
    LONGEST,
    ContextCounts,
    CountTable,
    LongestMatch,
)
from golf_core.mixture.ladder import FixedShare, log_sum
from golf_core.mixture.mixer import DocumentTilt

CPU = torch.device("cpu")


@st.composite
def streams(draw: st.DrawFn, largest: int = 120) -> tuple[int, list[int]]:
    """A vocabulary's size and a stream of at least two tokens; BOS anywhere, or nowhere at all."""
    vocab = draw(st.sampled_from((2, 3, 5, 9)))
    size = draw(st.integers(2, largest))  # hypothesis' own lists are mostly short
    tokens = draw(st.lists(st.integers(0, vocab - 1), min_size=size, max_size=size))
    if draw(st.booleans()):
        tokens = [0 if token == BOS else token for token in tokens]
    return vocab, tokens


def cuts(draw: st.DrawFn, count: int) -> list[int]:
    """Edges 0 < ... < count at which `count` positions are cut into calls."""
    return sorted({0, count, *draw(st.lists(st.integers(0, count), max_size=5))})


# --- the table ---------------------------------------------------------------------------------------------------


def colliding(count: int, slot: int) -> list[int]:
    """Keys whose home in a table of the first capacity is one and the same slot."""
    inverse = pow(FIBONACCI % 2**64, -1, 2**64)
    keys, offset = [], 0
    while len(keys) < count:
        key = inverse * ((slot << 52) + offset) % 2**64
        if key < 2**63:
            keys.append(key)
        offset += 1
    return keys


@settings(max_examples=examples(40))
@given(data=st.data(), width=st.integers(1, 3))
def test_table_counts_like_a_dictionary(data: st.DataObject, width: int) -> None:
    table, expected = CountTable(width, CPU), dict[int, list[int]]()
    table._probes = data.draw(st.sampled_from((1, 8)))  # as on a CPU and on a GPU
    # The last slot, so that a run of occupied ones goes on at the table's beginning.
    keys = st.one_of(st.integers(0, 30), st.integers(0, 2**63 - 1), st.sampled_from(colliding(12, FIRST_CAPACITY - 1)))
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.integers(0, 7)) == 0:
            table.clear()
            expected = {}
        added = data.draw(st.lists(keys, unique=True, max_size=40))
        amounts = [[data.draw(st.integers(-3, 9)) for _ in added] for _ in range(width)]
        anew = data.draw(st.booleans())
        write = table.put if anew else table.add
        write(torch.tensor(added, dtype=torch.int64), torch.tensor(amounts, dtype=torch.int32).view(width, -1))
        for column, key in enumerate(added):
            old = [0] * width if anew else expected.get(key, [0] * width)
            expected[key] = [old[row] + amounts[row][column] for row in range(width)]
        asked = [*expected, *data.draw(st.lists(keys, max_size=20)), *added]  # absent ones and repeated ones too
        found = table.get(torch.tensor(asked, dtype=torch.int64))
        assert found.dtype == torch.int32 and found.shape == (width, len(asked))
        assert found.T.tolist() == [expected.get(key, [0] * width) for key in asked]
        assert table._used == len(expected)


def test_table_grows_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf_core.mixture.contexts.SLICE", 3000)
    table, expected = CountTable(2, CPU), dict[int, int]()
    generator = torch.Generator().manual_seed(0)
    for size in (1, FIRST_CAPACITY // 2, 3, 5 * FIRST_CAPACITY, 20_000):
        keys = torch.randint(0, 2**40, (size,), generator=generator).unique()
        table.add(keys, torch.stack((torch.ones_like(keys), -torch.ones_like(keys))).int())
        for key in keys.tolist():
            expected[key] = expected.get(key, 0) + 1
        asked = torch.tensor(list(expected))
        np.testing.assert_array_equal(table.get(asked)[0].numpy(), list(expected.values()))
        np.testing.assert_array_equal(table.get(asked)[1].numpy(), -np.array(list(expected.values())))
    assert not table.get(torch.arange(2**41, 2**41 + 100)).any()
    table.clear()
    assert not table.get(asked).any()


# --- contexts ----------------------------------------------------------------------------------------------------


def counts_agree(vocab: int, tokens: list[int], orders: range, document_orders: range, edges: list[int]) -> None:
    """c, C, u and all of the distribution, of every source at every position, looked at and learnt a call at a time."""
    counts = ContextCounts(vocab, orders, document_orders, torch.tensor(tokens), CPU)
    followers = plain.Followers(orders, document_orders)
    for begin, end in pairwise(edges):
        seen = counts.look(begin, end)
        every = counts.distributions(torch.arange(begin, end))
        for at, t in enumerate(range(begin, end)):
            assert counts.document_of(t) == plain.document_start(tokens, t)
            counters, target = followers.at(tokens, t), tokens[t + 1]
            assert seen.count[:, at].tolist() == [c[target] for c in counters]
            assert seen.total[:, at].tolist() == [c.total() for c in counters]
            assert seen.distinct[:, at].tolist() == [sum(n > 0 for n in c.values()) for c in counters]
            assert every[at].sum(1).tolist() == [c.total() for c in counters]
            for source, counter in enumerate(counters):
                assert every[at, source, list(counter)].tolist() == list(counter.values())
                counter[target] += 1
        counts.learn()


@settings(max_examples=examples(80))
@given(data=st.data(), stream=streams(), orders=st.integers(0, 5), document_orders=st.integers(0, 5))
def test_contexts_against_dictionaries(
    data: st.DataObject, stream: tuple[int, list[int]], orders: int, document_orders: int
) -> None:
    """However the stream is cut into calls."""
    vocab, tokens = stream
    within = range(data.draw(st.integers(0, document_orders)), document_orders)
    counts_agree(vocab, tokens, range(orders), within, cuts(data.draw, len(tokens) - 1))


@pytest.mark.parametrize("vocab", [2, 1024, 65_536])
def test_context_keys_fit_beside_the_token(vocab: int) -> None:
    """The largest ids of large vocabularies: no pair's key is negative or another's."""
    rng = np.random.default_rng(vocab)
    counts_agree(vocab, (vocab - 1 - rng.integers(0, 2, 30)).tolist(), range(6), range(3), [0, 11, 29])


def test_only_the_current_document_is_kept() -> None:
    """However many there have been: the sources within the document need the room of one."""
    tokens = [*([BOS, 5, 6, 7, 5, 6] * 40), BOS, 5, 6, 5]
    for edges in ([0, len(tokens) - 1], [0, 100, 238, len(tokens) - 1]):
        counts = ContextCounts(8, range(0), range(2), torch.tensor(tokens), CPU)
        for begin, end in pairwise(edges):
            counts.look(begin, end)
            counts.learn()
        # Pairs of the last document: 5 and 6 after nothing; 5 after BOS, 6 after 5, 5 after 6.
        assert counts.tables[1].pairs._used == 5  # type: ignore[attr-defined]


# --- matching ----------------------------------------------------------------------------------------------------


def matches_agree(tokens: list[int], least: int, edges: list[int]) -> int:
    """Every length and prediction, by a search. The longest length."""
    match, longest = LongestMatch(least, torch.tensor(tokens), CPU), 0
    for begin, end in pairwise(edges):
        found = match.look(begin, end)
        match.learn()
        for t, predicted, length in zip(range(begin, end), found.predicted, found.length, strict=True):
            expected = plain.longest_match(tokens, t, least)
            assert int(length) == expected[1] and (not length or int(predicted) == expected[0])
            longest = max(longest, int(length))
    return longest


@settings(max_examples=examples(80))
@given(data=st.data(), stream=streams(150), least=st.integers(1, 6))
def test_matches_against_a_search(data: st.DataObject, stream: tuple[int, list[int]], least: int) -> None:
    matches_agree(stream[1], least, cuts(data.draw, len(stream[1]) - 1))


@pytest.mark.parametrize("least", [1, 6, LONGEST])
def test_long_matches_end_at_the_longest(least: int) -> None:
    block = (np.random.default_rng(0).permutation(80) + 3).tolist()
    tokens = [90, *block, 91, *block, 92]
    assert matches_agree(tokens, least, [0, 40, 100, len(tokens) - 1]) == LONGEST


# --- the tilt ----------------------------------------------------------------------------------------------------


def log_probs_for(count: int, vocab: int, seed: int, sharpness: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(sharpness * torch.randn(count, vocab, generator=generator, dtype=torch.float64), dim=1)


def long_stream(vocab: int, count: int, seed: int, documents: int) -> list[int]:
    """Few documents, so that all bins of lengths are met; the first token may or may not be a BOS."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(vocab, count, p=rng.dirichlet(np.full(vocab, 0.5)))
    tokens[tokens == BOS] = 0
    tokens[rng.integers(0, count, documents)] = BOS
    return tokens.tolist()


@settings(max_examples=examples(15))
@given(data=st.data(), seed=st.integers(0, 2**16), vocab=st.integers(2, 12), documents=st.integers(0, 5))
def test_tilt_against_a_dense_computation(data: st.DataObject, seed: int, vocab: int, documents: int) -> None:
    """Distributions, derivatives and exponents of three chunks, over any batches."""
    count, chunk = 400, 150
    tokens = long_stream(vocab, count + 1, seed, documents)
    log_probs = log_probs_for(count, vocab, seed)
    ours, reference = DocumentTilt(vocab, torch.tensor(tokens), CPU), plain.PlainTilt(vocab)
    for first in range(0, count, chunk):
        last = min(first + chunk, count)
        for begin, end in pairwise(first + edge for edge in cuts(data.draw, last - first)):
            batch = ours.tilt(log_probs[begin:end], begin, plain.document_start(tokens, begin))
            expected = [reference.distribution(log_probs[t].numpy(), tokens, t) for t in range(begin, end)]
            np.testing.assert_allclose(batch.exp().numpy(), expected, rtol=1e-10)
        for t in range(first, last):
            reference.lesson(log_probs[t].numpy(), tokens, t)
        for row, moments in zip(ours.moments.numpy(), reference.moments, strict=True):
            np.testing.assert_allclose(row[:2], moments.gradient, atol=1e-9)
            np.testing.assert_allclose(row[[2, 3, 3, 4]], moments.curvature.flatten(), atol=1e-9)
        ours.learn(first, last)
        reference.learn(tokens[first + 1 : last + 1])
        np.testing.assert_allclose(ours.exponents.numpy(), reference.exponents, rtol=1e-9)


@pytest.mark.parametrize("pull", [(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0)])
def test_exponents_stay_within_their_limits(pull: tuple[float, float]) -> None:
    """However hard a text pulls at them; and what they give at a limit is still a distribution."""
    vocab, chunk = 30, 256
    log_probs = log_probs_for(3 * chunk, vocab, 1, sharpness=8.0)
    tilt = DocumentTilt(vocab, torch.tensor(long_stream(vocab, 3 * chunk + 1, 1, 2)), CPU)
    for first in range(0, 3 * chunk, chunk):
        document = plain.document_start(tilt._tokens.tolist(), first)
        tilted = tilt.tilt(log_probs[first : first + chunk], first, document)
        torch.testing.assert_close(tilted.exp().sum(1), torch.ones(chunk, dtype=torch.float64))
        tilt.moments[:, :2] += 1e6 * torch.tensor(pull, dtype=torch.float64)
        tilt.learn(first, first + chunk)
        reached = [limits[int(way > 0)] for limits, way in zip(tilting.LIMITS, pull, strict=True)]
        assert tilt.exponents.tolist() == [reached] * len(tilt.exponents)
    torch.testing.assert_close(tilted.exp().sum(1), torch.ones(chunk, dtype=torch.float64))


# --- the weights ---------------------------------------------------------------------------------------------------


STRETCHES = st.lists(
    st.lists(st.lists(st.floats(-60.0, 0.0), min_size=3, max_size=3), min_size=1, max_size=6), min_size=1, max_size=12
)


@settings(max_examples=examples(150))
@given(stretches=STRETCHES, raw=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_fixed_share_keeps_its_bound(stretches: list[list[list[float]]], raw: list[float]) -> None:
    """After every token, against every expert, whatever their losses; and Bayes inside a stretch, by hand."""
    prior = np.array(raw) / sum(raw)
    share, reference = FixedShare(prior), plain.PlainShare(prior.tolist())
    total, experts = 0.0, np.zeros(3)
    for rows in stretches:
        logs = np.array(rows)
        weights = share.of(logs)
        np.testing.assert_allclose(log_sum(weights), 0.0, atol=1e-9)
        for row, used in zip(logs, weights, strict=True):
            mixed = float(log_sum(used + row))
            expected = reference.mix(list(np.exp(row)[:, None]), 0)
            assert mixed == pytest.approx(float(np.log(expected[0])), abs=1e-8)
            total, experts = total - mixed, experts - row
            for expert in range(3):
                assert total - experts[expert] <= share.bound(expert) + 1e-8
        share.learn(logs)
        reference.learn()
        np.testing.assert_allclose(np.exp(share.log_weights), reference.weights, atol=1e-9)
