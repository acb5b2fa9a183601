"""The logs as such: whether each is one run's, which seeds they are of, and whether they keep the challenge's caps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.job.load import Budgets
from orchestrator.verify.evidence import Evidence, is_like, places
from orchestrator.verify.figures import LogFile, Place, Quantity, Run, Stage, seed_in_name, value_text
from orchestrator.verify.folder import PROGRAMS, WEIGHTS
from orchestrator.verify.report import Finding, Verdict, finding
from orchestrator.verify.submission import STAGES, SUBMISSION, Claim, Submission

CAPS = Budgets()
"""16,000,000 bytes, 600 s of training, 600 s of evaluation."""
LEAST_SEEDS = 3
MOST_PLACES = 8

# --- files --------------------------------------------------------------------------------------------


def check_files(evidence: Evidence) -> Iterator[Finding]:
    """What could not be read, what lies there twice, and what a file's name says wrongly."""
    folder, whole = evidence.folder, (Place(SUBMISSION, 0),)
    for note in folder.notes:
        yield finding("files", "folder", "stated", note)
    if folder.submission.fault:
        yield finding("files", SUBMISSION, "fails", folder.submission.fault, whole)
    elif not folder.submission.present:
        yield finding("files", SUBMISSION, "absent", "nothing is claimed but what the logs say")
    for note in folder.submission.notes:
        yield finding("files", SUBMISSION, "stated", note, whole)
    if not folder.logs:
        yield finding("files", "logs", "absent", "there is no log, so nothing is shown", status="problem")
    for log in folder.logs:
        yield from _log(log)
    yield from _repeated((*evidence.runs, *evidence.sources.second))


def _log(log: LogFile) -> Iterator[Finding]:
    whole = (Place(log.name, 0),)
    if log.fault:
        yield finding("files", log.name, "fails", log.fault, whole)
        return
    for note in log.notes:
        yield finding("files", log.name, "stated", note, whole)
    named = seed_in_name(log.name)
    if log.same_as:
        detail, where = f"it is byte-identical to {log.same_as}", (*whole, Place(log.same_as, 0))
        if named is not None and named != seed_in_name(log.same_as):
            yield finding("files", log.name, "fails", f"{detail}, a log of another seed by its name", where)
        else:
            yield finding("files", log.name, "stated", f"{detail}; it counts once", where)
        return
    if all(run.kind == "no figures" for run in log.runs):
        yield finding("files", log.name, "stated", "no figure of a run was found in it", whole)
    if len(log.runs) > 1:
        parts = ", ".join(f"{run.key} from line {run.first_line}" for run in log.runs[:6])
        yield finding("files", log.name, "fails", f"it holds {len(log.runs)} runs: {parts}", whole)
    for run in log.runs:
        if run.mixed:
            detail = f"its lines are not one run's: {run.mixed}; none of them counts"
            yield finding("files", log.name, "fails", detail, (Place(log.name, run.first_line),))
        if named is not None and run.seed_place is not None and all(one.seed != named for one in log.runs):
            detail = f"its name says seed {named}, the log says {run.seed}; the log counts"
            yield finding("files", log.name, "fails", detail, (run.seed_place,))


def _repeated(runs: Sequence[Run]) -> Iterator[Finding]:
    """The same score under two names, of which one says something else than it is."""
    found: dict[tuple[str, str], list[Place]] = {}
    for run in runs:
        seen: dict[tuple[float, float], Stage] = {}
        for stage in run.stages:
            if stage.val_bpb is None or stage.val_loss is None or stage.val_bpb.resolution > 1e-7:
                continue
            first = seen.setdefault((stage.val_bpb.value, stage.val_loss.value), stage)
            if _sort(first.label) != _sort(stage.label) and first.val_bpb is not None:
                found.setdefault((first.label, stage.label), []).extend((first.val_bpb.place, stage.val_bpb.place))
    for (one, other), where in found.items():
        n = len(where) // 2
        detail = f"'{other}' repeats the figures of '{one}' in {n} log{'s' if n > 1 else ''}: one of the names is wrong"
        yield finding("logs", "names of stages", "stated", detail, tuple(where[:MOST_PLACES]))


def _sort(label: str) -> str:
    return next((hint for hint in STAGES if is_like(label, hint)), "")


# --- seeds --------------------------------------------------------------------------------------------


def check_seeds(evidence: Evidence, claimed: Mapping[int, Place]) -> Iterator[Finding]:
    """Seeds that are claimed without a log, logs of seeds that are not claimed, and whether there are enough."""
    runs = evidence.runs
    logged = {run.seed: run for run in runs if run.seed is not None}
    for seed, place in claimed.items():
        if seed not in logged:
            yield finding("seeds", f"seed {seed}", "fails", "claimed, but has no log", (place,), str(seed))
    if claimed:
        for seed, run in logged.items():
            if seed not in claimed:
                detail = "has a log, but is not among the claimed seeds"
                yield finding("seeds", f"seed {seed}", "fails", detail, _seed_places([run]), found=str(seed))
        if set(logged) == set(claimed):
            detail, shown = "each claimed seed has its log, and no other log is there", ", ".join(map(str, logged))
            yield finding("seeds", "seeds", "confirmed", detail, _seed_places(logged.values()), shown, shown)
    elif evidence.folder.submission.present and not evidence.folder.submission.fault:
        shown = ", ".join(run.key for run in runs)
        yield finding("seeds", "seeds", "absent", f"{SUBMISSION} does not name its seeds", found=shown)
    trained = [run for run in runs if run.kind == "training"]
    n, where = len(trained), _seed_places(trained)
    names = ", ".join("unknown" if run.seed is None else str(run.seed) for run in trained[:20])
    verdict: Verdict = "kept" if n >= LEAST_SEEDS else "broken"
    detail = "seeds with a log of their training"
    if n < LEAST_SEEDS:
        detail += f"; at least {LEAST_SEEDS} are needed"
    yield finding("seeds", "number of seeds", verdict, detail, where, found=f"{n} ({names})" if n else "0")
    for run in runs:
        if run.seed is None:
            yield finding("seeds", run.file, "absent", "the log does not say its seed", status="note")
    for run in evidence.sources.second:
        yield _second(run, evidence)


def _second(run: Run, evidence: Evidence) -> Finding:
    main = evidence.main(run)
    beside = f"beside {main.file}" if main is not None else ""
    where = (Place(run.file, run.first_line),)
    if run.kind == "evaluation only":
        detail = f"a second, evaluation-only run of {run.key} {beside}; the log that trained the weights counts"
        return finding("seeds", run.file, "stated", detail, where, found=run.kind)
    detail = f"a further run of {run.key} {beside}; only one of them counts, and which was chosen is not said"
    return finding("seeds", run.file, "fails", detail, where, found=run.kind)


def _seed_places(runs: Iterable[Run]) -> tuple[Place, ...]:
    return tuple(run.seed_place or Place(run.file, 0) for run in runs)


# --- budgets ------------------------------------------------------------------------------------------


def check_budgets(evidence: Evidence, claims: list[Claim]) -> Iterator[Finding]:
    """All caps, for every seed, and what submission.json says of keeping them."""
    findings: list[Finding] = []
    for run in evidence.runs:
        findings += [*_bytes(run), *_clock(run), *_evaluation(run, evidence), *_work(run)]
    for claim in claims:
        if claim.figure == "total_bytes" and claim.aggregate in ("", "max") and claim.seed is None:
            value, subject = Quantity(claim.quantity.value, 0.0, ""), f"claimed {claim.subject}"
            findings.append(_within(subject, value, CAPS.artifact_bytes, "total_bytes", "", (claim.place,)))
    findings += _program(evidence, claims)
    yield from findings
    yield from _compliance(evidence.folder.submission, findings, len(evidence.runs))


def _bytes(run: Run) -> Iterator[Finding]:
    subject = f"total bytes, {run.key}"
    total, code, weights = (run.figures.get(name) for name in ("total_bytes", "code_bytes", "weight_bytes"))
    where = places([figure for figure in (total, code, weights) if figure is not None])
    parts, both = "", None
    if code is not None and weights is not None:
        both = code.value + weights.value
        parts = f"code {code.value:,.0f} + weights {weights.value:,.0f}"
        if total is not None and both != total.value:
            detail = f"{parts} = {both:,.0f}, but the log's total is {total.value:,.0f}"
            yield finding("budgets", f"sum of bytes, {run.key}", "fails", detail, where)
    size = total.value if total is not None else both
    if size is None:
        yield _untold(subject, run, f"{run.file} gives neither a total nor code and weights")
    else:
        yield _within(subject, Quantity(size, 0.0, ""), CAPS.artifact_bytes, "total_bytes", parts, where)


def _clock(run: Run) -> Iterator[Finding]:
    subject = f"training clock, {run.key}"
    clock, step = run.figures.get("train_seconds"), run.figures.get("ms_per_step")
    if clock is None:
        shows = "the log shows no training" if run.kind != "training" else "the log gives no training time"
        yield _untold(subject, run, shows)
        return
    detail = ""
    if clock.value > CAPS.train_seconds and step is not None and step.value > 0:
        steps = (clock.value - CAPS.train_seconds) / step.value
        detail = f"{steps:.1f} steps of {1000 * step.value:.2f} ms"
    yield _within(subject, clock.quantity, CAPS.train_seconds, "train_seconds", detail, (clock.place,))
    cap = run.figures.get("train_cap_seconds")
    if cap is not None and cap.value > CAPS.train_seconds:
        detail = f"the run was given {cap.value:g} s where the challenge allows {CAPS.train_seconds:g}"
        yield finding("budgets", f"training limit, {run.key}", "stated", detail, (cap.place,), found=f"{cap.value:g} s")


def _evaluation(run: Run, evidence: Evidence) -> Iterator[Finding]:
    subject = f"evaluation, {run.key}"
    label = evidence.label("")
    spent = evidence.figure(run, "eval_seconds", label)
    passes = evidence.passes(run)
    if spent is None:
        yield _untold(subject, run, "the log gives no time for the stage of the final figure")
    else:
        words = f"'{label}'" if label else ""
        yield _within(subject, spent.quantity, CAPS.eval_seconds, "eval_seconds", words, (spent.place,))
    total = sum(figure.value for figure in passes)
    if len(passes) > 1 and total > CAPS.eval_seconds:
        subject, found = f"all evaluation, {run.key}", f"{total:.3f} s"
        detail = f"all {len(passes)} passes that the log times: over {CAPS.eval_seconds:g} s, if all of them count"
        yield finding("budgets", subject, "stated", detail, places(passes), found=found)


def _work(run: Run) -> Iterator[Finding]:
    """Work that the log times outside both clocks."""
    if not run.work:
        return
    clock = run.figures.get("train_seconds")
    spent = sum(figure.value for figure in run.work)
    names = "; ".join(f"{figure.label}: {figure.text}" for figure in run.work[:3])
    where = places(run.work[:5])
    detail, late = f"{names}; in neither clock", False
    if clock is not None:
        total = clock.value + spent
        late = total > CAPS.train_seconds
        detail += f"; with the training clock {total:.1f} s, {'over' if late else 'within'} {CAPS.train_seconds:g} s"
    if run.training_data is not None:
        detail += "; the log speaks of training data here"
        where = (*where, run.training_data)
    # Quantisation calibrated on training data after the clock is training data at evaluation.
    verdict: Verdict = "broken" if late and run.training_data is not None else "stated"
    yield finding("budgets", f"other timed work, {run.key}", verdict, detail, where, found=f"{spent:.1f} s")


def _program(evidence: Evidence, claims: list[Claim]) -> Iterator[Finding]:
    """The files that lie in the folder against the bytes that were counted."""
    for name, size in evidence.folder.sizes.items():
        if name not in PROGRAMS and not name.lower().endswith(WEIGHTS):
            continue
        figure = "code_bytes" if name in PROGRAMS else "weight_bytes"
        logged = [run.figures[figure] for run in evidence.runs if figure in run.figures]
        stated = [claim.quantity for claim in claims if claim.figure == figure and claim.seed is None]
        fits = [found for found in logged if found.value == size]
        subject, found = f"size of {name}", f"{size:,} bytes"
        where = (Place(name, 0), *places(fits or logged))
        if fits:
            yield finding("files", subject, "holds", "as counted in the logs", where, found=found)
        elif any(value.value == size for value in stated):
            detail = f"as in {SUBMISSION}, but not in the logs"
            yield finding("files", subject, "holds", detail, where, found=found, status="note")
        elif logged or stated:
            counted = f"{(logged[0] if logged else stated[0]).value:,.0f}"
            detail = f"{counted} bytes were counted; the file in the folder is another"
            yield finding("files", subject, "fails", detail, where, counted, found)


def _compliance(submission: Submission, findings: list[Finding], seeds: int) -> Iterator[Finding]:
    """What the file says of keeping the caps, against the caps."""
    subjects = {
        "artifact_under_16mb": "total bytes",
        "training_under_600s": "training clock",
        "eval_under_600s": "evaluation",
    }
    for leaf in submission.leaves:
        if not isinstance(leaf.value, bool) or leaf.key not in (*subjects, "three_seeds"):
            continue
        true = seeds >= LEAST_SEEDS
        if leaf.key in subjects:
            verdicts = {f.verdict for f in findings if f.subject.startswith(subjects[leaf.key])}
            if not verdicts & {"kept", "broken"}:
                continue
            true = "broken" not in verdicts
        verdict: Verdict = "confirmed" if true == leaf.value else "differs"
        said, found = str(leaf.value).lower(), str(true).lower()
        yield finding("submission", leaf.where, verdict, "by the logs", (leaf.place,), said, found)


def _untold(subject: str, run: Run, detail: str) -> Finding:
    return finding("budgets", subject, "absent", detail, (Place(run.file, 0),))


def _within(subject: str, found: Quantity, cap: float, figure: str, detail: str, where: tuple[Place, ...]) -> Finding:
    text = value_text(found, figure)
    limit = f"{cap:,.0f} bytes" if figure == "total_bytes" else f"{cap:g} s"
    verdict: Verdict = "kept"
    if found.value > cap:
        over = value_text(Quantity(found.value - cap, found.resolution, ""), figure)
        verdict, detail = "broken", f"over {limit} by {over}" + (f" ({detail})" if detail else "")
    elif cap < found.value + found.resolution / 2 and found.resolution > 0.5:
        verdict = "stated"
        detail = f"given to {found.resolution:g} s only, which does not show whether {limit} were kept"
    return finding("budgets", subject, verdict, detail, where, found=text)
