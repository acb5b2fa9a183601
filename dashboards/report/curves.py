"""Curves: training over steps and over the clock, the evaluation over the text, the machines meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dashboards.charts import Axes, Figure, Head, Legend, Line, Rule, Table, area_chart, line_chart
from dashboards.pages import SKIP
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Section
from golf_core.results import EXPERTS, SCORERS, EvalResult


def training(run: RunData) -> Section | None:
    """Loss, speed and validation, all seeds overlaid."""
    trained = [seed for seed in run.seeds if len(seed.steps)]
    if not trained:
        return None
    blocks: list[Block] = [
        _over(trained, "step", "loss-steps", "Training loss over steps", "step"),
        _over(trained, "elapsed_s", "loss-clock", "Training loss over the clock", "seconds of the training clock"),
    ]
    speed = [Line(s.label, s.steps["step"], s.steps["ms_per_step"], s.colour) for s in trained]
    head = Head("speed", "Time a step", "As logged, a mean since the log line before.")
    blocks.append(line_chart(head, Axes("step", "ms a step", SKIP), speed))
    checked = [
        Line(s.label, s.validations["step"], s.validations["val_bpb"], s.colour, points=True)
        for s in trained
        if len(s.validations) > 1
    ]
    if checked:
        head = Head("validation", "Validation while training")
        blocks.append(line_chart(head, Axes("step", "BPB, whole rows", SKIP), checked))
    onsets = {s.result.train.qat_onset_step for s in trained if s.result.train and s.result.train.qat_onset_step}
    if onsets:
        shown = ", ".join(str(step) for step in sorted(onsets))
        blocks.append(f"Quantisation-aware training set in at step {shown}.")
    return Section("training", "Training", _lead(trained), blocks)


def system(run: RunData) -> Section | None:
    """What the machines were doing."""
    sampled = [seed for seed in run.seeds if len(seed.system) > 1]
    if not sampled:
        return None
    series = (
        ("gpu_percent", "GPU utilisation", "%, mean of the gang's GPUs"),
        ("gpu_memory_mib", "GPU memory", "MiB, all of the gang's GPUs"),
        ("cpu_percent", "CPU utilisation of the node", "%"),
        ("memory_mib", "Memory in use on the node", "MiB"),
    )
    blocks = []
    for name, title, unit in series:
        lines = [
            Line(s.label, s.system["minutes"], s.system[name], s.colour)
            for s in sampled
            if any(map(math.isfinite, s.system[name]))
        ]
        if lines:
            blocks.append(
                line_chart(Head(f"system-{name}", title), Axes("minutes since the seed's start", unit), lines)
            )
    return Section("machines", "Machines", "Sampled on the node of each gang's first rank.", blocks)


def _over(trained: list[SeedData], x: str, ident: str, title: str, x_label: str) -> Figure:
    lines = [Line(s.label, s.steps[x], s.steps["loss"], s.colour) for s in trained]
    rules = [
        Rule(value, "validation of the averaged weights")
        for value in [max((s.result.train.val_loss for s in trained if s.result.train), default=math.nan)]
        if math.isfinite(value)
    ]
    table = None
    if x == "elapsed_s":
        rows = [
            [s.result.seed, *row] for s in trained for row in zip(s.steps["elapsed_s"], s.steps["loss"], strict=True)
        ]
        # The seeds' clocks never agree: a row each is shorter than a column each.
        table = Table(("seed", x_label, "loss"), rows)
    return line_chart(Head(ident, title), Axes(x_label, "nats a token", SKIP), lines, rules, table=table)


def _lead(trained: list[SeedData]) -> str:
    done = [s.result.train for s in trained if s.result.train]
    if not done:
        return "No seed's training has ended."
    steps = sorted({t.steps for t in done})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return (
        f"{span} steps of {done[0].parameters:,} parameters on {done[0].world_size} x {done[0].device}; "
        f"{max(t.train_seconds for t in done):,.1f} s at the most."
    )


SKIP_CHUNKS = 0.04
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
        blocks.append(_running(run, drawn))
        blocks += _weights(drawn)
    else:
        blocks.append("The scores after each chunk are not in this result.")
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
    head = Head("running-bpb", "Running BPB", "One line a seed. The last point is the seed's figure.", wide=True)
    axes = Axes("chunk", "bits per byte so far", SKIP_CHUNKS)
    return line_chart(head, axes, lines, rules, legend, Table(tuple(columns), rows))


def _named(scorer: str) -> str:
    special = {"neural": "model alone", "published": "published mixture (no code length)"}
    return special.get(scorer, scorer)


def _weights(drawn: Sequence[tuple[SeedData, EvalResult]]) -> list[Figure]:
    """The first seed's weights in full; the others' are as good as the same, and in its file."""
    seed, v = drawn[0]
    charts = []
    chunks = [record.chunk for record in v.history]
    parts = sorted({name for record in v.history for name in record.shares})
    if parts:
        shares = {name: [round(r.shares.get(name, 0.0), DIGITS) for r in v.history] for name in parts}
        title = f"Weights in the mixture, {seed.label}"
        charts.append(_area(Head("mixture-weights", title, "Of its last step, after each chunk."), chunks, shares))
    if all(len(record.log_weights) == len(EXPERTS) for record in v.history):
        soft = [_softmax(record.log_weights) for record in v.history]
        experts = {name: [round(row[i], DIGITS) for row in soft] for i, name in enumerate(EXPERTS)}
        caption = "Weights of the record's five experts. The weight of “entropy” is what breaks its sum to 1."
        title = f"Weights in the published mixture, {seed.label}"
        charts.append(_area(Head("published-weights", title, caption), chunks, experts))
    return charts


def _area(head: Head, x: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Figure:
    colours = {name: AREA_COLOURS[i % len(AREA_COLOURS)] for i, name in enumerate(shares)}
    return area_chart(head, "chunk", x, shares, colours)


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    total = sum(powers)
    return [power / total for power in powers]
