"""What `generate.program_bytes` becomes inside the program: there the program is a file that is there already."""

from __future__ import annotations

from pathlib import Path

from golf_core.config import GolfConfig


def program_bytes(config: GolfConfig) -> bytes:
    """The running program's own file; `config` is what it was made with."""
    return Path(__file__).read_bytes()
