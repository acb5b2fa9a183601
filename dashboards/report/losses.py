"""Where the losses lie, and where the mixture wins and loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from dashboards.charts import Axes, Figure, Head, Line, Table, line_chart
from dashboards.pages import seed_colour
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Section
from golf_core.evaluate.breakdown import Breakdown, Excerpt, Group
from golf_core.results import SCORERS
from golf_core.strict_json import printable

LEVELS = 8
"""Shades of a token, in bits above or below none."""
BITS_A_LEVEL = 1.5


def losses(run: RunData) -> Section | None:
    """Loss by place in the document, by frequency of the token, by length of the document; and excerpts."""
    known = [s for s in run.seeds if s.breakdown is not None]
    if not known:
        return None
    found = [s.breakdown for s in known if s.breakdown is not None]
    views: tuple[tuple[str, str, str, Callable[[Breakdown], Sequence[Group]]], ...] = (
        ("by-position", "By place in the document", "bytes since the document's beginning", lambda b: b.by_position),
        (
            "by-frequency",
            "By how often the token occurs",
            "occurrences in the text that was scored",
            lambda b: b.by_frequency,
        ),
        ("by-document", "By length of the document", "bytes of the document", lambda b: b.by_document),
    )
    blocks: list[Block] = [_groups(found, *view) for view in views]
    blocks += [_gain_by_chunk(known)]
    blocks += _excerpts(known[0])
    lead = "Means over the seeds, by groups of tokens: what a group's tokens cost, in bits a token."
    return Section("losses", "Where the losses lie", lead, blocks)


def _groups(
    found: Sequence[Breakdown], ident: str, title: str, x_label: str, view: Callable[[Breakdown], Sequence[Group]]
) -> Figure:
    groups = [group for group in view(found[0]) if group.tokens]
    by_low = [{group.low: group for group in view(b)} for b in found]
    rows, lines = [], {name: ([], []) for name in SCORERS if groups and name in groups[0].nats}  # type: ignore[var-annotated]
    for group in groups:
        same = [lows[group.low] for lows in by_low if group.low in lows]
        tokens = sum(g.tokens for g in same)
        row: list[object] = [group.label, group.tokens]
        for name, (xs, ys) in lines.items():
            bits = sum(g.nats.get(name, math.nan) for g in same) / tokens / math.log(2)
            xs.append(_center(group))
            ys.append(bits)
            row.append(round(bits, 6))
        rows.append(row)
    drawn = [Line(name, xs, ys, f"c-{name}", points=True) for name, (xs, ys) in lines.items()]
    table = Table(("group", "tokens", *(f"{name}, bits a token" for name in lines)), rows)
    head = Head(ident, title, "A point a group; the groups double in width.")
    return line_chart(head, Axes(x_label, "bits a token", log_x=True), drawn, table=table)


def _center(group: Group) -> float:
    low = max(group.low, 0.5)
    return low if group.high is None else math.sqrt(low * max(group.high, low))


def _gain_by_chunk(known: Sequence[SeedData]) -> Figure:
    """What the mixture takes off the model's loss in each chunk."""
    lines = []
    for index, seed in enumerate(known):
        assert seed.breakdown is not None
        chunks = [c for c in seed.breakdown.chunks if "mixture" in c.nats and c.bytes]
        gains = [(c.nats["neural"] - c.nats["mixture"]) / c.bytes / math.log(2) for c in chunks]
        numbers = [i + 1 for i, c in enumerate(seed.breakdown.chunks) if "mixture" in c.nats and c.bytes]
        lines.append(Line(seed.label, numbers, [round(g, 6) for g in gains], seed_colour(index)))
    caption = "Above zero, the mixture costs less than the model alone."
    head = Head("gain-chunks", "Gain of the mixture in each chunk", caption)
    return line_chart(head, Axes("chunk", "bits per byte"), lines)


def _excerpts(seed: SeedData) -> list[Block]:
    assert seed.breakdown is not None
    blocks: list[Block] = []
    for kind, title in (("wins", "Where the mixture wins most"), ("loses", "Where it loses most")):
        chosen = [e for e in seed.breakdown.excerpts if e.kind == kind]
        if chosen:
            blocks.append(Markup("<h3>{}</h3>").format(f"{title}, {seed.label}"))
            blocks += [_excerpt(e) for e in chosen]
    if blocks:
        blocks.insert(
            0,
            (
                "Excerpts: a token is shaded green where the mixture needs fewer bits than the model alone, red where "
                "it needs more; point at it for the figures."
            ),
        )
    return blocks


def _shown(piece: str) -> str:
    """A token's text with its line breaks to be seen, and control codes spelled out."""
    return "↵\n".join(printable(part) for part in piece.split("\n"))


def _excerpt(excerpt: Excerpt) -> Markup:
    neural, mixture = excerpt.bits.get("neural", ()), excerpt.bits.get("mixture", ())
    spans = []
    for piece, n, m in zip(excerpt.pieces, neural, mixture, strict=False):
        level = min(LEVELS, round(abs(n - m) / BITS_A_LEVEL))
        kind = f"{'w' if n > m else 'l'}{level}" if level else "e"
        tip = f"model {n:.2f} bits, mixture {m:.2f} bits"
        span = Markup("<span class='{}' title='{}'>{}</span>")
        spans.append(span.format(kind, tip, _shown(piece)))
    sums = f"model {sum(neural):,.1f} bits, mixture {sum(mixture):,.1f} bits"
    last = excerpt.position + len(excerpt.pieces) - 1
    head = f"tokens {excerpt.position:,} to {last:,}: {sums}, gain {excerpt.gain_bits:+,.1f}"
    block = Markup("<figure class='excerpt'><figcaption>{}</figcaption><p class='text' tabindex='0'>{}</p></figure>")
    return block.format(head, Markup("").join(spans))
