"""What the valid mixture guarantees: hardly ever more than the neural model alone, on any text."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_cases import CONFIGS, NOTHING, RANKS, Neural, chunks, go, repetitive
from numpy.typing import NDArray
from torch import Tensor

from golf_core.config import MixerConfig
from golf_core.data.export import read_texts
from golf_core.data.shards import read_shard
from golf_core.data.tokenizer import BOS, byte_table, load_tokenizer
from golf_core.evaluate.text import bits_per_byte
from golf_core.mixture.mixer import Mixer


def oracle(tokens: Tensor, vocab: int, share: float = 0.9) -> Neural:
    """A model that gives `share` to the true token."""
    rest = float(np.log((1.0 - share) / (vocab - 1)))

    def log_probs(begin: int, end: int) -> Tensor:
        out = torch.full((end - begin, vocab), rest)
        out[torch.arange(end - begin), tokens[begin + 1 : end + 1]] = float(np.log(share))
        return out

    return log_probs


def constant(log_probs: Tensor) -> Neural:
    return lambda begin, end: log_probs.expand(end - begin, -1)


def neural_models(tokens: Tensor, vocab: int) -> dict[str, Neural]:
    """An oracle, one with nothing left to gain, one that knows nothing, and the frequencies of the very text."""
    frequency = torch.bincount(tokens, minlength=vocab).double() + 0.01
    return {
        "oracle": oracle(tokens, vocab),
        "certain": oracle(tokens, vocab, 1.0 - 1e-5),
        "uniform": constant(torch.full((vocab,), 1.0 / vocab).log()),
        "unigram": constant((frequency / frequency.sum()).log().float()),
    }


def excess(config: MixerConfig, tokens: Tensor, vocab: int, neural: Neural, chunk: int) -> float:
    """Nats above the neural model, after asserting that they keep to the bound all along."""
    mixer, total = Mixer(config, vocab, tokens, RANKS), 0.0
    for begin, end in pairwise(chunks(len(tokens) - 1, chunk)):
        parts = [neural(first, min(first + 1024, end)) for first in range(begin, end, 1024)]
        targets = tokens[begin + 1 : end + 1, None].split(1024)
        alone = -sum(float(p.gather(1, t).double().sum()) for p, t in zip(parts, targets, strict=True))
        outcome = go(mixer, lambda a, _, b=begin, p=parts: p[(a - b) // 1024], (begin, end), (end,), 1024, NOTHING)
        total += float(outcome.nll.sum()) - alone
        assert total <= mixer.ladder.share.bound(0) + 1e-6 * (end + 1)
    return total


@settings(max_examples=examples(15))
@given(
    config=CONFIGS,
    vocab=st.sampled_from((2, 5, 40)),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(("random", "repetitive", "constant", "switching")),
    model=st.sampled_from(("oracle", "certain", "uniform", "unigram")),
)
def test_bounded_loss_on_synthetic_texts(config: MixerConfig, vocab: int, seed: int, kind: str, model: str) -> None:
    rng = np.random.default_rng(seed)
    text = {
        "random": rng.integers(0, vocab, 900),
        "repetitive": repetitive(vocab, 900, seed),
        "constant": np.full(900, vocab - 1),
        # Counts learn one half, and mislead in the other.
        "switching": np.concatenate((np.tile([0, 0, vocab - 1], 150), rng.integers(0, vocab, 450))),
    }
    tokens = torch.from_numpy(text[kind].astype(np.int64))
    excess(config, tokens, vocab, neural_models(tokens, vocab)[model], 300)


TEXTS = ("fineweb_val_000000", "mix_heldout", "digitalgov", "fineweb_docs", "fineweb_edu", "novels")
TEXTS += ("wikipedia_A", "wikipedia_vital")


def real_tokens(shared: Path, name: str, count: int) -> NDArray[np.int64]:
    """The first tokens of a provided text, each document after its BOS."""
    data = shared / "data"
    if name == "fineweb_val_000000":
        return np.asarray(read_shard(data / f"{name}.bin")[:count]).astype(np.int64)
    path = data / f"{name}.jsonl.xz"
    path = path if path.exists() else data / "train" / f"train_{name}.jsonl.xz"
    processor = load_tokenizer(data / "tokenizers" / "fineweb_1024_bpe.model")
    ids: list[int] = []
    for text in islice(read_texts(path), 1000):
        ids += [BOS, *processor.encode(text[: 8 * count])]
        if len(ids) >= count:
            break
    return np.array(ids[:count])


@pytest.mark.parametrize("name", TEXTS)
def test_bounded_loss_on_real_texts(shared: Path, name: str) -> None:
    """With oracles, an ignorant and a middling model: never 0.0005 BPB above it; far below the last two."""
    ids, vocab = real_tokens(shared, name, 20_001), 1024
    assert len(ids) == 20_001 and ids[0] == BOS
    table = byte_table(load_tokenizer(shared / "data" / "tokenizers" / "fineweb_1024_bpe.model", vocab))
    num_bytes = float(table.token_bytes(ids[:-1], ids[1:]).sum())
    tokens = torch.from_numpy(ids)
    above = {
        model: bits_per_byte(excess(MixerConfig(), tokens, vocab, neural, 8192), num_bytes)
        for model, neural in neural_models(tokens, vocab).items()
    }
    assert 0.0 < max(above.values()) == above["certain"] <= 0.0005
    assert above["uniform"] < -1.0 and above["unigram"] < -0.2
