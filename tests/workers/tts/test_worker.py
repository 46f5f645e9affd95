"""TTS workers on fakeredis with a scripted voice: how far they run ahead, what they say of a cancel, taking over."""

import asyncio
import contextlib
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio

from bus.cancel import raise_watermark
from bus.events import Played, ReplyEnd, Sentence, SpeechAudio, SpeechEnd
from bus.keys import session_key, work_key
from bus.leases import Work
from bus.offers import SpeakOffer
from bus.streams import Bus
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedTts
from workers.runtime import Life
from workers.tts.engine import Waste
from workers.tts.worker import TtsWorker

QUICK = Life(heartbeat=0.05, lease=0.3, drain=2.0, register=0.5)
RATE = ScriptedTts.rate
WORD = 200
"""Milliseconds of a word of the scripted voice."""


class World:
    """One session, and workers that speak its turns."""

    session = "s0-abcdef"

    def __init__(self):
        self.make_client = fake_connector()
        self.bus = Bus(self.make_client)
        self.work = Work(self.bus, "tts")

    @contextlib.asynccontextmanager
    async def worker(self, engine, credit=3.0, life=QUICK):
        bus = Bus(self.make_client)
        worker = TtsWorker(bus, engine, life, credit=credit)
        task = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(5):
                await worker.ready.wait()
            yield task
        finally:
            worker.drain()
            await asyncio.gather(task, return_exceptions=True)
            await bus.close()

    async def offer(self, turn, *sentences):
        """A turn of these sentences, complete."""
        key = session_key(self.session, "reply")
        for index, text in enumerate(sentences):
            await self.bus.publish(key, Sentence(turn, 1, index, text))
        await self.bus.publish(key, ReplyEnd(turn, 1, "done", len(sentences)))
        await self.work.offer(SpeakOffer(self.session, turn, "0-0"))

    async def played(self, turn, end):
        """The turn was heard up to ``end`` ms."""
        await self.bus.publish(session_key(self.session, "playback"), Played(turn, 0, end, 0))

    async def spoken(self, turn, until=lambda events: isinstance(events[-1], SpeechEnd)):
        """The turn's events on the speech stream, once ``until`` says so of them."""
        return await self._events("speech", turn, until)

    async def ack(self, turn):
        return (await self._events("acks", turn, lambda events: True))[0]

    async def _events(self, name, turn, until):
        async with asyncio.timeout(8):
            while True:
                entries = await self.bus.replay(session_key(self.session, name))
                events = [entry.event for entry in entries if entry.event.turn == turn]
                if events and until(events):
                    return events
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def world():
    world = World()
    yield world
    await world.bus.close()


def milliseconds(events):
    return sum(len(event.pcm) // 2 for event in events if isinstance(event, SpeechAudio)) * 1000 // RATE


class Wasteful(ScriptedTts):
    """Says of a cancelled turn what a model would."""

    def wasted(self, cancel):
        return Waste(steps=0, tokens=7, samples=960, detail="left in sampling")


@pytest.mark.parametrize("credit", [0.5, 3.0])
async def test_the_next_sentence_is_made_while_this_one_is_heard_and_never_more_than_the_credit(world, credit):
    """As much as is allowed is written, not more; with what is heard more follows; the next sentence is begun early."""
    engine = ScriptedTts()
    async with world.worker(engine, credit):
        await world.offer(1, "one two three", "four five six seven", "eight " * 20 + "end.")
        ahead = int(credit * 1000)
        for heard in (0, 300, 900):
            await world.played(1, heard)
            events = await world.spoken(1, lambda events, heard=heard: milliseconds(events) > heard + ahead - 60)
            await asyncio.sleep(0.05)
            events = await world.spoken(1, lambda events: True)
            assert heard + ahead - 60 < milliseconds(events) <= heard + ahead
            if credit == 3.0:
                assert len(engine.spoken) == 3  # the first of them is being heard
        await world.played(1, 60_000)
        events = await world.spoken(1)
        assert (
            "".join(event.text for event in events[:-1]).split()
            == ("one two three four five six seven " + "eight " * 20 + "end.").split()
        )


async def test_what_a_cancel_cost_the_model_is_acknowledged(world):
    """Samples written and not heard and those still in the model; its tokens; its steps after the cancel."""
    async with world.worker(Wasteful(), 1.0):
        await world.offer(1, "one two three four five six seven eight nine ten")
        await world.spoken(1, lambda events: milliseconds(events) > 900)
        await world.played(1, 400)
        events = await world.spoken(1, lambda events: milliseconds(events) > 1300)
        await raise_watermark(world.bus, world.session, 1, "turn_detected")
        ack = await world.ack(1)
    written = milliseconds([e for e in await world.spoken(1, lambda events: True)])
    assert milliseconds(events) <= written <= 1400
    assert (ack.outcome, ack.steps, ack.tokens, ack.detail) == ("stopped", 0, 7, "left in sampling")
    assert ack.samples == (written - 400) * RATE // 1000 + 960


async def test_an_engine_that_counts_nothing_says_so(world):
    async with world.worker(ScriptedTts(), 0.5):
        await world.offer(1, "one two three four five six")
        await world.spoken(1, lambda events: milliseconds(events) > 400)
        await raise_watermark(world.bus, world.session, 1, "turn_detected")
        ack = await world.ack(1)
    assert (ack.steps, ack.tokens) == (-1, 0)


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_turn_is_taken_over_at_its_sentence(world, caplog, repeatable):
    """A voice that repeats itself begins where the sentence began; another behind all that was written, so that nothing
    is lost. How much was there is said."""
    engine = ScriptedTts()
    engine.repeatable = repeatable
    async with world.worker(engine, 1.0) as dying:
        await world.offer(1, "one two", "three four five six seven", "eight")
        await world.spoken(1, lambda events: milliseconds(events) == 1000)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await world.played(1, 60_000)
        async with world.worker(engine, 1.0):
            events = await world.spoken(1)
    first = [event for event in events if isinstance(event, SpeechAudio) and event.attempt == 1]
    second = [event for event in events if isinstance(event, SpeechAudio) and event.attempt == 2]
    assert second[0].sentence == first[-1].sentence == 1
    assert second[0].offset == (400 if repeatable else 1000) * RATE // 1000
    assert [event.index for event in (*first, *second)] == list(range(len(first) + len(second)))
    assert "".join(event.text for event in second) == " three four five six seven eight"
    how = "left out by position" if repeatable else "heard again"
    assert f"sentence 1 is spoken again; {600 * RATE // 1000} samples of it were there and are {how}" in caplog.text


async def test_a_session_may_be_spoken_to_faster(world):
    """By the engine's own speed where it has one; else the sound is stretched, with all of its text."""
    await world.bus.configure(world.session, {"speed": "1.25", "voice": "tone"})
    asked = []

    class Quick(ScriptedTts):
        own_speed = True

        async def speak(self, text, voice, language, cancel, *, speed=1.0):
            asked.append((voice, speed))
            async for chunk in super().speak(text, voice, language, cancel):
                yield chunk

    for turn, engine in ((1, Quick()), (2, ScriptedTts())):
        async with world.worker(engine):
            await world.offer(turn, "one two three four five six")
            events = await world.spoken(turn)
            assert "".join(event.text for event in events[:-1]) == "one two three four five six"
            expected = 6 * WORD if turn == 1 else 6 * WORD / 1.25
            assert milliseconds(events) == pytest.approx(expected, abs=1)
    assert asked == [("tone", 1.25)]
    assert all(np.abs(np.frombuffer(event.pcm, "<i2")).max() <= 9000 for event in events[:-1] if event.pcm)


async def test_a_turn_whose_gateway_died_does_not_hold_its_place_for_ever(world):
    """Nothing of it is heard any more, and nobody holds its session: the worker lets go, and nobody takes it."""
    async with world.worker(ScriptedTts(), life=replace(QUICK, idle=0.05)):
        held = session_key(world.session, "lease:gateway")
        await world.bus.commands.set(held, "gateway")
        await world.offer(1, "word " * 30)
        await world.spoken(1, lambda events: milliseconds(events) > 2900)
        await asyncio.sleep(0.2)  # several times as long as the worker is idle: it waits while somebody holds it
        assert await world.bus.commands.xlen(work_key(0, "tts")) == 1
        await world.bus.commands.delete(held)
        async with asyncio.timeout(5):
            while await world.bus.commands.xlen(work_key(0, "tts")):
                await asyncio.sleep(0.005)
