"""What the tests of faults share: a service in a process of its own, watched and disturbed from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_builders import STAGE_FILES
from tiny import OVERRIDES, REPO, only_run, write_job

from golf_core.strict_json import load
from orchestrator.folder.ledger import Entry, read_ledger
from orchestrator.folder.results import RunResult

# Long enough that each stage can be met in the middle of its work.
SLOWER = OVERRIDES | {"train.iterations": 12, "evaluate.max_tokens": 8192}
LIMITS = {"stall_seconds": 30, "retries": 1}  # a busy machine is slow to import torch


class Service:
    """`golf run` in a process of its own, watched from outside."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(exist_ok=True)
        self.output = (folder / f"output-{len(list(folder.glob('output-*')))}.txt").open("w+")
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        env |= {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", *arguments],
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=REPO,
        )

    @property
    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()

    @property
    def run(self) -> Path:
        return only_run(self.folder)

    def entries(self) -> list[Entry]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return read_ledger(self.run)
        return []

    def events(self, seed: int = 42) -> list[dict[str, Any]]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return [json.loads(line) for line in (self.run / f"seed-{seed}" / "log.jsonl").read_text().splitlines()]
        return []

    def wait_for(self, what: Callable[[Service], Any], seconds: float = 200) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = what(self)
            if found:
                return found
            assert self.process.poll() is None, self.text
            time.sleep(0.02)
        raise AssertionError(f"did not come: {self.text}")

    def ranks(self) -> list[int]:
        """Pids of the ranks of the newest gang."""
        gangs = [entry for entry in self.entries() if entry.kind == "gang_started"]
        return [rank["pid"] for rank in gangs[-1].fields["ranks"]] if gangs else []

    def ends(self, seconds: float = 300) -> int:
        return self.process.wait(timeout=seconds)


def in_stage(stage: str) -> Callable[[Service], bool]:
    """The seed's ranks are in the middle of `stage`."""
    kind = {"train": "train_step", "evaluate": "chunk"}.get(stage, "phase_started")
    return lambda service: any(
        event["kind"] == kind and event.get("phase", stage) == stage for event in service.events()
    )


def no_orphans(folder: Path, patience: float = 75) -> bool:
    """No process that was started for this folder is left, and no rank of its runs.

    Where a driver was killed, what Ray was just starting looks for its head for up to a minute before it gives up.
    """
    end = time.monotonic() + patience
    left: list[psutil.Process] = []
    while time.monotonic() < end:
        ranks = _ranks_under(folder)
        left = [
            p
            for p in psutil.process_iter()
            if (p.pid in ranks and _is_rank(p)) or str(folder / "tmp") in _temporary_folder(p)
        ]
        if not left:
            return True
        time.sleep(0.2)
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(process, " ".join(process.cmdline())[:300])  # noqa: T201
    return False


def _ranks_under(folder: Path) -> set[int]:
    """Pids of all ranks that the ledgers of the runs under `folder` name."""
    entries = [entry for ledger in folder.glob("runs/*/ledger.jsonl") for entry in read_ledger(ledger.parent)]
    return {rank["pid"] for entry in entries if entry.kind == "gang_started" for rank in entry.fields["ranks"]}


def _is_rank(process: psutil.Process) -> bool:
    """Not another process that has the number of one that is gone."""
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:
        return False


def _temporary_folder(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:
        return ""


Figures = dict[int, float]
"""The mixture's BPB of each seed."""
Tell = Callable[..., None]
Start = Callable[..., Service]


def job(folder: Path, seeds: tuple[int, ...] = (42,), **changes: Any) -> str:
    fields = {"seeds": list(seeds), "overrides": SLOWER, "limits": LIMITS}
    return str(write_job(folder, **(fields | changes)))


def figures(run: Path) -> Figures:
    result = load(RunResult, run / "result.json")
    return {s.seed: s.evaluate.mixture.bpb for s in result.seeds if s.evaluate and s.evaluate.mixture}


def check_whole(run: Path, undisturbed: Figures, seeds: tuple[int, ...] = (42,)) -> None:
    """The figures are those of an undisturbed run, and every line of the ledger can be read."""
    assert figures(run) == pytest.approx({seed: undisturbed[seed] for seed in seeds}, abs=1e-6)
    entries = read_ledger(run)
    assert len(entries) == len((run / "ledger.jsonl").read_text().splitlines())
    assert entries[0].kind == "run_started" and entries[-1].kind == "run_finished"
    result = load(RunResult, run / "result.json")
    assert all(seed.status == "finished" for seed in result.seeds)


def signs_of_life(service: Service) -> list[tuple[float, str]]:
    """What this process, and none before it, has written in the ledger and the seeds' logs."""
    entries = service.entries()
    own = [i for i, e in enumerate(entries) if e.kind == "run_started" and e.fields.get("pid") == service.process.pid]
    if not own:
        return []
    began = entries[own[-1]].time
    seeds = {entry.fields["seed"] for entry in entries if "seed" in entry.fields}
    events = [(event["time"], event["kind"]) for seed in seeds for event in service.events(seed)]
    return [(e.time, e.kind) for e in entries[own[-1] :]] + [event for event in events if event[0] >= began]


def check_ledger(run: Path, seeds: tuple[int, ...]) -> None:
    """The ledger tells one story: in order, attempts without a gap, and no stage made twice without a reason."""
    entries = read_ledger(run)
    assert len(entries) == len((run / "ledger.jsonl").read_text().splitlines())
    # Threads take the time before they take their turn to write.
    assert all(later.time >= earlier.time - 1 for earlier, later in pairwise(entries))
    starts = [entry.fields["attempt"] for entry in entries if entry.kind == "run_started"]
    assert starts == list(range(1, len(starts) + 1))
    for seed in seeds:
        done: list[str] = []
        attempts: list[int] = []
        ended: list[int] = []
        for entry in (entry for entry in entries if entry.fields.get("seed") == seed):
            if entry.kind == "seed_started":
                attempts.append(entry.fields["attempt"])
                assert entry.fields["kept"] == done, f"seed {seed}: {entry}"
            elif entry.kind == "stage_finished":
                done.append(entry.fields["stage"])
                assert done == [*STAGE_FILES][: len(done)], f"seed {seed}: {done}"
            elif entry.kind == "seed_finished":
                assert entry.fields["attempt"] == attempts[-1]
                ended.append(entry.fields["attempt"])
        assert attempts == list(range(1, len(attempts) + 1)), f"seed {seed}: {attempts}"
        assert len(ended) == len(set(ended)) and ended[-1] == attempts[-1]
