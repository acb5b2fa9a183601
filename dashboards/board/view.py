"""What the pages show of a run, in words and figures."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dashboards.board.mlflow_look import MlflowLook, Standing
from dashboards.board.registry import Damaged, Run
from dashboards.charts import Figure, Line, Rule, line_chart
from dashboards.live import RunState
from golf_core.event_log import MOST
from golf_core.log_text import duration
from golf_core.strict_json import printable, to_dict
from orchestrator.folder.results import Condition
from orchestrator.folder.seed_log import Phase
from orchestrator.folder.view import RunView, SeedView

SKIP = 0.03
DASH = "–"
GIB = 1024.0
PHASE_SHARE = 0.05
"""Of the time of an attempt: shorter phases are not named."""
COLOURS = 6
KINDS = {
    "claim": "is-holds",
    "finished": "is-holds",
    "running": "is-open",
    "starting": "is-open",
    "open": "is-open",
    "queued": "is-quiet",
    "no claim": "is-fails",
    "out of reach": "is-fails",
    "failed": "is-fails",
    "damaged": "is-fails",
}
UNKNOWN = "is-unknown"
OF_ALL_SEEDS = ("every seed finished and reported", "number of seeds")
"""Conditions that every run breaks until its last seeds have ended."""


@dataclass(frozen=True)
class SeedRow:
    """A seed's figures as they are shown."""

    state: SeedView
    kind: str
    share: float | None
    """Of the phase that is done, 0 to 1."""
    phase: str
    progress: str
    eta: str
    loss: str
    ms_per_step: str
    bpb: Mapping[str, str]
    artifact: str
    gpu: str
    memory: str
    took: str
    where: str
    phases: str
    """The longest that have ended, with how long they took."""


@dataclass(frozen=True)
class RunRow:
    """A run in the list."""

    run_id: str
    href: str
    status: str
    kind: str
    damaged: str = ""
    """Why it cannot be read; then there is nothing else."""
    verdict: str = ""
    """Empty where it says no more than the status."""
    verdict_kind: str = ""
    sentence: str = ""
    seeds: tuple[SeedRow, ...] = ()
    finished: str = ""
    mean: str = DASH
    """Of the mixture's BPB over the finished seeds."""
    spread: str = ""
    started: str = ""
    took: str = ""
    hours: str = ""
    cost: str = DASH


@dataclass(frozen=True)
class RunsPage:
    """All runs."""

    output: str
    rows: tuple[RunRow, ...]
    running: int


@dataclass(frozen=True)
class RunPage:
    """One run."""

    title: str
    row: RunRow
    conditions: tuple[tuple[str, str, str, str], ...]
    """Name, mark, class, figures."""
    charts: tuple[Figure, ...]
    gangs: tuple[tuple[str, str, str], ...]
    """Seed, how it stands, where."""
    mlflow: Standing
    has_report: bool


def runs_page(runs: Sequence[Run | Damaged], output: Path) -> RunsPage:
    """The list."""
    rows = tuple(run_row(run) for run in runs)
    return RunsPage(printable(str(output)), rows, sum(row.status == "running" for row in rows))


def run_row(run: Run | Damaged) -> RunRow:
    """A run in the list; one with figures that cannot be shown is damaged."""
    if isinstance(run, Run):
        try:
            return _row(run.state)
        except (ArithmeticError, ValueError, TypeError, OSError) as error:
            run = Damaged(run.state.run_id, f"holds figures that cannot be shown ({type(error).__name__})")
    return RunRow(printable(run.run_id), _href(run.run_id), "damaged", KINDS["damaged"], damaged=run.reason)


def run_page(run: Run, mlflow: MlflowLook) -> RunPage | RunRow:
    """One run in full; only its row where it is damaged."""
    row = run_row(run)
    if row.damaged:
        return row
    state, view = run.state, run.view
    return RunPage(
        title=_title(state),
        row=row,
        conditions=tuple(_condition(c, state) for c in (state.claim.conditions if state.claim else ())),
        charts=tuple(_charts(state, view)),
        gangs=tuple(_gangs(state, view)),
        mlflow=mlflow.of(view),
        has_report=(state.folder / "report.html").is_file(),
    )


def as_json(run: Run | Damaged, series: bool) -> dict[str, Any]:
    """The same as plain values; without `series`, the curves and logs are left out."""
    if isinstance(run, Damaged):
        return {"run_id": run.run_id, "status": "damaged", "reason": run.reason}
    state = run.state
    if not series:
        bare: dict[str, Any] = {"loss_series": (), "bpb_series": (), "tail": ()}
        state = replace(state, seeds=tuple(replace(seed, **bare) for seed in state.seeds))
    values = to_dict(state) | {"run_id": state.run_id, "folder": str(state.folder)}
    if not series:
        for seed in values["seeds"]:
            for name in bare:
                del seed[name]
    plain: dict[str, Any] = _plain(values)
    return plain


def _plain(value: Any) -> Any:
    """JSON knows no figure that is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _title(state: RunState) -> str:
    active = [s for s in state.seeds if s.status == "running" and s.total]
    name = printable(state.run_id)
    if state.status == "running" and active:
        return f"{100 * active[0].done // active[0].total} % {active[0].phase} - {name}"
    return f"{state.verdict} - {name}"


def _href(run_id: str) -> str:
    return "/runs/" + quote(run_id, safe="", errors="surrogateescape")


def _row(state: RunState) -> RunRow:
    summary = state.claim.scores.get("mixture") if state.claim is not None else None
    when = datetime.datetime.fromtimestamp(state.started)
    return RunRow(
        run_id=printable(state.run_id),
        href=_href(state.run_id),
        status=state.status,
        kind=KINDS.get(state.status, UNKNOWN),
        verdict="" if state.verdict == state.status else state.verdict,
        verdict_kind=KINDS.get(state.verdict, UNKNOWN),
        sentence=state.sentence,
        seeds=tuple(_seed(seed) for seed in state.seeds),
        finished=f"{sum(seed.status == 'finished' for seed in state.seeds)} of {len(state.seeds)}",
        mean=DASH if summary is None else f"{summary.mean:.5f}",
        spread="" if summary is None or summary.sd is None else f" ± {summary.sd:.5f}",
        started=f"{when:%Y-%m-%d %H:%M}",
        took=_lasted(state.started, state.ended),
        hours=f"{state.node_hours:,.2f}",
        cost=DASH if state.cost is None else f"{state.cost:,.2f}",
    )


def _lasted(began: float, ended: float | None) -> str:
    return duration(max((time.time() if ended is None else ended) - began, 0.0))


def _seed(seed: SeedView) -> SeedRow:
    share = min(seed.done / seed.total, 1.0) if seed.phase and seed.total and seed.status == "running" else None
    # An attempt that was interrupted has left no word of when.
    took = "" if seed.started is None or seed.status == "interrupted" else _lasted(seed.started, seed.ended)
    return SeedRow(
        state=seed,
        kind=KINDS.get(seed.status, UNKNOWN),
        share=share,
        phase=seed.phase,
        progress="" if share is None else f"{seed.done:,} of {seed.total:,}",
        eta="" if share is None or seed.eta_s is None else duration(seed.eta_s),
        loss=_number(seed.loss, 4),
        ms_per_step="" if seed.ms_per_step is None else _number(seed.ms_per_step, 1),
        bpb={name: f"{value:.5f}" for name, value in (seed.scores or seed.bpb).items()},
        artifact=_number(seed.artifact_bytes, 0),
        gpu=_gpus(seed.system),
        memory=_memory(seed.system),
        took=took,
        where=", ".join(filter(None, (printable(seed.node), printable(seed.hardware)))),
        phases=_phases(seed.phases),
    )


def _phases(phases: Sequence[Phase]) -> str:
    """Those that took the most of the time, in their order."""
    sound = [phase for phase in phases if 0 <= phase.seconds <= MOST]
    least = PHASE_SHARE * sum(phase.seconds for phase in sound)
    return ", ".join(f"{phase.name} {duration(phase.seconds)}" for phase in sound if phase.seconds >= least)


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:,.{digits}f}"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST <= value <= MOST


def _gpus(system: Mapping[str, Any]) -> str:
    """Mean load of a gang's GPUs, and the memory of the fullest."""
    found = system.get("gpus")
    gpus = [gpu for gpu in found if isinstance(gpu, Mapping)] if isinstance(found, (list, tuple)) else []
    use = [gpu["utilisation_percent"] for gpu in gpus if _finite(gpu.get("utilisation_percent"))]
    held = [gpu for gpu in gpus if _finite(gpu.get("memory_mib"))]
    parts = []
    if use:
        parts.append(f"{sum(use) / len(use):.0f} % of {len(use)} GPU{'s' if len(use) > 1 else ''}")
    if held:
        fullest = max(held, key=lambda gpu: float(gpu["memory_mib"]))
        parts.append(f"{_gib(fullest)} GiB at the most")
    return ", ".join(parts) or DASH


def _gib(sample: Mapping[str, Any]) -> str:
    used, total = sample["memory_mib"] / GIB, sample.get("memory_total_mib")
    if not _finite(total) or not total:
        return f"{used:,.1f}"
    digits = 0 if total >= 100 * GIB else 1
    return f"{used:,.{digits}f} of {total / GIB:,.{digits}f}"


def _memory(system: Mapping[str, Any]) -> str:
    parts = []
    if _finite(system.get("cpu_percent")):
        parts.append(f"CPU {system['cpu_percent']:.0f} %")
    if _finite(system.get("memory_mib")):
        parts.append(f"memory {_gib(system)} GiB")
    return ", ".join(parts)


def _gangs(state: RunState, view: RunView) -> list[tuple[str, str, str]]:
    """What runs where, and what waits for room."""
    asked = view.job.resources
    each = f"{asked.ranks} rank{'s' if asked.ranks > 1 else ''}"
    each += f", one {asked.accelerator} each" if asked.accelerator else f", {asked.cpus_per_rank:g} CPU each"
    rows: list[tuple[str, str, str]] = []
    for seed in state.seeds:
        if seed.status in ("running", "starting"):
            where = " on ".join(filter(None, (printable(seed.hardware), printable(seed.node)))) or "being placed"
            rows.append((f"seed {seed.seed}", seed.status, where))
        elif seed.status == "queued":
            rows.append((f"seed {seed.seed}", seed.status, f"waits for room: {each}"))
    return rows


def _condition(condition: Condition, state: RunState) -> tuple[str, str, str, str]:
    waits = state.status == "running" and state.verdict != "out of reach" and condition.name in OF_ALL_SEEDS
    if condition.holds is False and waits:
        return condition.name, "… not yet", UNKNOWN, condition.detail
    return condition.name, condition.mark, f"is-{condition.mark[2:]}", condition.detail


def _charts(state: RunState, view: RunView) -> list[Figure]:
    losses = _lines(state, lambda seed: seed.loss_series)
    scores = _lines(state, lambda seed: seed.bpb_series)
    charts = []
    if losses:
        charts.append(line_chart("loss", "Training loss", losses, "step", "nats a token", skip=SKIP))
    if scores:
        rules = [Rule(view.job.baseline.mean_bpb, "baseline")] if view.job.baseline is not None else []
        charts.append(line_chart("bpb", "Running BPB", scores, "chunk", "bits per byte so far", rules=rules, skip=SKIP))
    return charts


def _lines(state: RunState, series: Callable[[SeedView], Sequence[tuple[float, float]]]) -> list[Line]:
    """A curve for each seed that has one; its colour is the same in every chart."""
    return [
        Line(f"seed {seed.seed}", [x for x, _ in points], [y for _, y in points], f"s{number % COLOURS}")
        for number, seed in enumerate(state.seeds)
        if (points := series(seed))
    ]
