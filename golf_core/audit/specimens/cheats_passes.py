"""Scorers that go over the text in a way that they must not: ahead, twice, differently each time, or out of bounds."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from golf_core.audit.scorer import Tokens
from golf_core.audit.specimens.cheats import adaptive
from golf_core.audit.specimens.experts import F64, Counts, Past, Static, Uniform
from golf_core.audit.specimens.online import PlainOnline, Run, RunSnapshot

# Conditions 1 and 4: later tokens at work.


class AdaptsOnTheText(PlainOnline):
    """Adapts on the whole text, rounds what it learned as if to quantise it, and only then scores."""

    def start(self, text: list[int]) -> Run:
        """Weights rounded to sixteenths, and fixed from then on."""
        model = Counts(self.vocab_size, 1)
        for t, token in enumerate(text):
            model.learn(text[:t], token)
        table = np.stack([model.probs([symbol]) for symbol in range(self.vocab_size)])
        table = np.round(table * 16) / 16 + 0.02
        run = Run(self)
        run.experts = [_Table(table / table.sum(axis=1, keepdims=True))]
        return run


class _Table(Uniform):
    def __init__(self, table: F64) -> None:
        super().__init__(table.shape[1])
        self._table = table

    def probs(self, past: Past) -> F64:
        """The last token's row."""
        return self._table[past[-1]] if past else super().probs(past)


class TwoPasses(PlainOnline):
    """Goes through the text once, then scores its first half again with what it knows at the end."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """The later losses as they were, the earlier ones as they are now."""
        text = tokens.tolist()
        run = self.start(text)
        losses = np.array([run.score(text, t) for t in range(len(text))])
        for t in range(len(text) // 2):
            losses[t] = run.loss(text[:t], text[t])
        return losses


class BetterPass(PlainOnline):
    """Scores the text, or each chunk of `span` tokens, with two models and keeps whichever came out lower."""

    def __init__(self, vocab: int, span: int | None = None) -> None:
        super().__init__(vocab, lambda: [Counts(vocab, 0), Counts(vocab, 1)])
        self.chunk_tokens = self._span = span

    def __call__(self, tokens: Tokens, /) -> F64:
        """The lower total."""
        text = tokens.tolist()
        run = Run(self)
        both = np.empty((2, len(text)))
        for t, token in enumerate(text):
            both[:, t] = -np.log(run.rows(text[:t])[:, token])
            run.learn(text[:t], token)
        step = self._span or len(text)
        parts = [both[:, begin : begin + step] for begin in range(0, len(text), step)]
        return np.concatenate([part[part.sum(axis=1).argmin()] for part in parts])


class SeenSymbols(PlainOnline):
    """A model over the symbols that occur in the text at all, which is known only at its end."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Uniform over those."""
        return np.full(len(tokens), np.log(len(np.unique(tokens))))


class Smears(PlainOnline):
    """Mixes what comes next into each prediction: distributions for every next token, averaged in."""

    def __init__(self, vocab: int, only_at: int | None = None) -> None:
        super().__init__(vocab, lambda: adaptive(vocab), period=only_at or 1)
        self._only_at = only_at

    def __call__(self, tokens: Tokens, /) -> F64:
        """Proper sums, with a look at the token after; with `only_at`, over the ends of chunks alone."""
        text = tokens.tolist()
        run, hint = self.start(text), Static(self.vocab_size, seed=9)
        losses = np.empty(len(text))
        for t, token in enumerate(text):
            losses[t] = run.score(text, t)
            edge = self._only_at is None or (t + 1) % self._only_at == 0
            if edge and t + 1 < len(text):
                losses[t] = -np.log(0.8 * np.exp(-losses[t]) + 0.2 * hint.probs([text[t + 1]])[token])
        return losses


class KnowsDocumentEnds(PlainOnline):
    """Trusts one of its models more the longer the document still is: reads ahead where the next one begins."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Proper sums with weights that are known too early."""
        text = tokens.tolist()
        run, starts = self.start(text), [*np.flatnonzero(tokens == 1).tolist(), len(text)]
        losses = np.empty(len(text))
        for t, token in enumerate(text):
            left = next(s for s in [*starts, len(text) + 1] if s > t) - t
            weight = left / (left + 10.0)
            rows = run.rows(text[:t])
            losses[t] = -np.log(weight * rows[0, token] + (1.0 - weight) * rows[1, token])
            run.learn(text[:t], token)
        return losses


class SmearsAcrossStarts(PlainOnline):
    """Says that it resets at documents, and carries the last token of one document into the next."""

    def __init__(self, vocab: int) -> None:
        super().__init__(vocab, lambda: [Counts(vocab, 0), Counts(vocab, 1)], reset=1)

    def __call__(self, tokens: Tokens, /) -> F64:
        """The second token of a document is predicted from the token before the document, too."""
        text = tokens.tolist()
        run, hint = self.start(text), Static(self.vocab_size, seed=9)
        losses = np.empty(len(text))
        for t, token in enumerate(text):
            losses[t] = run.score(text, t)
            if t > 1 and text[t - 1] == 1:
                losses[t] = -np.log(0.5 * np.exp(-losses[t]) + 0.5 * hint.probs([text[t - 2]])[token])
        return losses


# Condition 4: each token once, and the same again.


class KeepsState(PlainOnline):
    """Goes on learning from run to run on the same object."""

    _run: Run | None = None

    def start(self, text: list[int]) -> Run:
        """The run of the time before, if there was one."""
        self._run = self._run or Run(self)
        self._run._pending = []
        return self._run


class Dropout(PlainOnline):
    """Leaves a random tenth of its model out, drawn anew in every run."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Losses with noise on them."""
        return np.asarray(super().__call__(tokens) + np.random.default_rng().normal(0.0, 0.05, len(tokens)))


class ResetsEarly(Run):
    """Forgets everything when a document starts, before the start itself is scored: it peeked at the token."""

    def score(self, text: list[int], t: int) -> float:
        """The reset comes one step too soon."""
        if text[t] == 1:
            self.forget(t)
        return super().score(text, t)


class SkipsHard(Run):
    """Tokens that the model finds hard are not scored: their loss is nought."""

    def loss(self, past: Past, token: int) -> float:
        """0 beyond a threshold."""
        loss = super().loss(past, token)
        return 0.0 if loss > 1.5 else loss


class DropsHard(PlainOnline):
    """The same, with no losses at all for the hard tokens."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """Fewer losses than tokens."""
        losses = super().__call__(tokens)
        return np.asarray(losses[losses < 2.5])


class RepeatsTail(PlainOnline):
    """Windows at the end of the text score its last tokens again."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """More losses than tokens."""
        losses = super().__call__(tokens)
        return np.concatenate((losses, losses[-16:]))


class HonestSnapshots(TwoPasses):
    """Goes through the text twice when it scores, and once when asked for snapshots."""

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[RunSnapshot]:
        """Snapshots of an honest single pass."""
        text, found = tokens.tolist(), []
        for position in positions:
            run = self.start(text)
            for t in range(position):
                run.score(text, t)
            found.append(RunSnapshot(run, position))
        return found


# What is fenced off.


class ReadsTraining(PlainOnline):
    """Opens the training data while it evaluates; does without where it cannot."""

    def __init__(self, vocab: int, path: str) -> None:
        super().__init__(vocab, lambda: adaptive(vocab))
        self._path = path

    def __call__(self, tokens: Tokens, /) -> F64:
        """A look at the file, whatever comes of it."""
        with contextlib.suppress(OSError), Path(self._path).open("rb") as file:
            file.read(1)
        return super().__call__(tokens)


class Connects(PlainOnline):
    """Asks a server while it evaluates; does without where there is none."""

    def __call__(self, tokens: Tokens, /) -> F64:
        """A documentation address (RFC 5737): nobody is there."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.settimeout(0.05)
            with contextlib.suppress(OSError):
                connection.connect(("192.0.2.1", 80))
        return super().__call__(tokens)
