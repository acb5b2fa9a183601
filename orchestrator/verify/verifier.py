"""`golf verify`: folders in; a typed report out, printed and written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from golf_core import files, strict_json
from golf_core.errors import UserError
from orchestrator.claim.table import terminal
from orchestrator.verify.check_claims import check_claim, check_other, check_sum, check_tables
from orchestrator.verify.check_logs import check_budgets, check_files, check_seeds
from orchestrator.verify.comparison import (
    COMPARED,
    Baseline,
    baseline_of,
    check_comparison,
    compare,
    findings,
    matches,
    stated_baseline,
)
from orchestrator.verify.evidence import Evidence, Sources, final_stage, mean_of, places, sort_runs
from orchestrator.verify.figures import RunReport, agreement, quantity, value_text
from orchestrator.verify.folder import FolderError, RecordFolder, plain, read_folder
from orchestrator.verify.report import FORMAT, Finding, FolderReport, Status, VerifyReport, finding, page, report_table
from orchestrator.verify.submission import SUBMISSION, Claim, Leaf, claimed_seeds, headline, read_claims

WIDE = 170
"""Columns of a report that is not for a terminal."""
_LOGGED = {
    "steps": "steps",
    "ms_per_step": "milliseconds a step",
    "weight_bytes": "compressed weight bytes",
    "code_bytes": "code bytes",
    "parameters": "parameters",
    "peak_memory_mib": "peak memory",
    "world_size": "world size",
}
_EXPECTED = {"val_bpb": "a mean val_bpb", "val_loss": "a mean val_loss", "total_bytes": "the total bytes"}


def run_verify(folders: Sequence[Path], baseline: Path | None, json: Path | None, markdown: Path | None) -> int:
    """Check the folders, print and write what was found; returns the exit code."""
    report = verify(folders, baseline)
    # What was found is written before anything is printed, so that a reader who closes the pipe loses nothing.
    if json is not None:
        _written(json, lambda: strict_json.save(report, json))
    if markdown is not None:
        text = page(report, folders, baseline, markdown)
        _written(markdown, lambda: files.write_text(markdown, text))
    console = terminal(WIDE)
    for folder in report.folders:
        console.print(report_table(folder, console.width))
    for sentence in report.unreadable:
        sys.stderr.write(f"error: {sentence}\n")
    return report.exit_code


def _written(place: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file") from None


@dataclass(frozen=True)
class _Case:
    """A folder with all that was read of it."""

    evidence: Evidence
    claims: list[Claim]
    others: list[Leaf]
    broken: list[Leaf]


def verify(folders: Sequence[Path], baseline: Path | None = None) -> VerifyReport:
    """Check every folder; with `baseline`, against that folder's seeds.

    Without it, a baseline whose means a folder states is looked for among the other folders given. Folders that cannot
    be read at all are told in `unreadable`; an unreadable `baseline` raises `FolderError`.
    """
    given = _case(read_folder(baseline)) if baseline is not None else None
    if given is not None and given.evidence.final is None:
        raise FolderError(f"{plain(str(baseline))}: no log of it gives a score; name a folder with the baseline's logs")
    cases, unreadable = [], []
    for place in folders:
        try:
            cases.append(_case(read_folder(place)))
        except FolderError as error:
            unreadable.append(str(error))
    reports = tuple(_report(case, *_baselines(case, cases, given)) for case in cases)
    return VerifyReport(FORMAT, reports, tuple(unreadable))


def _case(folder: RecordFolder) -> _Case:
    sources = sort_runs(folder.runs)
    claims, others, broken = read_claims(folder.submission, _seeds(sources))
    stated = headline(claims, "val_bpb")
    final = final_stage(sources, stated.quantity if stated else None)
    evidence = Evidence(folder, sources, final)
    return _Case(evidence, claims, others, broken)


def _seeds(sources: Sources) -> set[int]:
    return {run.seed for run in (*sources.main, *sources.second, *sources.mixed) if run.seed is not None}


def _baselines(case: _Case, cases: Sequence[_Case], given: _Case | None) -> tuple[Baseline | None, Baseline | None]:
    """The baseline that the folder speaks of, and the one that it is compared with."""
    stated = stated_baseline(case.claims)
    meant = stated
    if stated is not None:
        for other in [given, *cases] if given is not None else cases:
            final, name = other.evidence.final, other.evidence.folder.name
            if _differ(other, case) and final is not None and matches(stated, final):
                source = f"the figures of {len(final.scores)} logs of {name}, whose means are those that are stated"
                meant = baseline_of(name, final, source)
                break
    if given is None or given.evidence.final is None or not _differ(given, case):
        return meant, meant
    final, name = given.evidence.final, given.evidence.folder.name
    other_one = baseline_of(name, final, f"the figures of {len(final.scores)} logs of {name}, '{final.label}'")
    return meant or replace(other_one, assumed=True), other_one


def _differ(one: _Case, other: _Case) -> bool:
    return one.evidence.folder.place != other.evidence.folder.place


def _report(case: _Case, meant: Baseline | None, baseline: Baseline | None) -> FolderReport:
    evidence, compared = case.evidence, None
    if baseline is not None and evidence.final is not None and evidence.final.scores:
        compared = compare(evidence.final, baseline)
    found = [*_findings(case, meant), *(findings(compared) if compared is not None else ())]
    found += [*_spread(evidence), *_absent(evidence, case.claims)]
    reported = [field.name for field in fields(RunReport)]
    runs = (*evidence.runs, *evidence.sources.second, *evidence.sources.mixed)
    return FolderReport(
        folder=evidence.folder.name,
        runs=tuple(RunReport(**{name: getattr(run, name) for name in reported}) for run in runs),
        final=evidence.final,
        comparison=compared,
        findings=tuple(found),
        sentence=_sentence(found, len(runs)),
    )


def _findings(case: _Case, baseline: Baseline | None) -> Iterator[Finding]:
    evidence, submission = case.evidence, case.evidence.folder.submission
    yield from check_files(evidence)
    yield from check_seeds(evidence, claimed_seeds(submission, _seeds(evidence.sources)))
    yield from _final_line(evidence)
    for leaf in case.broken:
        detail = "it is not a finite number of ordinary size"
        yield finding("submission", leaf.where[:120], "differs", detail, (leaf.place,), str(leaf.value)[:40])
    for claim in case.claims:
        if claim.aggregate not in COMPARED:
            yield check_claim(claim, evidence)
    yield from check_sum(case.claims)
    for leaf in case.others:
        yield check_other(leaf, evidence)
    yield from _name(evidence)
    yield from check_tables(evidence)
    yield from check_budgets(evidence, case.claims)
    for claim in case.claims:
        if claim.aggregate in COMPARED:
            yield check_comparison(claim, evidence.final, baseline)


def _final_line(evidence: Evidence) -> Iterator[Finding]:
    final = evidence.final
    if final is not None:
        mean, where = value_text(mean_of(final.figures), "val_bpb"), places(final.figures)
        yield finding("logs", "final figure", "stated", f"'{final.label}': {final.reason}", where, found=mean)
    elif evidence.runs:
        yield finding("logs", "final figure", "absent", "no log gives a score in bits per byte")


def _name(evidence: Evidence) -> Iterator[Finding]:
    """A score in the folder's own name."""
    found = re.search(r"(?<![\d.])(\d\.\d{3,8})(?![\d.])", evidence.folder.name)
    claimed = quantity(found[1]) if found else None
    final = evidence.final
    if claimed is None or final is None or not final.scores:
        return
    mean = mean_of(final.figures)
    verdict = agreement(claimed, mean, computed=True)
    detail, text = f"mean of '{final.label}' over {len(final.scores)} logs", value_text(mean, "val_bpb")
    status: Status | None = "note" if verdict == "differs" else None
    yield finding("files", "folder name", verdict, detail, places(final.figures), claimed.text, text, status)


def _spread(evidence: Evidence) -> Iterator[Finding]:
    final = evidence.final
    if final is None:
        return
    for name, summary in (("bits per byte", final.bpb), ("nats a token", final.nats)):
        if summary is not None and summary.sd is not None and summary.ci95 is not None:
            found = f"{summary.mean:.8f} ± {summary.sd:.8f}"
            low, high = summary.ci95
            detail = f"mean and sample standard deviation over {summary.n} logs; 95% interval {low:.5f} to {high:.5f}"
            yield finding("statistics", name, "stated", detail, found=found)


def _absent(evidence: Evidence, claims: Sequence[Claim]) -> Iterator[Finding]:
    """What a reader would look for and does not find."""
    submission = evidence.folder.submission
    if submission.present and not submission.fault:
        for figure, words in _EXPECTED.items():
            if not any(claim.figure == figure and claim.seed is None for claim in claims):
                yield finding("submission", figure, "absent", f"{SUBMISSION} does not give {words}")
        if len(evidence.runs) > 1 and not any(c.aggregate == "sd" and c.figure == "val_bpb" for c in claims):
            detail = f"{SUBMISSION} has no field for the standard deviation"
            yield finding("submission", "val_bpb_std", "absent", detail)
    for figure, words in _LOGGED.items():
        without = [run.key for run in evidence.runs if figure not in run.figures]
        if without:
            detail = f"not in the log{'s' if len(without) > 1 else ''} of {', '.join(without[:8])}"
            yield finding("logs", words, "absent", detail)


def _sentence(found: Sequence[Finding], runs: int) -> str:
    problems = [finding for finding in found if finding.status == "problem"]
    agreeing = sum(finding.verdict in ("confirmed", "rounding") for finding in found)
    against = f"{runs} run{'s' if runs != 1 else ''} in the logs"
    if not problems:
        return f"Everything that could be checked holds: {agreeing} claimed figures agree with {against}."
    subjects = list(dict.fromkeys(finding.subject for finding in problems))
    listed = "; ".join(subjects[:6]) + (f"; and {len(subjects) - 6} more" if len(subjects) > 6 else "")
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"{count}: {listed}. {agreeing} claimed figures agree with {against}."
