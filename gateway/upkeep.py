"""What a live session needs done every second: its lease renewed, old audio let go of, its keys kept from expiring."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from bus.keys import KEPT_KEYS, session_key
from bus.leases import Work
from bus.offers import SessionOffer
from bus.outbox import OUTAGE, BusDown
from bus.streams import Bus
from gateway.pen import LEASE

if TYPE_CHECKING:
    from gateway.session import Session

log = logging.getLogger(__name__)

SPEECH_KEPT_MS = 60_000
"""Synthesised audio kept on its stream behind the newest."""
LATE = 5.0
"""Seconds after a session's end in which workers have done with it."""
LIFETIME = 3600.0
"""Seconds that a session's keys outlive a gateway that died without ending it."""


def keep_late(bus: Bus, session: str, seconds: float) -> None:
    """Let also what workers write after a session's end live ``seconds`` and no longer: an acknowledgement, a claim."""

    def keep() -> None:
        with suppress(BusDown):
            for name in KEPT_KEYS:
                bus.outbox.send("PEXPIRE", session_key(session, name), int(seconds * 1000))

    asyncio.get_running_loop().call_later(LATE, keep)


class Upkeep:
    """Belongs to one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def offer(self, recognisers: Work) -> None:
        """Offer the session to recognisers, unless it is. Raises what a lost server raises: try again then."""
        session = self._session
        if not (session.resumption and await recognisers.outstanding(session.id, 0)):
            await session.pen.offer(recognisers, SessionOffer(session.id))

    async def run(self) -> None:
        """Do it for ever, or until the lease is lost."""
        session, beats = self._session, 0
        clock, period = asyncio.get_running_loop().time, LEASE / 5
        while True:
            began = clock()
            await asyncio.sleep(period)
            beats += 1
            # A process that was stopped has yet to hear what came meanwhile: that was no silence of the client's.
            if clock() - began < 2 * period:
                for found in session.microphone.stalled(session.now):
                    session.feed(found)
            try:
                if not await session.pen.hold():
                    return
                if beats % 5 == 0 and not session.profile.record:
                    session.microphone.trim()
                    self._trim_speech(session.inlet.last["speech"])
                if beats % 60 == 1:
                    await session.bus.keep(session.id, LIFETIME)
            except OUTAGE as error:
                log.warning("%s: redis does not answer (%s)", session.id, type(error).__name__)

    def _trim_speech(self, last: str) -> None:
        # By the server's own clock, as the ids have it: no two machines' clocks are compared.
        newest = int(last.partition("-")[0])
        if newest > SPEECH_KEPT_MS:
            self._session.pen.trim(session_key(self._session.id, "speech"), f"{newest - SPEECH_KEPT_MS}-0")
