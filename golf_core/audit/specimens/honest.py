"""Honest scorers of unusual construction: the audit must pass every one of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from golf_core.audit.scorer import Tokens
from golf_core.audit.specimens.cheats import EntropyExpert
from golf_core.audit.specimens.experts import F64, Counts, Expert, Match, Past, Softmax, Static
from golf_core.audit.specimens.online import Online, PlainOnline, Run, RunSnapshot


class Escape(Run):
    """Prediction by partial matching: from the longest context known, escapes to shorter ones.

    With exclusion symbols of a longer context are left out of the shorter ones' distributions, and the sum is 1;
    without, they are counted twice over and probability is wasted: the sum is below 1.
    """

    EXCLUSION = True

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._seen: dict[tuple[int, ...], dict[int, int]] = {}

    def probs(self, past: Past) -> F64:
        """Method C: an escape counts as often as there are different symbols."""
        vocab = self.scorer.vocab_size
        probs, left, excluded = np.zeros(vocab), 1.0, set[int]()
        for order in (2, 1, 0):
            known = self._seen.get(tuple(past[len(past) - order :]) if order else ())
            if len(past) < order or not known:
                continue
            counts = {s: c for s, c in known.items() if s not in excluded}
            total = sum(counts.values()) + len(counts)
            if not counts or total == 0:
                continue
            for symbol, count in counts.items():
                probs[symbol] += left * count / total
            left *= len(counts) / total
            if self.EXCLUSION:
                excluded |= set(counts)
        rest = [s for s in range(vocab) if s not in excluded]
        if rest:
            probs[rest] += left / len(rest)
        else:
            probs /= probs.sum()
        return probs

    def learn(self, past: Past, token: int) -> None:
        """Counts of all orders."""
        for order in (2, 1, 0):
            if len(past) >= order:
                known = self._seen.setdefault(tuple(past[len(past) - order :]) if order else (), {})
                known[token] = known.get(token, 0) + 1

    def reweigh(self, past: Past, token: int) -> None:
        """There are no weights."""


class WastefulEscape(Escape):
    """Spends a tenth on symbols that do not exist."""

    def probs(self, past: Past) -> F64:
        """A sum of 0.9."""
        return super().probs(past) * 0.9


class EntropyGate(Run):
    """A gate that goes by the model's own entropy, which is known before the token."""

    def probs(self, past: Past) -> F64:
        """Trusts the first expert the more, the surer it is."""
        rows = self.rows(past)
        entropy = -float(rows[0] @ np.log(rows[0]))
        weight = 1.0 - 0.9 * entropy / np.log(self.scorer.vocab_size)
        return np.asarray(weight * rows[0] + (1.0 - weight) * rows[1:].mean(axis=0))


class Impossible(Run):
    """Holds one symbol impossible: its loss is infinite."""

    def probs(self, past: Past) -> F64:
        """Nothing for the last symbol, its share to the others."""
        probs = super().probs(past).copy()
        probs[-1] = 0.0
        return np.asarray(probs / probs.sum())


class Averaged(Run):
    """Scores with the running average of the weights that learn, as in Polyak averaging."""

    def __init__(self, scorer: Online) -> None:
        super().__init__(scorer)
        self._average = Softmax(scorer.vocab_size, seed=3)

    def probs(self, past: Past) -> F64:
        """By the average."""
        return self._average.probs(past)

    def learn_pending(self, text: list[int]) -> None:
        """Adapt, then average."""
        super().learn_pending(text)
        live = self.experts[0]
        assert isinstance(live, Softmax)
        self._average.weights += np.float32(0.3) * (live.weights - self._average.weights)


class Drawn(Run):
    """Draws random numbers, the same in every run: one of the experts, drawn at each step, is not listened to."""

    def rows(self, past: Past) -> F64:
        """Rows as they are, the drawn one flattened."""
        rows = super().rows(past).copy()
        choice = np.random.default_rng([5, len(past)]).integers(len(rows))
        rows[choice] = 1.0 / rows.shape[1]
        return rows


class KindOnline(PlainOnline):
    """An `Online` whose runs are of another, honest kind."""

    def __init__(self, kind: type[Run], vocab: int, period: int = 1, softmax: bool = False, epochs: int = 1) -> None:
        def experts() -> list[Expert]:
            return [Softmax(vocab, seed=3)] if softmax else [Static(vocab, seed=1), Counts(vocab, 0), Counts(vocab, 1)]

        super().__init__(vocab, experts, period, epochs=epochs)
        self._kind = kind

    def start(self, text: list[int]) -> Run:
        """A run of that kind."""
        return self._kind(self)


class Schedule(PlainOnline):
    """Its learning rate falls to zero at the end of the text: it goes by the length, not by what is there."""

    def start(self, text: list[int]) -> Run:
        """The text's length is all that is used of it."""
        run = Run(self)
        run.experts = [Softmax(self.vocab_size, seed=3, lr=20.0 / len(text))]
        return run


class ContextFirst(PlainOnline):
    """Takes the first token as context and scores the others."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Losses [n - 1]."""
        return super().__call__(tokens)[1:]


class Mutates(PlainOnline):
    """Overwrites the array that it was given."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """The losses, and rubbish in `tokens`."""
        losses = super().__call__(tokens)
        tokens[:] = 0
        return losses


class SeveralScores(PlainOnline):
    """Gives two scores at once, and snapshots of both."""

    def __call__(self, tokens: Tokens, /) -> Mapping[str, F64]:  # type: ignore[override]
        """The counts alone, and mixed with a fixed model."""
        text = tokens.tolist()
        run = self.start(text)
        return _both(run, text, 0, len(text))

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[SeveralSnapshot]:
        """One for each position, exactly there."""
        text = tokens.tolist()
        found = []
        for position in positions:
            run = self.start(text)
            for t in range(position):
                run.score(text, t)
            found.append(SeveralSnapshot(run, position))
        return found


class SeveralSnapshot(RunSnapshot):
    """A snapshot with both scores."""

    def score(self, tokens: Tokens, stop: int) -> Mapping[str, F64]:  # type: ignore[override]
        """Losses of tokens[position:stop]."""
        return _both(copy.deepcopy(self._run), tokens.tolist(), self.position, stop)


def _both(run: Run, text: list[int], start: int, stop: int) -> dict[str, F64]:
    alone, mixed = [], []
    for t in range(start, stop):
        alone.append(-np.log(run.rows(text[:t])[0, text[t]]))
        mixed.append(run.score(text, t))
    return {"alone": np.array(alone), "mixed": np.array(mixed)}


class LargeSoftmax:
    """A softmax over a large alphabet in float32 from the last token, never adapted."""

    def __init__(self, vocab: int, rank: int = 4, scale: float = 1.5) -> None:
        rng = np.random.default_rng(11)
        self.vocab_size = vocab
        self._inputs = rng.normal(0, scale, (vocab + 1, rank)).astype(np.float32)
        self._outputs = rng.normal(0, 1.0, (rank, vocab)).astype(np.float32)
        self._totals: dict[int, np.float32] = {}

    def _row(self, last: int) -> NDArray[np.float32]:
        logits = self._inputs[last] @ self._outputs
        return np.asarray(logits - logits.max())

    def __call__(self, tokens: Tokens, /) -> NDArray[np.float32]:
        """float32 losses; the normalisers are kept, as they depend on one token alone."""
        losses = np.empty(len(tokens), dtype=np.float32)
        for t, (last, token) in enumerate(zip([-1, *tokens[:-1].tolist()], tokens.tolist(), strict=True)):
            row = None
            if last not in self._totals:
                row = self._row(last)
                shift = (self._inputs[last] @ self._outputs).max()
                self._totals[last] = shift + np.log(np.exp(row).sum(dtype=np.float32))
            losses[t] = self._totals[last] - self._inputs[last] @ self._outputs[:, token]
        return losses


class LargeDistributed(LargeSoftmax):
    """The same, showing its distributions."""

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> NDArray[np.float32]:
        """ln p [positions, V] float32."""
        rows = []
        for t in positions:
            row = self._row(int(tokens[t - 1]) if t else -1)
            rows.append(row - np.log(np.exp(row).sum(dtype=np.float32)))
        return np.stack(rows)


class LargeRestartable(LargeSoftmax):
    """The same, with snapshots that take all substitutes at once."""

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[LargeSnapshot]:
        """There is no state but the token before."""
        return [LargeSnapshot(self, position) for position in positions]


class LargeSnapshot:
    """A position of `LargeRestartable`."""

    def __init__(self, scorer: LargeSoftmax, position: int) -> None:
        self._scorer, self.position = scorer, position

    def score(self, tokens: Tokens, stop: int) -> NDArray[np.float32]:
        """Losses of tokens[position:stop]."""
        return self._scorer(tokens[:stop])[self.position :]

    def score_substitutes(self, tokens: Tokens, position: int, symbols: NDArray[np.int64]) -> NDArray[np.float32]:
        """All from one row."""
        row = self._scorer._row(int(tokens[position - 1]) if position else -1)
        return np.asarray(np.log(np.exp(row).sum(dtype=np.float32)) - row[symbols])


class WithFormula(PlainOnline):
    """Not honest, but open about it: `published` has an entropy expert, and its snapshots give the formula of its sum.

    The other score, `model`, is the one that is claimed.
    """

    def __call__(self, tokens: Tokens, /) -> Mapping[str, F64]:  # type: ignore[override]
        """Both scores."""
        text = tokens.tolist()
        return _published(EntropyExpert(self), text, 0, len(text))

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[FormulaSnapshot]:
        """Exactly at the positions."""
        text = tokens.tolist()
        found = []
        for position in positions:
            run = EntropyExpert(self)
            for t in range(position):
                run.score(text, t)
            found.append(FormulaSnapshot(run, position))
        return found


class FormulaSnapshot(RunSnapshot):
    """A snapshot that knows what its sums should be."""

    def score(self, tokens: Tokens, stop: int) -> Mapping[str, F64]:  # type: ignore[override]
        """Both scores of tokens[position:stop]."""
        return _published(copy.deepcopy(self._run), tokens.tolist(), self.position, stop)

    def expected_sums(self, tokens: Tokens, position: int) -> dict[str, float]:
        """1 + w (V exp(-H) - 1) for `published`, where the snapshot stands at the position itself."""
        assert isinstance(self._run, EntropyExpert) and position == self.position
        return {"model": 1.0, "published": self._run.total(tokens[:position].tolist())}


def _published(run: Run, text: list[int], start: int, stop: int) -> dict[str, F64]:
    model, published = [], []
    for t in range(start, stop):
        model.append(-np.log(run.probs(text[:t])[text[t]]))
        published.append(run.score(text, t))
    return {"model": np.array(model), "published": np.array(published)}


def sharp(vocab: int) -> PlainOnline:
    """Probabilities up to 1 - 1e-12 and losses of 28 nats and more where a context comes back otherwise."""
    return PlainOnline(vocab, lambda: [Match(vocab, doubt=1e-12)], mixing="fixed")
