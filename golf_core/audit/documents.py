"""For a scorer that says it resets at documents: does an earlier document bear on a later one?"""

from __future__ import annotations

import numpy as np

from golf_core.audit.scorer import Tokens
from golf_core.audit.subject import Losses, Subject, differences


def documents_apart(subject: Subject, tokens: Tokens, base: Losses, bos: int, rng: np.random.Generator) -> float | None:
    """Largest change in nats of losses after a document's start when all documents before it change.

    The documents' starts stay where they are. The loss of the start itself is left out: that a document ends may be
    told from it. None where the text holds no two documents.
    """
    starts = np.flatnonzero(tokens == bos)
    starts = starts[(starts > base.first) & (starts + 1 < len(tokens))]
    if not len(starts):
        return None
    largest = 0.0
    others = np.delete(np.arange(subject.vocab), bos) if bos < subject.vocab else np.arange(subject.vocab)
    for start in np.unique(starts[[0, len(starts) // 2, -1]]):
        for _ in range(2):
            changed = tokens.copy()
            free = np.flatnonzero(tokens[:start] != bos)
            changed[free] = rng.choice(others, len(free))
            late = subject.run(changed).values[:, start + 1 :]
            largest = max(largest, float(differences(late, base.values[:, start + 1 :]).max()))
    return largest
