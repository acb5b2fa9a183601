"""Bars of parts against a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.charts.figure import Figure, Legend, Table
from dashboards.charts.frame import WIDTH, line, rect, svg, text
from dashboards.charts.scale import Scale, shown

ROW, BAR, LEFT, RIGHT, FOOT = 34, 20, 116, 20, 46


@dataclass(frozen=True)
class Part:
    """A piece of a bar."""

    name: str
    value: float
    colour: str


@dataclass(frozen=True)
class Bar:
    """A row: its pieces from left to right."""

    label: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """All pieces together."""
        return sum(part.value for part in self.parts)


def bar_chart(
    ident: str,
    title: str,
    bars: Sequence[Bar],
    unit: str,
    limit: float | None = None,
    caption: str = "",
    digits: int = 1,
) -> Figure:
    """One bar a row; with a `limit`, a line at it."""
    height = 12 + ROW * len(bars) + FOOT
    longest = max([bar.total for bar in bars] + ([limit] if limit else []), default=1.0) or 1.0
    x = Scale(0.0, longest * 1.04, LEFT, WIDTH - RIGHT)
    bottom = height - FOOT
    parts = []
    for value in x.ticks(6):
        parts.append(line(x(value), 8, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + 18, shown(value), "tick middle"))
    for number, bar in enumerate(bars):
        top = 12 + ROW * number
        parts.append(text(LEFT - 8, top + BAR / 2 + 5, bar.label, "tick end"))
        begin = 0.0
        for part in bar.parts:
            tip = f"{bar.label}, {part.name}: {part.value:,.{digits}f} {unit}"
            parts.append(rect(x(begin), top, x(begin + part.value) - x(begin), BAR, f"bar {part.colour}", tip))
            begin += part.value
        words = f"{bar.total:,.{digits}f}"
        inside = x(bar.total) > WIDTH - 130
        kind, at = ("inside end", x(bar.total) - 6) if inside else ("value", x(bar.total) + 6)
        parts.append(text(at, top + BAR / 2 + 5, words, kind))
    if limit is not None:
        parts.append(line(x(limit), 4, x(limit), bottom, "limit"))
    parts.append(text((LEFT + WIDTH) / 2, height - 8, unit, "label middle"))
    rows = [[bar.label, part.name, part.value] for bar in bars for part in bar.parts]
    said = "; ".join(f"{bar.label}: {bar.total:,.{digits}f} {unit}" for bar in bars)
    said += f". The limit is {limit:,.{digits}f} {unit}." if limit is not None else "."
    names: dict[str, str] = {part.name: part.colour for bar in bars for part in bar.parts}
    legend = [Legend(name, colour) for name, colour in names.items()] if len(names) > 1 else []
    if limit is not None:
        legend.append(Legend(f"limit {limit:,.0f} {unit}", "limit"))
    return Figure(
        ident,
        title,
        caption,
        svg(ident, title, said, parts, height=height),
        Table(("row", "part", unit), rows),
        tuple(legend),
    )
