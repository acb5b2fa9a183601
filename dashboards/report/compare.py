"""Two runs side by side: scores, tests, and what differs chunk by chunk where the text is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean

from dashboards.charts.kinds import Axes, Line, Row, Rule, dot_chart, line_chart
from dashboards.charts.paper import Figure, Head
from dashboards.report.data import RunData, read_run
from dashboards.report.page import Block, Cells, Header, Section, grid, refused, seed_figures, short_p, write_page
from golf_core.config import leaves
from golf_core.evaluate.breakdown import Breakdown
from golf_core.results import SCORERS
from orchestrator.claim.columns import columns_in
from orchestrator.claim.statistics import paired, summarize, welch

SMALL = 9
CLAIMED = "mixture"


def write_comparison(first: Path, second: Path, path: Path) -> Path:
    """Compare the runs in two folders, and write it to `path`. Raises `ConfigError` where one has no result."""
    with refused(first):
        a = read_run(first)
    with refused(second):
        b = read_run(second)
        top = _header(a, b)
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
            Row(name, tuple(bpbs), colour, summarize(bpbs).ci95, "95 % t interval of the mean")
            for name, bpbs, colour in (("first", one, "s0"), ("second", other, "s1"))
        ]
        means = (Rule(fmean(one), "mean of the first"),)
        blocks.append(dot_chart(Head("compare-dots", "Each seed's BPB"), drawn, "bits per byte, mixture", means))
    return Section("scores-section", "Scores", "Each seed counts once; lower is better.", blocks)


def _mean(scores: Sequence[float]) -> Cells:
    summary = summarize(scores)
    return [(summary.mean, 5), (summary.sd, 5)]


def _chunks(a: RunData, b: RunData) -> Section | None:
    """Paired by chunk: the means over the seeds of each run, on the same text."""
    one, other = ([s.breakdown for s in run.evaluated if s.breakdown is not None] for run in (a, b))
    texts = {(x.text_sha256, tuple((c.first, c.tokens) for c in x.chunks)) for x in (*one, *other)}
    lead = ""
    if not one or not other:
        lead = "At least one of the runs has not recorded its losses by chunk."
    elif len(texts) > 1:
        lead = "The runs were scored on different texts, or in different chunks: their chunks cannot be paired."
    if lead:
        return Section("chunks", "Chunk by chunk", lead)
    blocks: list[Block] = []
    rows: list[Cells] = []
    tokens = [c.tokens for c in one[0].chunks]
    for scorer in SCORERS:
        first, second = _nats(one, scorer), _nats(other, scorer)
        if first is None or second is None:
            continue
        found = paired(first, second, tokens)
        if found is not None:
            figures = (found.mean, found.low, found.high)
            rows.append([scorer, *((x, 6) for x in figures), (found.pairs, 0), (found.block, 0)])
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


def _gap(scorer: str, first: Sequence[float], second: Sequence[float], tokens: Sequence[int]) -> Figure:
    gaps = [y - x for x, y in zip(first, second, strict=True)]
    each = [gap / n for gap, n in zip(gaps, tokens, strict=True)]
    so_far = [gap / n for gap, n in zip(accumulate(gaps), accumulate(tokens), strict=True)]
    chunks = list(range(1, len(tokens) + 1))
    lines = [Line("each chunk", chunks, each, "c-muted"), Line("so far", chunks, so_far, "c-mixture")]
    title = f"Difference of the {scorer} score, second less first"
    head = Head("chunk-gap", title, "Below zero, the second run needs less.", wide=True)
    return line_chart(head, Axes("chunk", "nats a token"), lines, [Rule(0.0, "no difference")], digits=SMALL)


def _budgets(a: RunData, b: RunData) -> Section:
    columns = [column for column in columns_in("report") if not column.is_score]
    rows: list[Cells] = [
        [f"{name}, {s.label}", s.result.status, *seed_figures(s.result, columns)]
        for name, run in (("first", a), ("second", b))
        for s in run.seeds
    ]
    titles = ("run and seed", "status", *(f"#{column.title}" for column in columns))
    table = grid("budgets-table", "Budgets", titles, rows)
    return Section("compare-budgets", "Time and bytes", "What each seed used.", [table])


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
