"""The verdict and its reasons; the seeds' figures; what the test sees."""

from __future__ import annotations

import math

from dashboards.charts import Figure, Legend, Row, Rule, dot_chart
from dashboards.report.data import RunData
from dashboards.report.sections.parts import (
    Block,
    Cell,
    Column,
    Section,
    figure,
    grid,
    mark,
    number,
    paragraph,
    seed_colour,
    words,
)
from orchestrator.claim.columns import columns_in, summary_of
from orchestrator.claim.statistics import ALPHA, MARGIN_NATS, gain_bound, summarize


def reasons(run: RunData) -> Section:
    """The conditions of a claim."""
    claim = run.result.claim
    rows = [[words(c.name), mark(c), words(c.detail)] for c in claim.conditions]
    columns = (Column("condition", False), Column("", False), Column("figures", False))
    blocks: list[Block] = [grid("conditions", "Conditions of a claim", columns, rows)]
    blocks += [paragraph(f"Note: {note}") for note in claim.notes]
    blocks += [paragraph(f"Not shown in this report: {sentence}") for sentence in run.missing]
    holding = sum(condition.holds is True for condition in claim.conditions)
    return Section("reasons", "Reasons", f"{holding} of {len(claim.conditions)} conditions of a claim hold.", blocks)


def seeds(run: RunData) -> Section:
    """A row for each seed, and their means."""
    results, shown = run.result.seeds, columns_in("report")
    rows = []
    for seed in results:
        status = words(seed.status, "is-fails" if seed.status == "failed" else "")
        rows.append([words(str(seed.seed)), status, *(number(c.of(seed), c.digits) for c in shown)])
    done = [seed for seed in results if seed.status == "finished"]
    summaries = [(c, summary_of(c, results)) for c in shown]
    means = [number(s.mean if s else None, c.digits) for c, s in summaries]
    spreads = [number(s.sd if s else None, c.digits) if c.is_score else Cell("") for c, s in summaries]
    foot = [
        [words("mean"), words(f"{len(done)} of {len(results)}"), *means],
        [words("sd"), words(""), *spreads],
    ]
    columns = (Column("seed"), Column("status", False), *(Column(c.title, True, c.meaning) for c in shown))
    blocks = [grid("seeds-table", "Figures of each seed", columns, rows, foot)]
    blocks += [paragraph(f"Seed {s.seed} failed: {s.error}") for s in results if s.status == "failed"]
    for seed in results:
        for i, attempt in enumerate(seed.attempts, start=1):
            blocks.append(
                paragraph(
                    f"Seed {seed.seed}, attempt {i} did not end well ({attempt.stage}, {attempt.kind}): {attempt.error}"
                )
            )
    blocks.append(
        paragraph(
            "* Not a code length: one of its experts is no probability distribution, and it sums to e^(ln Z) instead "
            "of 1. It is given for comparison with the published figure, and no claim uses it."
        )
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
    for index, seed in enumerate(run.seeds):
        v = seed.result.evaluate
        if v is not None and v.mixture is not None and seed.result.status == "finished":
            rows.append(Row(seed.label, (v.mixture.bpb,), seed_colour(index)))
    rows.append(Row("mean, 95 %", (mixture.mean,), "c-mixture", mixture.ci95, "95 % t interval of the mean"))
    given = baseline.bpb or (mean,)
    interval = summarize(given).ci95 if len(given) > 1 else None
    rows.append(Row("baseline", given, "c-muted", interval, "95 % t interval of its mean", hollow=True))
    rules = (Rule(mean, "baseline"), Rule(mean - margin, "baseline − margin"))
    scores = dot_chart(
        "seed-dots",
        "Each seed's BPB",
        rows,
        "bits per byte, mixture",
        rules,
        f"Baseline: {baseline.name}. A claim must lie left of the margin.",
    )
    blocks = [figure(scores)]
    bound = gain_bound(baseline, run.result.seeds, 1 - ALPHA)
    gain = mean - mixture.mean
    if bound is not None:
        blocks.append(figure(_gain(gain, bound, margin)))
    tests = [
        [
            words(t.name),
            words(t.null),
            number(t.statistic, 2),
            number(t.df, 2),
            words("–" if t.p is None else f"{t.p:.2g}"),
        ]
        for t in claim.tests
    ]
    columns = (
        Column("one-sided test", False),
        Column("null hypothesis: the mixture is", False),
        Column("t"),
        Column("df"),
        Column("p"),
    )
    blocks.append(grid("tests", "The tests", columns, tests))
    blocks += [paragraph(f"{t.name}: no p, {t.note}.") for t in claim.tests if t.note]
    lead = (
        f"The mean is {abs(gain):.5f} BPB {'below' if gain > 0 else 'above'} the baseline; the margin of "
        f"{MARGIN_NATS:g} nats a token is {margin:.5f} BPB of this text."
    )
    return Section("baseline", "Against the baseline", lead, blocks)


def _gain(gain: float, bound: float, margin: float) -> Figure:
    held = "beyond the margin" if bound > margin else "not beyond the margin"
    row = Row("gain", (gain,), "c-mixture", (bound, math.inf), f"one-sided {100 * (1 - ALPHA):g} % interval")
    return dot_chart(
        "gain-interval",
        "The gain, as the test sees it",
        [row],
        "gain in bits per byte",
        (Rule(0.0, "none"), Rule(margin, "margin")),
        f"With {100 * (1 - ALPHA):g} % confidence the true gain is at least {bound:.5f} BPB, {held}: the test's p is "
        f"below {ALPHA:g} exactly where the whole interval lies beyond the margin.",
        legend=(Legend("one-sided interval of the gain", "c-mixture"),),
    )
