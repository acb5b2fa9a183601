"""What others add to the service without its knowing them: commands, and what is done when a run has ended.

They are named by entry points of installed packages, so that dependencies keep to their one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

COMMANDS = "golf.commands"
"""Group of functions that take the `typer.Typer` of the command `golf` and add to it."""
RUN_WRITTEN = "golf.run_written"
"""Group of functions that are given the folder of a run when its `result.json` has been written."""


def add_commands(app: Any) -> None:
    """Let every extension add its commands to `app`."""
    for _, add in _loaded(COMMANDS):
        add(app)


def run_written(folder: Path, warn: Callable[[str], None]) -> None:
    """Tell every extension that the run in `folder` has ended. What goes wrong there is said, and ends nothing."""
    for name, tell in _loaded(RUN_WRITTEN):
        try:
            tell(folder)
        except Exception as error:  # a picture that cannot be drawn does not spoil the figures
            warn(f"warning: {name} failed on {folder} ({type(error).__name__}: {error}); the figures are not touched")


def _loaded(group: str) -> Iterator[tuple[str, Callable[..., None]]]:
    # Of every installation that is found, not of the first of each name alone: a checkout may hold the metadata of an
    # older build, which would hide those of the newer one that is installed.
    found: dict[EntryPoint, None] = {}
    for distribution in distributions():
        found |= dict.fromkeys(point for point in distribution.entry_points if point.group == group)
    for point in found:
        yield point.name, point.load()
