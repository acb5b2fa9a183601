"""A made-up text to audit on when there is no other: documents of a sparse Markov chain, so that pairs recur."""

from __future__ import annotations

import numpy as np

from golf_core.audit.scorer import Tokens


def synthetic_tokens(count: int, vocab: int, seed: int, bos: int = 1) -> Tokens:
    """`count` tokens (int64) of an alphabet of `vocab`, in documents that begin with `bos` (where it is a symbol).

    Each symbol has at most four successors that follow it mostly, and any symbol may follow now and then.
    """
    rng = np.random.default_rng(seed)
    symbols = np.array([s for s in range(vocab) if s != bos or vocab <= 2])
    # Likely symbols are few even in a large alphabet, as in text.
    common = symbols[: min(len(symbols), 64)]
    successors = rng.choice(common, (vocab, 4))
    found: list[int] = []
    while len(found) < count:
        if bos < vocab:
            found.append(bos)
        last = int(rng.choice(common))
        for _ in range(int(rng.integers(12, 48))):
            found.append(last)
            last = int(rng.choice(symbols)) if rng.random() < 0.1 else int(successors[last, rng.integers(4)])
    return np.array(found[:count], dtype=np.int64)
