"""Mixtures of experts that learn as they go: the frame of most specimens, honest as it stands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from golf_core.audit.scorer import Tokens
from specimens.experts import F64, Expert, Past

Mixing = Literal["fixed", "bayes", "logistic"]
SHARE = 0.01
"""Part of the weight that is spread evenly after each update, so that no expert is lost for good."""


class Online:
    """Scores token by token and learns every `period` tokens from those scored since.

    Mixing: "fixed" weights, "bayes" (weights by what the experts gave the tokens), or "logistic" (normalised product
    of powers, exponents by gradient steps). `reset` is a token upon which everything learned is forgotten; `kind` the
    class of its runs, `Run` unless it is given.
    """

    def __init__(
        self,
        vocab: int,
        experts: Callable[[int], Sequence[Expert]],
        period: int = 1,
        mixing: Mixing = "bayes",
        epochs: int = 1,
        reset: int | None = None,
        kind: type[Run] | None = None,
    ) -> None:
        self.vocab_size, self.chunk_tokens = vocab, period if period > 1 else None
        self.experts, self.period, self.mixing, self.epochs, self.reset = experts, period, mixing, epochs, reset
        self.resets_at_documents = reset is not None
        self._kind = kind or Run

    def __call__(self, tokens: Tokens, /) -> F64:
        """Losses [n]."""
        text = tokens.tolist()
        return self.losses(self.start(text), text, 0, len(text))

    def start(self, text: list[int]) -> Run:
        """A run from the beginning. Subclasses may look at the text here, which is where some cheat."""
        return self._kind(self)

    def losses(self, run: Run, text: list[int], begin: int, end: int) -> F64:
        """Losses of text[begin:end] by a run that stands before `begin`."""
        return np.array([run.score(text, t) for t in range(begin, end)])

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> F64:
        """ln p [positions, V], as they were before each token was scored."""
        text = tokens.tolist()
        run, wanted, rows = self.start(text), set(positions), {}
        for t in range(max(positions) + 1):
            if t in wanted:
                with np.errstate(divide="ignore"):
                    rows[t] = np.log(run.probs(text[:t]))
            run.score(text, t)
        return np.stack([rows[t] for t in positions])


class Run:
    """What an `Online` scorer knows at one point of a text."""

    def __init__(self, scorer: Online) -> None:
        self.scorer = scorer
        self.experts = list(scorer.experts(scorer.vocab_size))
        self.log_weights = np.zeros(len(self.experts))
        self.exponents = np.full(len(self.experts), 1.0 / len(self.experts))
        self.pending: list[int] = []
        self._begin = 0

    def rows(self, past: Past) -> F64:
        """The experts' probabilities [experts, V]."""
        return np.stack([expert.probs(past) for expert in self.experts])

    def probs(self, past: Past) -> F64:
        """The mixture [V], which sums to one."""
        rows = self.rows(past)
        if self.scorer.mixing == "logistic":
            scores = self.exponents @ np.log(rows)
            raised = np.exp(scores - scores.max())
            return np.asarray(raised / raised.sum())
        weights = np.exp(self.log_weights - self.log_weights.max())
        return np.asarray(weights @ rows / weights.sum())

    def score(self, text: list[int], t: int) -> float:
        """The loss of token t; then the period's learning, if it is due."""
        token = text[t]
        loss = self.loss(text[self._begin : t], token)
        if token == self.scorer.reset:
            self.forget(t)
            return loss
        self.pending.append(t)
        if (t + 1) % self.scorer.period == 0:
            self.learn_pending(text)
        return loss

    def forget(self, t: int) -> None:
        """Begin anew with token t for context."""
        self.__dict__.update(type(self)(self.scorer).__dict__)
        self._begin = t

    def loss(self, past: Past, token: int) -> float:
        """-ln of the token's probability."""
        with np.errstate(divide="ignore"):
            return float(-np.log(self.probs(past)[token]))

    def learn_pending(self, text: list[int]) -> None:
        """Learn from all tokens scored since the last time; experts several times over, if there are epochs."""
        for t in self.pending:
            self.reweigh(text[self._begin : t], text[t])
        for _ in range(self.scorer.epochs):
            for t in self.pending:
                self.learn(text[self._begin : t], text[t])
        self.pending = []

    def learn(self, past: Past, token: int) -> None:
        """One token to all experts."""
        for expert in self.experts:
            expert.learn(past, token)

    def reweigh(self, past: Past, token: int) -> None:
        """The mixture's weights, by what the experts say of the token."""
        if self.scorer.mixing == "fixed" or len(self.experts) == 1:
            return
        rows = self.rows(past)
        if self.scorer.mixing == "logistic":
            logs = np.log(rows)
            self.exponents += 0.02 * (logs[:, token] - logs @ self.probs(past)).clip(-5, 5)
            return
        gained = self.log_weights + np.log(rows[:, token])
        weights = np.exp(gained - gained.max())
        weights /= weights.sum()
        self.log_weights = np.log((1 - SHARE) * weights + SHARE / len(weights))


class RunSnapshot:
    """A run stopped before `position`."""

    def __init__(self, run: Run, position: int) -> None:
        self._run, self.position = run, position

    def score(self, tokens: Tokens, stop: int) -> F64 | Mapping[str, F64]:
        """Losses of tokens[position:stop] by a copy of the run."""
        return self._run.scorer.losses(copy.deepcopy(self._run), tokens.tolist(), self.position, stop)


class PlainOnline(Online):
    """The same, as a plain scorer that shows nothing but losses."""

    distributions = None


class RestartableOnline(Online):
    """The same, able to start from the middle: from the last multiple of `period` (at least 8) before a position."""

    exactly = False
    """Snapshots stand at the positions themselves."""
    snapshot: type[RunSnapshot] = RunSnapshot

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[RunSnapshot]:
        """Copies of one run along the text."""
        text, step = tokens.tolist(), 1 if self.exactly else max(self.period, 8)
        run, kept = self.start(text), dict[int, RunSnapshot]()
        wanted = {p // step * step for p in positions}
        for t in range(max(positions) + 1):
            if t in wanted:
                kept[t] = self.snapshot(copy.deepcopy(run), t)
            run.score(text, t)
        return [kept[p // step * step] for p in positions]
