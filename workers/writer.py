"""What a worker writes for one lease: refused once it is cancelled, or somebody else has the work."""

from __future__ import annotations

import asyncio

from bus.cancel import CancelToken
from bus.events import Event
from bus.leases import Lease
from bus.streams import Bus


class Writer:
    """Guarded writes for one lease, without waiting: what the server refuses ends the work."""

    def __init__(self, bus: Bus, lease: Lease, token: CancelToken) -> None:
        self._bus = bus
        self._lease = lease
        self._token = token
        self.last: asyncio.Future[bytes] | None = None

    def write(self, name: str, event: Event) -> asyncio.Future[bytes]:
        """Append to the session's stream ``name`` in order. A refusal cancels the token, or ends the lease."""
        lease = self._lease
        answer = self._bus.post_guarded(
            lease.session, name, event, stage=lease.stage, turn=lease.turn, fence=lease.fence, owner=lease.owner
        )
        answer.add_done_callback(self._hear)
        self.last = answer
        return answer

    def _hear(self, answer: asyncio.Future[bytes]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        if answer.result() == b"CANCELLED":
            self._lease.refused["cancelled"] += 1
            self._token.cancel()
        elif answer.result() == b"FENCED":
            self._lease.refused["fenced"] += 1
            self._lease.lost.set()
