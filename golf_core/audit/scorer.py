"""What can be audited: the protocols of a scorer, how one is named and built, and what it may answer.

Losses are nats. `losses[t]` is the loss of token t given the tokens before it; a scorer that takes the first token
as context only returns one loss fewer. A scorer with several scores returns a mapping from their names to losses.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from golf_core.errors import UserError

Tokens = NDArray[np.int64]
Floats = NDArray[np.floating]
Output = Floats | Mapping[str, Floats]
"""An array, or one for each of the scorer's named scores. The name of an only score is "loss"."""
ONLY = "loss"


class Scorer(Protocol):
    """Anything that maps tokens (int64 [n]) to losses in nats (float [n], or [n - 1]).

    It may declare, as attributes, `vocab_size` (int), `chunk_tokens` (int: state changes only at multiples of it),
    `resets_at_documents` (bool: nothing is carried over from one document to the next), `complete_from` (int: before
    this token a part of it does not speak yet, so sums are measured from there on).
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


class Restartable(Scorer, Protocol):
    """A scorer that can start from the middle, which makes the audit fast. Trusted only after a comparison."""

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> Sequence[Snapshot]:
        """One snapshot for each of the ascending `positions`, at that position or before it."""
        ...


class Distributed(Scorer, Protocol):
    """A scorer that can show whole distributions. Trusted only after a comparison."""

    def distributions(self, tokens: Tokens, positions: Sequence[int]) -> Output:
        """ln p [len(positions), V] of every symbol at each of `positions`."""
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
