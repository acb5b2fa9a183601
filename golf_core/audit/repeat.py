"""Condition 4: does the same text get the same losses, whatever was scored before, and each token one?"""

from __future__ import annotations

import numpy as np

from golf_core.audit.report import Repeatability
from golf_core.audit.scorer import ScorerError, Tokens, WrongCountError
from golf_core.audit.subject import Losses, Subject, beyond, differences


def repeatability(
    subject: Subject, tokens: Tokens, base: Losses, tolerance: float, rng: np.random.Generator
) -> Repeatability:
    """Runs A again, another text B, then A; and where fresh scorers can be built, A on two of them.

    Without fresh scorers, a scorer whose second run differs at once may draw random numbers or keep state: the two
    are told apart only by what a fresh one does. Afterwards a scorer that keeps state is renewed for every run.
    """

    def apart(a: Losses, b: Losses) -> tuple[float, bool]:
        found = differences(a.values, b.values)
        return float(found.max()), bool(beyond(found, b.values, tolerance).any())

    again = apart(subject.run(tokens), base)
    subject.run(rng.permutation(tokens))
    after = apart(subject.run(tokens), base)
    fresh = against = None
    random, keeps = again[1], after[1] and not again[1]
    if subject.fresh is not None:
        one, two = subject.run(tokens, subject.fresh()), subject.run(tokens, subject.fresh())
        fresh, against = apart(one, two), apart(one, base)
        random = fresh[1] or (against[1] and not again[1] and not after[1])
        keeps = (again[1] or after[1]) and not fresh[1]
        if keeps:
            subject.renew()
    return Repeatability(
        same_object=again[0],
        after_other_text=after[0],
        fresh=fresh[0] if fresh else None,
        fresh_against_first=against[0] if against else None,
        keeps_state=keeps,
        random=random,
        remembers={},
        prefix=None,
        prefix_tokens=None,
    )


def prefix_difference(subject: Subject, tokens: Tokens, base: Losses, length: int) -> float | None:
    """Largest difference in nats of the first `length` losses when they are scored alone; None if that fails."""
    try:
        alone = subject.run(tokens[:length])
    except WrongCountError:
        raise
    except ScorerError:
        return None  # a scorer may refuse short texts
    return float(differences(alone.values, base.values[:, :length]).max()) if length else 0.0


def noise_of(found: Repeatability) -> float:
    """How far losses move by themselves, in nats: 0 for a scorer that can be renewed to a fixed start."""
    if found.random:
        return max(found.same_object, found.after_other_text, found.fresh or 0.0)
    return 0.0


def usable(found: Repeatability, subject: Subject) -> bool:
    """Whether losses of changed texts can be compared at all: the scorer does not carry state that stays."""
    return not found.keeps_state or subject.fresh is not None
