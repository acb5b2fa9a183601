"""What the pages show of a run, in words and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import quote

from dashboards.board.mlflow_look import MlflowLook
from dashboards.charts.kinds import Axes, Line, Rule, line_chart
from dashboards.charts.paper import Figure, Head
from dashboards.commands import REPORT
from dashboards.live import Damaged, RunState
from dashboards.pages import SKIP, seed_colour
from golf_core.events import System
from golf_core.log_text import duration
from golf_core.strict_json import printable, to_dict
from orchestrator.folder.results import Condition
from orchestrator.folder.view import SeedView

DASH = "–"
GIB = 1024.0
PHASE_SHARE = 0.05
"""Share of an attempt's time below which a phase is not named."""
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


def run_page(run: RunState, mlflow: MlflowLook) -> dict[str, Any]:
    """One run in full, by the names that its template has."""
    return {
        "title": _title(run),
        "run": run,
        "conditions": [_condition(c, run) for c in (run.claim.conditions if run.claim else ())],
        "charts": _charts(run),
        "gangs": _gangs(run),
        "mlflow": mlflow.of(run.view),
        "has_report": (run.view.folder / REPORT).is_file(),
    }


def as_json(run: RunState | Damaged, series: bool) -> dict[str, Any]:
    """The same as plain values; without `series`, the curves and logs are left out."""
    if isinstance(run, Damaged):
        return {"run_id": run.run_id, "status": "damaged", "reason": run.reason}
    values = {
        "folder": str(run.view.folder),
        "name": run.view.job.name,
        "status": run.status,
        "started": run.view.started,
        "ended": run.ended,
        "seeds": [_seed_json(seed, series) for seed in run.seeds],
        "claim": run.claim,
        "verdict": run.verdict,
        "sentence": run.sentence,
        "node_hours": run.node_hours,
        "cost": run.cost,
        "hardware": run.view.hardware,
        "run_id": run.run_id,
    }
    plain: dict[str, Any] = to_dict(values)
    return plain


def _seed_json(seed: SeedView, series: bool) -> dict[str, Any]:
    left_out = () if series else ("loss_series", "bpb_series", "tail")
    values = {f.name: getattr(seed, f.name) for f in fields(seed) if f.name not in left_out}
    values["system"] = {} if seed.system is None else {**seed.system.fields, "time": seed.system.time}
    return values


def _title(state: RunState) -> str:
    active = [s for s in state.seeds if s.status == "running" and s.total]
    name = printable(state.run_id)
    if state.status == "running" and active:
        return f"{100 * active[0].done // active[0].total} % {active[0].phase} - {name}"
    return f"{state.verdict} - {name}"


# --- what the templates call ---


def href(run: RunState | Damaged) -> str:
    """Where a run's page is."""
    return "/runs/" + quote(run.run_id, safe="", errors="surrogateescape")


def verdict(run: RunState) -> str:
    """The verdict; empty where it says no more than the status."""
    return "" if run.verdict == run.status else run.verdict


def spread(run: RunState) -> str:
    """The standard deviation of the mixture's BPB, with its sign; empty where there is none."""
    return "" if run.mixture is None or run.mixture.sd is None else f" ± {run.mixture.sd:.5f}"


def kind(word: str) -> str:
    """Class of colour of a status or verdict."""
    return KINDS.get(word, UNKNOWN)


def number(value: float | None, digits: int) -> str:
    """A figure with so many decimals; a dash where there is none."""
    return DASH if value is None else f"{value:,.{digits}f}"


def share(seed: SeedView) -> float | None:
    """How much of the phase is done, 0 to 1; None where none goes on."""
    going_on = seed.phase and seed.total and seed.status == "running"
    return min(seed.done / seed.total, 1.0) if going_on else None


def where(seed: SeedView) -> str:
    """Node and hardware."""
    return ", ".join(filter(None, (printable(seed.node), printable(seed.hardware))))


def phases(seed: SeedView) -> str:
    """The phases that took the most of the time, in their order, with how long they took."""
    sound = [phase for phase in seed.phases if phase.seconds >= 0]
    least = PHASE_SHARE * sum(phase.seconds for phase in sound)
    return ", ".join(f"{phase.name} {duration(phase.seconds)}" for phase in sound if phase.seconds >= least) or DASH


def gpus(seed: SeedView) -> str:
    """Mean load of a gang's GPUs, and the memory of the fullest."""
    found = seed.system.gpus if seed.system is not None else ()
    use = [gpu.utilisation_percent for gpu in found if gpu.utilisation_percent is not None]
    held = [(gpu.memory_mib, gpu.memory_total_mib) for gpu in found if gpu.memory_mib is not None]
    parts = []
    if use:
        parts.append(f"{sum(use) / len(use):.0f} % of {len(use)} GPU{'s' if len(use) > 1 else ''}")
    if held:
        parts.append(f"{_gib(*max(held, key=lambda gpu: gpu[0]))} GiB at the most")
    return ", ".join(parts) or DASH


def machine(seed: SeedView) -> str:
    """Load and memory of a gang's machine; empty where they are not known."""
    system, parts = seed.system or System(), []
    if system.cpu_percent is not None:
        parts.append(f"CPU {system.cpu_percent:.0f} %")
    if system.memory_mib is not None:
        parts.append(f"memory {_gib(system.memory_mib, system.memory_total_mib)} GiB")
    return ", ".join(parts)


def _gib(used_mib: float, total_mib: float | None) -> str:
    used = used_mib / GIB
    if not total_mib:
        return f"{used:,.1f}"
    digits = 0 if total_mib >= 100 * GIB else 1
    return f"{used:,.{digits}f} of {total_mib / GIB:,.{digits}f}"


FILTERS = {
    filter.__name__: filter
    for filter in (duration, gpus, href, kind, machine, number, phases, printable, share, spread, verdict, where)
}


# --- a run's page ---


def _gangs(state: RunState) -> list[tuple[str, str, str]]:
    """What runs where, and what waits for room."""
    asked = state.view.job.resources
    each = f"{asked.ranks} rank{'s' if asked.ranks > 1 else ''}"
    each += f", one {asked.accelerator} each" if asked.accelerator else f", {asked.cpus_per_rank:g} CPU each"
    rows: list[tuple[str, str, str]] = []
    for seed in state.seeds:
        if seed.status in ("running", "starting"):
            place = " on ".join(filter(None, (printable(seed.hardware), printable(seed.node)))) or "being placed"
        elif seed.status == "queued":
            place = f"waits for room: {each}"
        else:
            continue
        rows.append((f"seed {seed.seed}", seed.status, place))
    return rows


def _condition(condition: Condition, state: RunState) -> tuple[str, str, str, str]:
    waits = state.status == "running" and state.verdict != "out of reach" and condition.name in OF_ALL_SEEDS
    if condition.holds is False and waits:
        return condition.name, "… not yet", UNKNOWN, condition.detail
    return condition.name, condition.mark, f"is-{condition.mark[2:]}", condition.detail


def _charts(state: RunState) -> list[Figure]:
    baseline, charts = state.view.job.baseline, []
    if losses := _lines(state, lambda seed: seed.loss_series):
        charts.append(line_chart(Head("loss", "Training loss"), Axes("step", "nats a token", SKIP), losses))
    if scores := _lines(state, lambda seed: seed.bpb_series):
        rules = [Rule(baseline.mean_bpb, "baseline")] if baseline is not None else []
        axes = Axes("chunk", "bits per byte so far", SKIP)
        charts.append(line_chart(Head("bpb", "Running BPB"), axes, scores, rules))
    return charts


def _lines(state: RunState, series: Callable[[SeedView], Sequence[tuple[float, float]]]) -> list[Line]:
    """A curve for each seed that has one; its colour is the same in every chart."""
    return [
        Line(f"seed {seed.seed}", [x for x, _ in points], [y for _, y in points], seed_colour(number))
        for number, seed in enumerate(state.seeds)
        if (points := series(seed))
    ]
