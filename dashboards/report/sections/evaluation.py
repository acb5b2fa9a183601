"""The evaluation over the text: running BPB and the weights of the experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dashboards.charts import Figure, Legend, Line, Rule, Table, area_chart, line_chart
from dashboards.report.data import RunData, SeedData
from dashboards.report.sections.parts import Block, Section, figure, paragraph
from golf_core.results import EXPERTS, SCORERS, EvalResult

SKIP = 0.04
DIGITS = 6
AREA_COLOURS = ("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7")


def evaluation(run: RunData) -> Section | None:
    """Running BPB over chunks, all seeds and scorers."""
    done = [(s, s.result.evaluate) for s in run.seeds if s.result.evaluate is not None]
    if not done:
        return None
    blocks: list[Block] = []
    drawn = [(s, v) for s, v in done if v.history]
    if drawn:
        blocks.append(figure(_running(run, drawn)))
        blocks += [figure(chart) for chart in _weights(drawn)]
    else:
        blocks.append(paragraph("The scores after each chunk are not in this result."))
    _, first = done[0]
    lead = (
        f"{first.tokens:,} tokens ({first.bytes:,.0f} bytes, {first.bytes_per_token:.4f} bytes a token) in "
        f"{first.chunks:,} chunks, each scored before anything is learned from it."
    )
    return Section("evaluation", "Evaluation over the text", lead, blocks)


def _running(run: RunData, drawn: Sequence[tuple[SeedData, EvalResult]]) -> Figure:
    lines, columns = [], ["chunk"]
    by_chunk: dict[int, dict[str, float]] = {}
    for seed, v in drawn:
        chunks = [record.chunk for record in v.history]
        for name in SCORERS:
            values = [record.bpb.get(name, math.nan) for record in v.history]
            if not any(map(math.isfinite, values)):
                continue
            label = f"{name}, {seed.label}"
            lines.append(Line(label, chunks, values, f"c-{name}"))
            columns.append(label)
            for chunk, value in zip(chunks, values, strict=True):
                by_chunk.setdefault(chunk, {})[label] = round(value, DIGITS)
    rows = [[chunk, *(cells.get(name) for name in columns[1:])] for chunk, cells in sorted(by_chunk.items())]
    there = {name for _, v in drawn for name in v.history[-1].bpb}
    legend = [Legend(_named(name), f"c-{name}") for name in SCORERS if name in there]
    rules = [Rule(run.job.baseline.mean_bpb, "baseline")] if run.job.baseline is not None else []
    return line_chart(
        "running-bpb",
        "Running BPB",
        lines,
        "chunk",
        "bits per byte so far",
        "One line a seed. The last point is the seed's figure.",
        rules,
        legend,
        skip=SKIP,
        table=Table(tuple(columns), rows),
        wide=True,
    )


def _named(scorer: str) -> str:
    return {"neural": "model alone", "mixture": "mixture", "published": "published mixture (no code length)"}[scorer]


def _weights(drawn: Sequence[tuple[SeedData, EvalResult]]) -> list[Figure]:
    """The first seed's weights in full; the others' are as good as the same, and in its file."""
    seed, v = drawn[0]
    charts = []
    chunks = [record.chunk for record in v.history]
    parts = sorted({name for record in v.history for name in record.shares})
    if parts:
        shares = {name: [round(r.shares.get(name, 0.0), DIGITS) for r in v.history] for name in parts}
        charts.append(
            _area(
                "mixture-weights",
                f"Weights in the mixture, {seed.label}",
                chunks,
                shares,
                "Of its last step, after each chunk.",
            )
        )
    if all(len(record.log_weights) == len(EXPERTS) for record in v.history):
        soft = [_softmax(record.log_weights) for record in v.history]
        experts = {name: [round(row[i], DIGITS) for row in soft] for i, name in enumerate(EXPERTS)}
        caption = "Weights of the record's five experts. The weight of “entropy” is what breaks its sum to 1."
        charts.append(
            _area("published-weights", f"Weights in the published mixture, {seed.label}", chunks, experts, caption)
        )
    return charts


def _area(ident: str, title: str, x: Sequence[float], shares: Mapping[str, Sequence[float]], caption: str) -> Figure:
    colours = {name: AREA_COLOURS[i % len(AREA_COLOURS)] for i, name in enumerate(shares)}
    return area_chart(ident, title, x, shares, "chunk", colours, caption)


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    total = sum(powers)
    return [power / total for power in powers]
