"""A run's results made anew from its ledger: what `result.json` says, of the seeds and of the run, is derived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from golf_core import strict_json
from golf_core.errors import GolfError
from golf_core.files import MAX_RECORD_BYTES
from orchestrator.claim.judge import judge
from orchestrator.folder.layout import RESULT
from orchestrator.folder.ledger import Entry, Ledger, figures_in, read_ledger, without_history
from orchestrator.folder.redaction import Redactor, save_redacted
from orchestrator.folder.results import RunResult, SeedResult, waiting_result
from orchestrator.folder.resume import attempts_of
from orchestrator.folder.view import RunView, view_of


def rebuild(folder: Path, redactor: Redactor) -> tuple[RunResult, list[str]]:
    """Write the results of the run in `folder` anew, and judge them; returns the result, and notes on what was lost.

    Raises `ConfigError` where it is not the folder of a run, `RunError` while another process is at work on it.
    """
    folder = folder.absolute()
    view = view_of(folder)
    ledger = Ledger(folder)  # nobody else writes meanwhile
    try:
        notes: list[str] = []
        entries = read_ledger(folder)
        seeds = tuple(_seed(view, seed, entries, notes) for seed in view.job.seeds)
        result = _result(view, seeds)
        for seed in seeds:
            place = folder / f"seed-{seed.seed}"
            if place.is_dir():
                save_redacted(seed, redactor, place / RESULT)
        save_redacted(result, redactor, folder / RESULT)
    finally:
        ledger.close()
    return result, notes


def _result(view: RunView, seeds: tuple[SeedResult, ...]) -> RunResult:
    hardware = sorted({attempt.hardware for attempt in view.attempts if attempt.hardware})
    provenance = {**view.provenance, "hardware": "; ".join(hardware), "job_sha256": view.job.digest}
    if view.artifacts_of:
        provenance["artifacts_of"] = view.artifacts_of
    return RunResult(
        name=view.job.name,
        run_id=view.folder.name,
        job=view.job,
        provenance=provenance,
        seeds=seeds,
        claim=judge(view.job, seeds),
        started=view.started,
        finished=view.last_sign,
    )


def _seed(view: RunView, seed: int, entries: Sequence[Entry], notes: list[str]) -> SeedResult:
    attempts = [attempt for attempt in view.attempts if attempt.seed == seed]
    place = view.folder / f"seed-{seed}"
    if not attempts:
        return waiting_result(seed)
    before, why = _before(place / RESULT)
    last = attempts[-1]
    finished = last.status == "finished"
    rebuilt = replace(
        waiting_result(seed),
        status="finished" if finished else "failed",
        error=None if finished else last.error or "the driver ended without a word",
        started=attempts[0].started,
        finished=last.ended or last.started,
        node=next((attempt.node for attempt in reversed(attempts) if attempt.node), ""),
        attempts=attempts_of(place, seed, entries, ()),
        **figures_in(entries, seed, before, notes),
    )
    # The scores after each chunk are in the seed's own result alone.
    evaluated = before.evaluate if before is not None else None
    if rebuilt.evaluate is None:
        return rebuilt
    if evaluated is None or without_history(evaluated) != without_history(rebuilt.evaluate):
        notes.append(
            f"seed {seed}: the scores after each chunk are lost: {why or 'its result was of another evaluation'}"
        )
        return rebuilt
    return replace(rebuilt, evaluate=evaluated)


def _before(path: Path) -> tuple[SeedResult | None, str]:
    """The result that is there, or why there is none."""
    try:
        return strict_json.load(SeedResult, path), ""
    except GolfError as error:
        return None, str(error)


def judged_anew(folder: Path) -> RunResult:
    """The result of a finished run, with the claim computed again from its job and its seeds' results."""
    result = strict_json.load(RunResult, folder / RESULT, MAX_RECORD_BYTES)
    return replace(result, claim=judge(result.job, result.seeds))
