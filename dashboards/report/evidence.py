"""What the audit found, and where the run comes from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from markupsafe import Markup

from dashboards.charts import Figure, Legend, Table
from dashboards.charts.paper import bounds, frame, line, svg
from dashboards.report.data import RunData, SeedData
from dashboards.report.page import Block, Cell, Cells, Code, Section, grid, moment
from golf_core.audit.report import KraftSum
from golf_core.config import leaves

KINDS = {"holds": "is-holds", "violated": "is-fails"}
MOST_FILES = 200
"""Files of data that are listed with their checksums."""
NAMED = {"git_commit": "commit", "git_dirty": "changed since", "job_sha256": "job (SHA-256)"}


def audit(run: RunData) -> Section | None:
    """Sums of probability over the vocabulary, from inside and from outside, and the conditions."""
    evaluated = run.evaluated
    if not evaluated:
        return None
    blocks: list[Block] = []
    measured = [(s, k) for s in evaluated if s.result.evaluate and (k := s.result.evaluate.kraft)]
    if measured:
        rows: list[Cells] = [
            [
                str(s.result.seed),
                (k.positions, 0),
                f"{k.neural_max_error:.1e}",
                f"{k.mixture_max_error:.1e}",
                (k.published_mean_sum, 4),
                f"{k.published_formula_max_error:.1e}",
            ]
            for s, k in measured
        ]
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
    sums: list[tuple[int, KraftSum]] = [(s.result.seed, k) for s in audited if s.audit for k in s.audit.sums]
    shown = [(seed, k) for seed, k in sums if k.total > 0]
    xs = [float(k.position) for _, k in shown]
    paper = frame(
        bounds(xs), bounds([k.total for _, k in shown] + [1.0], log=True), "position (token)", "sum", log_y=True
    )
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
    names = list(dict.fromkeys(k.score for _, k in shown))
    return Figure(
        "kraft-sums",
        "Sums over the vocabulary by position, from outside",
        "Every token of the vocabulary tried in turn. A score that is a code length lies on the line at 1.",
        svg=svg("kraft-sums", "Sums over the vocabulary by position", said + ".", parts),
        table=Table(columns, rows),
        legend=tuple(Legend(name, f"c-{name}") for name in names),
    )


def _conditions(audited: Sequence[SeedData]) -> Block:
    rows: list[Cells] = [
        [
            str(s.result.seed),
            c.name,
            c.score or "all",
            Cell(c.verdict, None, KINDS.get(c.verdict, "is-unknown")),
            c.summary,
        ]
        for s in audited
        if s.audit
        for c in s.audit.conditions
        if c.verdict != "not measured"
    ]
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
    lead = "On a machine that has the data: the same seed on as many ranks gives the same figures."
    return Section("reproduce", "How to reproduce", lead, [Code(tuple(lines))])
