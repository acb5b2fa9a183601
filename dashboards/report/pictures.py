"""The sections that are mostly pictures: training, evaluation, where the losses lie, budgets, machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from dashboards.charts import kinds
from dashboards.charts.kinds import Axes, Bar, Line, Part, Rule, area_chart, bar_chart, line_chart
from dashboards.charts.paper import Figure, Head, Legend, Table, figure, rect
from dashboards.pages import SKIP
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Section, moment
from golf_core.evaluate.breakdown import Breakdown, Excerpt, Group
from golf_core.results import EXPERTS, SCORERS, EvalResult, ExportResult
from golf_core.strict_json import printable

SKIP_CHUNKS = 0.04
DIGITS = 6
LEVELS = 8
"""Shades of a token, in bits above or below none."""
BITS_A_LEVEL = 1.5
PHASE_COLOURS = {"warmup": "a7", "train": "a0", "export": "a2", "evaluate": "a1", "breakdown": "a6", "audit": "a3"}
EVALUATION_COLOURS = {"loading": "a6", "scoring": "a1", "mixing": "a2", "adaptation": "a0"}


# --- training -------------------------------------------------------------------------------------


def training(run: RunData) -> Section | None:
    """Loss, speed and validation, all seeds overlaid."""
    trained = [seed for seed in run.seeds if seed.steps["step"]]
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
        if len(s.validations["step"]) > 1
    ]
    if checked:
        head = Head("validation", "Validation while training")
        blocks.append(line_chart(head, Axes("step", "BPB, whole rows", SKIP), checked))
    done = [s.result.train for s in trained if s.result.train]
    onsets = sorted({t.qat_onset_step for t in done if t.qat_onset_step})
    if onsets:
        blocks.append(f"Quantisation-aware training set in at step {', '.join(map(str, onsets))}.")
    lead = "No seed's training has ended."
    if done:
        steps = sorted({t.steps for t in done})
        span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        lead = (
            f"{span} steps of {done[0].parameters:,} parameters on {done[0].world_size} x {done[0].device}; "
            f"{max(t.train_seconds for t in done):,.1f} s at the most."
        )
    return Section("training", "Training", lead, blocks)


def _over(trained: Sequence[SeedData], x: str, ident: str, title: str, x_label: str) -> Figure:
    lines = [Line(s.label, s.steps[x], s.steps["loss"], s.colour) for s in trained]
    ends = [s.result.train.val_loss for s in trained if s.result.train]
    rules = [Rule(max(ends), "validation of the averaged weights")] if ends else []
    table = None
    if x == "elapsed_s":
        rows = [[s.result.seed, *row] for s in trained for row in zip(s.steps[x], s.steps["loss"], strict=True)]
        # The seeds' clocks never agree: a row each is shorter than a column each.
        table = Table(("seed", x_label, "loss"), rows)
    return line_chart(Head(ident, title), Axes(x_label, "nats a token", SKIP), lines, rules, table=table)


# --- evaluation -----------------------------------------------------------------------------------


def evaluation(run: RunData) -> Section | None:
    """Running BPB over chunks, all seeds and scorers."""
    done = [(s, s.result.evaluate) for s in run.seeds if s.result.evaluate is not None]
    if not done:
        return None
    drawn = [(s, v) for s, v in done if v.history]
    blocks: list[Block] = ["The scores after each chunk are not in this result."]
    if drawn:
        blocks = [_running(run, drawn), *_weights(*drawn[0])]
    _, first = done[0]
    lead = (
        f"{first.tokens:,} tokens ({first.bytes:,.0f} bytes, {first.bytes_per_token:.4f} bytes a token) in "
        f"{first.chunks:,} chunks, each scored before anything is learned from it."
    )
    return Section("evaluation", "Evaluation over the text", lead, blocks)


def _running(run: RunData, drawn: Sequence[tuple[SeedData, EvalResult]]) -> Figure:
    lines = []
    for seed, v in drawn:
        chunks = [record.chunk for record in v.history]
        for name in SCORERS:
            values = [record.bpb.get(name, math.nan) for record in v.history]
            if any(map(math.isfinite, values)):
                lines.append(Line(f"{name}, {seed.label}", chunks, values, f"c-{name}"))
    there = {name for _, v in drawn for name in v.history[-1].bpb}
    called = {"neural": "model alone", "published": "published mixture (no code length)"}
    legend = [Legend(called.get(name, name), f"c-{name}") for name in SCORERS if name in there]
    rules = [Rule(run.job.baseline.mean_bpb, "baseline")] if run.job.baseline is not None else []
    head = Head("running-bpb", "Running BPB", "One line a seed. The last point is the seed's figure.", wide=True)
    return line_chart(head, Axes("chunk", "bits per byte so far", SKIP_CHUNKS), lines, rules, legend, digits=DIGITS)


def _weights(seed: SeedData, v: EvalResult) -> list[Figure]:
    """The first seed's weights in full; the others' are as good as the same, and in its file."""
    charts = []
    chunks = [record.chunk for record in v.history]
    parts = sorted({name for record in v.history for name in record.shares})
    if parts:
        shares = {name: [round(r.shares.get(name, 0.0), DIGITS) for r in v.history] for name in parts}
        title = f"Weights in the mixture, {seed.label}"
        head = Head("mixture-weights", title, "Of its last step, after each chunk.")
        charts.append(area_chart(head, "chunk", chunks, shares))
    if all(len(record.log_weights) == len(EXPERTS) for record in v.history):
        soft = [_softmax(record.log_weights) for record in v.history]
        experts = {name: [round(row[i], DIGITS) for row in soft] for i, name in enumerate(EXPERTS)}
        caption = "Weights of the record's five experts. The weight of “entropy” is what breaks its sum to 1."
        head = Head("published-weights", f"Weights in the published mixture, {seed.label}", caption)
        charts.append(area_chart(head, "chunk", chunks, experts))
    return charts


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    total = sum(powers)
    return [power / total for power in powers]


# --- where the losses lie -------------------------------------------------------------------------


def losses(run: RunData) -> Section | None:
    """Loss by place in the document, by frequency of the token, by length of the document; and excerpts."""
    known = [(s, s.breakdown) for s in run.seeds if s.breakdown is not None]
    if not known:
        return None
    found = [breakdown for _, breakdown in known]
    place, often = "bytes since the document's beginning", "occurrences in the text that was scored"
    blocks: list[Block] = [
        _groups(found, "by-position", "By place in the document", place, lambda b: b.by_position),
        _groups(found, "by-frequency", "By how often the token occurs", often, lambda b: b.by_frequency),
        _groups(found, "by-document", "By length of the document", "bytes of the document", lambda b: b.by_document),
        _gain_by_chunk(known),
        *_excerpts(*known[0]),
    ]
    lead = "Means over the seeds, by groups of tokens: what a group's tokens cost, in bits a token."
    return Section("losses", "Where the losses lie", lead, blocks)


def _groups(
    found: Sequence[Breakdown], ident: str, title: str, x_label: str, view: Callable[[Breakdown], Sequence[Group]]
) -> Figure:
    groups = [group for group in view(found[0]) if group.tokens]
    names = [name for name in SCORERS if groups and name in groups[0].nats]
    by_low = [{group.low: group for group in view(b)} for b in found]
    bits = []
    for group in groups:
        same = [lows[group.low] for lows in by_low if group.low in lows]
        tokens = sum(g.tokens for g in same)
        bits.append([sum(g.nats.get(name, math.nan) for g in same) / tokens / math.log(2) for name in names])
    centers = [_center(group) for group in groups]
    drawn = [Line(name, centers, [row[i] for row in bits], f"c-{name}", points=True) for i, name in enumerate(names)]
    rows = [[group.label, group.tokens, *(round(b, 6) for b in row)] for group, row in zip(groups, bits, strict=True)]
    table = Table(("group", "tokens", *(f"{name}, bits a token" for name in names)), rows)
    head = Head(ident, title, "A point a group; the groups double in width.")
    return line_chart(head, Axes(x_label, "bits a token", log_x=True), drawn, table=table)


def _center(group: Group) -> float:
    low = max(group.low, 0.5)
    return low if group.high is None else math.sqrt(low * max(group.high, low))


def _gain_by_chunk(known: Sequence[tuple[SeedData, Breakdown]]) -> Figure:
    """What the mixture takes off the model's loss in each chunk."""
    lines = []
    for seed, breakdown in known:
        chunks = [(i, c) for i, c in enumerate(breakdown.chunks, start=1) if "mixture" in c.nats and c.bytes]
        gains = [round((c.nats["neural"] - c.nats["mixture"]) / c.bytes / math.log(2), 6) for _, c in chunks]
        lines.append(Line(seed.label, [i for i, _ in chunks], gains, seed.colour))
    caption = "Above zero, the mixture costs less than the model alone."
    head = Head("gain-chunks", "Gain of the mixture in each chunk", caption)
    return line_chart(head, Axes("chunk", "bits per byte"), lines)


def _excerpts(seed: SeedData, breakdown: Breakdown) -> list[Block]:
    blocks: list[Block] = []
    for kind, title in (("wins", "Where the mixture wins most"), ("loses", "Where it loses most")):
        chosen = [_excerpt(e) for e in breakdown.excerpts if e.kind == kind]
        if chosen:
            blocks += [Markup("<h3>{}</h3>").format(f"{title}, {seed.label}"), *chosen]
    explained = (
        "Excerpts: a token is shaded green where the mixture needs fewer bits than the model alone, red where "
        "it needs more; point at it for the figures."
    )
    return [explained, *blocks] if blocks else []


def _excerpt(excerpt: Excerpt) -> Markup:
    neural, mixture = excerpt.bits.get("neural", ()), excerpt.bits.get("mixture", ())
    spans = []
    for piece, n, m in zip(excerpt.pieces, neural, mixture, strict=False):
        level = min(LEVELS, round(abs(n - m) / BITS_A_LEVEL))
        kind = f"{'w' if n > m else 'l'}{level}" if level else "e"
        tip = f"model {n:.2f} bits, mixture {m:.2f} bits"
        # Line breaks are to be seen, and control codes spelled out.
        shown = "↵\n".join(printable(part) for part in piece.split("\n"))
        spans.append(Markup("<span class='{}' title='{}'>{}</span>").format(kind, tip, shown))
    sums = f"model {sum(neural):,.1f} bits, mixture {sum(mixture):,.1f} bits"
    last = excerpt.position + len(excerpt.pieces) - 1
    head = f"tokens {excerpt.position:,} to {last:,}: {sums}, gain {excerpt.gain_bits:+,.1f}"
    block = Markup("<figure class='excerpt'><figcaption>{}</figcaption><p class='text' tabindex='0'>{}</p></figure>")
    return block.format(head, Markup("").join(spans))


# --- budgets --------------------------------------------------------------------------------------


def budgets(run: RunData) -> Section | None:
    """Bars against 600 s, 600 s and 16,000,000 bytes, and the timeline."""
    limits = run.job.budgets
    blocks: list[Block] = []
    trained = [(s, s.result.train) for s in run.seeds if s.result.train is not None]
    if trained:
        bars = [Bar(s.label, (Part("training clock", t.train_seconds, "a0"),)) for s, t in trained]
        blocks.append(bar_chart(Head("train-budget", "Training clock"), bars, "s", limits.train_seconds))
    evaluated = [(s, s.result.evaluate) for s in run.seeds if s.result.evaluate is not None]
    if evaluated:
        bars = [Bar(s.label, _evaluation(v)) for s, v in evaluated]
        caption = "By phase, of rank 0." if any(v.seconds_by_phase for _, v in evaluated) else ""
        blocks.append(bar_chart(Head("eval-budget", "Evaluation", caption), bars, "s", limits.eval_seconds))
    exported = [(s, s.result.export) for s in run.seeds if s.result.export is not None]
    if exported:
        bars = [Bar(s.label, _bytes(e)) for s, e in exported]
        caption = "; ".join(sorted({f"{s.label}: {e.summary}" for s, e in exported}))
        head = Head("bytes-budget", "Artifact", caption)
        blocks.append(bar_chart(head, bars, "bytes", limits.artifact_bytes, digits=0))
    if any(s.spans for s in run.seeds):
        blocks.append(_timeline([s for s in run.seeds if s.spans]))
    if not blocks:
        return None
    lead = (
        f"{limits.train_seconds:g} s to train, {limits.eval_seconds:g} s to evaluate, "
        f"{limits.artifact_bytes:,} bytes of code and weights."
    )
    return Section("budgets", "Budgets", lead, blocks)


def _evaluation(v: EvalResult) -> tuple[Part, ...]:
    phases = {name: min(max(seconds, 0.0), v.seconds) for name, seconds in v.seconds_by_phase.items()}
    rest = v.seconds - sum(phases.values())
    if not phases or rest < 0:  # a made-up record: its sum alone is shown
        return (Part("evaluation", v.seconds, "a1"),)
    parts = [Part(name, seconds, EVALUATION_COLOURS.get(name, "a4")) for name, seconds in phases.items()]
    return (*parts, Part("other", rest, "a7"))


def _bytes(export: ExportResult) -> tuple[Part, ...]:
    groups = export.bytes_by_group or {"weights": export.weight_bytes}
    ordered = sorted(groups.items(), key=lambda item: -item[1])
    parts = [Part(name, float(size), f"a{i % 7}") for i, (name, size) in enumerate(ordered)]
    return (*parts, Part("code", float(export.code_bytes), "a7"))


def _timeline(seeds: Sequence[SeedData]) -> Figure:
    """The phases of each seed's last attempt along the clock."""
    begin = min(span.began for s in seeds for span in s.spans)
    end = max(span.ended for s in seeds for span in s.spans)
    x = kinds.row_scale(max((end - begin) / 60, 1e-6))
    parts, height = kinds.rows_frame(x, [s.label for s in seeds], "minutes")
    rows, legend = [], {}
    for number, seed in enumerate(seeds):
        for span in seed.spans:
            colour = PHASE_COLOURS.get(span.name, "a5")
            legend[span.name] = Legend(span.name, colour)
            left, right = (x((at - begin) / 60) for at in (span.began, span.ended))
            tip = f"{seed.label}, {span.name}: {span.ended - span.began:.1f} s"
            parts.append(rect(left, kinds.top_of(number), max(right - left, 1.0), kinds.BAR, f"bar {colour}", tip))
            rows.append([seed.result.seed, span.name, round(span.began - begin, 3), round(span.ended - begin, 3)])
    said = "; ".join(
        f"{s.label}: " + ", ".join(f"{span.name} {span.ended - span.began:.0f} s" for span in s.spans) for s in seeds
    )
    head = Head("timeline", "What was done when", f"Minutes since {moment(begin)}; last attempts.", wide=True)
    table = Table(("seed", "phase", "began s", "ended s"), rows)
    return figure(head, said + ".", parts, table, list(legend.values()), height)


# --- machines -------------------------------------------------------------------------------------


def machines(run: RunData) -> Section | None:
    """What the machines were doing."""
    sampled = [seed for seed in run.seeds if len(seed.system["minutes"]) > 1]
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
            head = Head(f"system-{name}", title)
            blocks.append(line_chart(head, Axes("minutes since the seed's start", unit), lines))
    return Section("machines", "Machines", "Sampled on the node of each gang's first rank.", blocks)
