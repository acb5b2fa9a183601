"""From figures to places on the paper, and the figures that are written beside an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to `begin`..`end`, evenly or by logarithms."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` lies; beyond the ends, it is held at them."""
        low, high, value = (self.low, self.high, min(max(value, self.low), self.high))
        if self.log:
            low, high, value = (math.log(x) for x in (low, high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.begin + share * (self.end - self.begin)

    def ticks(self, most: int = 6) -> list[float]:
        """Round figures within the range, at most `most`."""
        return log_ticks(self.low, self.high, most) if self.log else even_ticks(self.low, self.high, most)


def even_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten, thinned out; with few of them, their halves and fifths too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in range(first, last + 1) for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def bounds(values: Sequence[float], log: bool = False, pad: float = 0.04) -> tuple[float, float]:
    """The range of `values` with a little room around it. Without finite values: 0 to 1."""
    sound = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not sound:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(sound), max(sound)
    if log:
        return (low / 1.2, high * 1.2)
    room = (high - low) * pad or abs(high) * 0.01 or 1.0
    return low - room, high + room


def shown(value: float) -> str:
    """A figure beside an axis: short, without needless zeros."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e6 if letter == 'M' else 1e3):.10g}{letter}"
    return f"{value:.10g}" if size >= 1000 else f"{value:.6g}"
