"""Where the losses lie: sums that agree with the evaluation's, groups by a plain loop, excerpts, any world size."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from golf_core.__main__ import main
from golf_core.artifact.export import ARTIFACT_NAME
from golf_core.data.shards import validation_tokens
from golf_core.data.tokenizer import BOS, load_tokenizer
from golf_core.distributed import Ranks
from golf_core.evaluate.breakdown import (
    BREAKDOWN,
    EXCERPT_TOKENS,
    Breakdown,
    Group,
    TokenLosses,
    breakdown,
    scorers_of,
)
from golf_core.evaluate.score import Losses
from golf_core.results import EvalResult
from golf_core.stages import EVALUATE_RECORD
from golf_core.strict_json import load

ALONE = Ranks(0, 1, torch.device("cpu"))
FIELDS = {
    "model.model_dim": 64,
    "model.rope_dims": 8,
    "train.iterations": 4,
    "train.warmup_steps": 0,
    "train.batch_tokens": 1024,
    "train.seq_len": 128,
    "train.val_every": 0,
    "evaluate.seq_len": 128,
    "evaluate.stride": 48,
    "evaluate.chunk_tokens": 1024,
    "evaluate.max_tokens": 8192,
}


def words(stage: str, out: Path, *options: str, **changes: object) -> list[str]:
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    pairs = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    return [stage, *options, "--preset", "small", "--out", str(out), "--threads", "1", *pairs]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """The folder of a small evaluation."""
    out = tmp_path_factory.mktemp("evaluated")
    assert main(words("run", out)) == 0
    return out


def test_the_sums_are_those_of_the_evaluation(evaluated: Path) -> None:
    result, found = load(EvalResult, evaluated / EVALUATE_RECORD), load(Breakdown, evaluated / BREAKDOWN)
    assert found.tokens == result.tokens and found.bytes == result.bytes
    expected = {name: getattr(result, name).nats_per_token * result.tokens for name in scorers_of(result)}
    assert set(expected) == {"neural", "mixture", "published"}
    for parts in (found.chunks, found.by_position, found.by_frequency, found.by_document):
        assert sum(part.tokens for part in parts) == result.tokens
        assert sum(part.bytes for part in parts) == pytest.approx(result.bytes)
        for name, nats in expected.items():
            total = math.fsum(part.nats[name] for part in parts)
            # In BPB, as figures are compared.
            assert abs(total - nats) / result.bytes / math.log(2) < 1e-6
    assert len(found.chunks) == result.chunks and [c.first for c in found.chunks] == list(range(0, 8192, 1024))


def test_two_ranks_give_the_same(evaluated: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "golf_core"]
    arguments = words("evaluate", tmp_path, str(evaluated / ARTIFACT_NAME))
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, other = load(Breakdown, evaluated / BREAKDOWN), load(Breakdown, tmp_path / BREAKDOWN)
    assert (one.text_sha256, one.tokens, one.bytes) == (other.text_sha256, other.tokens, other.bytes)
    for kind in ("chunks", "by_position", "by_frequency", "by_document"):
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            assert a.tokens == b.tokens and a.nats == pytest.approx(b.nats, rel=1e-5)
    assert [e.position for e in one.excerpts] == [e.position for e in other.excerpts]


def test_a_repeated_end_has_none(evaluated: Path, tmp_path: Path) -> None:
    arguments = words("evaluate", tmp_path, str(evaluated / ARTIFACT_NAME), evaluate__repeat_tail="true")
    assert main(arguments) == 0
    assert (tmp_path / EVALUATE_RECORD).exists() and not (tmp_path / BREAKDOWN).exists()


def test_the_excerpts_are_of_the_text(evaluated: Path, sample_folder: Path) -> None:
    tokens = validation_tokens(sample_folder, 128)[: 8192 + 1]
    found = load(Breakdown, evaluated / BREAKDOWN)
    assert hashlib.sha256(np.asarray(tokens, dtype="<i4").tobytes()).hexdigest() == found.text_sha256
    processor = load_tokenizer(sample_folder / "tokenizer.model")
    assert found.excerpts
    for excerpt in found.excerpts:
        span = tokens[1 + excerpt.position : 1 + excerpt.position + EXCERPT_TOKENS].tolist()
        plain = [t for t in span if not processor.is_control(t) and not processor.is_byte(t)]
        shown = [p for p, t in zip(excerpt.pieces, span, strict=True) if t in plain]
        assert "".join(shown).strip() == processor.decode(plain).strip()
        gain = sum(excerpt.bits["neural"]) - sum(excerpt.bits["mixture"])
        assert gain == pytest.approx(excerpt.gain_bits, abs=0.2)
        assert (gain > 0) is (excerpt.kind == "wins")


# --- against a plain loop --------------------------------------------------------------------------


def plain_groups(values: list[float], first: int, nats: list[float]) -> dict[float, tuple[int, float]]:
    """Tokens and nats by the lower end of the group, one token after another."""
    found: dict[float, list[float]] = defaultdict(list)
    for value, loss in zip(values, nats, strict=True):
        low, high = 0.0, float(first)
        while value >= high:
            low, high = high, 2 * high
        found[low].append(loss)
    return {low: (len(each), math.fsum(each)) for low, each in found.items()}


def as_plain(groups: tuple[Group, ...]) -> dict[float, tuple[int, float]]:
    return {group.low: (group.tokens, group.nats["neural"]) for group in groups}


@settings(max_examples=examples(60))
@given(
    text=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 9)), min_size=2, max_size=400),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_groups_are_those_of_a_plain_loop(text: list[tuple[int, int]], seed: int, sample_folder: Path) -> None:
    tokens = np.array([token if token % 7 else BOS for token, _ in text], dtype=np.int64)
    sizes = np.array(
        [0 if t == BOS else size for t, (_, size) in zip(tokens[1:], text[1:], strict=True)], dtype=np.float64
    )
    nats = np.random.default_rng(seed).uniform(0, 9, len(sizes)).astype(np.float32)
    found = breakdown({"neural": nats}, tokens, sizes, 64, load_tokenizer(sample_folder / "tokenizer.model"))

    offsets, documents, document, offset = [], [], 0, 0.0
    for token, size in zip(tokens[1:].tolist(), sizes.tolist(), strict=True):
        if token == BOS:
            document, offset = document + 1, 0.0
        offsets.append(offset)
        documents.append(document)
        offset += size
    lengths = [sum(s for s, d in zip(sizes, documents, strict=True) if d == own) for own in documents]
    counts = [float((tokens[1:] == token).sum()) for token in tokens[1:]]
    losses = nats.astype(float).tolist()
    for groups, values, first in (
        (found.by_position, offsets, 16),
        (found.by_document, lengths, 64),
        (found.by_frequency, counts, 1),
    ):
        expected = plain_groups(values, first, losses)
        assert as_plain(groups).keys() == expected.keys()
        for low, (count, total) in as_plain(groups).items():
            assert count == expected[low][0] and total == pytest.approx(expected[low][1], abs=1e-3)
    for chunk in found.chunks:
        assert chunk.nats["neural"] == pytest.approx(sum(losses[chunk.first : chunk.first + 64]), abs=1e-3)
        assert chunk.tokens == len(losses[chunk.first : chunk.first + 64])


@settings(max_examples=examples(30))
@given(n=st.integers(EXCERPT_TOKENS, 3000), seed=st.integers(0, 2**32 - 1))
def test_excerpts_do_not_overlap_and_the_first_is_the_best(n: int, seed: int, sample_folder: Path) -> None:
    random = np.random.default_rng(seed)
    nats = {name: random.uniform(0, 9, n).astype(np.float32) for name in ("neural", "mixture")}
    tokens = random.integers(3, 1000, n + 1)
    found = breakdown(nats, tokens, np.ones(n), 256, load_tokenizer(sample_folder / "tokenizer.model"))
    places = sorted(excerpt.position for excerpt in found.excerpts)
    assert all(b - a >= EXCERPT_TOKENS for a, b in itertools.pairwise(places))
    gains = (nats["neural"].astype(float) - nats["mixture"].astype(float)) / math.log(2)
    best = max(gains[i : i + EXCERPT_TOKENS].sum() for i in range(n - EXCERPT_TOKENS + 1))
    wins = [excerpt for excerpt in found.excerpts if excerpt.kind == "wins"]
    assert (wins[0].gain_bits if wins else 0.0) == pytest.approx(max(best, 0.0), abs=1e-2)
    assert [e.gain_bits for e in wins] == sorted((e.gain_bits for e in wins), reverse=True)


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation stands without its breakdown."""
    kept = TokenLosses(ALONE)
    kept([Losses(0, {"neural": torch.ones(4)}), Losses(4, {"neural": torch.full((2,), 2.0)})])
    dense = kept.gathered(["neural"], 6)
    assert dense is not None and dense["neural"].tolist() == [1, 1, 1, 1, 2, 2]

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "zeros", refuse)
    assert TokenLosses(ALONE).gathered(["neural"], 6) is None
