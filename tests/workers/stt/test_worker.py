"""What the STT worker does with its engine: details in the final text, and what is fed after a takeover."""

import asyncio
import json

import pytest

from bus.events import Final
from bus.streams import Bus
from tests.bus.fake_server import fake_connector
from tests.workers.stt.stt_world import LIMIT, Caller, stt_worker
from workers.stt.engine import Details, Word

FRAME = bytes(640)


class Engine:
    """Notes what it is told; understands "word" in everything."""

    name = "noting"
    capacity = 4

    def __init__(self, context=0):
        self.context = context
        self.told = []

    async def load(self):
        pass

    async def open(self, language):
        self.told.append(("open", 0))
        return Recognizer(self)


class Recognizer:
    def __init__(self, engine):
        self.engine = engine

    async def begin(self):
        self.engine.told.append(("begin", 0))

    async def feed(self, pcm):
        told = self.engine.told
        if told[-1][0] == "feed":
            told[-1] = ("feed", told[-1][1] + len(pcm) // 2)
        else:
            told.append(("feed", len(pcm) // 2))
        return ""

    async def flush(self):
        self.engine.told.append(("flush", 0))
        return "word"

    def details(self):
        return Details((Word("word", 160, 320, 0.51239),), 0.5, "en")

    async def close(self):
        pass


@pytest.fixture
def make_client():
    return fake_connector()


@pytest.fixture
async def caller(make_client):
    bus = Bus(make_client)
    yield Caller(bus, "s0-abcdef")
    await bus.close()


async def test_what_an_engine_knows_is_in_the_final_text(make_client, caller):
    """Words with positions in the session, confidence, language."""
    async with stt_worker(make_client, Engine()):
        await caller.offer()
        await caller.audio(FRAME * 10)
        await caller.start(before=1600)
        await caller.pause()
        final = await caller.final()
        await caller.hang_up()
    assert final.text == "word" and final.confidence == 0.5 and final.language == "en"
    assert json.loads(final.words) == [{"word": "word", "start": 1760, "end": 1920, "confidence": 0.512}]


@pytest.mark.parametrize("context", [0, 9_600, 48_000])
async def test_a_taken_over_session_is_fed_its_context_first(make_client, caller, context):
    """The utterance that goes on is heard anew, after what came before it and before ``begin``; finished ones are not.

    As much as the engine wants, as far as there is; nothing for an engine that wants none. Final texts stand once.
    """
    first, second = Engine(context), Engine(context)
    async with stt_worker(make_client, first) as kill:
        await caller.offer()
        await caller.audio(FRAME * 50)
        await caller.start()
        await caller.audio(FRAME * 25)
        await caller.pause()
        await caller.final()
        await caller.end()
        await caller.audio(FRAME * 50)
        await caller.start(before=4800)
        await caller.audio(FRAME * 25)
        async with asyncio.timeout(LIMIT):
            while first.told[-1] != ("feed", 4800 + 8000):
                await asyncio.sleep(0.005)
        kill()
    assert ("feed", context) not in first.told
    async with stt_worker(make_client, second):
        await caller.pause()
        await caller.final()
        await caller.hang_up()
    start = 125 * 320 - 4800
    told = [each for each in second.told if each[0] != "open"]
    heard = [("feed", min(context, start)), ("begin", 0)] if context else []
    assert told == [("begin", 0), ("begin", 0), *heard, ("feed", 4800 + 8000), ("flush", 0)]
    finals = [(each.utterance, each.text) for each in await caller.transcript() if isinstance(each, Final)]
    assert finals == [(1, "word"), (2, "word")]
