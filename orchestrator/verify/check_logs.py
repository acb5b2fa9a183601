"""The logs as such: which seeds they are of, whether each is one run's, and whether all that was run is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.verify.budgets import LEAST_SEEDS
from orchestrator.verify.claims import STAGES
from orchestrator.verify.evidence import Evidence
from orchestrator.verify.figures import LogFile, Place, Run, Stage, seed_in_name
from orchestrator.verify.report import Finding
from orchestrator.verify.submission_reader import SUBMISSION

MOST_PLACES = 8


def check_files(evidence: Evidence) -> Iterator[Finding]:
    """What could not be read, what lies there twice, and what a file's name says wrongly."""
    folder = evidence.folder
    for note in folder.notes:
        yield _file("folder", note, "note", ())
    if folder.submission.fault:
        yield _file(SUBMISSION, folder.submission.fault, "problem", (Place(SUBMISSION, 0),))
    elif not folder.submission.present:
        yield Finding("files", SUBMISSION, "absent", "absent", "", "", "nothing is claimed but what the logs say", ())
    for note in folder.submission.notes:
        yield _file(SUBMISSION, note, "note", (Place(SUBMISSION, 0),))
    if not folder.logs:
        yield Finding("files", "logs", "problem", "absent", "", "", "there is no log, so nothing is shown", ())
    for log in folder.logs:
        yield from _log(log)
    yield from _repeated((*evidence.runs, *evidence.sources.second))


def check_seeds(evidence: Evidence, claimed: Mapping[int, Place]) -> Iterator[Finding]:
    """Seeds that are claimed without a log, logs of seeds that are not claimed, and whether there are enough."""
    runs = evidence.runs
    logged = {run.seed: run for run in runs if run.seed is not None}
    for seed, place in claimed.items():
        if seed not in logged:
            yield Finding(
                "seeds", f"seed {seed}", "problem", "fails", str(seed), "", "claimed, but has no log", (place,)
            )
    if claimed:
        for seed, run in logged.items():
            if seed not in claimed:
                detail = "has a log, but is not among the claimed seeds"
                yield Finding("seeds", f"seed {seed}", "problem", "fails", "", str(seed), detail, (_seed_place(run),))
        if set(logged) == set(claimed):
            detail = "each claimed seed has its log, and no other log is there"
            shown = ", ".join(str(seed) for seed in logged)
            where = tuple(_seed_place(run) for run in logged.values())
            yield Finding("seeds", "seeds", "ok", "confirmed", shown, shown, detail, where)
    elif evidence.folder.submission.present and not evidence.folder.submission.fault:
        shown = ", ".join(run.key for run in runs)
        yield Finding("seeds", "seeds", "absent", "absent", "", shown, f"{SUBMISSION} does not name its seeds", ())
    yield from _enough(evidence)
    for run in evidence.sources.second:
        yield _second(run, evidence)


def _enough(evidence: Evidence) -> Iterator[Finding]:
    trained = [run for run in evidence.runs if run.kind == "training"]
    n, where = len(trained), tuple(_seed_place(run) for run in trained)
    names = ", ".join("unknown" if run.seed is None else str(run.seed) for run in trained[:20])
    found = f"{n} ({names})" if n else "0"
    if n >= LEAST_SEEDS:
        yield Finding("seeds", "number of seeds", "ok", "kept", "", found, "seeds with a log of their training", where)
    else:
        detail = f"seeds with a log of their training; at least {LEAST_SEEDS} are needed"
        yield Finding("seeds", "number of seeds", "problem", "broken", "", found, detail, where)
    for run in evidence.runs:
        if run.seed is None:
            yield Finding("seeds", run.file, "note", "absent", "", "", "the log does not say its seed", ())


def _second(run: Run, evidence: Evidence) -> Finding:
    main = next((one for one in evidence.runs if one.key == run.key), None)
    beside = f"beside {main.file}" if main is not None else ""
    where = (Place(run.file, run.first_line),)
    if run.kind == "evaluation only":
        detail = f"a second, evaluation-only run of {run.key} {beside}; the log that trained the weights counts"
        return Finding("seeds", run.file, "note", "stated", "", run.kind, detail, where)
    detail = f"a further run of {run.key} {beside}; only one of them counts, and which was chosen is not said"
    return Finding("seeds", run.file, "problem", "fails", "", run.kind, detail, where)


def _log(log: LogFile) -> Iterator[Finding]:
    whole = (Place(log.name, 0),)
    if log.fault:
        yield _file(log.name, log.fault, "problem", whole)
        return
    for note in log.notes:
        yield _file(log.name, note, "note", whole)
    if log.same_as:
        yield from _twin(log)
        return
    if not log.runs or all(run.kind == "no figures" for run in log.runs):
        yield _file(log.name, "no figure of a run was found in it", "note", whole)
    if len(log.runs) > 1:
        parts = ", ".join(f"{run.key} from line {run.first_line}" for run in log.runs[:6])
        yield _file(log.name, f"it holds {len(log.runs)} runs: {parts}", "problem", whole)
    named = seed_in_name(log.name)
    for run in log.runs:
        if run.mixed:
            where = (Place(log.name, run.first_line),)
            yield _file(log.name, f"its lines are not one run's: {run.mixed}; none of them counts", "problem", where)
        if named is not None and run.seed_place is not None and all(one.seed != named for one in log.runs):
            detail = f"its name says seed {named}, the log says {run.seed}; the log counts"
            yield _file(log.name, detail, "problem", (run.seed_place,))


def _twin(log: LogFile) -> Iterator[Finding]:
    named, other = seed_in_name(log.name), seed_in_name(log.same_as)
    where = (Place(log.name, 0), Place(log.same_as, 0))
    detail = f"it is byte-identical to {log.same_as}"
    if named is not None and named != other:
        yield _file(log.name, f"{detail}, a log of another seed by its name", "problem", where)
    else:
        yield _file(log.name, f"{detail}; it counts once", "note", where)


def _repeated(runs: Sequence[Run]) -> Iterator[Finding]:
    """The same score under two names, of which one says something else than it is."""
    found: dict[tuple[str, str], list[Place]] = {}
    for run in runs:
        seen: dict[tuple[float, float], Stage] = {}
        for stage in run.stages:
            if stage.val_bpb is None or stage.val_loss is None or stage.val_bpb.resolution > 1e-7:
                continue
            first = seen.setdefault((stage.val_bpb.value, stage.val_loss.value), stage)
            if first is not stage and _sort(first.label) != _sort(stage.label) and first.val_bpb is not None:
                found.setdefault((first.label, stage.label), []).extend((first.val_bpb.place, stage.val_bpb.place))
    for (one, other), where in found.items():
        n = len(where) // 2
        detail = f"'{other}' repeats the figures of '{one}' in {n} log{'s' if n > 1 else ''}: one of the names is wrong"
        yield Finding("logs", "names of stages", "note", "stated", "", "", detail, tuple(where[:MOST_PLACES]))


def _sort(label: str) -> str:
    low = label.lower()
    for name, (words, without) in STAGES.items():
        if any(word in low for word in words) and not any(word in low for word in without):
            return name
    return ""


def _seed_place(run: Run) -> Place:
    return run.seed_place or Place(run.file, 0)


def _file(name: str, detail: str, status: str, where: tuple[Place, ...]) -> Finding:
    if status == "problem":
        return Finding("files", name, "problem", "fails", "", "", detail, where)
    return Finding("files", name, "note", "stated", "", "", detail, where)
