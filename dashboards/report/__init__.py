"""A run's report, and the comparison of two: one HTML file each, which needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dashboards.report.compare import write_comparison
from dashboards.report.data import RunData, read_run
from dashboards.report.findings import against_baseline, audit, provenance, reasons, reproduce, seeds
from dashboards.report.page import Header, Section, moment, refused, write_page
from dashboards.report.pictures import budgets, evaluation, losses, machines, training
from golf_core.log_text import duration

__all__ = ["write_comparison", "write_run_report"]

SECTIONS: Mapping[str, Callable[[RunData], Section | None]] = {
    "Reasons": reasons,
    "Seeds": seeds,
    "Against the baseline": against_baseline,
    "Training": training,
    "Evaluation over the text": evaluation,
    "Where the losses lie": losses,
    "Budgets": budgets,
    "Audit": audit,
    "Machines": machines,
    "Provenance": provenance,
    "How to reproduce": reproduce,
}


def write_run_report(folder: Path, path: Path) -> Path:
    """Write the report of the run in `folder` to `path`. Raises `ConfigError` where there is no result to report."""
    with refused(folder):
        run = read_run(folder)
        top = _header(run)
    return write_page(path, top, SECTIONS, run)


def _header(run: RunData) -> Header:
    """What stands above everything."""
    result = run.result
    hours, price = run.node_hours, run.job.cost.per_node_hour
    facts = [
        ("run", result.run_id),
        ("started", moment(result.started, "minutes")),
        ("took", duration(result.finished - result.started)),
        ("on", result.provenance.get("hardware") or "unknown"),
        ("node hours", f"{hours:.2f}" + ("" if price is None else f", cost {hours * price:,.2f}")),
    ]
    return Header(
        title=f"{result.name}: {result.claim.verdict}",
        name=result.name,
        verdict=result.claim.verdict,
        sentence=result.claim.sentence,
        facts=tuple(facts),
    )
