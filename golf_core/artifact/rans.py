"""Range asymmetric numeral systems (rANS; J. Duda, arXiv:1311.2540) over numpy: many interleaved lanes, static tables.

Each symbol comes with a context, and each context has one table of frequencies, counted on the symbols themselves.
A blob is: the tables' length (uint32), the tables (LZMA), one state (uint32) for each lane, then 16-bit words.
Lane i codes symbols i, i + lanes, i + 2·lanes ...; a step of the loop takes one symbol of every lane.
Integers alone decide, so that a blob decodes to the same symbols on any machine.
"""

from __future__ import annotations

import lzma
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int16]
Contexts = NDArray[np.uint8]

MAX_SYMBOL = 2047
"""Symbols lie in -MAX_SYMBOL..MAX_SYMBOL."""
MAX_CONTEXTS = 128
PROB_BITS = 14
"""The frequencies of a table sum to 2^14."""
TOTAL = 1 << PROB_BITS
LOWEST = 1 << 16
"""States lie in 2^16..2^32 - 1 between steps; a lane begins its coding, and ends its decoding, in the lowest."""
MAX_LANES = 2048
SYMBOLS_PER_LANE = 16_384
MAX_TABLE_BYTES = MAX_CONTEXTS * (5 + 2 * MAX_SYMBOL + 1)
DECODER_MEMORY = 64 * 1024 * 1024


class DamagedError(ValueError):
    """The bytes are not what `encode` made for these contexts."""


def encode(symbols: Symbols, contexts: Contexts) -> bytes:
    """The blob of symbols [n] under contexts [n]. Deterministic for the same liblzma."""
    if symbols.size and (abs(int(symbols.min())) > MAX_SYMBOL or int(symbols.max()) > MAX_SYMBOL):
        raise ValueError(f"symbols lie in -{MAX_SYMBOL}..{MAX_SYMBOL}")
    count, lanes = symbols.size, _lanes(symbols.size)
    codes = _table_codes(symbols, contexts)
    frequencies, starts = _coding_tables(codes)
    state = np.full(lanes, LOWEST, np.int64)
    words: list[NDArray[np.uint16]] = []
    for begin in range((count - 1) // lanes * lanes, -1, -lanes):
        step = slice(begin, min(begin + lanes, count))
        at = contexts[step].astype(np.int64) * (2 * MAX_SYMBOL + 1) + symbols[step] + MAX_SYMBOL
        frequency, x = frequencies[at], state[: at.size]
        full = np.flatnonzero(x >> (32 - PROB_BITS) >= frequency)
        high = x[full]
        words.append((high & 0xFFFF).astype("<u2"))
        x[full] = high >> 16
        quotient = x // frequency
        x += quotient * (TOTAL - frequency) + starts[at]
    tables = lzma.compress(_tables_to_bytes(codes))
    parts = [struct.pack("<I", len(tables)), tables, state.astype("<u4").tobytes()]
    return b"".join(parts + [part.tobytes() for part in reversed(words)])


def decode(blob: bytes, contexts: Contexts) -> Symbols:
    """The symbols [n] of a blob, given their contexts [n]. Raises `DamagedError`."""
    count, lanes = contexts.size, _lanes(contexts.size)
    table, offset = _read_tables(blob)
    if not table[np.unique(contexts)].any(axis=1).all():
        raise DamagedError("a context has no table")
    table = table.reshape(-1)
    end = offset + 4 * lanes
    if end > len(blob) or (len(blob) - end) % 2:
        raise DamagedError("its length is wrong")
    state = np.frombuffer(blob, "<u4", lanes, offset).astype(np.int64)
    words = np.frombuffer(blob, "<u2", offset=end).astype(np.int64)
    symbols, used = np.empty(count, np.int16), 0
    for begin in range(0, count, lanes):
        step = slice(begin, min(begin + lanes, count))
        context = contexts[step].astype(np.int64) << PROB_BITS
        x = state[: context.size]
        # An entry: frequency (bits 32..), slot less the symbol's first slot (16..31), symbol (0..15).
        entry = table[context | (x & (TOTAL - 1))]
        symbols[step] = entry.astype(np.int16)  # the low 16 bits
        x[:] = (entry >> 32) * (x >> PROB_BITS) + ((entry >> 16) & 0xFFFF)
        low = np.flatnonzero(x < LOWEST)
        if used + low.size > words.size:
            raise DamagedError("it is cut short")
        x[low] = x[low] << 16 | words[used : used + low.size]
        used += low.size
    if used != words.size or (state != LOWEST).any():
        raise DamagedError("its end is wrong")
    return symbols


def _lanes(count: int) -> int:
    return min(MAX_LANES, max(1, count // SYMBOLS_PER_LANE))


# --- tables -----------------------------------------------------------------------------------------
# A frequency is stored as one byte with four bits after the leading one, about 3% apart: finer steps cost more
# than they save. 0 stands for a symbol that does not occur.


def _table_codes(symbols: Symbols, contexts: Contexts) -> NDArray[np.uint8]:
    """Bytes [contexts, 2·MAX_SYMBOL + 1] for the frequencies of the symbols."""
    width = 2 * MAX_SYMBOL + 1
    counts = np.zeros(MAX_CONTEXTS * width, np.int64)
    for begin in range(0, symbols.size, 1 << 22):  # in pieces: the index is eight times as large as the symbols
        piece = slice(begin, begin + (1 << 22))
        at = contexts[piece].astype(np.int64) * width + symbols[piece] + MAX_SYMBOL
        counts += np.bincount(at, minlength=counts.size)
    codes = np.zeros((MAX_CONTEXTS, width), np.uint8)
    for context, row in enumerate(counts.reshape(MAX_CONTEXTS, width)):
        present = np.flatnonzero(row)
        scaled = np.maximum(row[present] * (2.0 * TOTAL / max(int(row.sum()), 1)), 1.0)
        mantissa, exponent = np.frexp(scaled)  # scaled = mantissa · 2^exponent, the mantissa in [0.5, 1)
        code = np.rint(32 * mantissa).astype(np.int64) - 16 + 16 * (exponent - 1)
        codes[context, present] = np.clip(code, 1, 255)
    return codes


def _normalized(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The frequencies that one table's bytes stand for: their sum is TOTAL, and 0 only where the byte is 0."""
    code = codes.astype(np.int64)
    weight = np.where(code > 0, (16 + (code & 15)) << (code >> 4), 0)
    frequency = np.maximum(weight * TOTAL // weight.sum(), code > 0)
    while (rest := TOTAL - int(frequency.sum())) != 0:
        largest = int(frequency.argmax())
        frequency[largest] += rest if rest > 0 else -min(-rest, int(frequency[largest]) // 2)
    return frequency


def _coding_tables(codes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frequency and first slot of every (context, symbol), flat."""
    frequencies = np.zeros(codes.shape, np.int64)
    starts = np.zeros(codes.shape, np.int64)
    for context in np.flatnonzero(codes.any(axis=1)):
        frequencies[context] = _normalized(codes[context])
        starts[context] = np.cumsum(frequencies[context]) - frequencies[context]
    return frequencies.reshape(-1), starts.reshape(-1)


def _tables_to_bytes(codes: NDArray[np.uint8]) -> bytes:
    parts = []
    for context in np.flatnonzero(codes.any(axis=1)):
        present = np.flatnonzero(codes[context])
        first, last = int(present[0]), int(present[-1])
        parts.append(struct.pack("<BHH", context, first, last + 1 - first))
        parts.append(codes[context, first : last + 1].tobytes())
    return b"".join(parts)


def _read_tables(blob: bytes) -> tuple[NDArray[np.int64], int]:
    """The decoder's entries [contexts, TOTAL], and where the tables end in the blob."""
    if len(blob) < 4:
        raise DamagedError("it is cut short")
    offset = 4 + struct.unpack_from("<I", blob)[0]
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=DECODER_MEMORY)
    try:
        data = decoder.decompress(blob[4:offset], max_length=MAX_TABLE_BYTES)
    except (lzma.LZMAError, EOFError):
        raise DamagedError("its tables are damaged") from None
    if not decoder.eof or decoder.unused_data:
        raise DamagedError("its tables are damaged")
    table = np.zeros((MAX_CONTEXTS, TOTAL), np.int64)
    at, last = 0, -1
    while at < len(data):
        if at + 5 > len(data):
            raise DamagedError("a table is cut short")
        context, first, size = struct.unpack_from("<BHH", data, at)
        codes = np.frombuffer(data, np.uint8)[at + 5 : at + 5 + size]
        at += 5 + size
        # Each context once, in order: thousands of tables for one context would take minutes.
        if not last < context < MAX_CONTEXTS or first + size > 2 * MAX_SYMBOL + 1 or codes.size != size:
            raise DamagedError("a table is not one")
        if not codes.any():
            raise DamagedError("a table is empty")
        last = context
        table[context] = _entries(_normalized(codes), first - MAX_SYMBOL)
    return table, offset


def _entries(frequency: NDArray[np.int64], first_symbol: int) -> NDArray[np.int64]:
    """The decoder's entry for each of TOTAL slots."""
    symbol: NDArray[Any] = np.arange(first_symbol, first_symbol + frequency.size) & 0xFFFF
    start = np.cumsum(frequency) - frequency
    offset = np.arange(TOTAL) - np.repeat(start, frequency)
    return np.repeat(frequency << 32 | symbol, frequency) | offset << 16
