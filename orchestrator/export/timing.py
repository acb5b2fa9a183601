"""How long a job can take at the worst: what a scheduler is asked for."""

from __future__ import annotations

import math

from orchestrator.limits import phase_limits
from orchestrator.spec import Job

BETWEEN_ATTEMPTS_S = 120.0
"""A stuck rank is noticed, its gang is ended, and room for the next is found."""
FILES = 2
"""Of a seed, each with a limit of its own on its way between a rank and the driver: checkpoint and artifact."""


def worst_case_seconds(job: Job, parallel: int = 1) -> int:
    """Seconds after which every seed has ended, whatever happens, with `parallel` gangs side by side.

    Each attempt at each seed is taken to use every limit up, and to begin from nothing. Raises `ValueError`
    where `parallel` is below 1.
    """
    if parallel < 1:
        raise ValueError(f"parallel: {parallel} gangs are none")
    limits = phase_limits(job)
    audit = limits.audit if job.audit.positions else 0.0
    phases = limits.start + limits.train + limits.export + limits.evaluate + audit
    attempt = phases + FILES * limits.transfer + BETWEEN_ATTEMPTS_S
    rounds = -(-len(job.seeds) // parallel)
    return math.ceil(rounds * (1 + job.limits.retries) * attempt)
