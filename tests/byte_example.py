"""A small tokenizer and a text whose bytes are known."""

from __future__ import annotations

import numpy as np
import sentencepiece

from golf_core.data.sample import train_tokenizer
from golf_core.data.tokenizer import BOS

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "counting", "tokens", "naïve", "—", "日本")


def byte_example() -> tuple[sentencepiece.SentencePieceProcessor, np.ndarray, int]:
    """A tokenizer, the tokens of 30 documents (int64 [n]), and the UTF-8 bytes of those."""
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 40)) for _ in range(30)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(documents, 360))
    documents = [f"{document} 🙂" for document in documents]  # not in the vocabulary: byte pieces
    tokens = np.array([t for document in documents for t in [BOS, *processor.encode(document)]], dtype=np.int64)
    return processor, tokens, sum(len(document.encode("utf-8")) for document in documents)
