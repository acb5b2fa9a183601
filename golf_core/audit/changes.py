"""Texts that agree with the audited one up to a cut and differ after it, made to bring leaks to light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf_core.audit.scorer import Tokens


@dataclass(frozen=True)
class Change:
    """A text equal to the original before the cut."""

    name: str
    tokens: Tokens
    single: bool = False
    """Only the token at the cut differs."""


def changes(tokens: Tokens, cut: int, vocab: int, rng: np.random.Generator) -> list[Change]:
    """Changed copies of `tokens` [n], each different from it somewhere in [cut, n).

    Counts that reach into the future show when the future repeats what is about to be scored ("echo" repeats the
    last tokens before the cut, "constant" the very last), lookahead when the next token changes, and a choice made
    with the whole text in view when the rest becomes easy ("constant") or hard ("replaced").
    """
    n, last = len(tokens), int(tokens[max(cut - 1, 0)])
    echo = tokens[max(cut - int(rng.integers(2, 6)), 0) : max(cut, 1)]
    rarest = int(np.argmin(np.bincount(tokens, minlength=vocab)[:vocab]))
    tails = {
        "replaced": rng.integers(0, vocab, n - cut),
        "permuted": rng.permutation(tokens[cut:]),
        "constant": np.full(n - cut, last),
        "echo": np.resize(echo, n - cut),
        "rare": np.full(n - cut, rarest),
    }
    other = (int(tokens[cut]) + int(rng.integers(1, vocab))) % vocab
    made = [Change("next token", _with(tokens, cut, np.array([other])), single=True)]
    if last not in (other, int(tokens[cut])):
        made.append(Change("next token repeats", _with(tokens, cut, np.array([last])), single=True))
    made += [Change(name, _with(tokens, cut, tail)) for name, tail in tails.items()]
    return [change for change in made if not np.array_equal(change.tokens, tokens)]


def _with(tokens: Tokens, cut: int, tail: np.ndarray) -> Tokens:
    changed = tokens.copy()
    changed[cut : cut + len(tail)] = tail
    return changed
