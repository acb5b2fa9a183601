"""One run of a scorer in a process of its own: `python -m golf_core.audit.child FOLDER`.

FOLDER holds request.json and tokens.npy; losses.npz, means.json and events.jsonl are left there, or failure.txt.
The fence is up and the observer in place before numpy or the scorer's module is imported: threads that exist earlier
would stay outside.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from golf_core.audit.fence import RefusedError, leave_network, refuse_reads

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex")
SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
FILES = ("open", "os.listdir", "os.scandir")
PROCESSES = {"subprocess.Popen": 0, "os.exec": 0, "os.posix_spawn": 0, "os.system": 0}
"""Audit events of Python (the table in its documentation) and the argument that names the program."""


class Observer:
    """Writes down what this process tries, before it is done; sees Python's own calls, not those of native code."""

    def __init__(self, log: TextIO, forbidden: list[str]) -> None:
        self._log, self._forbidden = log, forbidden

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event in FILES:
            path = self._path(arguments[0])
            if path and any(path == f or path.startswith(f.rstrip("/") + "/") for f in self._forbidden):
                self._note("read", path)
        elif event in SENDS:
            address = arguments[1]
            if isinstance(address, tuple) and not _is_local(str(address[0])):
                self._note("connection", ":".join(map(str, address[:2])))
        elif event in LOOKUPS:
            # A number needs no look-up, and is seen when it is connected to.
            if arguments[0] and not _is_local(_text(arguments[0])) and not _is_number(_text(arguments[0])):
                self._note("connection", f"look-up of {_text(arguments[0])}")
        elif event in PROCESSES:
            self._note("process", _text(arguments[PROCESSES[event]]))

    def _path(self, given: Any) -> str:
        if not isinstance(given, (str, bytes)):
            return ""  # an open descriptor
        try:
            return os.path.realpath(_text(given))
        except (OSError, ValueError):
            return ""

    def _note(self, kind: str, what: str) -> None:
        self._log.write(json.dumps([kind, what]) + "\n")
        self._log.flush()


def main(folder: Path) -> int:
    """Fence in, observe, import, score once."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    log = (folder / "events.jsonl").open("w", encoding="utf-8")
    failure = (folder / "failure.txt").open("w", encoding="utf-8")
    sys.path[:0] = [p for p in request["search_path"] if p not in sys.path]
    means = {
        "network": _try(leave_network),
        "files": _try(lambda: refuse_reads([Path(p) for p in request["forbidden"]])) if request["forbidden"] else None,
    }
    (folder / "means.json").write_text(json.dumps(means), encoding="utf-8")
    sys.addaudithook(Observer(log, request["forbidden"]))
    try:
        _score(folder, request)
    except BaseException as error:  # a scorer may also call sys.exit
        failure.write(f"{error}" if type(error).__name__ == "ScorerError" else f"{type(error).__name__}: {error}")
        failure.flush()
        return 1
    return 0


def _score(folder: Path, request: dict[str, Any]) -> None:
    import numpy as np

    from golf_core.audit.scorer import ScorerSpec
    from golf_core.audit.subject import Subject

    tokens = np.load(folder / "tokens.npy")
    spec = ScorerSpec(request["target"], request["factory"], request["arguments"])
    scorer, _ = spec.build()
    losses = Subject(scorer, spec.target, request["vocab"]).run(tokens)
    np.savez(folder / "losses.npz", names=np.array(losses.names), values=losses.values, first=losses.first)


def _try(fence: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, fence()
    except (RefusedError, OSError) as error:
        return False, str(error)


def _is_local(host: str) -> bool:
    return host in ("", "localhost", "::1", "0.0.0.0", "::") or host.startswith("127.")


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else str(value)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
