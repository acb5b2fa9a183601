"""What can be audited: the protocols of a scorer, how one is named and built, and how its answers are checked.

Losses are nats. `losses[t]` is the loss of token t given the tokens before it; a scorer that takes the first token
as context only returns one loss fewer. A scorer with several scores returns a mapping from their names to losses.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from golf_core.errors import GolfError, UserError

Tokens = NDArray[np.int64]
F64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Output = Floats | Mapping[str, Floats]
"""An array, or one for each of the scorer's named scores. The name of an only score is "loss"."""
ONLY = "loss"


class Scorer(Protocol):
    """Anything that maps tokens (int64 [n]) to losses in nats (float [n], or [n - 1]).

    It may declare, as attributes, `vocab_size` (int), `chunk_tokens` (int: state changes only at multiples of it),
    `resets_at_documents` (bool: nothing is carried over from one document to the next), `complete_from` (int: before
    this token a part of it does not speak yet, so sums are measured from there on).

    Two methods are optional, and trusted only after a comparison:

    - `snapshots(tokens, positions) -> Sequence[Snapshot]`: it can start from the middle, which makes the audit fast.
      One snapshot for each of the ascending `positions`, at that position or before it;
    - `distributions(tokens, positions) -> Output`: ln p [len(positions), V] of every symbol at each of `positions`.
    """

    def __call__(self, tokens: Tokens, /) -> Output:
        """Losses of all tokens, from a fresh start."""
        ...


class Snapshot(Protocol):
    """A scorer's state before the token at `position`: all earlier tokens have been scored and learned from.

    `score` may be called any number of times and changes nothing. Optional:

    - `score_substitutes(tokens, position, symbols) -> Output`: the losses [len(symbols)] of the token at `position`
      if it were each of `symbols` in turn, as `score` would give them;
    - `expected_sums(tokens, position) -> Mapping[str, float]`: what a formula says the sum of exp(-loss) over the
      alphabet is at `position`, for some of the scores. Reported beside the measured sum.
    """

    @property
    def position(self) -> int:
        """The first token that is not yet scored."""
        ...

    def score(self, tokens: Tokens, stop: int) -> Output:
        """Losses [stop - position] of tokens[position:stop], for `tokens` [n] that may differ from `position` on."""
        ...


class ScorerError(UserError):
    """The scorer cannot be audited: it does not load, fails, or returns something that is no loss."""


class WrongCountError(ScorerError):
    """The scorer returned another number of losses than there are tokens."""

    def __init__(self, label: str, tokens: int, losses: int) -> None:
        self.tokens, self.losses = tokens, losses
        super().__init__(f"{label}: returned {losses:,} losses for {tokens:,} tokens; return one for each, in order")


@dataclass(frozen=True)
class ScorerSpec:
    """A scorer by name, so that another process can build it too."""

    target: str
    """`module:name`; the name may be dotted. A class is built, a function is the scorer itself."""
    factory: bool = False
    """The function builds the scorer."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class or factory."""

    def build(self) -> tuple[Scorer, Callable[[], Scorer] | None]:
        """The scorer, and how to build a fresh one (None for a plain function). Raises `ScorerError`."""
        found = self._find()
        if not (self.factory or isinstance(found, type)):
            if self.arguments:
                raise ScorerError(f"{self.target}: arguments are for a class or a factory; say --factory if it is one")
            return found, None

        def fresh() -> Scorer:
            try:
                built = found(**self.arguments)
            except Exception as error:
                raise ScorerError(f"{self.target}: could not be built ({describe(error)})") from error
            if not callable(built):
                raise ScorerError(f"{self.target}: built a {type(built).__name__}, which cannot be called with tokens")
            return built

        return fresh(), fresh

    def _find(self) -> Any:
        module, _, name = self.target.partition(":")
        if not module or not name:
            raise ScorerError(f"{self.target}: name a scorer as module:function")
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:
            raise ScorerError(f"{self.target}: the module cannot be imported ({describe(error)})") from error
        for part in name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as error:
                raise ScorerError(f"{self.target}: module {module} has no {name}; check the name") from error
        if not callable(found):
            raise ScorerError(f"{self.target}: a {type(found).__name__} cannot be called with tokens")
        return found


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as keyword arguments; a value is JSON where it parses as such, else text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--argument {pair}: give NAME=VALUE")
        try:
            arguments[name] = json.loads(value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def import_from(folder: Path) -> None:
    """Let modules of `folder` be imported, as `python -m` does."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def declared(scorer: Scorer, name: str) -> Any:
    """An attribute by which a scorer may describe itself; None without one."""
    return getattr(scorer, name, None)


def describe(error: BaseException) -> str:
    """One line that names an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@dataclass(frozen=True)
class Losses:
    """Losses of a whole text: float64 [names, n]. Where the first token is context only, its column is 0."""

    names: tuple[str, ...]
    values: F64
    first: int
    """First scored token: 0 or 1."""


def differences(a: F64, b: F64) -> F64:
    """|a - b|, with 0 between equal infinities and infinity between an infinity and anything else."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart[np.isnan(apart)] = 0.0  # inf - inf: NaN itself never gets here
    return apart


def beyond(apart: F64, base: F64, tolerance: float) -> NDArray[np.bool_]:
    """Which differences exceed `tolerance` nats plus that share of the finite losses `base`."""
    return apart > tolerance * (1.0 + np.where(np.isfinite(base), np.abs(base), 0.0))


class Subject:
    """Runs a scorer and turns what it returns into `Losses`. Raises `ScorerError` for what is no loss.

    `fresh` builds a new scorer, which every run starts from once `renewed` is set.
    """

    def __init__(self, scorer: Scorer, label: str, vocab: int, fresh: Callable[[], Scorer] | None = None) -> None:
        self.scorer, self.label, self.vocab, self.fresh = scorer, label, vocab, fresh
        self.runs, self.seconds, self.renewed = 0, 0.0, False
        self.names: tuple[str, ...] = ()
        """Names of the scores; known after the first run."""

    @property
    def seconds_per_run(self) -> float:
        """Mean time of a plain run so far."""
        return self.seconds / max(self.runs, 1)

    def can(self, method: str) -> bool:
        """Whether the scorer has an optional method."""
        return callable(getattr(self.scorer, method, None))

    def run(self, tokens: Tokens, scorer: Scorer | None = None) -> Losses:
        """Score `tokens` [n] from the start."""
        if scorer is None:
            scorer = self.fresh() if self.renewed and self.fresh else self.scorer
        began = time.perf_counter()
        output = self._call(scorer, "", tokens.copy())
        self.seconds += time.perf_counter() - began
        self.runs += 1
        values, first = self._losses(output, len(tokens))
        return Losses(self.names, values, first)

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[Snapshot]:
        """The scorer's snapshots, each checked to lie at or before its position."""
        found = list(self._call(self.scorer, "snapshots", tokens.copy(), list(positions)))
        if len(found) != len(positions):
            raise ScorerError(f"{self.label}: snapshots gave {len(found)} for {len(positions)} positions")
        for snapshot, position in zip(found, positions, strict=True):
            if not 0 <= snapshot.position <= position:
                raise ScorerError(f"{self.label}: a snapshot at {snapshot.position} cannot serve position {position}")
        return found

    def score(self, snapshot: Snapshot, tokens: Tokens, stop: int) -> F64:
        """Losses [names, stop - position] from a snapshot."""
        output = self._call(snapshot, "score", tokens.copy(), stop)
        return self._table(output, (stop - snapshot.position,), "snapshot.score")

    def score_substitutes(self, snapshot: Snapshot, tokens: Tokens, position: int, symbols: NDArray[np.int64]) -> F64:
        """Losses [names, symbols] of the token at `position` as each of `symbols`."""
        if callable(getattr(snapshot, "score_substitutes", None)):
            output = self._call(snapshot, "score_substitutes", tokens.copy(), position, symbols.copy())
            return self._table(output, (len(symbols),), "snapshot.score_substitutes")
        rows = []
        changed = tokens.copy()
        for symbol in symbols:
            changed[position] = symbol
            rows.append(self.score(snapshot, changed, position + 1)[:, -1])
        return np.stack(rows, axis=1)

    def expected_sums(self, snapshot: Snapshot, tokens: Tokens, position: int) -> Mapping[str, float]:
        """The scorer's own formula for the sums; empty without one."""
        if not callable(getattr(snapshot, "expected_sums", None)):
            return {}
        found = self._call(snapshot, "expected_sums", tokens.copy(), position)
        return {str(name): float(value) for name, value in found.items()}

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> F64:
        """ln p [names, positions, V]."""
        output = self._call(self.scorer, "distributions", tokens.copy(), list(positions))
        return self._table(output, (len(positions), self.vocab), "distributions")

    def _call(self, owner: Any, method: str, *arguments: Any) -> Any:
        function = getattr(owner, method) if method else owner
        try:
            return function(*arguments)
        except GolfError:
            raise
        except Exception as error:
            where = f" in {method}" if method else ""
            raise ScorerError(f"{self.label}: failed{where} ({describe(error)})") from error

    def _losses(self, output: Output, n: int) -> tuple[F64, int]:
        columns = self._columns(output, "the scorer")
        lengths = {len(column) for column in columns if column.ndim == 1}
        if any(column.ndim != 1 for column in columns) or len(lengths) != 1:
            shapes = ", ".join(str(list(column.shape)) for column in columns)
            raise ScorerError(
                f"{self.label}: returned losses of shape {shapes} for {n:,} tokens; return [n] or [n - 1]"
            )
        length = lengths.pop()
        if length not in (n, n - 1):
            raise WrongCountError(self.label, n, length)
        values = np.stack(columns)
        return np.concatenate((np.zeros((len(values), n - length)), values), axis=1), n - length

    def _table(self, output: Output, shape: tuple[int, ...], what: str) -> F64:
        columns = self._columns(output, what)
        for column in columns:
            if column.shape != shape:
                raise ScorerError(f"{self.label}: {what} returned shape {list(column.shape)}, not {list(shape)}")
        return np.stack(columns)

    def _columns(self, output: Output, what: str) -> list[F64]:
        named = dict(output) if isinstance(output, Mapping) else {ONLY: output}
        if not self.names:
            if not named:
                raise ScorerError(f"{self.label}: {what} returned no losses at all")
            self.names = tuple(str(name) for name in named)
        if set(named) != set(self.names):
            raise ScorerError(
                f"{self.label}: {what} returned scores named {', '.join(map(str, named))}, "
                f"not {', '.join(self.names)} as before"
            )
        return [self._column(named[name], what) for name in self.names]

    def _column(self, values: Any, what: str) -> F64:
        try:
            column = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ScorerError(f"{self.label}: {what} returned no numbers ({describe(error)})") from error
        if np.isnan(column).any():
            at = int(np.argmax(np.isnan(column.reshape(-1))))
            raise ScorerError(f"{self.label}: {what} returned NaN (first at index {at:,}); a loss is a number of nats")
        return column


class Clock:
    """Time since its start against a budget in seconds (None: no end)."""

    def __init__(self, budget_s: float | None) -> None:
        self._began = time.perf_counter()
        self._budget = float("inf") if budget_s is None else budget_s

    @property
    def seconds(self) -> float:
        """Elapsed."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Until the budget is used up; infinite without one."""
        return self._budget - self.seconds

    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.left <= 0.0
