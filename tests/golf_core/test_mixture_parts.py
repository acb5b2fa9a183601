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
    Matches,
    Statistics,
)
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


def test_table_survives_a_long_run_of_collisions() -> None:
    table, keys = CountTable(1, CPU), torch.tensor(colliding(300, FIRST_CAPACITY - 5))
    table.add(keys[:200], torch.arange(1, 201).int()[None])
    assert table.get(keys)[0].tolist() == [*range(1, 201), *[0] * 100]


# --- contexts ----------------------------------------------------------------------------------------------------


def counts_of(vocab: int, tokens: list[int], orders: range, document_orders: range, edges: list[int]) -> Statistics:
    """The statistics of all positions, looked at and learnt a call at a time."""
    counts = ContextCounts(vocab, orders, document_orders, torch.tensor(tokens), CPU)
    parts = []
    for begin, end in pairwise(edges):
        parts.append(counts.look(begin, end))
        assert [counts.document_of(t) for t in range(begin, end)] == [
            plain.document_start(tokens, t) for t in range(begin, end)
        ]
        counts.learn()
    return Statistics(*(torch.cat([getattr(p, name) for p in parts], dim=1) for name in ("count", "total", "distinct")))


@settings(max_examples=examples(80))
@given(data=st.data(), stream=streams(), orders=st.integers(0, 5), document_orders=st.integers(0, 5))
def test_contexts_against_dictionaries(
    data: st.DataObject, stream: tuple[int, list[int]], orders: int, document_orders: int
) -> None:
    """c, C and u of every source at every position, however the stream is cut into calls."""
    vocab, tokens = stream
    ranges = range(orders), range(data.draw(st.integers(0, document_orders)), document_orders)
    edges = cuts(data.draw, len(tokens) - 1)
    found = counts_of(vocab, tokens, *ranges, edges)
    followers = plain.Followers(*ranges)
    for t, target in enumerate(tokens[1:]):
        counters = followers.at(tokens, t)
        assert found.count[:, t].tolist() == [c[target] for c in counters]
        assert found.total[:, t].tolist() == [c.total() for c in counters]
        assert found.distinct[:, t].tolist() == [sum(n > 0 for n in c.values()) for c in counters]
        for counter in counters:
            counter[target] += 1


@settings(max_examples=examples(40))
@given(data=st.data(), stream=streams(60), split=st.integers(0, 3))
def test_whole_distributions_of_counts(data: st.DataObject, stream: tuple[int, list[int]], split: int) -> None:
    vocab, tokens = stream
    counts = ContextCounts(vocab, range(split), range(4 - split), torch.tensor(tokens), CPU)
    followers = plain.Followers(range(split), range(4 - split))
    for begin, end in pairwise(cuts(data.draw, len(tokens) - 1)):
        seen = counts.look(begin, end)
        every = counts.distributions(torch.arange(begin, end))
        realised = every.gather(2, torch.tensor(tokens)[begin + 1 : end + 1, None, None].expand(-1, every.size(1), 1))
        torch.testing.assert_close(realised[:, :, 0].T, seen.count)
        torch.testing.assert_close(every.sum(2).T.int(), seen.total)
        torch.testing.assert_close((every > 0).sum(2).T.int(), seen.distinct)
        for t in range(begin, end):
            counters = followers.at(tokens, t)
            assert every[t - begin].tolist() == [[counter[token] for token in range(vocab)] for counter in counters]
            for counter in counters:
                counter[tokens[t + 1]] += 1
        counts.learn()


def test_contexts_stop_where_a_document_begins() -> None:
    """The same word after another document is the same context; one that reaches into it would not be."""
    tokens = [7, BOS, 5, 6, 8, BOS, 5, 6, BOS, BOS, 5, 6, 2]
    found = counts_of(9, tokens, range(4), range(3), [0, len(tokens) - 1])
    assert found.count[3].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2, 2, 0]
    assert found.total[6].tolist() == [0] * 12  # no pair repeats within a document
    assert found.total[4].tolist() == [0, 0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2]


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


def test_positions_are_gone_through_in_order() -> None:
    counts = ContextCounts(4, range(2), range(2), torch.zeros(20, dtype=torch.int64), CPU)
    counts.look(0, 5)
    counts.learn()
    with pytest.raises(AssertionError):
        counts.look(6, 8)


@pytest.mark.parametrize("vocab", [2, 1024, 8192, 65_536])
def test_context_keys_fit_beside_the_token(vocab: int) -> None:
    """The largest ids of large vocabularies: no pair's key is negative or another's."""
    rng = np.random.default_rng(vocab)
    tokens = (vocab - 1 - rng.integers(0, 2, 400)).tolist()
    found = counts_of(vocab, tokens, range(6), range(3), [0, 150, 399])
    followers = plain.Followers(range(6), range(3))
    for t, target in enumerate(tokens[1:]):
        counters = followers.at(tokens, t)
        assert found.count[:, t].tolist() == [c[target] for c in counters]
        assert found.distinct[:, t].tolist() == [len(c) - (c[target] == 0 and target in c) for c in counters]
        for counter in counters:
            counter[target] += 1


# --- matching ----------------------------------------------------------------------------------------------------


def matches_of(tokens: list[int], least: int, edges: list[int]) -> Matches:
    match = LongestMatch(least, torch.tensor(tokens), CPU)
    parts = []
    for begin, end in pairwise(edges):
        parts.append(match.look(begin, end))
        match.learn()
    return Matches(torch.cat([p.predicted for p in parts]), torch.cat([p.length for p in parts]))


@settings(max_examples=examples(80))
@given(data=st.data(), stream=streams(150), least=st.integers(1, 6))
def test_matches_against_a_search(data: st.DataObject, stream: tuple[int, list[int]], least: int) -> None:
    _, tokens = stream
    found = matches_of(tokens, least, cuts(data.draw, len(tokens) - 1))
    expected = [plain.longest_match(tokens, t, least) for t in range(len(tokens) - 1)]
    assert found.length.tolist() == [length for _, length in expected]
    matched = found.length > 0
    assert found.predicted[matched].tolist() == [token for token, length in expected if length]


@pytest.mark.parametrize("least", [1, 6, LONGEST])
def test_long_matches_end_at_the_longest(least: int) -> None:
    block = (np.random.default_rng(0).permutation(80) + 3).tolist()
    tokens = [90, *block, 91, *block, 92]
    found = matches_of(tokens, least, [0, 40, 100, len(tokens) - 1])
    assert max(found.length.tolist()) == LONGEST
    expected = [plain.longest_match(tokens, t, least) for t in range(len(tokens) - 1)]
    assert found.length.tolist() == [length for _, length in expected]
    # In the second block everything is predicted, once enough of it has been seen.
    assert found.predicted[81 + LONGEST : 161].tolist() == tokens[82 + LONGEST : 162]


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


def test_tilt_in_single_precision() -> None:
    tokens = long_stream(50, 1501, 3, 2)
    log_probs = log_probs_for(1500, 50, 3)
    results = []
    for dtype in (torch.float32, torch.float64):
        tilt = DocumentTilt(50, torch.tensor(tokens), CPU)
        for first in range(0, 1500, 500):
            document = plain.document_start(tokens, first)
            results.append(tilt.tilt(log_probs[first : first + 500].to(dtype), first, document))
            tilt.learn(first, first + 500)
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(torch.cat(results[:3]).double(), torch.cat(results[3:]), rtol=0, atol=1e-5)


def test_tilt_learns_by_newton_steps() -> None:
    """Gradient and Hessian of the sampled losses, by autograd through the definition."""
    vocab, count = 9, 1600
    tokens = long_stream(vocab, count + 1, 5, 2)
    log_probs = log_probs_for(count, vocab, 5)
    ours, reference = DocumentTilt(vocab, torch.tensor(tokens), CPU), plain.PlainTilt(vocab)
    sampled = range(0, count, tilting.SAMPLE_EVERY)
    ratios, bins = zip(*(reference.ratio(tokens, t) for t in sampled), strict=True)
    assert set(bins) == set(range(len(tilting.LENGTH_BINS) + 1))
    targets = torch.tensor(tokens)[[t + 1 for t in sampled]]

    def loss_of(which: int, exponents: Tensor) -> Tensor:
        mine = [i for i, b in enumerate(bins) if b == which]
        score = exponents[0] * log_probs[sampled][mine] + exponents[1] * torch.from_numpy(np.array(ratios))[mine]
        return torch.nn.functional.cross_entropy(score, targets[mine], reduction="sum")

    ours.tilt(log_probs, 0, 0)
    moments = ours.moments.clone()
    ours.learn(0, count)
    start = torch.tensor(tilting.START, dtype=torch.float64)
    for which in set(bins):
        gradient = torch.autograd.functional.jacobian(lambda e, b=which: loss_of(b, e), start)
        hessian = torch.autograd.functional.hessian(lambda e, b=which: loss_of(b, e), start)
        torch.testing.assert_close(moments[which, :2], -gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moments[which, [2, 3, 3, 4]].view(2, 2), hessian, rtol=1e-9, atol=1e-9)
        step = torch.linalg.solve(hessian + torch.diag(torch.tensor(tilting.PRIOR_PRECISION).double()), gradient)
        torch.testing.assert_close(ours.exponents[which], start - step, rtol=1e-9, atol=1e-12)


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


def test_exponents_follow_the_text() -> None:
    """The most probable token every time, for long; then never: beta rises, and falls again."""
    vocab, chunk = 8, 8192
    log_probs = log_probs_for(6 * chunk, vocab, 1)
    words = torch.tensor([w for w in range(vocab) if w != BOS])  # one long document
    likely, unlikely = log_probs[: 4 * chunk, words].argmax(1), log_probs[4 * chunk :, words].argmin(1)
    tokens = torch.cat((torch.zeros(1, dtype=torch.int64), words[likely], words[unlikely]))
    tilt = DocumentTilt(vocab, tokens, CPU)
    beta = []
    for first in range(0, 6 * chunk, chunk):
        tilt.tilt(log_probs[first : first + chunk], first, 0)
        tilt.learn(first, first + chunk)
        beta.append(float(tilt.exponents[-1, 0]))
    assert 1.4 < beta[2] <= beta[3]
    assert beta[4] < beta[3] and beta[5] == tilting.LIMITS[0][0]


def test_tilt_pays_on_repetitive_documents() -> None:
    """Documents that keep to words of their own; the model knows none of it."""
    rng, vocab, chunk = np.random.default_rng(2), 64, 1024
    documents = [np.concatenate(([BOS], rng.choice(rng.choice(np.arange(2, vocab), 6), 255))) for _ in range(48)]
    tokens = torch.from_numpy(np.concatenate(documents))
    count = len(tokens) - 1
    uniform = torch.full((count, vocab), 1.0 / vocab).log()

    def total(learning: bool) -> float:
        tilt, nats = DocumentTilt(vocab, tokens, CPU), 0.0
        for first in range(0, count, chunk):
            last = min(first + chunk, count)
            tilted = tilt.tilt(uniform[first:last], first, plain.document_start(tokens.tolist(), first))
            nats -= float(tilted.gather(1, tokens[first + 1 : last + 1, None]).double().sum())
            if not learning:
                tilt.moments.zero_()
            tilt.learn(first, last)
        return nats

    assert total(learning=True) < 0.9 * total(learning=False) < 0.9 * count * np.log(vocab)
