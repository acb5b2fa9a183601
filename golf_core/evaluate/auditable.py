"""Our own evaluation as the audit takes it: a black box from tokens to losses, with snapshots to make it fast.

`golf_core.audit` sees nothing of the evaluation but these losses. Each call builds the evaluation anew: model from
the artifact, counts, weights, test-time training. The text's first token is context only.

An evaluation audits itself: the same artifact and configuration, on the beginning of the text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golf_core.artifact.codec import load_artifact
from golf_core.audit.isolation import Surroundings, audit_named
from golf_core.audit.report import AuditOptions, AuditReport
from golf_core.audit.scorer import F64, ScorerSpec, Tokens
from golf_core.config import GolfConfig
from golf_core.data.shards import validation_tokens
from golf_core.data.tokenizer import byte_table, load_tokenizer
from golf_core.distributed import default_device, single
from golf_core.evaluate.experts import neural_terms
from golf_core.evaluate.score import Evaluator, Losses
from golf_core.evaluate.text import Windows, validation_text
from golf_core.results import AuditRecord
from golf_core.strict_json import load

Scores = dict[str, F64]
SCORER = "golf_core.evaluate.auditable:EvaluationScorer"
CLAIMED = "mixture"
AUDIT_RECORD = "audit.json"


class EvaluationScorer:
    """Scores `neural`, `mixture` and `published` of an artifact under a run's configuration."""

    def __init__(self, artifact: str, tokenizer: str, config: str) -> None:
        """Paths; `config` is the JSON file of a `GolfConfig`, as the stages write it."""
        # The audit measures sums itself, from outside.
        self._config = replace(load(GolfConfig, Path(config)).evaluate, kraft_positions=0)
        self._model = load_artifact(Path(artifact))
        self.vocab_size = self._model.config.vocab_size
        self.chunk_tokens = chunk = self._config.chunk_tokens
        # Until then the record's mixture is the neural expert alone.
        self.complete_from = -(-self._config.hedge_min_tokens // chunk) * chunk + 1
        self._table = byte_table(load_tokenizer(Path(tokenizer), self.vocab_size))

    def __call__(self, tokens: Tokens) -> Scores:
        """Losses [n - 1] of tokens[1:] under each score."""
        evaluator = self._evaluator(tokens)
        parts: list[Losses] = []
        for chunk in range(evaluator.num_chunks):
            parts += evaluator.score_windows(evaluator.windows_of(chunk), chunk_ends=True)
            evaluator.adapt(chunk)
        return _joined(parts, 0, len(tokens) - 1)

    def snapshots(self, tokens: Tokens, positions: Sequence[int]) -> list[EvaluationSnapshot]:
        """One pass over the text, halting where the mixture's weights last moved before each position (ascending)."""
        evaluator, found = self._evaluator(tokens), list[EvaluationSnapshot]()
        targets = [max(position - 1, 0) for position in positions]
        for chunk in range(evaluator.num_chunks):
            windows = evaluator.windows_of(chunk)
            first, last = int(windows.first[0]), int(windows.last[-1])
            frozen = None
            at, step = first, self._config.mixer.update_tokens
            for target in (t for t in targets if first <= t < last):
                # Between chunks the record's counts, a large table, and the model stand still: one copy serves.
                frozen = frozen or copy.deepcopy(evaluator.standing())
                halt = first + (target - first) // step * step
                if halt > at:
                    evaluator.score_windows(_between(windows, at, halt), chunk_ends=False)
                    at = halt
                evaluator.settle()
                found.append(EvaluationSnapshot(evaluator.branch(frozen), windows, at))
            if len(found) == len(targets):
                break
            evaluator.score_windows(_between(windows, at, last), chunk_ends=True)
            evaluator.adapt(chunk)
        return found

    def _evaluator(self, tokens: Tokens) -> _Remembering:
        ranks = single(default_device(0))
        model = copy.deepcopy(self._model).to(ranks.device)
        return _Remembering(model, self._config, validation_text(tokens, self._table, ranks.device), ranks)


class EvaluationSnapshot:
    """The evaluation before the prediction of the token at `position`, up to the end of its chunk."""

    def __init__(self, evaluator: _Remembering, windows: Windows, at: int) -> None:
        self._evaluator, self._windows, self._at = evaluator, windows, at
        self.position = at + 1 if at else 0

    def score(self, tokens: Tokens, stop: int) -> Scores:
        """Losses of tokens[position:stop]. Raises `ValueError` beyond the chunk, where the model would adapt."""
        end = stop - 1
        if end > int(self._windows.last[-1]):
            raise ValueError(f"this snapshot reaches to token {int(self._windows.last[-1])}")
        if end <= self._at:
            return {name: np.zeros(stop - self.position) for name in self._evaluator.scorers}
        trial = self._evaluator.trial(tokens)
        parts = trial.score_windows(_between(self._windows, self._at, end), chunk_ends=False)
        scores = _joined(parts, self._at, end)
        # Token 0 is context only: where it is asked for it costs nothing.
        return scores if self.position else {name: np.concatenate(([0.0], nll)) for name, nll in scores.items()}

    def expected_sums(self, tokens: Tokens, position: int) -> Mapping[str, float]:
        """What the sums ought to be: 1, and for the record's mixture its formula 1 + w (V exp(-H) - 1)."""
        trial = self._evaluator.trial(tokens)
        return {"neural": 1.0, "mixture": 1.0, "published": trial.formula(self._windows, position - 1)}


class _Remembering(Evaluator):
    """An evaluator that can be branched, and that computes the logits of equal windows once in a chunk."""

    _logits_of: dict[bytes, Tensor]

    def standing(self) -> tuple[object, ...]:
        """The parts that change at the ends of chunks alone."""
        return self._scorer, self.published

    def settle(self) -> None:
        """Let the mixture learn now what it would learn before its next stretch, so that no branch needs to."""
        if self._mixer:
            self._mixer.settle()

    def trial(self, tokens: Tokens) -> _Remembering:
        """A branch for one stretch of another text: what is written only after a stretch is shared as well."""
        tables = self._mixer.tables if self._mixer else ()
        twin = self.branch(self.standing(), tables)
        twin.text.tokens.copy_(torch.from_numpy(tokens))
        return twin

    def branch(self, standing: tuple[object, ...], shared: Sequence[object] = ()) -> _Remembering:
        """A copy with `standing` in place of its own, which shares the logits computed so far and what is `shared`."""
        mine = self.standing()
        memo = {id(old): new for old, new in zip(mine, standing, strict=True) if old is not None}
        shared = (*shared, self._trainer, self._hidden, self._emit, self._windows, self.history, self._remembered())
        constant = (self.config, self.config.mixer, self.ranks, self.text.base_bytes, self.text.target_bytes)
        memo |= {id(part): part for part in (*shared, *constant)}
        twin = copy.deepcopy(self, memo)
        scorer = standing[0]
        if scorer is not self._scorer:
            twin._hidden = scorer.hidden  # type: ignore[attr-defined]
            twin._logits_of = {}
        return twin

    @torch.no_grad()
    def formula(self, windows: Windows, target: int) -> float:
        """The record's formula for its sum over the vocabulary where token `target` + 1 is predicted."""
        published = self.published
        if published is None or not published.speaks:
            return 1.0
        (batch,) = self._batches(_between(windows, target, target + 1))
        entropy = neural_terms(batch.logits, self.config.temperature).entropy
        return float(published.hedge.log_z(entropy, self._scorer.config.vocab_size).exp())

    def adapt(self, chunk: int) -> None:
        """As ever; what was computed with the model before is forgotten."""
        super().adapt(chunk)
        self._remembered().clear()

    def _remembered(self) -> dict[bytes, Tensor]:
        if not hasattr(self, "_logits_of"):
            self._logits_of = {}
        return self._logits_of

    def _logits(self, rows: Tensor, flat: Tensor) -> Tensor:
        # A pure function of the windows' tokens and of a model that stands still: the same inputs, the same logits.
        key = rows.cpu().numpy().tobytes() + flat.cpu().numpy().tobytes()
        known = self._remembered()
        if key not in known:
            known[key] = super()._logits(rows, flat)
        return known[key]


def _between(windows: Windows, begin: int, end: int) -> Windows:
    """The windows that score positions begin..end - 1, cut to these."""
    part = windows[np.flatnonzero((windows.last > begin) & (windows.first < end))]
    return Windows(part.start, np.maximum(part.first, begin), np.minimum(part.last, end))


def _joined(parts: Sequence[Losses], begin: int, end: int) -> Scores:
    """Losses of positions begin..end - 1 [end - begin] float64 under each score."""
    scores: Scores = {}
    for part in parts:
        for name, nll in part.by_scorer.items():
            column = scores.setdefault(name, np.full(end - begin, np.nan))
            at = part.first - begin
            column[at : at + len(nll)] = nll.double().cpu().numpy()
    return scores


# --- an evaluation audits itself ---


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
    published = [s for s in report.sums if s.score == "published"]
    largest = max(published, key=lambda s: s.total, default=None)
    errors = [abs(s.total / s.expected - 1.0) for s in published if s.expected]

    def error(score: str) -> float:
        return max((abs(s.total - 1.0) for s in report.sums if s.score == score), default=float("nan"))

    return AuditRecord(
        positions=len({s.position for s in report.sums}),
        tokens=report.tokens,
        seconds=report.seconds,
        violated=report.named("violated", "undecided"),
        mixture_max_error=error(CLAIMED),
        neural_max_error=error("neural"),
        published_sum=largest.total if largest else 1.0,
        published_formula=largest.expected or 1.0 if largest else 1.0,
        published_formula_max_error=max(errors, default=0.0),
    )
