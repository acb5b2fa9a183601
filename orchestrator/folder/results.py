"""A run's files and stages, and what the run and its seeds came to: the content of result.json, typed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from golf_core.results import AuditRecord, EvalResult, ExportResult, TrainResult
from orchestrator.job.load import Job, PhaseLimits

# In the run's own folder; RESULT lies in each seed's folder too.
JOB, LEDGER, RESULT = "job.json", "ledger.jsonl", "result.json"

# In a seed's folder; the stages give their files the same names.
ARTIFACT, PROGRAM, CHECKPOINT = "model.golf", "train_gpt.py", "checkpoint.pt"
READABLE = "train_gpt_readable.py"
LOG, DATA, AUDIT = "log.jsonl", "data.json", "audit.json"
PREFLIGHT, BREAKDOWN = "preflight.json", "breakdown.json"
SNAPSHOT = "snapshot.bin"


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one figure over the seeds, in the figure's own unit."""

    n: int
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1); None for a single value."""
    ci95: tuple[float, float] | None
    """95% t interval of the mean; None for a single value."""


@dataclass(frozen=True)
class Test:
    """A one-sided t test of "the candidate is lower than the baseline by more than the margin"."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    name: str
    null: str
    """The hypothesis that a small p speaks against."""
    statistic: float | None
    """t; negative when the candidate is lower than the baseline by more than the margin."""
    df: float | None
    p: float | None
    """One-sided. None when the spread cannot be estimated; `note` then says why."""
    margin_bpb: float
    note: str = ""


Verdict = Literal["claim", "no claim", "too few seeds"]


@dataclass(frozen=True)
class Attempt:
    """An attempt at a seed that did not end well."""

    started: float
    """Seconds since the epoch."""
    finished: float
    """Seconds since the epoch."""
    stage: str
    """How far it got: start, train, export, evaluate or audit."""
    kind: str
    """Kind of the failure: one of `failures.FailureKind`, or stopped, or unknown."""
    error: str


@dataclass(frozen=True)
class SeedResult:
    """One seed, whatever became of it."""

    seed: int
    status: Literal["finished", "failed"]
    error: str | None
    """Why it failed, in one sentence."""
    train: TrainResult | None
    export: ExportResult | None
    evaluate: EvalResult | None
    started: float
    """Seconds since the epoch."""
    finished: float
    """Seconds since the epoch."""
    node: str
    audit: AuditRecord | None = None
    attempts: tuple[Attempt, ...] = ()
    """Those that failed or were interrupted, the last one included if the seed is not finished."""


@dataclass(frozen=True)
class Condition:
    """One thing that a claim needs."""

    name: str
    holds: bool | None
    """None: cannot be judged from what there is."""
    detail: str
    """The figures."""

    @property
    def mark(self) -> str:
        """Whether it holds, in a sign and a word."""
        return {True: "✓ holds", False: "✗ fails", None: "? unknown"}[self.holds]


@dataclass(frozen=True)
class Claim:
    """The verdict and everything it rests on."""

    verdict: Verdict
    sentence: str
    conditions: tuple[Condition, ...]
    scores: Mapping[str, Summary]
    """BPB over the finished seeds by scorer (neural, mixture, published), as far as there are any."""
    tests: tuple[Test, ...]
    """Tests of the mixture's BPB: against the margin, then against zero. Empty without baseline or score."""
    margin_bpb: float | None
    """0.005 nats a token in BPB, by the candidate's own bytes per token."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunResult:
    """Everything about one run of a job: the content of result.json."""

    name: str
    run_id: str
    job: Job
    provenance: Mapping[str, str]
    seeds: tuple[SeedResult, ...]
    claim: Claim
    started: float
    """Seconds since the epoch."""
    finished: float
    """Seconds since the epoch."""


def waiting_result(seed: int) -> SeedResult:
    """The result of a seed that has not begun: what is reported if it never does."""
    now = time.time()
    return SeedResult(seed, "failed", "not started", None, None, None, now, now, "")


# --- the stages of a seed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One stage of a seed. `golf_core.seed` has the function of its name, `SeedResult` the field."""

    name: str
    result: type
    """What it returns, and what the ledger keeps of it."""
    limit: Callable[[PhaseLimits], float]
    """Seconds after which it is ended."""
    files: tuple[str, ...] = ()
    """What it leaves in the seed's folder; the ledger has their checksums."""
    needs: tuple[str, ...] = ()
    """Files of the seed's folder that it begins with."""
    extras: tuple[str, ...] = ()
    """Files that are taken along where they are there: their loss costs no stage."""
    midway: str | None = None
    """The file from which it can go on in the middle, written while it runs."""
    alone: bool = False
    """Runs on rank 0 alone."""
    budget: Callable[[Job], float | None] = lambda job: None
    """Seconds that a claim may use for it."""
    wanted: Callable[[Job], bool] = lambda job: True


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "train",
            TrainResult,
            limit=lambda limits: limits.train,
            files=(CHECKPOINT,),
            midway=SNAPSHOT,
            budget=lambda job: job.budgets.train_seconds,
        ),
        Stage(
            "export",
            ExportResult,
            limit=lambda limits: limits.export,
            files=(ARTIFACT, PROGRAM, READABLE),
            needs=(CHECKPOINT,),
            alone=True,
        ),
        Stage(
            "evaluate",
            EvalResult,
            limit=lambda limits: limits.evaluate,
            needs=(ARTIFACT,),
            extras=(BREAKDOWN,),
            budget=lambda job: job.budgets.eval_seconds,
        ),
        Stage(
            "audit",
            AuditRecord,
            limit=lambda limits: limits.audit,
            files=(AUDIT,),
            needs=(ARTIFACT,),
            alone=True,
            wanted=lambda job: job.audit.positions > 0,
        ),
    )
}
"""In their order."""
MAKING = ("train", "export")
"""The stages that make the artifact: a run that evaluates another's does without them."""


def wanted_stages(job: Job) -> list[Stage]:
    """The stages that `job` asks for, in order."""
    return [stage for stage in STAGES.values() if stage.wanted(job)]
