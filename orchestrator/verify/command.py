"""What `golf verify` does with its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from golf_core import files, strict_json
from golf_core.errors import UserError
from orchestrator.verify.page import page
from orchestrator.verify.table import report_table
from orchestrator.verify.verifier import verify

WIDE = 170


def run_verify(folders: Sequence[Path], baseline: Path | None, json: Path | None, markdown: Path | None) -> int:
    """Check the folders, print and write what was found; returns the exit code."""
    report = verify(folders, baseline)
    # What was found is written before anything is printed, so that a reader who closes the pipe loses nothing.
    if json is not None:
        _written(json, lambda: strict_json.save(report, json))
    if markdown is not None:
        text = page(report, folders, baseline, markdown)
        _written(markdown, lambda: files.write_text(markdown, text))
    console = Console()
    if not console.is_terminal:  # a file has room for whole lines
        console = Console(width=WIDE)
    for folder in report.folders:
        console.print(report_table(folder))
    for sentence in report.unreadable:
        sys.stderr.write(f"error: {sentence}\n")
    return report.exit_code


def _written(place: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); name another file") from None
