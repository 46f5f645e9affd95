"""What a gateway says again to a Redis that was away: the gateway is the authority on its sessions.

A server that failed over may have forgotten the last second, one that keeps nothing everything. Streams are written
again by whoever wrote them (``bus.outbox``), leases are held by whoever has them (``bus.leases``); what is the
gateway's alone is said here: that it holds the session, the cancel watermark, the settings, the conversation, and, when
whoever had them had the time to say so, the offers that nobody knows any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bus.backoff import Backoff
from bus.connect import OUTAGE
from bus.keys import session_key, shard_of
from bus.leases import Work
from bus.offers import SessionOffer
from bus.streams import Bus

if TYPE_CHECKING:
    from gateway.session import Session

log = logging.getLogger(__name__)

OFFERS_AFTER = 2.5
"""Seconds that whoever serves a session has, to say so, before its work is offered again."""
AT_ONCE = 50
"""Sessions that are said again at the same time."""
REASON = "asserted"


class Assertion:
    """Belongs to one gateway. ``sessions`` are its live ones, ``work`` makes their offers."""

    def __init__(self, bus: Bus, sessions: Mapping[str, Session], work: dict[str, Work]) -> None:
        self._bus = bus
        self._sessions = sessions
        self._work = work
        self._later: set[asyncio.Task[None]] = set()

    async def run(self, shard: int | None) -> None:
        """Say again what concerns the sessions of a shard, None: of all. Raises what a lost server raises."""
        ours = [each for each in self._sessions.values() if shard is None or shard_of(each.id) == shard]
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(session: Session) -> None:
            async with turns:
                await self._say(session)

        await asyncio.gather(*(one(session) for session in ours))
        for work in self._work.values():
            work.forget_groups()
        if ours:
            log.info("redis was away: %d sessions were said again", len(ours))
            task = asyncio.create_task(self._offer([session.id for session in ours]))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    async def _say(self, session: Session) -> None:
        bus, key = self._bus, session_key(session.id, "config")
        if not await session.pen.hold():
            return
        if mark := _settled(session):
            await session.pen.cancel(mark, REASON)
        async with bus.commands.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping=session.profile.shared())
            pipe.hsetnx(key, "revision", "1")
            await pipe.execute()
        await session.stagehand.history.again(bus)

    async def _offer(self, sessions: Iterable[str]) -> None:
        await asyncio.sleep(OFFERS_AFTER)
        backoff = Backoff(0.1, 1.0)
        for name in sessions:
            while (session := self._sessions.get(name)) is not None:
                try:
                    await self._offer_again(session)
                    break
                except OUTAGE:
                    await asyncio.sleep(backoff.next())
                except Exception:
                    log.exception("%s: its work could not be offered again", name)
                    break

    async def _offer_again(self, session: Session) -> None:
        stt = self._work["stt"]
        if not await stt.offered(session.id, 0):
            log.warning("%s: redis had forgotten that it needs a recogniser", session.id)
            await session.pen.offer(stt, SessionOffer(session.id))
        for turn in session.stagehand.unanswered():
            for stage, offer in turn.open_offers().items():
                if not await self._work[stage].offered(session.id, turn.number) and not turn.cancelled:
                    log.warning("%s: redis had forgotten turn %d's offer to %s", session.id, turn.number, stage)
                    turn.offered(stage, await session.pen.offer(self._work[stage], offer), offer)


def _settled(session: Session) -> int:
    """The highest turn of which nothing more may come: all before the live one. 0 for none."""
    state = session.state
    if state.live is not None:
        return state.live.number - 1
    return state.turn.number if state.turn is not None else 0
