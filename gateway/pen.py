"""What one gateway writes for one session: every write under the fence of its lease, refused once another has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bus import scripts
from bus.cancel import raise_watermark
from bus.events import Event
from bus.keys import live_key, session_key, shard_of
from bus.leases import Offer, Work
from bus.streams import Bus, Fenced

LEASE = 5.0
"""Seconds for which the gateway holds its session without renewing."""
SWEPT = "swept"
"""Who holds the lease of a session that is being ended in place of a gateway that died, or was."""
FENCED = b"FENCED"


class Pen:
    """Belongs to one session in one gateway. ``owner`` is a name that no other serving of the session has."""

    def __init__(self, bus: Bus, session: str, owner: str) -> None:
        self.owner = owner
        self.fence = 0
        self.lost = False
        self._bus = bus
        self._session = session
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, when it becomes known that another gateway, or connection, has the session."""
        self._keys = [session_key(session, "lease:gateway"), live_key(shard_of(session))]
        self._fences = session_key(session, "fence:gateway")

    async def seize(self, *, existing: bool) -> bool:
        """Take the session, whoever has it. False when it was to be ``existing`` and is not, or not any more.

        Raises what a lost server raises.
        """
        ender = SWEPT if existing else ""
        told = [self.owner, int(LEASE * 1000), self._session, ender]
        self.fence = int(await self._bus.run(scripts.SEIZE_LEASE, [*self._keys, self._fences], told))
        return self.fence > 0

    async def hold(self) -> bool:
        """Renew the lease; false when another has the session. Raises what a lost server raises."""
        told = [self.owner, int(LEASE * 1000), self._session, self.fence]
        if not await self._bus.run(scripts.HOLD_LEASE, [*self._keys, self._fences], told):
            self._lose()
        return not self.lost

    async def let_go(self, *, ended: bool) -> bool:
        """It is nobody's, and if it has ``ended`` not live any more; false when another has it.

        Raises what a lost server raises.
        """
        told = [self.owner, self._session, 1 if ended else 0]
        return not self.lost and bool(await self._bus.run(scripts.RELEASE_LEASE, self._keys, told))

    def post(self, key: str, event: Event) -> asyncio.Future[bytes]:
        """Append to a stream of the session without waiting; the answer is the entry's id, or ``FENCED``."""
        answer = self._bus.post_fenced(
            key, self._session, event, stage="gateway", turn=0, fence=self.fence, owner=self.owner
        )
        answer.add_done_callback(self._answered)
        return answer

    async def offer(self, work: Work, offer: Offer) -> str:
        """Make an offer; its entry. Raises Fenced."""
        try:
            return await work.offer(offer, self.fence)
        except Fenced:
            self._lose()
            raise

    async def cancel(self, turn: int, reason: str) -> None:
        """Raise the session's watermark. Raises Fenced."""
        if await raise_watermark(self._bus, self._session, turn, reason, self.fence) < 0:
            self._lose()
            raise Fenced("another gateway has the session")

    def trim(self, key: str, before: str) -> None:
        """Let go of a stream's entries older than id ``before``."""
        if not self.lost:
            self._bus.trim(key, before)

    def _answered(self, answer: asyncio.Future[bytes]) -> None:
        if not answer.cancelled() and answer.exception() is None and answer.result() == FENCED:
            self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.on_lost()
