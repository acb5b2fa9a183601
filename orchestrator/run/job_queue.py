"""One queue for all jobs of a cluster that want one kind of machine: Ray itself serves waiting groups in no order."""

from __future__ import annotations

import time
from collections.abc import Callable

GONE_S = 15.0
"""A ticket that is not asked about for so long belongs to a driver that is gone."""


class JobQueue:
    """Tickets in the order of their arrival. A job draws one for each seed, so that jobs take turns."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[str, float] = {}

    def ahead(self, ticket: str) -> int:
        """How many are before `ticket`, which joins the queue if it is not in it. To be asked every few seconds."""
        now = self._now()
        self._seen = {t: seen for t, seen in self._seen.items() if now - seen < GONE_S or t == ticket}
        self._seen[ticket] = now  # a ticket that is seen again keeps its place
        return list(self._seen).index(ticket)

    def leave(self, ticket: str) -> int:
        """Give a ticket back; returns how many are left."""
        self._seen.pop(ticket, None)
        return len(self._seen)
