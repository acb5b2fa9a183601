"""What a folder's logs are asked: the run of each seed, the stage of the final figure, and any figure with its place.

Of a log's many figures the final one is that of the stage that gives what submission.json claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from orchestrator.claim.statistics import summarize
from orchestrator.verify.figures import Figure, Place, Quantity, Run, Stage, agreement, shown
from orchestrator.verify.folder import RecordFolder
from orchestrator.verify.report import FinalStage, SeedScore
from orchestrator.verify.submission import STAGES

STAGE_FIGURES = ("val_bpb", "val_loss", "eval_seconds")
"""What a run has once for each stage."""
_RANK = {"training": 0, "figures only": 1, "evaluation only": 2}
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
    return Sources(tuple(sorted(main.values(), key=runs.index)), tuple(second), mixed)


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
    bpbs = [score.val_bpb.value for score in scores]
    losses = [score.val_loss.value for score in scores if score.val_loss is not None]
    nats = summarize(losses) if losses and len(losses) == len(scores) else None
    population = pstdev(bpbs) if len(bpbs) > 1 else None
    return FinalStage(label, reason, scores, summarize(bpbs) if bpbs else None, nats, population)


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


def is_like(label: str, hint: str) -> bool:
    """Whether the label is that of a stage that a hint (`submission.STAGES`) means."""
    _, words, without = STAGES[hint]
    low = label.lower()
    return any(word in low for word in words) and not any(word in low for word in without)


def mean_of(figures: Sequence[Figure]) -> Quantity:
    """The mean of logged figures, at least one, as fine as the coarsest of them; of counts it is exact."""
    coarsest = max(figure.resolution for figure in figures)
    value = fmean(figure.value for figure in figures)
    exact = coarsest == 0 and value == int(value)
    return Quantity(value, coarsest, shown(value, coarsest if coarsest or exact else 0.001))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Labels with a BPB in the order of the logs; those of all runs, if any stage is in all."""
    labels = Counter(stage.label for run in runs for stage in run.stages if stage.val_bpb is not None)
    most = max(labels.values(), default=0)
    return [label for label, count in labels.items() if count == most]


def _claimed(sources: Sources, labels: Sequence[str], claimed: Quantity) -> tuple[str, str]:
    n = len(sources.main)
    means = {label: mean_of([score.val_bpb for score in seed_scores(sources.main, label)]) for label in labels}
    fits = [label for label, mean in means.items() if agreement(claimed, mean, n > 1) != "differs"]
    if fits:
        label = min(fits, key=lambda found: (_digits(sources.main, found), not found))
        return label, f"its mean over {n} logs is the claimed val_bpb" if n > 1 else "it gives the claimed val_bpb"
    for run in (*sources.main, *sources.second):
        if (given := _giving(run, labels, claimed)) is not None:
            log = f"the log of {run.key}" if run in sources.main else f"{run.file}, {described(run)},"
            return given, f"it gives the claimed val_bpb in {log} alone"
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
        a is not None
        and b is not None
        and a.resolution <= ALIAS_RESOLUTION * (1 + 1e-9)
        and agreement(a.quantity, b.quantity) != "differs"
        for a, b in pairs
    )


# --- questions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """A folder, read, and which of its runs and stages count."""

    folder: RecordFolder
    sources: Sources
    final: FinalStage | None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The run of each seed."""
        return self.sources.main

    def main(self, run: Run) -> Run | None:
        """The run that counts for the seed of `run`."""
        return next((main for main in self.runs if main.key == run.key), None)

    def label(self, hint: str) -> str | None:
        """The label, of several that with the most digits, of the stage that a hint means; the final one for none."""
        if not hint:
            return self.final.label if self.final else None
        fits = [
            (stage.val_bpb.resolution if stage.val_bpb else 1.0, place, stage.label)
            for run in self.runs
            for place, stage in enumerate(run.stages)
            if is_like(stage.label, hint)
        ]
        return min(fits)[2] if fits else None

    def figure(self, run: Run, name: str, label: str | None) -> Figure | None:
        """A figure of a run; scores and evaluation times are those of the stage `label`."""
        if name not in STAGE_FIGURES:
            return run.figures.get(name)
        stage = run.stage(label) if label is not None else None
        found = getattr(finest(run, stage), name) if stage is not None else None
        if found is None and name == "eval_seconds":
            return run.figures.get(name)
        return found if isinstance(found, Figure) else None

    def figures(self, name: str, label: str | None) -> dict[str, Figure]:
        """The figure of every seed's run that has it."""
        found = {run.key: self.figure(run, name, label) for run in self.runs}
        return {key: figure for key, figure in found.items() if figure is not None}

    def passes(self, run: Run) -> list[Figure]:
        """The time of every pass over the validation text, each pass once."""
        fine = [finest(run, stage) for stage in run.stages]
        return list({stage.label: stage.eval_seconds for stage in fine if stage.eval_seconds is not None}.values())

    def everywhere(self, name: str) -> Iterator[tuple[Run, Figure]]:
        """The figure in all runs and all stages, those that do not count too."""
        for run in (*self.runs, *self.sources.second):
            if name in run.figures:
                yield run, run.figures[name]
            for other in run.settings.get(name, ()):
                yield run, other
            for stage in run.stages:
                found = getattr(stage, name, None) if name in STAGE_FIGURES else None
                if isinstance(found, Figure):
                    yield run, found

    def setting(self, key: str) -> list[Figure]:
        """What the logs say of any other named number."""
        return [figure for run in (*self.runs, *self.sources.second) for figure in run.settings.get(key, ())]


def places(figures: Sequence[Figure]) -> tuple[Place, ...]:
    """Where figures stand."""
    return tuple(figure.place for figure in figures)
