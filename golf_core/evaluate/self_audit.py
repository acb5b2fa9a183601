"""An evaluation audits itself: the same artifact and configuration, as a black box, on the beginning of the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from golf_core.audit.isolation import Surroundings, audit_named
from golf_core.audit.report import AuditOptions, AuditReport, KraftSum
from golf_core.audit.scorer import ScorerSpec
from golf_core.config import GolfConfig
from golf_core.data.shards import validation_tokens
from golf_core.results import AuditRecord
from golf_core.strict_json import load

SCORER = "golf_core.evaluate.auditable:EvaluationScorer"
CLAIMED = "mixture"
AUDIT_RECORD = "audit.json"


def audit_evaluation(
    artifact: Path,
    data: Path,
    tokenizer: Path,
    config: Path,
    options: AuditOptions,
    around: Surroundings | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> AuditReport:
    """Audit the evaluation of `artifact` under the `GolfConfig` in the file `config`.

    The text is the validation text's beginning, long enough for every expert of the record to speak; the verdict goes
    by the mixture alone.
    """
    evaluation = load(GolfConfig, config).evaluate
    chunk = evaluation.chunk_tokens
    # The record's mixture speaks after this many chunks; half a chunk is left to measure in.
    chunks = -(-evaluation.hedge_min_tokens // chunk)
    tokens = validation_tokens(data, evaluation.seq_len)[: chunks * chunk + chunk // 2 + 1].astype(np.int64)
    arguments = {"artifact": str(artifact), "tokenizer": str(tokenizer), "config": str(config)}
    spec = ScorerSpec(SCORER, arguments=arguments)
    return audit_named(
        spec, tokens, replace(options, claims=(CLAIMED,)), around or Surroundings(isolate=False), progress
    )


def in_short(report: AuditReport) -> AuditRecord:
    """The figures of a report that a claim and a table need."""
    published = _of(report, "published")
    largest = max(published, key=lambda s: s.total, default=None)
    errors = [abs(s.total / s.expected - 1.0) for s in published if s.expected]
    return AuditRecord(
        positions=len({s.position for s in report.sums}),
        tokens=report.tokens,
        seconds=report.seconds,
        violated=report.named("violated", "undecided"),
        mixture_max_error=_error(_of(report, CLAIMED)),
        neural_max_error=_error(_of(report, "neural")),
        published_sum=largest.total if largest else 1.0,
        published_formula=largest.expected or 1.0 if largest else 1.0,
        published_formula_max_error=max(errors, default=0.0),
    )


def _of(report: AuditReport, score: str) -> list[KraftSum]:
    return [s for s in report.sums if s.score == score]


def _error(sums: Sequence[KraftSum]) -> float:
    return max((abs(s.total - 1.0) for s in sums), default=float("nan"))
