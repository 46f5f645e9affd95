"""A session's microphone and STT workers on a bus, without a gateway: what tests of the worker share."""

from __future__ import annotations

import asyncio
import contextlib

from bus.events import (
    Final,
    HungUp,
    MicAudio,
    Partial,
    UtteranceEnded,
    UtterancePaused,
    UtteranceResumed,
    UtteranceStarted,
)  # fmt: skip
from bus.keys import session_key
from bus.leases import Work
from bus.offers import SessionOffer
from bus.streams import Bus
from workers.runtime import Life
from workers.stt.worker import SttWorker

QUICK = Life(heartbeat=0.05, lease=0.4, drain=2.0, register=0.5)
LIMIT = 30.0
"""Seconds after which something that should come is taken for lost."""


class Caller:
    """One session's mic stream, written as a gateway does."""

    def __init__(self, bus: Bus, session: str) -> None:
        self.bus, self.session = bus, session
        self.position = self.utterance = self.revision = 0

    async def offer(self) -> None:
        """Ask for a recogniser."""
        await Work(self.bus, "stt").offer(SessionOffer(self.session))

    async def audio(self, pcm: bytes) -> None:
        """Audio in pieces of 20 ms."""
        for at in range(0, len(pcm), 640):
            piece = pcm[at : at + 640]
            await self._post(MicAudio(self.position, piece))
            self.position += len(piece) // 2

    async def start(self, before: int = 0) -> None:
        """An utterance starts, ``before`` samples ago."""
        self.utterance, self.revision = self.utterance + 1, 0
        await self._post(UtteranceStarted(self.utterance, self.position - before))

    async def pause(self) -> None:
        await self._post(UtterancePaused(self.utterance, self.revision, self.position))

    async def resume(self) -> None:
        self.revision += 1
        await self._post(UtteranceResumed(self.utterance, self.revision))

    async def end(self) -> None:
        await self._post(UtteranceEnded(self.utterance, self.revision, self.position))

    async def hang_up(self) -> None:
        await self._post(HungUp())

    async def transcript(self) -> list[Partial | Final]:
        """What has been recognised so far."""
        return [entry.event for entry in await self.bus.replay(session_key(self.session, "transcript"))]

    async def final(self) -> Final:
        """The final text of the utterance as it stands, waited for."""
        async with asyncio.timeout(LIMIT):
            while True:
                for event in await self.transcript():
                    if isinstance(event, Final) and (event.utterance, event.revision) == (
                        self.utterance,
                        self.revision,
                    ):
                        return event
                await asyncio.sleep(0.01)

    async def _post(self, event) -> None:
        await self.bus.publish(session_key(self.session, "mic"), event)


@contextlib.asynccontextmanager
async def stt_worker(make_client, engine, life: Life = QUICK):
    """A worker that serves while the block lasts; it yields what kills it as kill -9 would: nothing is said or done."""
    bus = Bus(make_client)
    worker = SttWorker(bus, engine, life)
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(LIMIT):
            await worker.ready.wait()
        yield task.cancel
    finally:
        worker.drain()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()
