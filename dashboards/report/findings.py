"""The sections that say what was found, mostly in tables: verdict, seeds, tests, audit, where the run comes from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from markupsafe import Markup

from dashboards.charts.kinds import Row, Rule, dot_chart
from dashboards.charts.paper import Figure, Head, Legend, Table, bounds, figure, frame, line
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Cell, Cells, Column, Section, grid, moment, seed_figures, short_p
from golf_core.config import leaves
from orchestrator.claim.columns import columns_in, summary_of
from orchestrator.claim.statistics import ALPHA, MARGIN_NATS, gain_bound, summarize

KINDS = {"holds": "is-holds", "violated": "is-fails"}
MOST_FILES = 200
"""Files of data that are listed with their checksums."""
NAMED = {"git_commit": "commit", "git_dirty": "changed since", "job_sha256": "job (SHA-256)"}


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
        rows.append([str(seed.seed), status, *seed_figures(seed, shown)])
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


def audit(run: RunData) -> Section | None:
    """Sums of probability over the vocabulary, from inside and from outside, and the conditions."""
    evaluated = run.evaluated
    if not evaluated:
        return None
    blocks: list[Block] = []
    rows: list[Cells] = [
        [
            str(s.result.seed),
            (k.positions, 0),
            f"{k.neural_max_error:.1e}",
            f"{k.mixture_max_error:.1e}",
            (k.published_mean_sum, 4),
            f"{k.published_formula_max_error:.1e}",
        ]
        for s in evaluated
        if s.result.evaluate and (k := s.result.evaluate.kraft)
    ]
    if rows:
        columns = (
            "#seed",
            "#positions",
            "#model: largest |sum − 1|",
            "#mixture: largest |sum − 1|",
            "#published: mean sum",
            "#its formula off by",
        )
        blocks.append(grid("kraft", "Sums over the vocabulary, measured while scoring", columns, rows))
    audited = [s for s in evaluated if s.audit is not None]
    if audited:
        blocks += [_sums(audited), _conditions(audited)]
    else:
        blocks.append("The evaluation was not audited from outside.")
    lead = (
        "A code's probabilities sum to at most 1 over the vocabulary at every position (Kraft). The evaluation "
        "measures it while it scores; the audit runs the evaluation again as a black box, and tries every token."
    )
    return Section("audit", "Audit", lead, blocks)


def _sums(audited: Sequence[SeedData]) -> Figure:
    sums = [(s.result.seed, k) for s in audited if s.audit for k in s.audit.sums]
    shown = [(seed, k) for seed, k in sums if k.total > 0]
    across, up = bounds([k.position for _, k in shown]), bounds([1.0, *(k.total for _, k in shown)], log=True)
    paper = frame(across, up, "position (token)", "sum", log_y=True)
    parts = [paper.axes(), line(paper.x.begin, paper.y(1.0), paper.x.end, paper.y(1.0), "rule")]
    dot = Markup("<circle class='dot c-{}' cx='{:.1f}' cy='{:.1f}' r='4'><title>{}</title></circle>")
    for seed, k in shown:
        tip = f"seed {seed}, {k.score} at {k.position:,}: sums to {k.total:.9g}"
        parts.append(dot.format(k.score, paper.x(k.position), paper.y(k.total), tip))
    rows = [
        [seed, k.score, k.position, ", ".join(k.where), k.total, k.expected, k.symbols, k.method] for seed, k in sums
    ]
    columns = ("seed", "score", "position", "where", "sum", "its formula says", "symbols tried", "method")
    said = "; ".join(f"{k.score} at {k.position}: {k.total:.6g}" for _, k in shown[:12])
    legend = [Legend(name, f"c-{name}") for name in dict.fromkeys(k.score for _, k in shown)]
    caption = "Every token of the vocabulary tried in turn. A score that is a code length lies on the line at 1."
    head = Head("kraft-sums", "Sums over the vocabulary by position, from outside", caption)
    return figure(head, said + ".", parts, Table(columns, rows), legend)


def _conditions(audited: Sequence[SeedData]) -> Block:
    rows: list[Cells] = []
    for s in audited:
        for c in s.audit.conditions if s.audit else ():
            if c.verdict != "not measured":
                verdict = Cell(c.verdict, None, KINDS.get(c.verdict, "is-unknown"))
                rows.append([str(s.result.seed), c.name, c.score or "all", verdict, c.summary])
    columns = ("#seed", "condition", "score", "verdict", "what was found")
    return grid("audit-conditions", "What the audit found", columns, rows)


def provenance(run: RunData) -> Section:
    """Commit, versions, machines, data, job."""
    result = run.result
    facts = [(NAMED.get(name, name), value) for name, value in result.provenance.items() if value]
    facts += [("started", moment(result.started)), ("ended", moment(result.finished))]
    facts += [(f"{s.label} on", s.result.node) for s in run.seeds if s.result.node]
    rows: list[Cells] = [[name, value] for name, value in facts]
    blocks: list[Block] = [grid("provenance-table", "Where it comes from", ("what", ""), rows)]
    data = next((s.data for s in run.seeds if s.data is not None), None)
    if data is not None:
        files: list[Cells] = [
            ["train", (data.train_tokens, 0), ""],
            ["validation", (data.val_tokens, 0), ""],
            ["tokenizer", "", data.tokenizer_sha256],
        ]
        files += [[name, "", digest] for name, digest in list(data.checksums.items())[:MOST_FILES]]
        blocks.append(grid("data-table", "Data", ("data", "#tokens", "SHA-256"), files))
    job: list[Cells] = [[name, str(value)] for name, value in leaves(run.job.to_dict())]
    blocks.append(grid("job-table", "Job, resolved", ("field", "value"), job))
    return Section("provenance", "Provenance", f"Run {result.run_id} of job {result.name}.", blocks)


def reproduce(run: RunData) -> Section:
    """Commands that make the figures again."""
    folder = shlex.quote(str(run.folder))
    commit = run.result.provenance.get("git_commit", "unknown")
    lines = [
        f"git checkout {commit}" if commit.isalnum() and commit != "unknown" else "# the commit is not known",
        f"golf evaluate {folder}          # the same artifacts, scored again",
        f"golf package {folder}           # the folder that the challenge asks for",
        f"golf reproduce {folder}/package # all of it again, compared figure by figure",
        f"golf audit {folder}             # the evaluation as a black box, as closely as you like",
    ]
    commands = Markup('<pre tabindex="0"><code>{}</code></pre>').format("\n".join(lines))
    lead = "On a machine that has the data: the same seed on as many ranks gives the same figures."
    return Section("reproduce", "How to reproduce", lead, [commands])
