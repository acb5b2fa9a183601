"""What can be checked where the command runs, without a cluster: seconds, no GPU, nothing started."""

from __future__ import annotations

import os
import platform
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from golf_core.errors import UserError
from orchestrator.folder.provenance import provenance
from orchestrator.job.load import Job
from orchestrator.preflight.data import check_data_folder
from orchestrator.preflight.findings import Finding, error, from_error, ok, warning
from orchestrator.preflight.machine import check_disk, check_gpus, check_shm, existing, misfit, need_of, this_machine
from orchestrator.signals import within
from orchestrator.tracking.store import masked, sqlite_path

DISTRIBUTION = "golf-service"
TESTED_TORCH = "2.14.1"
"""The newest torch that has been tried; a later one is warned about and not refused."""
CHOSEN_BY_TORCH = "triton"
"""Each build of torch names the one version that it goes with, or none: our own range is not held against it."""
MLFLOW_S = 3.0


def check_here(job: Job, allow_dirty: bool = False, will_run_here: bool = True) -> list[Finding]:
    """All that can be known of `job` on this machine.

    `will_run_here` False: the job is meant for a cluster, so that GPUs, data and shared memory are the nodes' affair.
    """
    findings = [ok(f"job file is sound, sha256 {job.digest[:12]}", job.name)]
    findings += [check_commit(job, provenance(), allow_dirty)]
    findings += check_versions()
    findings += _guarded(lambda: _check_room(job, will_run_here), "output")
    findings += [check_mlflow(job.mlflow.tracking_uri, job.output)]
    if will_run_here:
        findings += check_machine(job)
        findings += _check_data(job)
    return findings


def _check_data(job: Job) -> list[Finding]:
    """The data on this machine; those that are fetched when the run begins may be missing."""
    findings = check_data_folder(data_of(job), *lengths(job))
    if job.data == "sample" or job.data.fetch is None:
        return findings
    missing = [finding for finding in findings if finding.level == "error"]
    if not missing:
        return findings
    what = f"the data are not all here ({missing[0].what}); they are fetched when the run begins"
    remedy = "fetch them now, so that no gang has to wait: golf data fetch"
    return [f for f in findings if f.level != "error"] + [warning(what, missing[0].where, remedy)]


def check_commit(job: Job, origin: Mapping[str, str], allow_dirty: bool) -> Finding:
    """Whether the commit says what code runs. A run that can make a record is refused on a changed tree."""
    commit, dirty = origin["git_commit"], origin["git_dirty"]
    where = f"commit {commit[:12]}"
    if dirty == "false":
        return ok("no tracked file differs from it", where)
    if commit == "unknown":
        what, remedy = (
            "no git commit is known",
            "run from a checkout, or put git_commit into the Ray job's metadata",
        )
    elif dirty == "true":
        what, remedy = "tracked files differ from the commit", "commit the changes"
    else:
        what, remedy = "git does not say whether files differ from it", "see `git status`"
    if not for_record(job):
        return warning(f"{what}; the figures could not be traced to a code", where, remedy)
    if allow_dirty:
        return warning(f"{what}, which --allow-dirty permits; a record cannot rest on it", where, remedy)
    return error(f"{what}, and this job is for a record", where, f"{remedy}, or give --allow-dirty")


def for_record(job: Job) -> bool:
    """Whether the job could make a record: the record's preset, on GPUs, against a baseline."""
    return job.preset == "record" and job.resources.accelerator is not None and job.baseline is not None


def check_versions(
    distribution: str = DISTRIBUTION,
    version_of: Callable[[str], str] = metadata.version,
    requirements_of: Callable[[str], Sequence[str] | None] = metadata.requires,
    requires_python: str | None = None,
) -> list[Finding]:
    """Python and each required package against the installed project's own ranges."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    try:
        wanted = [text for text in requirements_of(distribution) or [] if not text.startswith(CHOSEN_BY_TORCH)]
        python = requires_python or metadata.metadata(distribution)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return [warning("is not installed, so that versions cannot be checked", distribution, "pip install -e .")]
    findings = []
    own = platform.python_version()
    if not SpecifierSet(python).contains(own, prereleases=True):
        findings.append(error(f"Python {own} is not {python}", "python", f"use a Python {python}"))
    there = [f"python {own}"]
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            findings.append(warning(f"cannot be read: {text!r}", distribution, "pip install -e . again"))
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, range_ = requirement.name, str(requirement.specifier)
        try:
            found = version_of(name)
        except metadata.PackageNotFoundError:
            findings.append(error("is not installed", name, f"pip install '{name}{range_}'"))
            continue
        # A build's local part, such as +cu128, is no other version.
        if not requirement.specifier.contains(found, prereleases=True):
            findings.append(error(f"version {found} is not {range_}", name, f"pip install '{name}{range_}'"))
        elif name == "torch" and Version(found).release[:2] > Version(TESTED_TORCH).release[:2]:
            what = f"version {found} is newer than any that was tested ({TESTED_TORCH})"
            findings.append(warning(what, name, "look at the figures of a short run first"))
        there.append(f"{name} {found}")
    if not findings:
        findings.append(ok(", ".join(there), "versions"))
    return findings


def check_mlflow(uri: str | None, output: str, limit_s: float = MLFLOW_S) -> Finding:
    """Whether MLflow will take the figures. Never an error: a run goes on without it."""
    where, remedy = "mlflow.tracking_uri", "figures lie in the run's folder in any case; mend it to see them in MLflow"
    file = Path(output) / "mlflow.db" if uri is None else sqlite_path(uri)
    if file is not None:
        place = existing(file)
        if not os.access(place, os.W_OK):
            return warning(f"{place} cannot be written", where, remedy)
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None and elsewhere:
            what = f"MLFLOW_TRACKING_URI ({masked(elsewhere)}) is not used here: figures go to {file}"
            return warning(what, where, '--set mlflow.tracking_uri="$MLFLOW_TRACKING_URI" sends them there')
        return ok(f"SQLite, {file} can be written", where)
    assert uri is not None
    if not uri.startswith(("http://", "https://")):
        return ok(f"{masked(uri)}: an address of this kind is not probed", where)
    answer = _answer(uri.rstrip("/") + "/health", limit_s)
    if answer is None:
        return ok(f"{masked(uri)} answers", where)
    return warning(f"{masked(uri)}: {answer}", where, remedy)


def _answer(address: str, limit_s: float) -> str | None:
    """None where a server answers in time, else what came instead."""

    def ask() -> None:
        urllib.request.urlopen(_without_login(address), timeout=limit_s).close()

    try:
        within(limit_s, ask)  # looking a name up has no time-out of its own
    except urllib.error.HTTPError as problem:
        # Who refuses a stranger is there; how to log in is MLflow's affair.
        return None if problem.code in (401, 403, 404) else f"answers with HTTP {problem.code}"
    except TimeoutError:
        return f"no answer within {limit_s:g} s"
    except Exception as problem:  # what a broken server can make of urllib has no end
        return f"no answer ({masked(str(getattr(problem, 'reason', problem)))})"
    return None


def _without_login(address: str) -> str:
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def check_machine(job: Job) -> list[Finding]:
    """Whether this machine can hold one seed's gang, and its GPUs, where the job wants some."""
    findings = []
    found = misfit(job.resources, [this_machine()])
    if found is not None:
        remedy = f"give --address for a cluster, or {found.remedy}"
        findings.append(error(f"each seed {found.what}", f"resources, {platform.node()}", remedy))
    else:
        findings.append(ok(f"room for {job.resources.ranks} ranks", f"resources, {platform.node()}"))
    if job.resources.accelerator is not None:
        per_node = job.resources.ranks // job.resources.nodes
        findings += check_gpus(per_node, job.resources.accelerator, exactly=False)
    return findings


def data_of(job: Job) -> dict[str, str] | None:
    """The job's data as the ranks get it; None for the sample."""
    return None if job.data == "sample" else job.data.model_dump()


def lengths(job: Job) -> tuple[int, int]:
    """The vocabulary, and the longest row that is read."""
    return job.config.model.vocab_size, max(job.config.train.seq_len, job.config.evaluate.seq_len)


def _check_room(job: Job, will_run_here: bool) -> list[Finding]:
    need = need_of(job)
    findings = [check_disk(job.output, need.run, "output")]
    if will_run_here:
        strict = job.resources.accelerator is not None and job.resources.ranks > 1
        findings.append(check_shm(need.shm, f"shared memory, {platform.node()}", strict))
    return findings


def _guarded(check: Callable[[], list[Finding]], where: str) -> list[Finding]:
    """A check that needs a package which may be missing; the versions have said so then."""
    try:
        return check()
    except ImportError as problem:
        return [warning(f"not checked: {problem}", where, "install what is missing and check again")]
    except UserError as problem:
        return from_error(problem, where)
