"""Everything that a folder's logs can be asked: a figure of a run, of every seed, of every stage, and its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.verify.claims import STAGES
from orchestrator.verify.figures import Figure, Place, Run
from orchestrator.verify.final import Sources, finest, stage_like
from orchestrator.verify.folder import RecordFolder
from orchestrator.verify.report import FinalStage

STAGE_FIGURES = ("val_bpb", "val_loss", "eval_seconds")


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

    def label(self, hint: str) -> str | None:
        """The label of the stage that a hint means; the final one for none."""
        if hint:
            words, without = STAGES[hint]
            return stage_like(self.runs, words, without)
        return self.final.label if self.final else None

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
        times = {}
        for stage in run.stages:
            fine = finest(run, stage)
            if fine.eval_seconds is not None:
                times[fine.label] = fine.eval_seconds
        return list(times.values())

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
