"""Where the losses of an evaluation lie: by chunk, by place in the document, by token, with excerpts.

Losses are kept as they come, without arithmetic, and sorted when the evaluation's clock has stopped.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor

from golf_core.config import GolfConfig
from golf_core.data.tokenizer import BOS, SPACE, load_tokenizer
from golf_core.distributed import Ranks
from golf_core.evaluate.score import Losses
from golf_core.events import Listener, Note, PhaseFinished, PhaseStarted, ignore
from golf_core.results import SCORERS, EvalResult
from golf_core.stages import DataPaths, open_text
from golf_core.strict_json import save

BREAKDOWN = "breakdown.json"
NATS_DIGITS, BIT_DIGITS = 4, 3
EXCERPTS, EXCERPT_TOKENS = 4, 160
POSITION_BYTES, DOCUMENT_BYTES, OCCURRENCES = 16, 64, 1
"""Where the first group of each kind ends; every other is twice as wide as the one before."""
SHARED = "mixture"
"""The scorer whose losses every rank has; of the others, each rank has its own."""
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class ChunkLosses:
    """Losses of one chunk."""

    first: int
    """Index of its first target."""
    tokens: int
    bytes: float
    nats: Mapping[str, float]
    """Total of each scorer."""


@dataclass(frozen=True)
class Group:
    """Losses of all tokens that have something in common."""

    label: str
    low: float
    high: float | None
    """The group is low <= x < high; None: no end."""
    tokens: int
    bytes: float
    nats: Mapping[str, float]
    """Total of each scorer."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of the text, token by token."""

    kind: Literal["wins", "loses"]
    position: int
    """Index of its first target."""
    pieces: tuple[str, ...]
    """Text of each token; bytes that are no text are spelled \\xNN."""
    bits: Mapping[str, tuple[float, ...]]
    """Bits of each token, by scorer."""
    gain_bits: float
    """What the mixture saves against the model alone in all."""


@dataclass(frozen=True)
class Breakdown:
    """Losses of an evaluation, sorted."""

    text_sha256: str
    """SHA-256 of the tokens, context included, as little-endian int32."""
    tokens: int
    bytes: float
    chunks: tuple[ChunkLosses, ...]
    by_position: tuple[Group, ...]
    """By bytes since the document's beginning."""
    by_frequency: tuple[Group, ...]
    """By how often the target occurs in the text that was scored."""
    by_document: tuple[Group, ...]
    """By the document's length in bytes; the last document may be cut off."""
    excerpts: tuple[Excerpt, ...]


class TokenLosses:
    """Keeps an evaluation's losses as they come: no arithmetic and no waiting, so that its clock does not notice."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._kept: list[tuple[str, int, Tensor]] = []

    def __call__(self, losses: Sequence[Losses]) -> None:
        """Take the losses of some windows, as `Evaluator.score_windows` returns them."""
        for part in losses:
            for name, nats in part.by_scorer.items():
                if name != SHARED or self._ranks.is_first:
                    self._kept.append((name, part.first, nats))

    def gathered(self, scorers: Sequence[str], targets: int) -> dict[str, F32] | None:
        """Nats of every target [targets] by scorer, from all ranks, which must all call this. Rank 0 returns them.

        None on the other ranks, and on all where one of them has not the memory for it.
        """
        dense: dict[str, Tensor] = {}
        try:
            for name in scorers:
                dense[name] = torch.zeros(targets, dtype=torch.float32, device=self._ranks.device)
            short = 0.0
        except (MemoryError, torch.OutOfMemoryError, RuntimeError):  # on a CPU, the allocator's is a RuntimeError
            short = 1.0
        if self._ranks.largest(short):
            return None
        for name, first, nats in self._kept:
            dense[name][first : first + len(nats)] = nats
        self._kept.clear()
        summed = {name: self._ranks.sum_(values) for name, values in dense.items()}
        return {name: values.cpu().numpy() for name, values in summed.items()} if self._ranks.is_first else None


def breakdown_stage(
    kept: TokenLosses,
    scorers: Sequence[str],
    config: GolfConfig,
    paths: DataPaths,
    ranks: Ranks,
    out: Path,
    listener: Listener = ignore,
) -> None:
    """Sort the losses of an evaluation that has ended; rank 0 writes them into `out`.

    `scorers`: those that the evaluation had. A text whose end was scored repeatedly has more than one loss a token,
    and no breakdown. Where there is too little memory, a note says so: the evaluation stands without it.
    """
    if config.evaluate.repeat_tail:
        return
    emit = listener if ranks.is_first else ignore
    emit(PhaseStarted("breakdown"))
    began = time.perf_counter()
    text = open_text(paths, config, config.evaluate.max_tokens, torch.device("cpu"))
    nats = kept.gathered(scorers, text.num_targets)
    if nats is not None:
        try:
            pieces = load_tokenizer(paths.tokenizer, config.model.vocab_size)
            tokens, weights = text.tokens.numpy(), text.target_bytes.numpy()
            save(breakdown(nats, tokens, weights, config.evaluate.chunk_tokens, pieces), out / BREAKDOWN)
        except MemoryError:
            emit(Note("too little memory to sort the losses: there is no breakdown of them"))
    elif ranks.is_first:
        emit(Note("too little memory to gather the losses: there is no breakdown of them"))
    ranks.barrier()
    emit(PhaseFinished("breakdown", time.perf_counter() - began))


def breakdown(
    nats: Mapping[str, F32],
    tokens: I64,
    target_bytes: F64,
    chunk_tokens: int,
    processor: sentencepiece.SentencePieceProcessor,
) -> Breakdown:
    """Sort the losses `nats` [n] of each scorer over the targets tokens[1:], of `target_bytes` [n]."""
    targets = tokens[1:]
    n = len(targets)
    document = np.cumsum(targets == BOS)
    before = np.cumsum(target_bytes) - target_bytes
    begins = np.flatnonzero(np.diff(document, prepend=-1))
    offset = before - before[begins][np.searchsorted(begins, np.arange(n), side="right") - 1]
    lengths = np.bincount(document, weights=target_bytes)[document]
    occurrences = np.bincount(targets)[targets].astype(np.float64)
    return Breakdown(
        text_sha256=hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
        tokens=n,
        bytes=float(target_bytes.sum()),
        chunks=_chunks(nats, target_bytes, chunk_tokens),
        by_position=_groups(offset, POSITION_BYTES, nats, target_bytes),
        by_frequency=_groups(occurrences, OCCURRENCES, nats, target_bytes),
        by_document=_groups(lengths, DOCUMENT_BYTES, nats, target_bytes),
        excerpts=_excerpts(nats, targets, processor),
    )


def _chunks(nats: Mapping[str, F32], target_bytes: F64, chunk_tokens: int) -> tuple[ChunkLosses, ...]:
    firsts = np.arange(0, len(target_bytes), chunk_tokens)
    counts = np.diff(firsts, append=len(target_bytes))
    weights = np.add.reduceat(target_bytes, firsts)
    sums = {name: np.add.reduceat(values.astype(np.float64), firsts) for name, values in nats.items()}
    sizes = zip(firsts.tolist(), counts.tolist(), weights.tolist(), strict=True)
    return tuple(ChunkLosses(*size, _totals(sums, i)) for i, size in enumerate(sizes))


def _groups(values: F64, first: int, nats: Mapping[str, F32], target_bytes: F64) -> tuple[Group, ...]:
    """Groups of `values` [n] below `first`, below twice that, and so on; those without tokens are left out."""
    number = np.where(values < first, 0, np.floor(np.log2(np.maximum(values, first) / first)) + 1).astype(np.int64)
    size = int(number.max()) + 1
    counts = np.bincount(number, minlength=size)
    weights = np.bincount(number, weights=target_bytes, minlength=size)
    sums = {name: np.bincount(number, weights=each, minlength=size) for name, each in nats.items()}
    found = []
    for i in np.flatnonzero(counts).tolist():
        low, high = (first * 2 ** (i - 1) if i else 0), first * 2**i
        label = f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        found.append(Group(label, float(low), float(high), int(counts[i]), float(weights[i]), _totals(sums, i)))
    return tuple(found)


def _totals(sums: Mapping[str, np.ndarray], i: int) -> dict[str, float]:
    """Each scorer's nats in group number `i`."""
    return {name: round(float(each[i]), NATS_DIGITS) for name, each in sums.items()}


def _excerpts(
    nats: Mapping[str, F32], targets: I64, processor: sentencepiece.SentencePieceProcessor
) -> tuple[Excerpt, ...]:
    """The stretches in which the mixture wins most, then those in which it loses most; none overlap."""
    if not {"neural", SHARED} <= set(nats) or len(targets) < EXCERPT_TOKENS:
        return ()
    gains = (nats["neural"].astype(np.float64) - nats[SHARED]) / math.log(2)
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    stretches = sums[EXCERPT_TOKENS:] - sums[:-EXCERPT_TOKENS]
    found = []
    free = np.ones(len(stretches), dtype=np.bool_)
    for sign, kind in ((1.0, "wins"), (-1.0, "loses")):
        for _ in range(EXCERPTS):
            ranked = np.where(free, sign * stretches, -np.inf)
            at = int(ranked.argmax())
            if not ranked[at] > 0:
                break
            free[max(0, at - EXCERPT_TOKENS + 1) : at + EXCERPT_TOKENS] = False
            part = slice(at, at + EXCERPT_TOKENS)
            bits = {
                name: tuple((values[part].astype(np.float64) / math.log(2)).round(BIT_DIGITS).tolist())
                for name, values in nats.items()
            }
            pieces = tuple(_text(processor, int(token)) for token in targets[part])
            gain = round(float(stretches[at]), BIT_DIGITS)
            found.append(Excerpt("wins" if kind == "wins" else "loses", at, pieces, bits, gain))
    return tuple(found)


def _text(processor: sentencepiece.SentencePieceProcessor, token: int) -> str:
    piece: str = processor.id_to_piece(token)
    if processor.is_byte(token):
        value = int(piece[3:-1], 16)  # <0xNN>
        return chr(value) if 32 <= value < 127 or value == 10 else f"\\x{value:02x}"
    return piece.replace(SPACE, " ")


def scorers_of(result: EvalResult) -> tuple[str, ...]:
    """The scorers that an evaluation had, the same on every rank."""
    return tuple(name for name in SCORERS if getattr(result, name) is not None)
