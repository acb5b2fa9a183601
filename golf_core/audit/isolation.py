"""Network and files: one run of the scorer in a process that is cut off, and what it tried to reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golf_core.audit.report import FORBIDDEN_FILES, NETWORK, Condition, IsolationEvidence
from golf_core.audit.scorer import F64, ScorerSpec, Subject, Tokens, differences
from golf_core.errors import UserError

SHOWN = 8
"""Different attempts of each kind that the report lists."""


def isolated_run(
    spec: ScorerSpec,
    tokens: Tokens,
    vocab: int,
    forbidden: Sequence[Path] = (),
    timeout_s: float = 600.0,
) -> IsolationEvidence:
    """Score `tokens` (int64 [n]) once outside and once in a sandboxed process, without network and `forbidden` paths.

    Both are fresh scorers, so that losses that differ say what the sandbox took away. Raises `UserError` for a
    forbidden path that is not there, and `ScorerError` for a scorer that fails outside.
    """
    for path in forbidden:
        if not path.exists():
            raise UserError(f"{path}: no such path to forbid; name where the training data lies")
    outside = Subject(spec.build()[0], spec.target, vocab).run(tokens).values
    resolved = [str(path.resolve()) for path in forbidden]
    with tempfile.TemporaryDirectory(prefix="golf-audit-") as name:
        folder = Path(name)
        request = {
            "target": spec.target,
            "factory": spec.factory,
            "arguments": dict(spec.arguments),
            "vocab": vocab,
            "forbidden": resolved,
            "search_path": [str(Path(p).resolve()) if p else str(Path.cwd()) for p in sys.path],
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        np.save(folder / "tokens.npy", tokens)
        failure = _run_child(folder, timeout_s)
        return _evidence(folder, resolved, failure, outside)


def judge_isolation(evidence: IsolationEvidence, steady: bool, tolerance: float) -> tuple[Condition, ...]:
    """Network and forbidden files. `steady`: the scorer repeats itself, so that a difference means something."""
    network = _judge(NETWORK, evidence.network == "enforced", evidence.connections, "tried to reach")
    files = _judge(FORBIDDEN_FILES, evidence.files == "enforced", evidence.forbidden_reads, "tried to read")
    if not evidence.forbidden:
        files = Condition(FORBIDDEN_FILES, None, "not measured", "no path was forbidden")
    if evidence.connections or evidence.forbidden_reads:
        return network, files
    apart = evidence.difference
    if evidence.failure:
        doubt = f"the scorer fails when it is cut off ({evidence.failure})"
    elif apart is not None and apart > tolerance and steady:
        doubt = f"losses differ by {apart:.3g} nats when the scorer is cut off, and nothing that it tried was seen"
    else:
        return network, files
    return tuple(
        c if c.verdict == "not measured" else Condition(c.name, None, "undecided", doubt) for c in (network, files)
    )


def _judge(name: str, enforced: bool, attempts: Sequence[str], what: str) -> Condition:
    how = "refused by the system" if enforced else "observed only: the system offers no fence here"
    if attempts:
        return Condition(name, None, "violated", f"{what} {', '.join(attempts[:3])} ({how})")
    if enforced:
        return Condition(name, None, "holds", "nothing was tried while the system cut it off")
    return Condition(
        name, None, "holds", "no attempt was seen; native code could have gone unseen, there is no fence here"
    )


def _run_child(folder: Path, timeout_s: float) -> str:
    """Run the child to its end. Returns how it failed; empty if it did not."""
    with (folder / "output.txt").open("wb") as output:
        command = [sys.executable, "-m", "golf_core.audit.sandbox", str(folder)]
        package = Path(__file__).resolve().parents[2]
        child = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=_environment(package)
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return f"did not end within {timeout_s:g} s"
    if code == 0:
        return ""
    told = _read(folder / "failure.txt").strip() or _read(folder / "output.txt").strip()
    return told.splitlines()[-1] if told else f"ended with code {code}"


def _environment(package: Path) -> dict[str, str]:
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _evidence(folder: Path, forbidden: list[str], failure: str, outside: F64) -> IsolationEvidence:
    means: dict[str, Any] = json.loads(_read(folder / "means.json") or "{}")
    network, files = means.get("network") or (False, "not tried"), means.get("files") or (False, "no path to forbid")
    events = [json.loads(line) for line in _read(folder / "events.jsonl").splitlines()]

    def tried(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(what for k, what in events if k == kind))[:SHOWN]

    return IsolationEvidence(
        network="enforced" if network[0] else "observed",
        files="enforced" if files[0] else "observed",
        means=(f"network: {network[1]}", f"files: {files[1]}"),
        forbidden=tuple(forbidden),
        connections=tried("connection"),
        forbidden_reads=tried("read"),
        processes=tried("process"),
        difference=_difference(folder / "losses.npz", outside),
        failure=failure,
    )


def _difference(path: Path, outside: F64) -> float | None:
    if not path.is_file():
        return None
    with np.load(path) as saved:
        values = saved["values"]
    return float(differences(values, outside).max()) if values.shape == outside.shape else float("inf")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
