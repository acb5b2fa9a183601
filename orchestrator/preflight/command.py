"""`golf check` and `golf plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golf_core.errors import UserError

if TYPE_CHECKING:
    from orchestrator.job.load import Job
    from orchestrator.preflight.findings import Finding, Preflight
    from orchestrator.preflight.plan import CostEstimate

JobFile = Annotated[Path, typer.Argument(help="A job file, such as jobs/three_seed.yaml.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job, e.g. resources.ranks=2."),
]
AllowDirty = Annotated[bool, typer.Option("--allow-dirty", help="Let a record run go on with uncommitted changes.")]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0.0, help="Refuse a run that is expected to cost more than this."),
]
Places = Annotated[int, typer.Option(min=1, help="Seeds that run side by side, each on nodes of its own.")]
OnGang = Callable[["Job", str], "Preflight"]


def plan_command(
    job: JobFile,
    set_: Changes = None,
    power: Annotated[float, typer.Option(min=0.0, max=1.0, help="Wanted chance that the claim's test succeeds.")] = 0.8,
    sd: Annotated[
        float | None,
        typer.Option(min=0.0, help="Deviation between seeds, BPB. Default: the baseline's, or 0.0005."),
    ] = None,
    gain: Annotated[float | None, typer.Option(help="Expected gain: BPB below the baseline.")] = None,
    max_cost: MaxCost = None,
    places: Places = 1,
    json: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
) -> None:
    """Say what a job would run, how long, at what price, and how many seeds its claim needs. Starts nothing."""
    from golf_core import strict_json
    from orchestrator.claim.table import terminal
    from orchestrator.job.load import load_job, parse_changes
    from orchestrator.preflight.findings import plan_view, show_findings
    from orchestrator.preflight.plan import plan

    try:
        found = plan(load_job(job, parse_changes(set_ or [])), places, power, sd, gain)
    except ValueError as problem:
        raise UserError(f"--power, --sd: {problem}") from None
    if json is not None:
        strict_json.save(found, json)
    terminal().print(plan_view(found))
    over = judge_cost(found.cost, max_cost)
    show_findings(over, terminal())
    raise typer.Exit(2 if any(finding.level == "error" for finding in over) else 0)


def preflight(
    job: Job,
    address: str | None = None,
    allow_dirty: bool = False,
    max_cost: float | None = None,
    places: int = 1,
    on_gang: OnGang | None = None,
) -> Preflight:
    """Check `job` here and, where nothing forbids the run and `on_gang` is given, on a gang of the cluster.

    With an `address` this machine needs neither GPUs nor data. `on_gang(job, address)` starts a gang, lets its ranks
    call `check_rank`, and returns what `judge_ranks` makes of it.
    """
    from orchestrator.preflight.findings import Preflight
    from orchestrator.preflight.local import check_here
    from orchestrator.preflight.plan import estimate

    here = address is None or address == "local"
    findings = check_here(job, allow_dirty, will_run_here=here)
    cost = estimate(job, places)
    result = Preflight((*findings, *judge_cost(cost, max_cost)), None, cost)
    if on_gang is None or result.errors or address is None:
        return result
    there = on_gang(job, address)
    over = judge_cost(there.cost, max_cost) if there.cost else []
    kept = [finding for finding in result.findings if finding.where != COST]
    return replace(there, findings=(*kept, *there.findings, *over))


COST = "cost"


def judge_cost(cost: CostEstimate, max_cost: float | None) -> list[Finding]:
    """Whether the run stays under `max_cost`: as expected, and at worst."""
    from orchestrator.preflight.findings import error, ok, warning

    if max_cost is None:
        return []
    if cost.cost is None or cost.cost_worst is None:
        return [error("--max-cost is given, but the job has no price", COST, "set cost.per_node_hour")]
    what = f"{cost.cost:,.2f} expected for {cost.node_hours:.2f} node-hours, --max-cost is {max_cost:,.2f}"
    remedy = "use fewer seeds, or raise --max-cost"
    if cost.cost > max_cost:
        return [error(what, COST, remedy)]
    if cost.cost_worst > max_cost:
        worst = f"up to {cost.cost_worst:,.2f} if every phase of every attempt runs into its limit"
        return [warning(f"{what}, {worst}", COST, "lower the limits or limits.retries")]
    return [ok(what, COST)]
