"""LLM workers on fakeredis with scripted engines: what their tests share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from bus.cancel import raise_watermark
from bus.events import ReplyBegun, ReplyEnd, Said, Sentence, Stopped
from bus.history import HistoryWriter
from bus.keys import session_key
from bus.leases import Work
from bus.offers import TurnOffer
from bus.streams import Bus
from workers.llm.prompt import ContextSettings
from workers.llm.worker import LlmWorker
from workers.runtime import Life

SORRY = "Sorry, once more please."
QUICK = Life(heartbeat=0.05, lease=0.3, drain=2.0, register=0.5)


class Engine:
    """Each request plays the next of ``plays``: words to say, exceptions to raise, events to wait for."""

    name = "scripted"

    def __init__(self, *plays, capacity=8):
        self.capacity = capacity
        self.plays = list(plays)
        self.prompts = []
        self.sessions = []
        self.closed = 0

    async def load(self):
        pass

    async def reply(self, messages, language, cancel):
        self.prompts.append([(message.role, message.text) for message in messages])
        self.sessions.append(cancel.session)
        whole = False
        try:
            for part in self.plays.pop(0):
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    yield part
            whole = True
        finally:
            self.closed += not whole


class Watched(Engine):
    """An engine that sees its server stop when ``idle`` is set."""

    def __init__(self, *plays, seen, **options):
        super().__init__(*plays, **options)
        self.idle = asyncio.Event()
        self.seen = seen
        self.asked = []

    async def confirm_stopped(self, cancel):
        self.asked.append((cancel.session, cancel.turn))
        await self.idle.wait()
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen


class World:
    """One session, and workers that answer its turns."""

    session = "s0-abcdef"

    def __init__(self, make_client):
        self.make_client = make_client
        self.bus = Bus(make_client)
        self.history = HistoryWriter(self.bus, self.session)
        self.work = Work(self.bus, "llm")
        self.running = []
        self._items = itertools.count()

    @contextlib.asynccontextmanager
    async def worker(self, engine, life=QUICK, **options):
        """A worker that serves while the block lasts; ``fallback`` and ``context`` are its own."""
        bus = Bus(self.make_client)
        options = {"fallback": SORRY, "context": ContextSettings(_env_file=None)} | options
        worker = LlmWorker(bus, engine, life, **options)
        task = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(5):
                await worker.ready.wait()
            yield worker
        finally:
            worker.drain()
            await asyncio.gather(task, return_exceptions=True)
            await bus.close()

    async def offer(self, turn, *said, instructions=""):
        """Let the caller and the assistant say (role, text) each, and offer a turn."""
        for role, text in said:
            self.history.say(Said(f"item{next(self._items)}", role, text))
        return await self.work.offer(TurnOffer(self.session, turn, await self.history.pin(), instructions))

    async def cancel(self, turn):
        await raise_watermark(self.bus, self.session, turn, "turn_detected")

    async def written(self, turn):
        """What was said in a turn, as events of the reply stream, until its end."""

        def found(events):
            said = [event for event in events if not isinstance(event, ReplyBegun)]
            return said if said and isinstance(said[-1], ReplyEnd) else None

        return await self._until("reply", turn, found)

    async def sentences(self, turn, count):
        """The first ``count`` sentences' texts."""

        def found(events):
            said = [event.text for event in events if isinstance(event, Sentence)]
            return said[:count] if len(said) >= count else None

        return await self._until("reply", turn, found)

    async def ack(self, turn) -> Stopped:
        (ack,) = await self._until("acks", turn, lambda events: events)
        return ack

    async def _until(self, name, turn, found):
        async with asyncio.timeout(8):
            while True:
                entries = await self.bus.replay(session_key(self.session, name))
                events = [entry.event for entry in entries if entry.event.turn == turn]
                if result := found(events):
                    return result
                await asyncio.sleep(0.005)
