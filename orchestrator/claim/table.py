"""A run's result as tables for the terminal: scores, cost, tests, conditions, verdict.

Every mark has its word beside it, so that nothing depends on colour; the tables fit 80 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from golf_core.results import CODE_LENGTHS
from orchestrator.claim.columns import Column, columns_in, summary_of
from orchestrator.claim.statistics import MARGIN_NATS
from orchestrator.folder.results import Claim, Condition, RunResult, Test
from orchestrator.job.load import Job

_STYLES = {"claim": "bold green", "no claim": "bold red", "too few seeds": "bold yellow"}


def terminal(width: int = 160) -> Console:
    """The terminal; a file has room for whole lines, and gets `width` characters."""
    found = Console()
    return found if found.is_terminal else Console(width=width)


def claim_table(result: RunResult) -> Group:
    """Everything that a reader needs to believe or doubt the verdict, and the verdict last."""
    parts: list[RenderableType] = [
        _heading(f"{result.name}: bits per byte of each seed"),
        _scores(result),
        Text(
            "* not a code length: one of its experts is no probability distribution; + mean ln Z is its cost",
            "dim",
        ),
        _heading("Cost of each seed"),
        _cost(result),
        *(_item(f"weights of seed {s.seed}", s.export.summary) for s in result.seeds if s.export),
        *(Text(f"seed {seed.seed} failed: {seed.error}", "red") for seed in result.seeds if seed.status == "failed"),
        _heading("Means over the seeds, and the baseline"),
        _means(result.claim, result.job),
        *((Text(""), _tests(result.claim.tests)) if result.claim.tests else ()),
        _heading("Conditions of a claim"),
        _conditions(result.claim.conditions),
        *(_item("note", note) for note in result.claim.notes),
        Text(""),
        Text(result.claim.sentence, _STYLES[result.claim.verdict]),
    ]
    return Group(*parts)


class _Mark:
    """✓, ✗ or ? with its word, or the word alone where the terminal knows only ASCII."""

    def __init__(self, condition: Condition) -> None:
        self.mark = condition.mark
        self.style = {True: "green", False: "bold red", None: "yellow"}[condition.holds]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.mark[2:] if options.ascii_only else self.mark, self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(len(self.mark), len(self.mark))


def _scores(result: RunResult) -> Table:
    """BPB of each seed, its status, and the mean and spread of every column."""
    columns, seeds = columns_in("scores"), result.seeds
    table = _by_seed(columns, "status")
    for seed in seeds:
        status = Text(seed.status, "red" if seed.status == "failed" else "")
        table.add_row(str(seed.seed), status, *(column.text(seed) for column in columns))
    table.add_section()
    summaries = [(column.digits, summary_of(column, seeds)) for column in columns]
    finished = sum(seed.status == "finished" for seed in seeds)
    means = [_number(summary.mean if summary else None, digits) for digits, summary in summaries]
    table.add_row("mean", f"{finished} of {len(seeds)}", *means, style="bold")
    table.add_row("sd", "", *(_number(summary.sd if summary else None, digits) for digits, summary in summaries))
    return table


def _cost(result: RunResult) -> Table:
    columns, budgets = columns_in("cost"), result.job.budgets
    table = _by_seed(columns)
    for seed in result.seeds:
        table.add_row(str(seed.seed), *(column.text(seed) for column in columns))
    table.add_section()
    limits = [f"{column.limit(budgets):,.10g}" if column.limit else "" for column in columns]
    table.add_row("limit", *limits, style="dim")
    return table


def _by_seed(columns: Sequence[Column], *titles: str) -> Table:
    table = _plain_table()
    table.add_column("seed", justify="right")
    for title in titles:
        table.add_column(title)
    for column in columns:
        title = column.title.replace("/", "/\n")
        title = title.replace(" ", "\n") if title.count(" ") == 1 else title
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _means(claim: Claim, job: Job) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, summary in claim.scores.items():
        low_high = summary.ci95
        interval = "" if low_high is None else f"95% interval {low_high[0]:.5f} to {low_high[1]:.5f}"
        table.add_row(name if name in CODE_LENGTHS else f"{name}*", f"{summary.mean:.5f}", interval)
    if job.baseline is not None:
        table.add_row("baseline", f"{job.baseline.mean_bpb:.5f}", Text(job.baseline.name))
    if claim.margin_bpb is not None:
        table.add_row("margin", f"{claim.margin_bpb:.5f}", f"{MARGIN_NATS:g} nats a token in bits per byte")
    return table if table.row_count else Text("nothing was measured, and the job names no baseline")


def _tests(tests: Sequence[Test]) -> Table:
    table = _plain_table()
    table.add_column("one-sided test")
    table.add_column("null hypothesis: the mixture is")
    for title in ("t", "df", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    for test in tests:
        figures = [
            _number(test.statistic, 2),
            _number(test.df, 2),
            "-" if test.p is None else f"{test.p:.2g}",
        ]
        table.add_row(test.name, test.null + (f" (no p: {test.note})" if test.note else ""), *figures)
    return table


def _conditions(conditions: Sequence[Condition]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(min_width=16)
    table.add_column()
    for condition in conditions:
        table.add_row(_Mark(condition), Text(condition.name), Text(condition.detail))
    return table


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")


def _heading(text: str) -> Text:
    return Text(f"\n{text}", "bold")


def _item(label: str, text: str) -> Table:
    """A paragraph that hangs behind its label."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(Text(label, "dim"), Text(text))
    return grid


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
