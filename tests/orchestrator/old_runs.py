"""The two runs of tests/data/old_runs, which an earlier version left behind: what they hold, and copies to work on."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

OLD_RUNS = Path(__file__).resolve().parents[1] / "data" / "old_runs"


def copy_of(name: str, place: Path) -> Path:
    """A copy of the run `name` ("finished" or "interrupted") in the folder `place`, with the program in every seed."""
    run = shutil.copytree(OLD_RUNS / name, place / name)
    for packed in (OLD_RUNS / "program").glob("*.xz"):
        for artifact in run.glob("seed-*/model.golf"):
            artifact.with_name(packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    return run


def read(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def ledger_of(run: Path) -> list[dict[str, Any]]:
    """The entries of a run's ledger."""
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def bpb_of(result: dict[str, Any]) -> dict[int, dict[str, float]]:
    """BPB of each seed under each score, from a run's result.json."""
    scores = ("neural", "mixture", "published")
    return {seed["seed"]: {name: seed["evaluate"][name]["bpb"] for name in scores} for seed in result["seeds"]}
