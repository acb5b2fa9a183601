"""The artifact as it lies on disk, and the clocks as they were given, against the challenge's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from golf_core.audit.report import ARTIFACT, CLOCKS, BudgetEvidence, Condition
from golf_core.errors import ArtifactError

CAP_BYTES = 16_000_000
PHASE_SECONDS = 600.0


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
