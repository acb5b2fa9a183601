"""What the service costs beside the work that it serves.

    python benchmarks/service_overhead.py phases runs/smoke-…      # of a run that has ended: from its ledger and logs
    python benchmarks/service_overhead.py logging --pairs 3        # 2,000 steps with full logging against none

`phases`: the time in which any seed was in no phase at all (gangs that start, files that move, MLflow) against the sum
of the phases. `logging`: the training clocks of runs of the same seed in turn, with an event at every step in the
logs and in MLflow, and with one event in all; the ratio of each pair, and their median. With `--together` both runs of
a pair go on at the same time, on a core each, so that a machine that is now faster and now slower does not show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from golf_core.strict_json import load
from orchestrator.folder.ledger import read_ledger
from orchestrator.folder.results import RunResult

STEPS = 2000
SMALL = {
    "model.model_dim": 64,
    "model.rope_dims": 8,
    "train.iterations": STEPS,
    "train.warmup_steps": 1,
    "train.batch_tokens": 1024,
    "train.seq_len": 128,
    "train.val_every": 0,
    "evaluate.seq_len": 128,
    "evaluate.chunk_tokens": 1024,
    "evaluate.max_tokens": 2048,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    phases = commands.add_parser("phases")
    phases.add_argument("run", type=Path)
    logging = commands.add_parser("logging")
    logging.add_argument("--pairs", type=int, default=3)
    logging.add_argument("--together", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "phases":
        show_phases(arguments.run)
    else:
        show_logging(arguments.pairs, arguments.together)


def show_phases(run: Path) -> None:
    entries = read_ledger(run)
    inside = outside = 0.0
    for seed in sorted({entry.fields["seed"] for entry in entries if entry.kind == "seed_started"}):
        own = [entry for entry in entries if entry.fields.get("seed") == seed]
        whole = own[-1].time - own[0].time
        work = phase_seconds(run / f"seed-{seed}" / "log.jsonl")
        print(f"seed {seed}: {whole:.1f} s from start to end, {work:.1f} s in phases, {whole - work:.1f} s outside")
        inside, outside = inside + work, outside + whole - work
    first, last = entries[0].time, entries[-1].time
    print(f"run: {last - first:.1f} s; seeds: {inside:.1f} s in phases, {outside:.1f} s outside them", end="")
    print(f" = {100 * outside / inside:.1f} % of the phases' sum")


def phase_seconds(log: Path) -> float:
    """From each phase's first event to its last, the phases of golf_core alone."""
    events: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    began: dict[str, float] = {}
    total = 0.0
    for event in events:
        if event["kind"] == "phase_started":
            began[event["phase"]] = event["time"]
        elif event["kind"] == "phase_finished":
            total += event["time"] - began.pop(event["phase"])
    return total


def show_logging(pairs: int, together: bool) -> None:
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pairs):
            order = (1, STEPS) if number % 2 else (STEPS, 1)  # the machine gets no slower or faster for one of them
            places = [Path(folder) / f"pair-{number}-every-{every}" for every in order]
            with ThreadPoolExecutor(2 if together else 1) as pool:
                seconds = dict(zip(order, pool.map(train_seconds, places, order), strict=True))
            ratios.append(seconds[1] / seconds[STEPS])
            print(f"{STEPS} steps: {seconds[1]:.2f} s with all events, {seconds[STEPS]:.2f} s with one", end="")
            print(f", ratio {ratios[-1]:.4f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.4f}")


def train_seconds(output: Path, log_every: int) -> float:
    """The training clock of a run of one seed on one core."""
    job = {
        "name": "overhead",
        "preset": "small",
        "overrides": SMALL | {"train.log_every": log_every},
        "seeds": [42],
        "data": "sample",
        "audit": {"positions": 0},
        "output": str(output),
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "orchestrator", "run", str(path), "--address", "local"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"RAY_TMPDIR": "/tmp"})
    (result,) = [load(RunResult, found) for found in output.glob("*/result.json")]
    assert result.seeds[0].train is not None
    return result.seeds[0].train.train_seconds


if __name__ == "__main__":
    main()
