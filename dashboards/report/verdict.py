"""The verdict and its reasons; the seeds' figures; what the test sees."""

from __future__ import annotations

import math

from dashboards.charts import Figure, Head, Legend, Row, Rule, dot_chart
from dashboards.report.data import RunData
from dashboards.report.page import Block, Cell, Cells, Column, Section, grid, short_p
from orchestrator.claim.columns import columns_in, summary_of
from orchestrator.claim.statistics import ALPHA, MARGIN_NATS, gain_bound, summarize


def reasons(run: RunData) -> Section:
    """The conditions of a claim."""
    claim = run.result.claim
    rows: list[Cells] = [[c.name, Cell(c.mark, None, f"is-{c.mark[2:]}"), c.detail] for c in claim.conditions]
    columns = ("condition", "", "figures")
    blocks: list[Block] = [grid("conditions", "Conditions of a claim", columns, rows)]
    blocks += [f"Note: {note}" for note in claim.notes]
    blocks += [f"Not shown in this report: {sentence}" for sentence in run.missing]
    holding = sum(condition.holds is True for condition in claim.conditions)
    return Section("reasons", "Reasons", f"{holding} of {len(claim.conditions)} conditions of a claim hold.", blocks)


def seeds(run: RunData) -> Section:
    """A row for each seed, and their means."""
    results, shown = run.result.seeds, columns_in("report")
    rows: list[Cells] = []
    for seed in results:
        status = Cell(seed.status, None, "is-fails" if seed.status == "failed" else "")
        rows.append([str(seed.seed), status, *((column.of(seed), column.digits) for column in shown)])
    done = [seed for seed in results if seed.status == "finished"]
    summaries = [(column, summary_of(column, results)) for column in shown]
    means: Cells = [(s.mean if s else None, column.digits) for column, s in summaries]
    spreads: Cells = [(s.sd if s else None, column.digits) if column.is_score else "" for column, s in summaries]
    foot: list[Cells] = [["mean", f"{len(done)} of {len(results)}", *means], ["sd", "", *spreads]]
    columns = [Column("seed"), Column("status", False), *(Column(c.title, True, c.meaning) for c in shown)]
    blocks: list[Block] = [grid("seeds-table", "Figures of each seed", columns, rows, foot)]
    blocks += [f"Seed {s.seed} failed: {s.error}" for s in results if s.status == "failed"]
    blocks += [
        f"Seed {seed.seed}, attempt {i} did not end well ({attempt.stage}, {attempt.kind}): {attempt.error}"
        for seed in results
        for i, attempt in enumerate(seed.attempts, start=1)
    ]
    blocks.append(
        "* Not a code length: one of its experts is no probability distribution, and it sums to e^(ln Z) instead "
        "of 1. It is given for comparison with the published figure, and no claim uses it."
    )
    return Section("seeds", "Seeds", "Bits per byte (BPB): lower is better.", blocks)


def against_baseline(run: RunData) -> Section | None:
    """Each seed's BPB against the baseline and the margin, and the test as an interval of the gain."""
    baseline, claim = run.job.baseline, run.result.claim
    mixture = claim.scores.get("mixture")
    if baseline is None or mixture is None or claim.margin_bpb is None:
        return None
    margin, mean = claim.margin_bpb, baseline.mean_bpb
    rows = []
    for seed in run.seeds:
        v = seed.result.evaluate
        if v is not None and v.mixture is not None and seed.result.status == "finished":
            rows.append(Row(seed.label, (v.mixture.bpb,), seed.colour))
    rows.append(Row("mean, 95 %", (mixture.mean,), "c-mixture", mixture.ci95, "95 % t interval of the mean"))
    given = baseline.bpb or (mean,)
    interval = summarize(given).ci95 if len(given) > 1 else None
    rows.append(Row("baseline", given, "c-muted", interval, "95 % t interval of its mean", hollow=True))
    rules = (Rule(mean, "baseline"), Rule(mean - margin, "baseline − margin"))
    caption = f"Baseline: {baseline.name}. A claim must lie left of the margin."
    head = Head("seed-dots", "Each seed's BPB", caption)
    blocks: list[Block] = [dot_chart(head, rows, "bits per byte, mixture", rules)]
    bound = gain_bound(baseline, run.result.seeds, 1 - ALPHA)
    gain = mean - mixture.mean
    if bound is not None:
        blocks.append(_gain(gain, bound, margin))
    tests: list[Cells] = [[t.name, t.null, (t.statistic, 2), (t.df, 2), short_p(t.p)] for t in claim.tests]
    columns = ("one-sided test", "null hypothesis: the mixture is", "#t", "#df", "#p")
    blocks.append(grid("tests", "The tests", columns, tests))
    blocks += [f"{t.name}: no p, {t.note}." for t in claim.tests if t.note]
    lead = (
        f"The mean is {abs(gain):.5f} BPB {'below' if gain > 0 else 'above'} the baseline; the margin of "
        f"{MARGIN_NATS:g} nats a token is {margin:.5f} BPB of this text."
    )
    return Section("baseline", "Against the baseline", lead, blocks)


def _gain(gain: float, bound: float, margin: float) -> Figure:
    held = "beyond the margin" if bound > margin else "not beyond the margin"
    row = Row("gain", (gain,), "c-mixture", (bound, math.inf), f"one-sided {100 * (1 - ALPHA):g} % interval")
    caption = (
        f"With {100 * (1 - ALPHA):g} % confidence the true gain is at least {bound:.5f} BPB, {held}: the test's p is "
        f"below {ALPHA:g} exactly where the whole interval lies beyond the margin."
    )
    head = Head("gain-interval", "The gain, as the test sees it", caption)
    rules = (Rule(0.0, "none"), Rule(margin, "margin"))
    legend = (Legend("one-sided interval of the gain", "c-mixture"),)
    return dot_chart(head, [row], "gain in bits per byte", rules, legend)
