"""A job as a Slurm batch script: a Ray cluster of its own over the allocation, closed to other users by a token.

`ray symmetric-run` starts such a cluster too. As of Ray 2.60 it ends with 0 where Ray does not start, ends every Ray of
the user on its nodes, and does not hand on the signal that comes before the time is up; so the script does it itself.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from golf_core.errors import UserError
from orchestrator.job.load import Job
from orchestrator.submit.command import SlurmOptions
from orchestrator.submit.entry import check_forms, check_parallel, run_words, shell_line, template, worst_case_seconds

WARNING_S = 60
"""Before the end of the time, for the run to write its state down."""
START_S = 600
"""For Ray to start on all nodes."""
# A value in an #SBATCH line goes through sbatch's own reading of quotes: none of these needs any.
_DIRECTIVE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:+@-]*")
_TIME = re.compile(r"[0-9]+(:[0-9]{2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{2}){0,2}")
_MEMORY = re.compile(r"[0-9]+[KMGT]?")


def slurm_script(job: Job, path: str | Path, changes: Sequence[str], options: SlurmOptions) -> str:
    """The text of the script that runs `job`, read from `path` with `changes`.

    The options say project and environment: the folder where the job runs and its Python environment, each the same on
    every node; without an environment golf, ray and python are on the path. Raises `UserError` naming the option that
    cannot work.
    """
    _check(job, options)
    path_line = "# golf, ray and python are on the path"
    if options.environment is not None:
        path_line = f'export PATH={shlex.quote(str(options.environment / "bin"))}:"$PATH"'
    ranks = job.resources.ranks // job.resources.nodes
    cpus, gpus = math.ceil(ranks * job.resources.cpus_per_rank), ranks * job.resources.gpus_per_rank
    values = {
        "DIRECTIVES": _directives(job, options, cpus, gpus),
        "CPUS": str(cpus),
        "GPUS": str(gpus),
        "START_S": str(START_S),
        "PROJECT": shlex.quote(str(options.project)),
        "PATH_LINE": path_line,
        "CONTAINER": _container_words(options),
        "RUN": shell_line(run_words(path, changes)),
    }
    # One pass: what a value holds is never read as a place for another.
    return re.sub("@@([A-Z_]+)@@", lambda place: values[place[1]], template("slurm.sh"))


def slurm_time(seconds: int) -> str:
    """`seconds`, rounded up to a minute, as days-hours:minutes:seconds."""
    minutes = -(-seconds // 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day}-{hour:02d}:{minute:02d}:00"


def _directives(job: Job, options: SlurmOptions, cpus: int, gpus: int) -> str:
    nodes = job.resources.nodes * options.parallel
    time = options.time or slurm_time(worst_case_seconds(job, options.parallel) + START_S + WARNING_S)
    given: list[tuple[str, str | None]] = [
        ("job-name", f"golf-{job.name}"),
        ("output", f"golf-{job.name}-%j.log"),
        ("nodes", str(nodes)),
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(cpus)),
        ("gpus-per-node", f"{options.gpu_type}:{gpus}" if options.gpu_type else str(gpus)) if gpus else ("", None),
        ("mem", options.memory),
        ("time", time),
        ("signal", f"B:TERM@{WARNING_S}"),
        ("partition", options.partition),
        ("account", options.account),
        ("qos", options.qos),
        ("constraint", options.constraint),
    ]
    lines = [f"#SBATCH --{name}={value}" for name, value in given if value is not None]
    # A second start would be a second run: golf run --resume goes on with the first.
    return "\n".join([*lines, "#SBATCH --no-requeue"])


def _container_words(options: SlurmOptions) -> str:
    if options.container is None:
        return ""
    project = str(options.project)
    # Each step is a container of its own: those of one node meet in Ray's folder and in shared memory.
    mounts = ",".join([f"{project}:{project}", "/tmp:/tmp", "/dev/shm:/dev/shm", *(options.mount or [])])
    return shell_line(
        [
            f"--container-image={options.container}",
            f"--container-mounts={mounts}",
            f"--container-workdir={project}",
            "--no-container-entrypoint",
        ]
    )


def _check(job: Job, options: SlurmOptions) -> None:
    check_parallel(job, options.parallel)
    check_forms(
        "Slurm",
        ("--partition", options.partition, _DIRECTIVE, "give a partition's name"),
        ("--account", options.account, _DIRECTIVE, "give an account's name"),
        ("--qos", options.qos, _DIRECTIVE, "give the name of a quality of service"),
        ("--constraint", options.constraint, _DIRECTIVE, "give a feature's name"),
        ("--gpu-type", options.gpu_type, _DIRECTIVE, "give Slurm's name of the GPU, such as h100"),
        ("--time", options.time, _TIME, "give minutes, H:MM:SS or D-HH:MM:SS"),
        ("--memory", options.memory, _MEMORY, "give a number with K, M, G or T, such as 200G"),
    )
    if options.container is None:
        if options.mount:
            raise UserError("--mount: only a --container has mounts; give both or neither")
        return
    for mount in (f"{options.project}:{options.project}", *(options.mount or [])):
        parts = mount.split(":")
        if "," in mount or len(parts) not in (2, 3) or not all(part.startswith("/") for part in parts[:2]):
            raise UserError(f"--mount {mount!r}: not SOURCE:TARGET, two absolute paths without ',' and ':'")
