"""Range coding: what is coded is decoded, near its entropy, and damage never does more than raise."""

from __future__ import annotations

import numpy as np
import pytest
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from golf_core.artifact.rans import (
    LOWEST,
    MAX_CONTEXTS,
    MAX_SYMBOL,
    SYMBOLS_PER_LANE,
    TOTAL,
    DamagedError,
    _normalized,
    decode,
    encode,
)

# Written once by this coder: symbols and contexts as `fixed_case` makes them.
FIXED_BLOB = bytes.fromhex(
    "70000000fd377a585a000004e6d6b4460200210116000000742fe5a3e0004600325d00003d17e23c0ed45a7e91be10f9"
    "b73d92f12a0f1bffdf3981fb759aa8d2a393a88a1880cea0430dd389dff1d7e9cb266b2000000000e801859088cd1229"
    "00014e479303c4a61fb6f37d010000000004595a998238bfd6c65ae5a1fc6f1f5d5a88901857"
)


def fixed_case() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    n = np.arange(40)
    return (n * n % 23 - 11).astype(np.int16), (n % 3).astype(np.uint8)


def gaussian(count: int, contexts: int, seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Symbols whose spread doubles every second context."""
    random = np.random.default_rng(seed)
    context = random.integers(0, contexts, count).astype(np.uint8)
    values = np.rint(random.standard_normal(count) * 2.0 ** (context / 2 - 2))
    return np.clip(values, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16), context


def entropy_bytes(symbols: NDArray[np.int16], contexts: NDArray[np.uint8]) -> float:
    total = 0.0
    for context in np.unique(contexts):
        counts = np.unique(symbols[contexts == context], return_counts=True)[1]
        total -= float((counts * np.log2(counts / counts.sum())).sum())
    return total / 8


@settings(max_examples=examples(150))
@given(data=st.data())
def test_round_trip(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 300))
    widest = data.draw(st.sampled_from([0, 1, 5, 127, MAX_SYMBOL]))
    symbols = data.draw(st.lists(st.integers(-widest, widest), min_size=count, max_size=count))
    contexts = data.draw(st.lists(st.integers(0, MAX_CONTEXTS - 1), min_size=count, max_size=count))
    s, c = np.array(symbols, np.int16), np.array(contexts, np.uint8)
    np.testing.assert_array_equal(decode(encode(s, c), c), s)


@pytest.mark.parametrize("count", [0, 1, SYMBOLS_PER_LANE * 2 - 1, SYMBOLS_PER_LANE * 3 + 17, 400_000])
def test_any_number_of_lanes(count: int) -> None:
    symbols, contexts = gaussian(count, 20)
    np.testing.assert_array_equal(decode(encode(symbols, contexts), contexts), symbols)


@pytest.mark.parametrize("value", [0, -7, MAX_SYMBOL, -MAX_SYMBOL])
def test_a_single_symbol_costs_nothing(value: int) -> None:
    symbols, contexts = np.full(SYMBOLS_PER_LANE, value, np.int16), np.full(SYMBOLS_PER_LANE, 3, np.uint8)
    blob = encode(symbols, contexts)
    assert len(blob) < 100
    np.testing.assert_array_equal(decode(blob, contexts), symbols)


def test_every_symbol_in_one_table() -> None:
    """More symbols than a table has room for evenly, and one of them far more frequent than the rest."""
    symbols = np.concatenate([np.arange(-MAX_SYMBOL, MAX_SYMBOL + 1), np.zeros(10_000)]).astype(np.int16)
    contexts = np.zeros(symbols.size, np.uint8)
    np.testing.assert_array_equal(decode(encode(symbols, contexts), contexts), symbols)


def test_size_is_near_the_entropy() -> None:
    symbols, contexts = gaussian(1_000_000, 16)
    assert len(encode(symbols, contexts)) < 1.005 * entropy_bytes(symbols, contexts)


def test_same_symbols_same_bytes_and_old_blobs_still_decode() -> None:
    symbols, contexts = fixed_case()
    assert encode(symbols, contexts) == encode(symbols.copy(), contexts.copy())
    np.testing.assert_array_equal(decode(FIXED_BLOB, contexts), symbols)


@pytest.mark.parametrize("value", [MAX_SYMBOL + 1, -MAX_SYMBOL - 1, -(2**15)])
def test_symbols_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="symbols lie in"):
        encode(np.array([0, value], np.int16), np.zeros(2, np.uint8))


@settings(max_examples=examples(200))
@given(codes=st.lists(st.integers(0, 255), min_size=1, max_size=2 * MAX_SYMBOL + 1).filter(any))
def test_any_table_can_be_used(codes: list[int]) -> None:
    frequency = _normalized(np.array(codes, np.uint8))
    assert frequency.sum() == TOTAL and frequency.min() >= 0
    np.testing.assert_array_equal(frequency > 0, np.array(codes) > 0)


@settings(max_examples=examples(200))
@given(data=st.data())
def test_damage_never_crashes(data: st.DataObject) -> None:
    """The blob has no checksum of its own: damage is found out or gives other symbols, and nothing else happens."""
    symbols, contexts = fixed_case()
    good = FIXED_BLOB
    damage = data.draw(st.sampled_from(["cut", "flip", "append", "random"]))
    bad = bytearray(good)
    if damage == "cut":
        del bad[data.draw(st.integers(0, len(good) - 1)) :]
    elif damage == "flip":
        bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    elif damage == "append":
        bad += data.draw(st.binary(min_size=1, max_size=9))
    else:
        bad = bytearray(data.draw(st.binary(max_size=200)))
    try:
        found = decode(bytes(bad), contexts)
    except DamagedError:
        return
    assert damage == "flip" and found.shape == symbols.shape and found.dtype == np.int16


def test_wrong_contexts_are_found_out() -> None:
    symbols, contexts = gaussian(500, 4)
    blob = encode(symbols, contexts)
    for wrong in (contexts[:-1], contexts[::-1].copy(), np.full(500, 77, np.uint8), np.zeros(0, np.uint8)):
        with pytest.raises(DamagedError):
            decode(blob, wrong)


def test_states_begin_at_their_lowest() -> None:
    blob = encode(np.zeros(0, np.int16), np.zeros(0, np.uint8))
    assert int.from_bytes(blob[-4:], "little") == LOWEST
