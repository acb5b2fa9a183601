"""What Linux offers to keep a process from the network and from some paths. Standard library alone.

Both must be called before the process has other threads. They fence in a scorer that is to be measured; they are no
prison for a program that fights them.

Network: a network namespace of its own (user_namespaces(7) lets anyone make one where the system allows it), with a
loopback interface and nothing else. Files: Landlock (landlock(7), Linux 5.13) refuses to read what is forbidden; where
it is missing, a mount namespace lays something empty over it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
MOUNT_BIND, MOUNT_RECURSIVE, MOUNT_PRIVATE = 0x1000, 0x4000, 0x40000
NO_NEW_PRIVILEGES = 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ_FILE, LANDLOCK_PATH_BENEATH = 1 << 2, 1
SET_INTERFACE_FLAGS, INTERFACE_UP = 0x8914, 0x1


class RefusedError(Exception):
    """The system does not offer this, or not to this user."""


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


def _call(name: str, *arguments: int | bytes | None) -> int:
    """A function of libc by name. Raises `RefusedError` with the system's reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise RefusedError(f"{name}: {errno.errorcode.get(code, code)}")
    return result


def _syscall(number: int, *arguments: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    values = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result = int(libc.syscall(ctypes.c_long(number), *values))
    if result < 0:
        code = ctypes.get_errno()
        raise RefusedError(f"system call {number}: {errno.errorcode.get(code, code)}")
    return result
