"""What each seed used of its budgets, by phase and by group of tensors; when what was done."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.charts import Bar, Figure, Head, Legend, Part, Table, bar_chart
from dashboards.charts.paper import WIDTH, Scale, figure, rect, text, upright_grid
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Section, moment
from golf_core.results import EvalResult

PHASE_COLOURS = {"warmup": "a7", "train": "a0", "export": "a2", "evaluate": "a1", "breakdown": "a6", "audit": "a3"}
EVALUATION_COLOURS = {"loading": "a6", "scoring": "a1", "mixing": "a2", "adaptation": "a0"}
GROUP_COLOURS = ("a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7")
ROW = 26


def budgets(run: RunData) -> Section | None:
    """Bars against 600 s, 600 s and 16,000,000 bytes, and the timeline."""
    limits = run.job.budgets
    blocks: list[Block] = []
    trained = [(s, t) for s in run.seeds if (t := s.result.train) is not None]
    if trained:
        bars = [Bar(s.label, (Part("training clock", t.train_seconds, "a0"),)) for s, t in trained]
        blocks.append(bar_chart(Head("train-budget", "Training clock"), bars, "s", limits.train_seconds))
    evaluated = [(s, v) for s in run.seeds if (v := s.result.evaluate) is not None]
    if evaluated:
        bars = [Bar(s.label, _evaluation(v)) for s, v in evaluated]
        caption = "By phase, of rank 0." if any(v.seconds_by_phase for _, v in evaluated) else ""
        blocks.append(bar_chart(Head("eval-budget", "Evaluation", caption), bars, "s", limits.eval_seconds))
    exported = [s for s in run.seeds if s.result.export is not None]
    if exported:
        bars = [Bar(s.label, _bytes(s)) for s in exported]
        caption = "; ".join(sorted({f"{s.label}: {s.result.export.summary}" for s in exported if s.result.export}))
        head = Head("bytes-budget", "Artifact", caption)
        blocks.append(bar_chart(head, bars, "bytes", limits.artifact_bytes, digits=0))
    if any(s.spans for s in run.seeds):
        blocks.append(_timeline(run.seeds))
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


def _bytes(seed: SeedData) -> tuple[Part, ...]:
    export = seed.result.export
    assert export is not None
    groups = export.bytes_by_group or {"weights": export.weight_bytes}
    ordered = sorted(groups.items(), key=lambda item: -item[1])
    parts = [Part(name, float(size), GROUP_COLOURS[i % 7]) for i, (name, size) in enumerate(ordered)]
    return (*parts, Part("code", float(export.code_bytes), "a7"))


def _timeline(seeds: Sequence[SeedData]) -> Figure:
    """The phases of each seed's last attempt along the clock."""
    drawn = [s for s in seeds if s.spans]
    begin = min(span.began for s in drawn for span in s.spans)
    end = max(span.ended for s in drawn for span in s.spans)
    left, height = 116, 16 + ROW * len(drawn) + 46
    x = Scale(0.0, max((end - begin) / 60, 1e-6), left, WIDTH - 20)
    bottom = height - 46
    parts = upright_grid(x, 8, bottom)
    rows = []
    for number, seed in enumerate(drawn):
        top = 12 + ROW * number
        parts.append(text(left - 8, top + 13, seed.label, "tick end"))
        for span in seed.spans:
            ends = [x((at - begin) / 60) for at in (span.began, span.ended)]
            tip = f"{seed.label}, {span.name}: {span.ended - span.began:.1f} s"
            parts.append(
                rect(ends[0], top, max(ends[1] - ends[0], 1.0), 16, f"bar {PHASE_COLOURS.get(span.name, 'a5')}", tip)
            )
            rows.append([seed.result.seed, span.name, round(span.began - begin, 3), round(span.ended - begin, 3)])
    parts.append(text((left + WIDTH) / 2, height - 8, "minutes", "label middle"))
    names = list(dict.fromkeys(span.name for s in drawn for span in s.spans))
    said = "; ".join(
        f"{s.label}: " + ", ".join(f"{span.name} {span.ended - span.began:.0f} s" for span in s.spans) for s in drawn
    )
    head = Head("timeline", "What was done when", f"Minutes since {moment(begin)}; last attempts.", wide=True)
    legend = [Legend(name, PHASE_COLOURS.get(name, "a5")) for name in names]
    return figure(head, said + ".", parts, Table(("seed", "phase", "began s", "ended s"), rows), legend, height)
