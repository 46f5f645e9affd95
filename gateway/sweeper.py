"""Sessions whose gateway died: when nobody takes one up again in time, some gateway ends it in the dead one's place.

Ending means: every turn is cancelled, so that no worker goes on; the history is closed with what was last reported as
heard; the recogniser is told that nothing follows; the keys are left to expire, and the call is written down if it was
to be. A gateway that was only frozen finds its lease taken when it wakes up, and lets its client go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Mapping

from bus import scripts
from bus.cancel import raise_watermark
from bus.events import HungUp, Played, Said, SpeechAudio, TurnRecord
from bus.history import read
from bus.keys import live_key, session_key, shard_of
from bus.leases import SETTLE
from bus.outbox import OUTAGE
from bus.streams import Bus
from gateway.names import turn_item
from gateway.pen import LEASE, SWEPT

log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks."""
EVERY_TURN = 2**31 - 1
"""A watermark above any turn."""
REASON = "gateway_lost"

Ended = Callable[[str, Mapping[str, str]], Awaitable[None]]
"""Called with a session that was ended here, and its config."""


async def hold(bus: Bus, session: str, owner: str, seconds: float = LEASE) -> bool:
    """Take or renew a session's lease for ``seconds``; false when somebody has it. Raises OUTAGE."""
    keys = [session_key(session, "lease:gateway"), live_key(shard_of(session))]
    return bool(await bus.run(scripts.HOLD_LEASE, keys, [owner, int(seconds * 1000), session]))


class Sweeper:
    """One gateway's share of looking after sessions that lost theirs. Belongs to one event loop."""

    def __init__(
        self, bus: Bus, *, resume: float, retention: float, ended: Ended, served: Container[str] = frozenset()
    ) -> None:
        """``resume``: seconds a session may be without a gateway; ``retention``: seconds its keys are then kept.

        What is in ``served`` is this gateway's own, however late it is with its lease.
        """
        self._bus = bus
        self._served = served
        self._resume = resume
        self._retention = retention
        self._ended = ended
        self._alone: dict[str, float] = {}
        """Session without a gateway -> loop time at which that was first seen."""

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await self.look()
            except OUTAGE:
                self._alone.clear()  # who lost their server may have lost nothing else
            except Exception:
                log.exception("sessions without a gateway could not be ended")
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """End what has been alone for too long. Raises what a lost server raises."""
        now, alone = asyncio.get_running_loop().time(), {}
        for shard in range(self._bus.shards):
            if self._bus.shaken(shard, SETTLE):
                continue  # its gateway has yet to say that it is there
            for session in await self._without_gateway(shard):
                alone[session] = self._alone.get(session, now)
        self._alone = alone
        for session, since in list(alone.items()):
            if now - since >= self._resume:
                await self.end(session)

    async def end(self, session: str) -> None:
        """End one session in its gateway's place, unless somebody holds it. Raises what a lost server raises."""
        bus = self._bus
        if not await hold(bus, session, SWEPT, max(self._retention, 5.0)):
            return
        await bus.commands.hincrby(session_key(session, "fence:gateway"), "0", 1)
        config = await bus.config(session)
        await raise_watermark(bus, session, EVERY_TURN, REASON)
        await bus.publish(session_key(session, "mic"), HungUp())
        turn, text, heard = await self._unfinished(session)
        said = Said(turn_item(session, turn), "assistant", text, turn, complete=False)
        if text and all(message.item != said.item for message in await read(bus, session)):
            await bus.publish(session_key(session, "history"), said)
        if turn:
            await bus.publish(session_key(session, "records"), TurnRecord(turn, 0, "failed", REASON, heard, "[]"))
        await bus.keep(session, self._retention)
        await bus.commands.srem(live_key(shard_of(session)), session)
        self._alone.pop(session, None)
        log.warning("%s: its gateway died; ended in its place, %d ms of turn %d were heard", session, heard, turn)
        await self._ended(session, config)

    async def _without_gateway(self, shard: int) -> list[str]:
        commands = self._bus.commands
        live = sorted(name.decode() for name in await commands.smembers(live_key(shard)))
        async with commands.pipeline(transaction=False) as pipe:
            for session in live:
                pipe.exists(session_key(session, "lease:gateway"))
            held = await pipe.execute()
        lost = [session for session, there in zip(live, held, strict=True) if not there]
        return [session for session in lost if session not in self._served]

    async def _unfinished(self, session: str) -> tuple[int, str, int]:
        """(turn, text heard of it, ms heard) of the turn that was going on; turn 0 if none was."""
        records = await self._bus.replay(session_key(session, "records"))
        settled = {entry.event.turn for entry in records if isinstance(entry.event, TurnRecord)}
        chunks: dict[int, list[SpeechAudio]] = {}
        for entry in await self._bus.replay(session_key(session, "speech")):
            if isinstance(entry.event, SpeechAudio) and entry.event.turn not in settled:
                chunks.setdefault(entry.event.turn, []).append(entry.event)
        if not chunks:
            return 0, "", 0
        turn = max(chunks)
        played = [entry.event for entry in await self._bus.replay(session_key(session, "playback"))]
        heard = max((e.end for e in played if isinstance(e, Played) and e.turn == turn), default=0)
        said: dict[int, str] = {}
        for chunk in chunks[turn]:
            if (chunk.offset + len(chunk.pcm) // 2) * 1000 <= heard * chunk.rate:
                said.setdefault(chunk.index, chunk.text)
        return turn, "".join(said[index] for index in sorted(said)).strip(), heard
