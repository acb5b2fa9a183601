"""What early tokens do to later losses: does the scorer learn at all, and where does what it learned take effect?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf_core.audit.scorer import Tokens
from golf_core.audit.subject import Losses, Subject, beyond, differences

BLOCK = 8
"""Tokens changed at once."""
QUIET = 6
"""Losses so soon after a token may depend on it as context; later ones only if something was kept."""


@dataclass(frozen=True)
class Memory:
    """What was seen of a scorer's learning."""

    remembers: tuple[bool, ...]
    """For each score, whether tokens bear on losses more than `QUIET` tokens after them. If not, nothing is learned."""
    updates: tuple[int, ...]
    """Positions, ascending, at which learning seems to take effect. An update may have come a token or two before,
    as not every loss shows it."""


def look_back(
    subject: Subject, tokens: Tokens, base: Losses, tolerance: float, rng: np.random.Generator, blocks: int = 6
) -> Memory:
    """Change blocks of tokens, one at a time, and see which later losses change.

    Losses right after a block change with the context; if they come to rest and change again later, what was learned
    from the block took effect there.
    """
    n, updates = len(tokens), set[int]()
    remembers = np.zeros(len(base.names), dtype=bool)
    for begin in np.linspace(base.first, n * (blocks - 1) // (blocks + 1), blocks).astype(int).tolist():
        changed = tokens.copy()
        end = min(begin + BLOCK, n)
        changed[begin:end] = (tokens[begin:end] + rng.integers(1, max(subject.vocab, 2), end - begin)) % subject.vocab
        expected = base.values[:, end:]
        wrong = beyond(differences(subject.run(changed).values[:, end:], expected), expected, tolerance)
        remembers |= wrong[:, QUIET:].any(axis=1)
        moved = np.flatnonzero(wrong.any(axis=0))
        onsets = moved[np.diff(np.concatenate(([-1], moved))) > QUIET]
        # Only the first: later ones may be the next updates, or the same one showing again.
        updates |= {end + int(onset) for onset in onsets[:1]}
    return Memory(tuple(bool(r) for r in remembers), tuple(sorted(updates)))
