"""A whole audit of a scorer that has a name: the four conditions, isolation, bytes, budgets, in one report."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from golf_core.audit.auditor import audit
from golf_core.audit.isolation import isolated_run, judge_isolation
from golf_core.audit.report import ARTIFACT, CLOCKS, AuditOptions, AuditReport, BudgetEvidence, Condition
from golf_core.audit.scorer import ScorerSpec, Tokens
from golf_core.audit.text import count_bytes, judge_bytes
from golf_core.data.tokenizer import load_tokenizer
from golf_core.errors import ArtifactError

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


def empty_report(tokens: Tokens, options: AuditOptions, vocab: int) -> AuditReport:
    """A report without a scorer, to which figures can be added."""
    return AuditReport(
        scorer="",
        tokens=len(tokens),
        tokens_sha256=hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest(),
        vocab_size=vocab,
        chunk_tokens=options.chunk_tokens,
        options=options,
        first_scored=0,
        mean_loss={},
        runs=0,
        seconds=0.0,
        conditions=(),
        notes=(),
        sums=(),
        causal=None,
        repeat=None,
        fast_path=None,
        distributions=None,
        documents=None,
    )


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
