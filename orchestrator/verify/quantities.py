"""Numbers as somebody wrote them: the value, how finely it was given, and whether two of them agree."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Agreement = Literal["confirmed", "rounding", "differs"]
Dimension = Literal["score", "time", "bytes", "memory", "count"]
"""What is measured: nats or bits, seconds, bytes, MiB, or a whole number of things."""

NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,24}(?:_\d{3}){0,5})(?:\.\d{0,20})?(?:[eE][-+]?\d{1,3})?"
"""A number, perhaps with thousands separators; `NOT_MORE` must follow, so that no part of a longer word is taken."""
UNIT = r"(?:ms|secs?|seconds?|s|mins?|minutes?|m|hours?|h|[Bb]ytes?|[KMGkmg]i?[Bb]|B)"
NOT_MORE = r"(?!\w|[.,]\d|\s?[:=])"
LONGEST = 48
"""Characters of a number; what is longer is no figure of a run."""
LARGEST = 1e15
"""What is larger is none either."""

_SECONDS = {
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
}
_BYTES = {"b": 1.0, "byte": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20}
_BYTES["gib"] = 2.0**30
_PARTS = re.compile(r"[-+]?(\d*)(?:\.(\d*))?(?:[eE]([-+]?\d{1,3}))?", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A number in the unit of its dimension (seconds, bytes, MiB, nats, bits per byte)."""

    value: float
    resolution: float
    """What one more in the last digit given would add; 0 for a whole number of things, which is exact."""
    text: str
    """As it was written, its unit included."""


def quantity(text: str, unit: str = "", dimension: Dimension = "score") -> Quantity | None:
    """Read `text`; None for what is not a number, is too long or too large, or has a unit of another dimension."""
    plain = text.strip().replace(",", "").replace("_", "").replace("\u2212", "-")
    parts = _PARTS.fullmatch(plain)
    factor = unit_factor(unit, dimension)
    if parts is None or len(plain) > LONGEST or factor is None or not (parts[1] or parts[2]):
        return None
    value = float(plain) if factor == 1 else float(Decimal(plain) * Decimal(str(factor)))
    if not abs(value) < LARGEST:
        return None
    exponent = int(parts[3] or 0) - len(parts[2] or "")
    exact = exponent >= 0 and factor == 1 and dimension in ("count", "bytes") and parts[3] is None
    return Quantity(value, 0.0 if exact else factor * 10.0**exponent, (text.strip() + unit).strip())


def unit_factor(unit: str, dimension: Dimension) -> float | None:
    """What the unit is worth in the dimension's own; 1 where none is written, None where it is another's."""
    unit = unit.strip().lower()
    if not unit:
        return 1.0
    if dimension == "time":
        return _SECONDS.get(unit)
    if dimension == "bytes":
        return _BYTES.get(unit)
    if dimension == "memory":
        return _BYTES[unit] / 2.0**20 if unit in _BYTES else None
    return None


def agreement(claimed: Quantity, found: Quantity, computed: bool = False) -> Agreement:
    """Whether a claim says what was found, at the digits that both give.

    "rounding": the claim has fewer digits than were logged, and is the logged figure rounded. A figure `computed`
    from logged ones (a mean) carries their rounding as well as its own.
    """
    gap = abs(claimed.value - found.value)
    # Decimal fractions are not exact in binary; far below any digit that was written.
    slack = 1e-12 * max(abs(claimed.value), abs(found.value)) + 1e-9 * max(claimed.resolution, found.resolution)
    if gap <= slack and (claimed.resolution <= found.resolution or claimed.resolution <= 1):
        return "confirmed"
    coarse = claimed.resolution > found.resolution * (1 + 1e-9)
    allowed = claimed.resolution / 2 if coarse else found.resolution / 2
    if computed or (coarse and found.resolution):
        allowed = (claimed.resolution + found.resolution) / 2
    if gap > allowed + slack:
        return "differs"
    return "rounding" if coarse else "confirmed"


def decimals(resolution: float) -> int:
    """How many decimals show a figure of this resolution; 0 for whole numbers."""
    if resolution <= 0 or resolution >= 1:
        return 0
    return min(12, round(-math.log10(resolution)))


def shown(value: float, resolution: float = 0.0) -> str:
    """A figure with the digits it has, thousands separated."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.{decimals(resolution)}f}"
