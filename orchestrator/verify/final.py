"""Which of a log's many figures is the final one: the stage that gives what submission.json claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from orchestrator.claim.statistics import summarize
from orchestrator.folder.results import Summary
from orchestrator.verify.figures import Figure, Run, Stage
from orchestrator.verify.quantities import Quantity, agreement, shown
from orchestrator.verify.report import FinalStage, SeedScore

ALIAS_RESOLUTION = 1e-6
"""Two labels are the same pass over the text if both scores agree to at least this."""


@dataclass(frozen=True)
class Sources:
    """The runs that figures may come from."""

    main: tuple[Run, ...]
    """One for each seed: the run that trained it, or what there is where no log shows training."""
    second: tuple[Run, ...]
    """Evaluation-only runs beside a training run of the same seed, and further runs of a seed."""
    mixed: tuple[Run, ...]
    """Runs whose lines cannot be one run's; nothing is taken from them."""


def sort_runs(runs: Sequence[Run]) -> Sources:
    """Choose for every seed the run whose figures count."""
    mixed = tuple(run for run in runs if run.mixed)
    usable = [run for run in runs if not run.mixed and run.kind != "no figures"]
    ranked = sorted(usable, key=lambda run: (_RANK[run.kind], not run.stages))
    main: dict[str, Run] = {}
    second = []
    for run in ranked:
        if run.key in main:
            second.append(run)
        else:
            main[run.key] = run
    order = {id(run): place for place, run in enumerate(runs)}
    return Sources(tuple(sorted(main.values(), key=lambda run: order[id(run)])), tuple(second), mixed)


_RANK = {"training": 0, "figures only": 1, "evaluation only": 2, "no figures": 3}


def final_stage(sources: Sources, claimed: Quantity | None) -> FinalStage | None:
    """The stage whose mean over the seeds is `claimed` (BPB), else the one that gives it for one run, else the last.

    None where no log has a score in bits per byte.
    """
    labels = _labels(sources.main)
    if not labels:
        return None
    label, reason = labels[-1], "submission.json claims no val_bpb; the last stage of the logs stands"
    if claimed is not None:
        label, reason = _claimed(sources, labels, claimed)
    scores = tuple(seed_scores(sources.main, label))
    return _stage(label, reason, scores)


def seed_scores(runs: Sequence[Run], label: str) -> list[SeedScore]:
    """The scores of the stage `label` for each run that has it, with all digits that the log gives anywhere."""
    found = []
    for run in runs:
        stage = run.stage(label)
        if stage is not None and stage.val_bpb is not None:
            fine = finest(run, stage)
            assert fine.val_bpb is not None
            found.append(SeedScore(run.key, run.seed, fine.val_bpb, fine.val_loss))
    return found


def finest(run: Run, stage: Stage) -> Stage:
    """The same pass under the label that gives it with the most digits."""
    best = stage
    for other in run.stages:
        if best.val_bpb and other.val_bpb and other.val_bpb.resolution < best.val_bpb.resolution and _same(best, other):
            best = other
    return best


def stage_like(runs: Sequence[Run], words: Sequence[str], without: Sequence[str] = ()) -> str | None:
    """The label, with the most digits, that holds one of `words` and none of `without`."""
    fits = [
        (stage.val_bpb.resolution if stage.val_bpb else 1.0, place, stage.label)
        for run in runs
        for place, stage in enumerate(run.stages)
        if any(word in stage.label.lower() for word in words)
        and not any(word in stage.label.lower() for word in without)
    ]
    return min(fits)[2] if fits else None


def mean_of(figures: Sequence[Figure]) -> Quantity:
    """The mean of logged figures, at least one, as fine as the coarsest of them; of counts it is exact."""
    coarsest = max(figure.resolution for figure in figures)
    value = fmean(figure.value for figure in figures)
    exact = coarsest == 0 and value == int(value)
    return Quantity(value, coarsest, shown(value, coarsest if coarsest or exact else 0.001))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Labels with a BPB in the order of the logs; those of all runs, if any stage is in all."""
    labels: dict[str, int] = {}
    for run in runs:
        for stage in run.stages:
            if stage.val_bpb is not None:
                labels[stage.label] = labels.get(stage.label, 0) + 1
    most = max(labels.values(), default=0)
    return [label for label, count in labels.items() if count == most]


def _claimed(sources: Sources, labels: Sequence[str], claimed: Quantity) -> tuple[str, str]:
    n = len(sources.main)
    means = {label: mean_of([score.val_bpb for score in seed_scores(sources.main, label)]) for label in labels}
    fits = [label for label, mean in means.items() if agreement(claimed, mean, n > 1) != "differs"]
    if fits:
        label = min(fits, key=lambda found: (_digits(sources.main, found), not found))
        return label, f"its mean over {n} logs is the claimed val_bpb" if n > 1 else "it gives the claimed val_bpb"
    for run in sources.main:
        if (given := _giving(run, labels, claimed)) is not None:
            return given, f"it gives the claimed val_bpb in the log of {run.key} alone"
    for run in sources.second:
        if (given := _giving(run, labels, claimed)) is not None:
            return given, f"it gives the claimed val_bpb in {run.file}, {described(run)}, alone"
    return labels[-1], "no stage of these logs gives the claimed val_bpb; the last one stands"


def _digits(runs: Sequence[Run], label: str) -> float:
    """The resolution with which the label itself gives its score."""
    stages = [stage for run in runs if (stage := run.stage(label)) is not None]
    return max((stage.val_bpb.resolution for stage in stages if stage.val_bpb is not None), default=1.0)


def described(run: Run) -> str:
    """What a run beside the one that counts is."""
    return "a second, evaluation-only run" if run.kind == "evaluation only" else f"a further run of {run.key}"


def _giving(run: Run, labels: Sequence[str], claimed: Quantity) -> str | None:
    fits = [
        (stage.val_bpb.resolution, place, stage.label)
        for place, stage in enumerate(run.stages)
        if stage.label in labels and stage.val_bpb is not None
        if agreement(claimed, stage.val_bpb.quantity) != "differs"
    ]
    return min(fits)[2] if fits else None


def _same(one: Stage, other: Stage) -> bool:
    pairs = [(one.val_bpb, other.val_bpb), (one.val_loss, other.val_loss)]
    return all(
        a is not None and b is not None and a.resolution <= ALIAS_RESOLUTION * (1 + 1e-9) and _agree(a, b)
        for a, b in pairs
    )


def _agree(a: Figure, b: Figure) -> bool:
    return agreement(a.quantity, b.quantity) != "differs"


def _stage(label: str, reason: str, scores: tuple[SeedScore, ...]) -> FinalStage:
    bpbs = [score.val_bpb.value for score in scores]
    losses = [score.val_loss.value for score in scores if score.val_loss is not None]
    nats: Summary | None = summarize(losses) if losses and len(losses) == len(scores) else None
    population = pstdev(bpbs) if len(bpbs) > 1 else None
    return FinalStage(label, reason, scores, summarize(bpbs) if bpbs else None, nats, population)
