"""One run of a scorer in a process of its own, cut off as far as Linux offers it. Standard library alone.

`python -m golf_core.audit.sandbox FOLDER`: FOLDER holds request.json and tokens.npy; losses.npz, means.json and
events.jsonl are left there, or failure.txt. The sandbox is closed and the observer in place before numpy or the
scorer's module is imported: threads that exist earlier would stay outside. It is for a scorer that is to be measured;
it is no prison for a program that fights it.

Network: a network namespace of its own (user_namespaces(7) lets anyone make one where the system allows it), with a
loopback interface and nothing else. Files: Landlock (landlock(7), Linux 5.13) refuses to read what is forbidden; where
it is missing, a mount namespace lays something empty over it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
MOUNT_BIND, MOUNT_RECURSIVE, MOUNT_PRIVATE = 0x1000, 0x4000, 0x40000
NO_NEW_PRIVILEGES = 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ_FILE, LANDLOCK_PATH_BENEATH = 1 << 2, 1
SET_INTERFACE_FLAGS, INTERFACE_UP = 0x8914, 0x1
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex")
SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
FILES = ("open", "os.listdir", "os.scandir")
PROCESSES = {"subprocess.Popen": 0, "os.exec": 0, "os.posix_spawn": 0, "os.system": 0}
"""Audit events of Python (the table in its documentation) and the argument that names the program."""


class RefusedError(Exception):
    """The system does not offer this, or not to this user."""


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
    """Close the sandbox, observe, import, score once."""
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

    from golf_core.audit.scorer import ScorerSpec, Subject

    tokens = np.load(folder / "tokens.npy")
    spec = ScorerSpec(request["target"], request["factory"], request["arguments"])
    scorer, _ = spec.build()
    losses = Subject(scorer, spec.target, request["vocab"]).run(tokens)
    np.savez(folder / "losses.npz", names=np.array(losses.names), values=losses.values, first=losses.first)


def _try(close: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, close()
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


def leave_network() -> str:
    """Cut this process off from all networks but its own loopback. Returns how. Raises `RefusedError`."""
    _linux()
    users = (0, NEW_USER) if os.geteuid() == 0 else (NEW_USER,)
    refusals = []
    for user in users:
        try:
            _unshare(NEW_NETWORK | user)
        except RefusedError as error:
            refusals.append(str(error))
            continue
        _raise_loopback()
        return "a network namespace with nothing but loopback"
    raise RefusedError(f"no network namespace: {refusals[-1]}")


def refuse_reads(paths: Sequence[Path]) -> str:
    """Make `paths` and all below them unreadable for this process. Returns how. Raises `RefusedError`."""
    _linux()
    try:
        return _landlock(paths)
    except RefusedError as landlock:
        try:
            return _cover(paths)
        except RefusedError as mounts:
            raise RefusedError(f"no Landlock: {landlock}; no mount namespace: {mounts}") from None


def _linux() -> None:
    if sys.platform != "linux":
        raise RefusedError(f"nothing is known for {sys.platform}")


def _landlock(paths: Sequence[Path]) -> str:
    """Handles reading of files alone and allows it on everything that neither is forbidden nor holds what is.

    What a folder above a forbidden path comes to hold later is unreadable, too; its listing is not refused.
    """
    handled = struct.pack("=Q", LANDLOCK_READ_FILE)
    rules = _syscall(LANDLOCK_CREATE, handled, len(handled), 0)
    try:
        for path in _beside([path.resolve() for path in paths]):
            try:
                fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # gone, or out of reach anyway
            try:
                rule = struct.pack("=Qi", LANDLOCK_READ_FILE, fd)
                _syscall(LANDLOCK_ADD, rules, LANDLOCK_PATH_BENEATH, rule, 0)
            finally:
                os.close(fd)
        _call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _syscall(LANDLOCK_RESTRICT, rules, 0)
    finally:
        os.close(rules)
    return "Landlock refuses to read the forbidden paths"


def _beside(paths: Sequence[Path]) -> list[Path]:
    """Everything beside the way from the root to each of `paths`: together, all files but those below `paths`."""
    above = {parent for path in paths for parent in path.parents}
    found = []
    for folder in sorted(above):
        try:
            entries = list(folder.iterdir())
        except OSError:
            continue
        found += [e for e in entries if e not in above and e not in paths and not e.is_symlink()]
    return found


def _cover(paths: Sequence[Path]) -> str:
    try:
        _unshare(NEW_MOUNTS)
    except RefusedError:
        _unshare(NEW_MOUNTS | NEW_USER)
    _call("mount", None, b"/", None, MOUNT_RECURSIVE | MOUNT_PRIVATE, None)
    for path in paths:
        target = os.fsencode(path.resolve())
        if path.is_dir():
            _call("mount", b"tmpfs", target, b"tmpfs", 0, b"size=4k")
        elif path.exists():
            _call("mount", b"/dev/null", target, None, MOUNT_BIND, None)
    return "a mount namespace shows the forbidden paths empty"


def _unshare(flags: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", flags)
    if flags & NEW_USER:
        # The process stays who it is; what it may do to files does not change.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", INTERFACE_UP)
        try:
            fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, request)
        except OSError:
            return  # without loopback the process is only more alone


def _call(name: str, *arguments: int | bytes | None, shown: str = "") -> int:
    """A function of libc by name. Raises `RefusedError` with the system's reason, and its name or what is `shown`."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise RefusedError(f"{shown or name}: {errno.errorcode.get(code, code)}")
    return result


def _syscall(number: int, *arguments: int | bytes) -> int:
    return _call("syscall", number, *arguments, shown=f"system call {number}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
