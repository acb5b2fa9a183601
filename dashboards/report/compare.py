"""Two runs side by side: scores, tests, and what differs chunk by chunk where the text is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from dashboards.charts import Axes, Figure, Head, Line, Row, Rule, Table, dot_chart, line_chart
from dashboards.report.data import RunData, read_run
from dashboards.report.page import Block, Cells, Header, Section, grid, or_refused, short_p, write_page
from golf_core.config import leaves
from golf_core.evaluate.breakdown import Breakdown
from golf_core.results import SCORERS
from orchestrator.claim.statistics import Paired, paired, summarize, welch

SMALL = 9
CLAIMED = "mixture"


def write_comparison(first: Path, second: Path, path: Path) -> Path:
    """Compare the runs in two folders, and write it to `path`. Raises `ConfigError` where one has no result."""
    a, b = (or_refused(folder, partial(read_run, folder)) for folder in (first, second))
    top = or_refused(second, lambda: _header(a, b))
    return write_page(path, top, SECTIONS, a, b)


def _header(a: RunData, b: RunData) -> Header:
    one, other = _bpbs(a, CLAIMED), _bpbs(b, CLAIMED)
    if not one or not other:
        sentence = "At least one of the runs has no mixture score: there is nothing to compare."
    else:
        gap = fmean(other) - fmean(one)
        p = _p(one, other)
        said = "no p can be given" if p is None else f"Welch's test, two-sided: p = {p:.2g}"
        sentence = (
            f"{b.result.run_id} scores {fmean(other):.5f} BPB (mixture, {len(other)} seeds), {abs(gap):.5f} "
            f"{'below' if gap < 0 else 'above'} {a.result.run_id} with {fmean(one):.5f} ({len(one)} seeds); {said}."
        )
    facts = (
        ("first", a.result.run_id),
        ("its verdict", a.result.claim.verdict),
        ("second", b.result.run_id),
        ("its verdict", b.result.claim.verdict),
    )
    return Header(
        title=f"{a.result.run_id} and {b.result.run_id}",
        name=f"{b.result.run_id} against {a.result.run_id}",
        verdict="comparison",
        sentence=sentence,
        facts=facts,
    )


def _bpbs(run: RunData, scorer: str) -> list[float]:
    scores = [getattr(s.result.evaluate, scorer) for s in run.evaluated]
    return [score.bpb for score in scores if score is not None and math.isfinite(score.bpb)]


def _p(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p of Welch's test; None where it has none."""
    p = welch(other, one).p
    return None if p is None else 2 * min(p, 1 - p)


def _scores(a: RunData, b: RunData) -> Section:
    rows: list[Cells] = []
    for scorer in SCORERS:
        one, other = _bpbs(a, scorer), _bpbs(b, scorer)
        if one and other:
            p = _p(one, other)
            rows.append([scorer, *_mean(one), *_mean(other), (fmean(other) - fmean(one), 5), short_p(p)])
    columns = (
        "score",
        "#first, mean BPB",
        "#sd",
        "#second, mean BPB",
        "#sd",
        "#second − first",
        "#p, two-sided (Welch)",
    )
    blocks: list[Block] = [grid("scores", "Scores over the seeds", columns, rows)]
    one, other = _bpbs(a, CLAIMED), _bpbs(b, CLAIMED)
    if one and other:
        drawn = [
            Row("first", tuple(one), "s0", summarize(one).ci95, "95 % t interval of the mean"),
            Row("second", tuple(other), "s1", summarize(other).ci95, "95 % t interval of the mean"),
        ]
        means = (Rule(fmean(one), "mean of the first"),)
        blocks.append(dot_chart(Head("compare-dots", "Each seed's BPB"), drawn, "bits per byte, mixture", means))
    return Section("scores-section", "Scores", "Each seed counts once; lower is better.", blocks)


def _mean(scores: Sequence[float]) -> Cells:
    summary = summarize(scores)
    return [(summary.mean, 5), (summary.sd, 5)]


def _chunks(a: RunData, b: RunData) -> Section | None:
    """Paired by chunk: the means over the seeds of each run, on the same text."""
    one = [s.breakdown for s in a.evaluated if s.breakdown is not None]
    other = [s.breakdown for s in b.evaluated if s.breakdown is not None]
    if not one or not other:
        lead = "At least one of the runs has not recorded its losses by chunk."
        return Section("chunks", "Chunk by chunk", lead)
    texts = {(x.text_sha256, tuple((c.first, c.tokens) for c in x.chunks)) for x in (*one, *other)}
    if len(texts) > 1:
        lead = "The runs were scored on different texts, or in different chunks: their chunks cannot be paired."
        return Section("chunks", "Chunk by chunk", lead)
    blocks: list[Block] = []
    rows: list[Cells] = []
    for scorer in SCORERS:
        first, second = _nats(one, scorer), _nats(other, scorer)
        if first is None or second is None:
            continue
        tokens = [c.tokens for c in one[0].chunks]
        found = paired(first, second, tokens)
        if found is not None:
            rows.append(_row(scorer, found))
        if scorer == CLAIMED or (scorer == "neural" and _nats(one, CLAIMED) is None):
            blocks.append(_gap(scorer, first, second, tokens))
    columns = ("score", "#second − first, nats a token", "#95 % interval, low", "#high", "#chunks", "#drawn together")
    if rows:
        blocks.insert(0, grid("paired", "Paired by chunk", columns, rows))
        blocks.append(
            "The interval is over the text (moving-block bootstrap over chunks) for these very seeds; that over "
            "seeds is the test above. A difference that is real on this text may still be the luck of the seeds."
        )
    else:
        blocks.append("There are too few chunks for an interval.")
    lead = f"The same {one[0].tokens:,} tokens in the same {len(one[0].chunks):,} chunks; means over each run's seeds."
    return Section("chunks", "Chunk by chunk", lead, blocks)


def _nats(found: Sequence[Breakdown], scorer: str) -> list[float] | None:
    """Total nats of each chunk, a mean over seeds; None where a seed has no such score."""
    if not all(scorer in chunk.nats for x in found for chunk in x.chunks):
        return None
    return [fmean(x.chunks[i].nats[scorer] for x in found) for i in range(len(found[0].chunks))]


def _row(scorer: str, found: Paired) -> Cells:
    return [scorer, (found.mean, 6), (found.low, 6), (found.high, 6), (found.pairs, 0), (found.block, 0)]


def _gap(scorer: str, first: Sequence[float], second: Sequence[float], tokens: Sequence[int]) -> Figure:
    each = [(y - x) / n for x, y, n in zip(first, second, tokens, strict=True)]
    running, total, count = [], 0.0, 0
    for x, y, n in zip(first, second, tokens, strict=True):
        total, count = total + y - x, count + n
        running.append(total / count)
    chunks = list(range(1, len(tokens) + 1))
    lines = [Line("each chunk", chunks, each, "c-muted"), Line("so far", chunks, running, "c-mixture")]
    rows = [[c, round(e, SMALL), round(r, SMALL)] for c, e, r in zip(chunks, each, running, strict=True)]
    title = f"Difference of the {scorer} score, second less first"
    head = Head("chunk-gap", title, "Below zero, the second run needs less.", wide=True)
    table = Table(("chunk", "each chunk", "so far"), rows)
    return line_chart(head, Axes("chunk", "nats a token"), lines, [Rule(0.0, "no difference")], table=table)


def _budgets(a: RunData, b: RunData) -> Section:
    rows: list[Cells] = []
    for name, run in (("first", a), ("second", b)):
        for s in run.seeds:
            t, e, v = s.result.train, s.result.export, s.result.evaluate
            rows.append(
                [
                    f"{name}, {s.label}",
                    s.result.status,
                    (t.steps if t else None, 0),
                    (t.ms_per_step if t else None, 1),
                    (t.train_seconds if t else None, 1),
                    (v.seconds if v else None, 1),
                    (e.total_bytes if e else None, 0),
                ]
            )
    columns = ("run and seed", "status", "#steps", "#ms/step", "#train s", "#eval s", "#bytes")
    return Section(
        "compare-budgets", "Time and bytes", "What each seed used.", [grid("budgets-table", "Budgets", columns, rows)]
    )


def _differences(a: RunData, b: RunData) -> Section:
    one, other = dict(leaves(a.job.to_dict())), dict(leaves(b.job.to_dict()))
    names = [n for n in dict.fromkeys([*one, *other]) if one.get(n) != other.get(n)]
    rows: list[Cells] = [[n, str(one.get(n, "–")), str(other.get(n, "–"))] for n in names]
    where = a.result.provenance, b.result.provenance
    keys = [k for k in dict.fromkeys([*where[0], *where[1]]) if where[0].get(k) != where[1].get(k)]
    rows += [[k, where[0].get(k, "–"), where[1].get(k, "–")] for k in keys]
    columns = ("field", "first", "second")
    lead = "Fields of the two jobs and of where they ran that are not the same." if rows else "The jobs are the same."
    return Section(
        "differences", "What differs", lead, [grid("differences-table", "Differences", columns, rows)] if rows else []
    )


SECTIONS = {"Scores": _scores, "Chunk by chunk": _chunks, "Time and bytes": _budgets, "What differs": _differences}
