"""How far a fetch is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is at one moment."""

    done_bytes: int
    """Bytes that need not be fetched any more, those of an earlier call included."""
    total_bytes: int
    bytes_per_second: float
    """Over this call; 0 at the beginning."""

    @property
    def eta_seconds(self) -> float | None:
        """Time still needed at this rate; None while nothing has come."""
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second if self.bytes_per_second > 0 else None


Watch = Callable[[FetchProgress], None]


class Meter:
    """Counts the bytes of all workers together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._done = self._total = self._received = 0

    @property
    def received(self) -> int:
        """Bytes that came over the network."""
        return self._received

    def expect(self, total: int, done: int) -> None:
        """More files, of `total` bytes together, of which `done` are here."""
        with self._lock:
            self._total += total
            self._done += done

    def count(self, n: int) -> None:
        """`n` more bytes have come, or −n were thrown away."""
        with self._lock:
            self._done += n
            self._received += max(n, 0)

    def progress(self) -> FetchProgress:
        """The state now."""
        with self._lock:
            return FetchProgress(self._done, self._total, self._received / max(time.monotonic() - self._began, 1e-3))
