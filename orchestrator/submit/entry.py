"""The command that runs a job, as words and as one line for a shell."""

from __future__ import annotations

import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import PurePath

from golf_core.errors import GolfError, RunError, UserError
from orchestrator.folder.results import wanted_stages
from orchestrator.job.load import Job, phase_limits

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def run_words(job: str | PurePath, changes: Sequence[str] = (), program: Sequence[str] = ("golf",)) -> list[str]:
    """The words of `golf run JOB --set CHANGE ...`, with `program` in the place of `golf`."""
    path = str(job)
    if path.startswith("-"):  # a file, not an option
        path = f"./{path}"
    words = [*program, "run", path]
    for change in changes:
        words += ["--set", change]
    return words


def module_program(python: str) -> tuple[str, ...]:
    """`golf` for places where only an interpreter is known."""
    return (python, "-m", "orchestrator")


def shell_line(words: Sequence[str]) -> str:
    """One line that a POSIX shell splits into exactly `words`, whatever characters they hold.

    Raises `UserError` for a zero byte, which no command line can hold.
    """
    for word in words:
        if "\0" in word:
            raise UserError(f"{word!r}: holds a zero byte, which no command line can carry; rename it")
    return shlex.join(words)


def is_plain(words: Sequence[str]) -> bool:
    """Whether any number of shells, one after another, leave every word as it is."""
    return all(_PLAIN.fullmatch(word) for word in words)


def check_parallel(job: Job, parallel: int) -> None:
    """Raise `UserError` unless there are as many seeds as are to run side by side."""
    if not 1 <= parallel <= len(job.seeds):
        raise UserError(f"--parallel {parallel}: the job has {len(job.seeds)} seeds; give a number from 1 to as many")


def check_forms(taker: str, *rows: tuple[str, str | None, re.Pattern[str], str]) -> None:
    """Raise `UserError` for the first option whose value has not its form; rows: option, value, form, remedy."""
    for option, value, form, remedy in rows:
        if value is not None and not form.fullmatch(value):
            raise UserError(f"{option} {value!r}: not of the form that {taker} takes; {remedy}")


def template(name: str) -> str:
    """The text of a file in `templates`."""
    return (resources.files("orchestrator.submit") / "templates" / name).read_text(encoding="utf-8")


# --- waiting for the nodes ---

POLL_S = 1.0


def wait_for_nodes(
    wanted: int,
    seconds: float,
    living: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `living()` has reached `wanted`. Raises `RunError` after `seconds`, with what was there."""
    end = clock() + seconds
    while (found := living()) < wanted:
        if clock() >= end:
            raise RunError(f"only {found} of {wanted} nodes joined the Ray cluster within {seconds:g} s; see their log")
        sleep(POLL_S)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when the nodes are there, 1 with a sentence when they are not."""
    from orchestrator.run.cluster import connected, ray_nodes

    address, nodes, seconds = arguments[0], int(arguments[1]), float(arguments[2])
    try:
        with connected(address, before_local=lambda: None):
            wait_for_nodes(nodes, seconds, lambda: len(ray_nodes()))
    except GolfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


# --- how long it may take ---

BETWEEN_ATTEMPTS_S = 120.0
"""A stuck rank is noticed, its gang is ended, and room for the next is found."""
FILES = 2
"""Files of a seed, each with a limit of its own on its way between a rank and the driver: checkpoint and artifact."""


def worst_case_seconds(job: Job, parallel: int = 1) -> int:
    """Seconds after which every seed has ended, whatever happens, with `parallel` gangs side by side.

    Each attempt at each seed is taken to use every limit up, and to begin from nothing.
    """
    limits = phase_limits(job)
    phases = limits.start + sum(stage.limit(limits) for stage in wanted_stages(job))
    attempt = phases + FILES * limits.transfer + BETWEEN_ATTEMPTS_S
    rounds = -(-len(job.seeds) // parallel)
    return math.ceil(rounds * (1 + job.limits.retries) * attempt)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
