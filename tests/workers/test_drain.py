"""Workers that drain: they claim nothing more and hand over at the next boundary, or as they are at their limit."""

import asyncio
import contextlib

import pytest

from bus.events import Final, Sentence, SpeechAudio
from bus.leases import Work
from bus.offers import SessionOffer
from bus.streams import Bus
from tests.bus.conftest import bus, make_bus  # noqa: F401
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedStt, ScriptedTts
from tests.workers.llm.llm_world import Engine
from tests.workers.llm.llm_world import World as LlmWorld
from tests.workers.stt.stt_world import Caller
from tests.workers.tts.test_worker import World as TtsWorld
from tests.workers.tts.test_worker import milliseconds
from workers.runtime import Life
from workers.stt.worker import SttWorker
from workers.tts.worker import TtsWorker

SLOW = Life(heartbeat=0.05, lease=30.0, drain=20.0, register=0.5)
"""A lease that nobody waits for: who goes on was handed the work."""
SESSION = "s0-abcdef"


@contextlib.asynccontextmanager
async def running(kind, make_client, engine, life=SLOW, **options):
    """A worker and the task that it is; it is drained afterwards."""
    own = Bus(make_client)
    worker = kind(own, engine, life, **options)
    task = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(5):
            await worker.ready.wait()
        yield worker, task
    finally:
        worker.drain()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await own.close()


async def test_work_is_handed_back_once(make_bus):  # noqa: F811
    """The offer stands anew with what was written into it, as never handed out; a lost lease hands nothing back."""
    one, two = (Work(make_bus(), "stt", name) for name in ("one", "two"))
    await one.offer(SessionOffer(SESSION))
    lease = await one.claim(0)
    assert await one.hand_back(lease)
    again = await two.claim(0)
    assert (again.offer.session, again.fence, again.deliveries) == (SESSION, 2, 1)
    assert not await one.hand_back(lease)
    assert await two.complete(again)
    await asyncio.gather(one.close(), two.close())


async def test_a_recogniser_hands_over_between_two_utterances():
    """While an utterance goes on it is kept; after its end another worker has the session, with every word of it and
    of the next."""
    make_client = fake_connector()
    speaking, first, second = Bus(make_client), ScriptedStt(["one"]), ScriptedStt(["one", "two"])
    caller = Caller(speaking, SESSION)
    async with running(SttWorker, make_client, first) as (worker, task):
        await caller.offer()
        await caller.start()
        await caller.audio(bytes(6400))
        async with asyncio.timeout(10):
            while not first.heard:
                await asyncio.sleep(0.01)
            worker.drain()
            async with running(SttWorker, make_client, second):
                await caller.audio(bytes(6400))
                await caller.pause()
                await caller.end()
                await task
                await caller.start()
                await caller.audio(bytes(6400))
                await caller.pause()
                await caller.end()
                while len(finals := [e for e in await caller.transcript() if isinstance(e, Final)]) < 2:
                    await asyncio.sleep(0.01)
                await caller.hang_up()
    assert [(final.utterance, final.text) for final in finals] == [(1, "one"), (2, "two")]
    await speaking.close()


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_voice_hands_over_between_two_sentences(repeatable):
    """No sentence is said twice and none is left out, also by a voice that says nothing twice alike."""
    world, engine = TtsWorld(), ScriptedTts(pace=0.01)
    engine.repeatable = repeatable
    async with running(TtsWorker, world.make_client, engine) as (worker, task):
        await world.offer(1, "one two", "three four five", "six seven")
        await world.spoken(1, lambda events: milliseconds(events) >= 500)
        worker.drain()
        async with asyncio.timeout(10), running(TtsWorker, world.make_client, engine):
            await task
            events = await world.spoken(1)
    sounds = [event for event in events if isinstance(event, SpeechAudio)]
    assert engine.spoken == ["one two", "three four five", "six seven"]
    assert "".join(event.text for event in sounds) == "one two three four five six seven"
    assert [event.offset for event in sounds] == [1200 * place for place in range(len(sounds))]
    attempts = [{event.attempt for event in sounds if event.sentence == sentence} for sentence in range(3)]
    assert attempts[0] == attempts[1] == {1} and min(attempts[2]) > 1
    await world.bus.close()


async def test_what_reaches_no_boundary_in_time_is_handed_over_as_it_is():
    """At its limit a draining worker lets go at once, and nobody waits for a lease to expire."""
    world, engine = TtsWorld(), ScriptedTts(pace=0.02)
    life = Life(heartbeat=0.05, lease=30.0, drain=0.1, register=0.5)
    async with running(TtsWorker, world.make_client, engine, life) as (worker, task):
        await world.offer(1, "one " * 40 + "end.")
        await world.spoken(1, lambda events: milliseconds(events) >= 300)
        worker.drain()
        async with asyncio.timeout(20), running(TtsWorker, world.make_client, engine):
            await task
            await world.played(1, 60_000)
            events = await world.spoken(1)
    assert milliseconds(events) == 41 * 200 + milliseconds([e for e in events if getattr(e, "attempt", 0) == 1])
    await world.bus.close()


async def test_a_draining_worker_claims_nothing():
    """What it is handed by a claim that was under way goes to another."""
    make_client = fake_connector()
    own, first, second = Bus(make_client), ScriptedStt(), ScriptedStt()
    async with running(SttWorker, make_client, first) as (worker, task):
        worker.drain()
        async with asyncio.timeout(10):
            await task
            async with running(SttWorker, make_client, second) as (other, _):
                await Caller(own, SESSION).offer()
                while not other.counts["claims"]:
                    await asyncio.sleep(0.01)
    assert first.heard == []
    await own.close()


async def test_an_answer_is_continued_where_the_model_can():
    """A model that goes on after what was said is asked to, with all of it; one that cannot ends the turn as failed."""
    for prefills in (True, False):
        world, stop = LlmWorld(fake_connector()), asyncio.Event()
        dying, heir = Engine(["One. Two. ", stop]), Engine([" Three."])
        dying.prefills = heir.prefills = prefills
        async with world.worker(dying) as worker:
            await world.offer(1, ("user", "Count."))
            assert await world.sentences(1, 1) == ["One."]
            for task in list(worker._serving):
                worker.draining.set()
                task.cancel()
            async with world.worker(heir):
                *said, end = await world.written(1)
        texts = [event.text for event in said if isinstance(event, Sentence)]
        if prefills:
            assert texts == ["One.", "Three."] and end.reason == "done" and end.sentences == 2
            assert heir.prompts[0][-1] == ("assistant", "One.")
        else:
            assert texts == ["One."] and end.reason == "failed"
        await world.bus.close()
