"""Honest scorers of unusual construction: the audit must pass every one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from golf_core.audit.scorer import Tokens
from specimens.cheats import EntropyExpert
from specimens.experts import F64, Past, Softmax
from specimens.online import Online, PlainOnline, RestartableOnline, Run, RunSnapshot


class Escape(Run):
    """Prediction by partial matching: from the longest context known, escapes to shorter ones.

    Symbols of a longer context are left out of the shorter ones' distributions (exclusion), so that the sum is 1.
    """

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._seen: dict[tuple[int, ...], dict[int, int]] = {}

    def probs(self, past: Past) -> F64:
        """Method C: an escape counts as often as there are different symbols."""
        vocab = self.scorer.vocab_size
        probs, left, excluded = np.zeros(vocab), 1.0, set[int]()
        for context in self._contexts(past):
            counts = {s: c for s, c in self._seen.get(context, {}).items() if s not in excluded}
            if not counts:
                continue
            total = sum(counts.values()) + len(counts)
            for symbol, count in counts.items():
                probs[symbol] += left * count / total
            left *= len(counts) / total
            excluded |= set(counts)
        rest = [s for s in range(vocab) if s not in excluded]
        if rest:
            probs[rest] += left / len(rest)
        else:
            probs /= probs.sum()
        return probs

    def learn(self, past: Past, token: int) -> None:
        for context in self._contexts(past):
            known = self._seen.setdefault(context, {})
            known[token] = known.get(token, 0) + 1

    def reweigh(self, past: Past, token: int) -> None:
        """There are no weights."""

    @staticmethod
    def _contexts(past: Past) -> list[tuple[int, ...]]:
        return [tuple(past[len(past) - order :]) for order in (2, 1, 0) if order <= len(past)]


class WastefulEscape(Escape):
    """Spends a tenth on symbols that do not exist: a sum of 0.9."""

    def probs(self, past: Past) -> F64:
        return super().probs(past) * 0.9


class EntropyGate(Run):
    """Trusts the first expert the more, the surer it is: a gate by an entropy that is known before the token."""

    def probs(self, past: Past) -> F64:
        rows = self.rows(past)
        entropy = -float(rows[0] @ np.log(rows[0]))
        weight = 1.0 - 0.9 * entropy / np.log(self.scorer.vocab_size)
        return weight * rows[0] + (1.0 - weight) * rows[1:].mean(axis=0)


class Impossible(Run):
    """Holds the last symbol impossible: its loss is infinite, its share goes to the others."""

    def probs(self, past: Past) -> F64:
        probs = super().probs(past).copy()
        probs[-1] = 0.0
        return probs / probs.sum()


class Averaged(Run):
    """Scores with the running average of the weights that learn, as in Polyak averaging."""

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._average = Softmax(scorer.vocab_size, seed=3)

    def probs(self, past: Past) -> F64:
        return self._average.probs(past)

    def learn_pending(self, text: list[int]) -> None:
        super().learn_pending(text)
        self._average.weights += np.float32(0.3) * (self.experts[0].weights - self._average.weights)


class Drawn(Run):
    """Draws random numbers, the same in every run: one of the experts, drawn at each step, is not listened to."""

    def rows(self, past: Past) -> F64:
        rows = super().rows(past).copy()
        choice = np.random.default_rng([5, len(past)]).integers(len(rows))
        rows[choice] = 1.0 / rows.shape[1]
        return rows


class Schedule(PlainOnline):
    """Its learning rate falls with the length of the text, which is all that it knows of it beforehand."""

    def start(self, text: list[int]) -> Run:
        run = Run(self)
        run.experts = [Softmax(self.vocab_size, seed=3, lr=20.0 / len(text))]
        return run


class Mutates(PlainOnline):
    """Overwrites the array that it was given."""

    def __call__(self, tokens: Tokens, /) -> F64:
        losses = super().__call__(tokens)
        tokens[:] = 0
        return losses


class SeveralScores(RestartableOnline):
    """Two scores from one pass, and snapshots of both: the run's, `mixed`, and its first expert's, `alone`."""

    distributions = None
    exactly = True
    names = ("alone", "mixed")

    def losses(self, run: Run, text: list[int], begin: int, end: int) -> Mapping[str, F64]:
        both = np.array([(-np.log(self.beside(run, text[:t])[text[t]]), run.score(text, t)) for t in range(begin, end)])
        return dict(zip(self.names, both.T, strict=True))

    def beside(self, run: Run, past: Past) -> F64:
        """The distribution [V] of the score beside the run's."""
        return run.rows(past)[0]


class FormulaSnapshot(RunSnapshot):
    """A snapshot that knows what its sums should be."""

    def expected_sums(self, tokens: Tokens, position: int) -> dict[str, float]:
        """1 + w (V exp(-H) - 1) for `published`, where the snapshot stands at the position itself."""
        assert position == self.position
        return {"model": 1.0, "published": self._run.total(tokens[:position].tolist())}


class WithFormula(SeveralScores):
    """Not honest, but open about it: `published` has an entropy expert, and its snapshots give the formula of its sum.

    The other score, `model`, is the one that is claimed.
    """

    names = ("model", "published")
    snapshot = FormulaSnapshot

    def start(self, text: list[int]) -> Run:
        return EntropyExpert(self)

    def beside(self, run: Run, past: Past) -> F64:
        return run.probs(past)


class LargeSoftmax:
    """A softmax over a large alphabet in float32 from the last token, never adapted."""

    def __init__(self, vocab: int, rank: int = 4, scale: float = 1.5) -> None:
        rng = np.random.default_rng(11)
        self.vocab_size = vocab
        self._inputs = rng.normal(0, scale, (vocab + 1, rank)).astype(np.float32)
        self._outputs = rng.normal(0, 1.0, (rank, vocab)).astype(np.float32)
        self._totals: dict[int, np.float32] = {}

    def log_probs(self, last: int) -> NDArray[np.float32]:
        """ln p [V] after the token `last`; -1 for none."""
        logits = self._inputs[last] @ self._outputs
        row = logits - logits.max()
        return row - np.log(np.exp(row).sum(dtype=np.float32))

    def __call__(self, tokens: Tokens, /) -> NDArray[np.float32]:
        """float32 losses; the normalisers are kept, as they depend on one token alone."""
        losses = np.empty(len(tokens), dtype=np.float32)
        for t, (last, token) in enumerate(zip([-1, *tokens[:-1].tolist()], tokens.tolist(), strict=True)):
            if last not in self._totals:
                logits = self._inputs[last] @ self._outputs
                most = logits.max()
                self._totals[last] = most + np.log(np.exp(logits - most).sum(dtype=np.float32))
            losses[t] = self._totals[last] - self._inputs[last] @ self._outputs[:, token]
        return losses


class LargeDistributed(LargeSoftmax):
    """The same, showing its distributions: ln p [positions, V] float32."""

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> NDArray[np.float32]:
        return np.stack([self.log_probs(int(tokens[t - 1]) if t else -1) for t in positions])


class LargeRestartable(LargeSoftmax):
    """The same, with snapshots that take all substitutes at once. There is no state but the token before."""

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[LargeSnapshot]:
        return [LargeSnapshot(self, position) for position in positions]


class LargeSnapshot:
    """A position of `LargeRestartable`."""

    def __init__(self, scorer: LargeSoftmax, position: int) -> None:
        self._scorer, self.position = scorer, position

    def score(self, tokens: Tokens, stop: int) -> NDArray[np.float32]:
        return self._scorer(tokens[:stop])[self.position :]

    def score_substitutes(self, tokens: Tokens, position: int, symbols: NDArray[np.int64]) -> NDArray[np.float32]:
        return -self._scorer.log_probs(int(tokens[position - 1]) if position else -1)[symbols]
