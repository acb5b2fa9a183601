"""The audit of a run's own evaluation, from what lies in the run's folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from golf_core import strict_json
from golf_core.errors import ConfigError
from golf_core.results import DataRecord
from orchestrator.folder.earlier import job_of_run
from orchestrator.folder.results import ARTIFACT, DATA, PROGRAM, RESULT, SeedResult

if TYPE_CHECKING:
    from golf_core.audit.report import AuditOptions, AuditReport

POSITIONS, CUTS, CHECKS = 4, 0, 1
"""Defaults: each plain run of an evaluation takes seconds, and a position a thousand substitutes."""


def audit_run(
    folder: Path,
    of_seed: int | None,
    options: AuditOptions,
    isolate: bool,
    reproduce: str,
    progress: Callable[[str], None],
) -> AuditReport:
    """Audit the evaluation of one seed of the run in `folder`: the first, or `of_seed`.

    Its text is the beginning of the run's validation text, its training data what evaluation must not read; the bytes
    are counted over all that the run scored. Raises
    `UserError` kinds for a run that lacks something.
    """
    import numpy as np

    from golf_core.audit.isolation import Surroundings
    from golf_core.data.shards import train_shards, validation_tokens
    from golf_core.evaluate.auditable import audit_evaluation

    job = job_of_run(folder, {})
    seed = job.seeds[0] if of_seed is None else of_seed
    if seed not in job.seeds:
        raise ConfigError(f"--of-seed {seed}: the run in {folder} has seeds {', '.join(map(str, job.seeds))}")
    place = folder / f"seed-{seed}"
    if not (place / ARTIFACT).is_file():
        raise ConfigError(f"{place / ARTIFACT}: missing; seed {seed} of that run left no artifact to audit")
    data = strict_json.load(DataRecord, place / DATA)
    result = strict_json.load(SeedResult, place / RESULT)
    clocks, claimed_bytes, claimed_tokens = {}, None, None
    if result.train:
        clocks["train"] = result.train.train_seconds
    if result.evaluate:
        clocks["evaluate"] = result.evaluate.seconds
        claimed_bytes = result.evaluate.bytes
        whole = validation_tokens(Path(data.path), job.config.evaluate.seq_len)
        claimed_tokens = whole[: result.evaluate.tokens + 1].astype(np.int64)
    around = Surroundings(
        isolate=isolate,
        forbidden=tuple(train_shards(Path(data.path))),
        tokenizer=Path(data.tokenizer),
        claimed_bytes=claimed_bytes,
        claimed_tokens=claimed_tokens,
        artifact=(place / ARTIFACT, place / PROGRAM),
        clocks=clocks,
        reproduce=reproduce,
    )
    with tempfile.TemporaryDirectory(prefix="golf-audit-") as scratch:
        config = Path(scratch) / "config.json"
        strict_json.save(job.config, config)
        paths = (place / ARTIFACT, Path(data.path), Path(data.tokenizer), config)
        return audit_evaluation(*paths, options, around, progress)
