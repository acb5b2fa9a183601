"""The project as a zip file for Ray: what travels is known, and small enough, before it is sent.

Ray can pack a folder itself, but as of 2.60 it looks at files named .gitignore alone: what git ignores for another
reason, such as secrets named in .git/info/exclude, would travel.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from golf_core.errors import UserError

LIMIT_BYTES = 100 * 1024**2
"""Bytes of the zip file: Ray's dashboard takes no larger request."""
LEFT_BEHIND = frozenset({".git", ".venv", "venv", "__pycache__"})
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def files_to_upload(folder: Path) -> list[str]:
    """The files of `folder` that travel, relative to it, sorted: all but those that git ignores.

    Without git, all but caches and environments.
    """
    names = _known_to_git(folder)
    if names is None:
        names = list(_walk(folder))
    return sorted(name for name in names if (folder / name).is_file())


def write_package(folder: Path, names: Sequence[str], package: Path, limit: int = LIMIT_BYTES) -> Path:
    """Write the files `names` of `folder` to the zip file `package`; equal files make equal bytes.

    Raises `UserError` as soon as it is larger than `limit`.
    """
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            source = folder / name
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (source.stat().st_mode & 0xFFFF) << 16
            with source.open("rb") as file, archive.open(entry, "w", force_zip64=True) as target:
                while block := file.read(1 << 20):
                    target.write(block)
                    _refuse_large(package, limit, folder, names)
    _refuse_large(package, limit, folder, names)
    return package


def _refuse_large(package: Path, limit: int, folder: Path, names: Sequence[str]) -> None:
    if package.stat().st_size <= limit:
        return
    largest = sorted(names, key=lambda name: -(folder / name).stat().st_size)[:3]
    shown = ", ".join(f"{name} ({(folder / name).stat().st_size / 1024**2:.0f} MiB)" for name in largest)
    raise UserError(
        f"{folder}: more than the {limit / 1024**2:g} MiB that Ray takes as an upload, the largest being {shown}; "
        "name them in .gitignore, or --working-dir none where the cluster has the project"
    )


def _known_to_git(folder: Path) -> list[str] | None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_BEHIND]
        for name in files:
            yield os.path.relpath(os.path.join(parent, name), folder)  # noqa: PTH118
