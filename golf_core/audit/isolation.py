"""Network and files: one run of the scorer in a process that is cut off, and what it tried to reach."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf_core.audit.auditor import audit
from golf_core.audit.report import (
    ARTIFACT,
    CLOCKS,
    FORBIDDEN_FILES,
    NETWORK,
    AuditOptions,
    AuditReport,
    BudgetEvidence,
    Condition,
    IsolationEvidence,
)
from golf_core.audit.scorer import F64, ScorerSpec, Subject, Tokens, differences
from golf_core.audit.text import count_bytes, judge_bytes
from golf_core.data.tokenizer import load_tokenizer
from golf_core.errors import ArtifactError, UserError

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
    if attempts:
        how = "refused by the system" if enforced else "observed only: the system offers no fence here"
        return Condition(name, None, "violated", f"{what} {', '.join(attempts[:3])} ({how})")
    unseen = "no attempt was seen; native code could have gone unseen, there is no fence here"
    return Condition(name, None, "holds", "nothing was tried while the system cut it off" if enforced else unseen)


def _run_child(folder: Path, timeout_s: float) -> str:
    """Run the child to its end. Returns how it failed; empty if it did not."""
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "output.txt").open("wb") as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "golf_core.audit.sandbox", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {timeout_s:g} s"
    if done.returncode == 0:
        return ""
    told = _read(folder / "failure.txt").strip() or _read(folder / "output.txt").strip()
    return told.splitlines()[-1] if told else f"ended with code {done.returncode}"


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


# --- a whole audit: the measurements, the bytes, the budgets, and what the scorer reaches for ---

CAP_BYTES = 16_000_000
PHASE_SECONDS = 600.0


@dataclass(frozen=True)
class Surroundings:
    """What is known about a score beside its scorer. Everything left out is not measured."""

    isolate: bool = True
    """Run the scorer once more in a process that is cut off from the network and from `forbidden`."""
    forbidden: tuple[Path, ...] = ()
    """Files and folders that evaluation must not read: the training data."""
    timeout_s: float = 3600.0
    """For the run in isolation."""
    tokenizer: Path | None = None
    claimed_bytes: float | None = None
    """The denominator of the claimed bits per byte."""
    claimed_tokens: Tokens | None = None
    """int64 [n]: the text that the denominator is of, its first token context only; None: the text of the audit."""
    original_bytes: int | None = None
    """UTF-8 bytes of the text before it was encoded, where it is at hand."""
    artifact: tuple[Path, ...] = ()
    """Every file that is shipped: code and weights."""
    clocks: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each phase, as claimed."""
    reproduce: str = ""


def audit_named(
    spec: ScorerSpec,
    tokens: Tokens,
    options: AuditOptions,
    around: Surroundings,
    progress: Callable[[str], None] = lambda line: None,
) -> AuditReport:
    """Audit the scorer `spec` on `tokens` (int64 [n]) and all that `around` gives to measure.

    Raises `UserError` kinds as `audit`, `isolated_run`, `count_bytes` and `weigh` do.
    """
    scorer, fresh = spec.build()
    report = audit(scorer, tokens, options, spec.target, fresh, progress)
    aligned = bool(report.mean_loss)
    if around.isolate and aligned:
        progress("scoring once in isolation")
        report = _isolated(report, spec, tokens, around)
    return audit_figures(report, tokens, around)


def audit_figures(report: AuditReport, tokens: Tokens, around: Surroundings) -> AuditReport:
    """`report` with bytes and budgets, which take no scorer."""
    conditions = report.conditions
    if around.tokenizer is not None:
        whole = around.claimed_tokens
        found = count_bytes(
            tokens if whole is None else whole,
            load_tokenizer(around.tokenizer),
            claimed=around.claimed_bytes,
            bos=report.options.bos,
            scored_from=report.first_scored if whole is None else 1,
            original_bytes=around.original_bytes,
        )
        report = dataclasses.replace(report, bytes=found)
        conditions = (*conditions, judge_bytes(found))
    if around.artifact or around.clocks:
        budget = weigh(around.artifact, around.clocks)
        report = dataclasses.replace(report, budget=budget)
        conditions = (*conditions, *judge_budgets(budget))
    return dataclasses.replace(report, conditions=conditions, reproduce=around.reproduce)


def _isolated(report: AuditReport, spec: ScorerSpec, tokens: Tokens, around: Surroundings) -> AuditReport:
    found = isolated_run(spec, tokens, report.vocab_size, around.forbidden, around.timeout_s)
    repeat = report.repeat
    steady = repeat is not None and not repeat.random and not repeat.keeps_state
    judged = judge_isolation(found, steady, report.options.loss_tolerance * 10)
    return dataclasses.replace(report, isolation=found, conditions=(*report.conditions, *judged))


def weigh(
    files: Sequence[Path],
    clocks: Mapping[str, float],
    cap_bytes: int = CAP_BYTES,
    phase_seconds: float = PHASE_SECONDS,
) -> BudgetEvidence:
    """Sizes on disk of the shipped `files` (code and weights) and the seconds of each phase.

    Raises `ArtifactError` for a file that is not there, or is named twice.
    """
    sizes: dict[str, int] = {}
    for file in files:
        if not file.is_file():
            raise ArtifactError(f"{file}: no such file; name the code and the weights as they are shipped")
        if str(file.resolve()) in sizes:
            raise ArtifactError(f"{file}: named twice; name each shipped file once")
        sizes[str(file.resolve())] = file.stat().st_size
    limits = dict.fromkeys(clocks, phase_seconds)
    return BudgetEvidence(sizes, sum(sizes.values()), cap_bytes, dict(clocks), limits)


def judge_budgets(evidence: BudgetEvidence) -> tuple[Condition, ...]:
    """Size and clocks, each where something was given."""
    conditions = []
    total, cap = evidence.total_bytes, evidence.cap_bytes
    if evidence.files:
        over = total - cap
        amount = f"{over:,} too many" if over > 0 else f"{-over:,} left"
        summary = f"{total:,} bytes in {len(evidence.files)} files of {cap:,}: {amount}"
        conditions.append(Condition(ARTIFACT, None, "violated" if over > 0 else "holds", summary))
    if evidence.clocks:
        late = {name: s for name, s in evidence.clocks.items() if not s <= evidence.clock_limits[name]}
        shown = ", ".join(f"{name} {s:g} s of {evidence.clock_limits[name]:g}" for name, s in evidence.clocks.items())
        conditions.append(Condition(CLOCKS, None, "violated" if late else "holds", f"{shown} (as given)"))
    return tuple(conditions)
