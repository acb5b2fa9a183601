"""`golf submit`: a job on a Ray cluster that is there already, its log here, and its exit code."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from golf_core.errors import GolfError, RunError, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from orchestrator.job.load import Job
    from orchestrator.submit.follow import JobEnd

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_S = 5.0
ANSWER_S = 30.0
UPLOAD_S = 600.0
STOP_S = 60.0
INTERRUPTED = 130
NO_UPLOAD = "none"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is submitted."""

    entrypoint: str
    """A line for the shell of the head."""
    upload: Path | None
    """The folder that travels; None: the cluster has the project."""
    names: tuple[str, ...]
    """The files of `upload` that travel, relative to it."""


# --- what is submitted ----------------------------------------------------------------------------


def job_metadata(job: Job) -> dict[str, str]:
    """What tells afterwards which job this was, and of which code; all plain text."""
    from orchestrator.folder.provenance import provenance
    from orchestrator.folder.redaction import Redactor

    origin = provenance(Redactor.from_environment(os.environ).redact)
    return {
        "job_name": job.name,
        "job_sha256": job.digest,
        "git_commit": origin["git_commit"],
        "git_dirty": origin["git_dirty"],
    }


def plan(
    job: Job,
    path: Path,
    changes: Sequence[str],
    head: Path | None,
    working_dir: str | None = None,
    python: str | None = None,
) -> Plan:
    """How `job`, read from `path` with `changes`, is run on the cluster.

    `head` is the folder where the cluster's head was started if it runs on this machine, else None. Nothing
    travels where that is the current folder, or with `working_dir` 'none'. Raises `UserError` where the job
    could not run there, or its results would be lost.
    """
    from orchestrator.submit.entry import module_program, run_words, shell_line
    from orchestrator.submit.upload import files_to_upload

    interpreter = python or (sys.executable if head else "python")
    upload = _folder_to_upload(head, working_dir)
    if upload is None:
        place = path if head is None else path.absolute()
        return Plan(shell_line(run_words(place, changes, module_program(interpreter))), None, ())
    place = path.absolute().resolve()
    if not place.is_relative_to(upload):
        raise UserError(f"{path}: lies outside of {upload}, the folder that travels; copy it there, or --working-dir")
    place = place.relative_to(upload)
    names = tuple(files_to_upload(upload))
    if str(place) not in names:
        raise UserError(f"{path}: .gitignore names it, so it does not travel; move it, or take it out of .gitignore")
    _refuse_losses(job, frozenset(names))
    return Plan(shell_line(run_words(place, changes, module_program(interpreter))), upload, names)


def _folder_to_upload(head: Path | None, working_dir: str | None) -> Path | None:
    here = Path.cwd()
    if working_dir == NO_UPLOAD or (working_dir is None and head is not None and head == here.resolve()):
        return None
    if working_dir is not None:
        folder = Path(working_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--working-dir {working_dir}: no such folder; give the project's, or '{NO_UPLOAD}'")
        return folder
    if not (here / "orchestrator" / "__main__.py").is_file():
        raise UserError(
            f"{here}: not the project's folder, which has to travel; run this there, give --working-dir FOLDER, "
            f"or --working-dir {NO_UPLOAD} where the cluster has the project"
        )
    return here.resolve()


def _refuse_losses(job: Job, names: frozenset[str]) -> None:
    if not Path(job.output).is_absolute():
        raise UserError(
            f"output: {job.output!r} would lie in the uploaded folder, which Ray deletes; "
            "give --set output=FOLDER, an absolute path of the cluster"
        )
    if job.data == "sample" or job.data.fetch is not None:  # nodes get it themselves
        return
    for field, value in (("data.path", job.data.path), ("data.tokenizer", job.data.tokenizer)):
        inside = os.path.normpath(value)
        if not Path(value).is_absolute() and not any(n == inside or n.startswith(f"{inside}/") for n in names):
            raise UserError(
                f"{field}: {value!r} does not travel with the project; give --set {field}=…, an absolute path of "
                "the cluster"
            )


# --- the cluster ----------------------------------------------------------------------------------


def dashboard_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the dashboard: as given, else as the environment says, else this machine's usual one.

    Raises `UserError` for an address of something else.
    """
    address, source = given, "--address"
    if address is None:
        # RAY_ADDRESS is more often a cluster's own address, which takes no submissions.
        ray_address = environment.get("RAY_ADDRESS", "")
        address = environment.get("RAY_API_SERVER_ADDRESS") or (ray_address if "http" in ray_address else None)
        source = "RAY_API_SERVER_ADDRESS" if environment.get("RAY_API_SERVER_ADDRESS") else "RAY_ADDRESS"
    address = address or DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"
    wrong = UserError(f"{source} {address}: not the address of a Ray dashboard; give one such as {DEFAULT_ADDRESS}")
    try:
        url = urlsplit(address)
        _ = url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise wrong
    return address.rstrip("/")


def open_client(address: str) -> JobSubmissionClient:
    """Ray's client of the dashboard at `address`. Raises `ClusterError`, one sentence, where that cannot be."""
    from orchestrator.preflight.machine import ClusterError

    url = urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((str(url.hostname), port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: no Ray dashboard answers there ({error}); start one with ray start --head, "
            "or give the address of another"
        ) from None
    # Ray lets the environment win over the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    return bounded(lambda: _ray_client(address), ANSWER_S, f"--address {address}")


def _ray_client(address: str) -> JobSubmissionClient:
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it tells of every connection that closes
    return JobSubmissionClient(address)


def bounded(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """The result of `call`, which Ray may let wait without end; its failures as `ClusterError`, one sentence each.

    `what` begins the sentence.
    """
    from orchestrator.preflight.machine import ClusterError
    from orchestrator.signals import within
    from orchestrator.submit.follow import is_refusal

    try:
        return within(seconds, call)
    except (GolfError, KeyboardInterrupt):
        raise
    except TimeoutError:
        raise ClusterError(
            f"{what}: no answer within {seconds:g} s, although something listens; is it a Ray dashboard?"
        ) from None
    except Exception as error:
        if is_refusal(error):
            raise ClusterError(f"{what}: {token_remedy()}") from None
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if isinstance(error, ConnectionError):
            raise ClusterError(f"{what}: the connection failed ({first}); is this a Ray dashboard?") from None
        raise ClusterError(f"{what}: {first.rstrip('.')}; is this the dashboard of a Ray of this version?") from None


def token_remedy() -> str:
    """What to do about a token that is missing or wrong."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "asks for a token; export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or keep it in ~/.ray/auth_token)"
    return "refuses the token; export RAY_AUTH_TOKEN as the one that the head was started with"


def check_version(server: str | None, client: str, own_interpreter: bool) -> str | None:
    """What to say where cluster and client differ in Ray's version, None where they do not.

    Raises `ClusterError` where the job would run on this interpreter, whose Ray cannot join the cluster's.
    """
    from orchestrator.preflight.machine import ClusterError

    if server is None or server == client:
        return None
    if own_interpreter:
        raise ClusterError(
            f"the cluster runs Ray {server}, {sys.executable} has Ray {client}, and they must be the same; "
            "give --python, an interpreter with the cluster's Ray, or restart the head from this environment"
        )
    return f"note: the cluster runs Ray {server}, this is Ray {client}; the job runs on the cluster's"


def own_head(address: str) -> Path | None:
    """The folder where the head behind `address` was started, if it is a process of this machine that we may see.

    A tunnel to another machine's dashboard is none.
    """
    import psutil

    url = urlsplit(address)
    try:
        wanted = {info[4][0] for info in socket.getaddrinfo(url.hostname, url.port or 80, type=socket.SOCK_STREAM)}
        local = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
        if not wanted & local:
            return None
        listeners = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid
            if connection.laddr and connection.laddr.port == url.port
        ]
        for pid in listeners:
            process = psutil.Process(pid)
            if any("dashboard" in word for word in process.cmdline()):
                return Path(process.cwd()).resolve()
    except (psutil.Error, OSError):
        return None
    return None


# --- the submission -------------------------------------------------------------------------------


def submit(client: JobSubmissionClient, what: Plan, job: Job, address: str) -> str:
    """Upload and submit; the id of the submission. Raises `UserError` where the upload is too large for Ray."""
    from orchestrator.submit.upload import write_package

    # Chosen here: should the answer be lost, the job can be found.
    submission_id = f"golf-{job.name}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="golf-upload-") as folder:
        runtime_env: dict[str, Any] = {}
        if what.upload is not None:
            runtime_env["working_dir"] = str(write_package(what.upload, what.names, Path(folder) / "project.zip"))
        bounded(
            lambda: client.submit_job(
                entrypoint=what.entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata=job_metadata(job),
            ),
            UPLOAD_S,
            f"--address {address}",
        )
    return submission_id


def exit_code(end: JobEnd) -> int:
    """0 succeeded; the job's own 1 or 2 for failed (1 where it is not known); 130 stopped."""
    if end.status == "SUCCEEDED":
        return 0
    if end.status == "STOPPED":
        return INTERRUPTED
    return end.exit_code if end.exit_code in (1, 2) else 1


def after_interrupt(client: JobSubmissionClient, job_id: str, address: str, stop: bool, say: Say) -> int:
    """Ctrl-C ends the following; the job is stopped if `stop`, or if a person says so when asked, once."""
    if not stop and sys.stdin.isatty():
        with contextlib.suppress(typer.Abort):
            stop = typer.confirm("\nStop the job on the cluster too?", default=False)
    if not stop:
        say(f"\nthe job runs on\n{how_to(job_id, address)}")
        return INTERRUPTED
    from orchestrator.submit.follow import wait_for_end

    bounded(lambda: client.stop_job(job_id), ANSWER_S, f"stopping {job_id}")
    end = wait_for_end(client, job_id, STOP_S)
    if end is None:
        raise RunError(f"{job_id}: was told to stop and has not ended within {STOP_S:g} s; look at {address}")
    say(f"\n{job_id}: {end.status.lower()}")
    return INTERRUPTED


def how_to(job_id: str, address: str) -> str:
    """How the job is followed and stopped from now on."""
    return (
        f"  follow it:  ray job logs --follow --address {address} {job_id}\n"
        f"  stop it:    ray job stop --address {address} {job_id}"
    )


def submit_command(
    job: Annotated[Path, typer.Argument(help="A job file, such as jobs/three_seed.yaml.", show_default=False)],
    address: Annotated[
        str | None, typer.Option(help=f"The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS or {DEFAULT_ADDRESS}.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field of the job, e.g. output=/data/runs."),
    ] = None,
    working_dir: Annotated[
        str | None,
        typer.Option(help="Folder to upload, or 'none'. Default: this one, unless the cluster's head runs in it."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The cluster's interpreter. Default: this one for a head on this machine.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Print the job's log and end with its exit code.")] = True,
    stop_on_interrupt: Annotated[
        bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job as well, without asking.")
    ] = False,
) -> None:
    """Run a job on a Ray cluster through its dashboard. Exit code: the job's; 130 if it was stopped."""
    from orchestrator.job.load import load_job, parse_changes
    from orchestrator.submit.follow import Follower

    changes = set_ or []
    loaded = load_job(job, parse_changes(changes))
    url = dashboard_address(address, os.environ)
    client = open_client(url)
    head = own_head(url)
    what = plan(loaded, job, changes, head, working_dir, python)
    own_interpreter = head is not None and python is None
    note = check_version(getattr(client, "_server_ray_version", None), _client_version(), own_interpreter)
    if note:
        _say(note)
    job_id = submit(client, what, loaded, url)
    _say(f"submitted: {job_id}\n{how_to(job_id, url)}")
    if not follow:
        return
    try:
        end = Follower(client, job_id, url, _write).run()
    except KeyboardInterrupt:
        raise typer.Exit(after_interrupt(client, job_id, url, stop_on_interrupt, _say)) from None
    _say(f"{job_id}: {end.status.lower()}" + (f": {end.message}" if end.status == "FAILED" and end.message else ""))
    raise typer.Exit(exit_code(end))


def _client_version() -> str:
    from importlib import metadata

    return metadata.version("ray")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
