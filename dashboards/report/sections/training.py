"""Training curves over steps and over the clock."""

from __future__ import annotations

import math

from dashboards.charts import Figure, Line, Rule, Table, line_chart
from dashboards.report.data import RunData, SeedData
from dashboards.report.sections.parts import Block, Section, figure, paragraph, seed_colour

SKIP = 0.03
"""The steep beginning does not decide the vertical range."""


def training(run: RunData) -> Section | None:
    """Loss, speed and validation, all seeds overlaid."""
    trained = [(seed_colour(i), seed) for i, seed in enumerate(run.seeds) if len(seed.steps)]
    if not trained:
        return None
    blocks: list[Block] = [
        figure(_over(trained, "step", "loss-steps", "Training loss over steps", "step")),
        figure(
            _over(trained, "elapsed_s", "loss-clock", "Training loss over the clock", "seconds of the training clock")
        ),
    ]
    speed = [Line(s.label, s.steps["step"], s.steps["ms_per_step"], colour) for colour, s in trained]
    blocks.append(
        figure(
            line_chart(
                "speed",
                "Time a step",
                speed,
                "step",
                "ms a step",
                "As logged, a mean since the log line before.",
                skip=SKIP,
            )
        )
    )
    checked = [
        Line(s.label, s.validations["step"], s.validations["val_bpb"], colour, points=True)
        for colour, s in trained
        if len(s.validations) > 1
    ]
    if checked:
        blocks.append(
            figure(line_chart("validation", "Validation while training", checked, "step", "BPB, whole rows", skip=SKIP))
        )
    onsets = {s.result.train.qat_onset_step for _, s in trained if s.result.train and s.result.train.qat_onset_step}
    if onsets:
        shown = ", ".join(str(step) for step in sorted(onsets))
        blocks.append(paragraph(f"Quantisation-aware training set in at step {shown}."))
    return Section("training", "Training", _lead(trained), blocks)


def system(run: RunData) -> Section | None:
    """What the machines were doing."""
    sampled = [(seed_colour(i), seed) for i, seed in enumerate(run.seeds) if len(seed.system) > 1]
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
            Line(s.label, s.system["minutes"], s.system[name], colour)
            for colour, s in sampled
            if any(map(math.isfinite, s.system[name]))
        ]
        if lines:
            blocks.append(figure(line_chart(f"system-{name}", title, lines, "minutes since the seed's start", unit)))
    return Section("machines", "Machines", "Sampled on the node of each gang's first rank.", blocks)


def _over(trained: list[tuple[str, SeedData]], x: str, ident: str, title: str, x_label: str) -> Figure:
    lines = [Line(s.label, s.steps[x], s.steps["loss"], colour) for colour, s in trained]
    rules = [
        Rule(value, "validation of the averaged weights")
        for value in [max((s.result.train.val_loss for _, s in trained if s.result.train), default=math.nan)]
        if math.isfinite(value)
    ]
    table = None
    if x == "elapsed_s":
        rows = [
            [s.result.seed, *row] for _, s in trained for row in zip(s.steps["elapsed_s"], s.steps["loss"], strict=True)
        ]
        # The seeds' clocks never agree: a row each is shorter than a column each.
        table = Table(("seed", x_label, "loss"), rows)
    return line_chart(ident, title, lines, x_label, "nats a token", "", rules, skip=SKIP, table=table)


def _lead(trained: list[tuple[str, SeedData]]) -> str:
    done = [s.result.train for _, s in trained if s.result.train]
    if not done:
        return "No seed's training has ended."
    steps = sorted({t.steps for t in done})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return (
        f"{span} steps of {done[0].parameters:,} parameters on {done[0].world_size} x {done[0].device}; "
        f"{max(t.train_seconds for t in done):,.1f} s at the most."
    )
