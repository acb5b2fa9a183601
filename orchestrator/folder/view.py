"""A run's folder as one value: what its ledger says, with the places of the figures and files beside it.

What is shown of a run elsewhere (MLflow, tables) is made from this alone, so that it can be made again at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golf_core.errors import ConfigError
from golf_core.files import open_plain
from golf_core.strict_json import printable
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.layout import LEDGER, LOG
from orchestrator.folder.ledger import Entry, read_ledger
from orchestrator.folder.provenance import describe_hardware
from orchestrator.job.load import Job

KEY_DIGITS = 16


@dataclass(frozen=True)
class AttemptView:
    """One attempt at a seed, as far as it has come."""

    seed: int
    number: int
    """Counted from 1."""
    started: float
    """Seconds since the epoch."""
    log: Path
    """Its events: those of stages that it took over from the attempt before come first."""
    newest: bool
    ended: float | None = None
    """Seconds since the epoch; None while it goes on, or where it ended without a word."""
    status: str = ""
    """finished or failed, once it has ended."""
    failure: str = ""
    """Kind of the failure, where it failed."""
    stage: str = ""
    error: str = ""
    hardware: str = ""
    node: str = ""


@dataclass(frozen=True)
class RunView:
    """A run, as far as it has come."""

    folder: Path
    key: str
    """The same wherever the folder is moved, and no other run's."""
    job: Job
    started: float
    """Of the first start, seconds since the epoch."""
    provenance: Mapping[str, str]
    """Of the last start."""
    attempts: tuple[AttemptView, ...]
    """In the order in which they were begun."""
    ended: float | None
    """When the driver wrote that it ended or stopped, seconds since the epoch; None while it goes on."""
    artifacts_of: str = ""
    """The run whose artifacts are evaluated, where nothing is trained."""

    @property
    def last_sign(self) -> float:
        """Seconds since the epoch."""
        times = [self.started, *(a.ended or a.started for a in self.attempts)]
        return max(times if self.ended is None else [*times, self.ended])


def view_of(folder: Path) -> RunView:
    """Read the run in `folder`. Raises `ConfigError` where it is not the folder of a run that was started."""
    job, entries = job_of_run(folder, {}), read_ledger(folder)
    starts = [entry for entry in entries if entry.kind == "run_started"]
    if not starts:
        raise ConfigError(f"{folder}: its ledger does not say that it was ever started; run the job anew")
    last = entries.index(starts[-1])
    ends = [entry.time for entry in entries[last:] if entry.kind in ("run_finished", "run_stopped")]
    return RunView(
        folder=folder,
        key=_key(folder),
        job=job,
        started=starts[0].time,
        provenance=_texts(starts[-1].fields.get("provenance")),
        attempts=_attempts(folder, entries),
        ended=ends[-1] if ends else None,
        artifacts_of=_text(starts[0].fields.get("artifacts_of")),
    )


def _key(folder: Path) -> str:
    """From the ledger's first line, which is never written again."""
    with open_plain(folder / LEDGER) as file:
        return hashlib.sha256(file.readline(1 << 20)).hexdigest()[:KEY_DIGITS]


def _attempts(folder: Path, entries: Sequence[Entry]) -> tuple[AttemptView, ...]:
    found: dict[tuple[int, int], AttemptView] = {}
    newest: dict[int, int] = {}
    for entry in entries:
        seed, number = entry.fields.get("seed"), entry.fields.get("attempt")
        if not isinstance(seed, int):
            continue
        if entry.kind == "seed_started" and isinstance(number, int):
            newest[seed] = number
            found[seed, number] = AttemptView(seed, number, entry.time, folder / f"seed-{seed}" / LOG, newest=True)
        key = (seed, newest.get(seed, 0))
        if key not in found:
            continue
        if entry.kind == "gang_started":
            found[key] = _with_gang(found[key], entry.fields.get("ranks"))
        elif entry.kind == "seed_finished":
            texts = {name: _text(entry.fields.get(name)) for name in ("status", "failure", "stage", "error")}
            ended: dict[str, Any] = {"ended": entry.time, **texts}
            found[key] = replace(found[key], **ended)
    return tuple(
        attempt if attempt.number == newest[attempt.seed] else _superseded(attempt) for attempt in found.values()
    )


def _superseded(attempt: AttemptView) -> AttemptView:
    # Where the log of an attempt is kept when the next begins: see `seed_run.begin_log`.
    log = attempt.log.with_name(f"{attempt.log.stem}.attempt-{attempt.number}{attempt.log.suffix}")
    return replace(attempt, newest=False, log=log)


def _with_gang(attempt: AttemptView, ranks: Any) -> AttemptView:
    sound = isinstance(ranks, list) and all(isinstance(rank, Mapping) for rank in ranks)
    if not sound or not ranks or not all(isinstance(rank.get("device"), str) for rank in ranks):
        return attempt
    return replace(attempt, hardware=printable(describe_hardware(ranks)), node=_text(ranks[0].get("node")))


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""  # a control code in it is shown, not obeyed


def _texts(values: Any) -> dict[str, str]:
    return {str(name): _text(value) for name, value in values.items()} if isinstance(values, Mapping) else {}
