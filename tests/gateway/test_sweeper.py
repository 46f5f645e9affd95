"""Sessions whose gateway died: ended by another, once, with what was heard; those that live are left alone."""

import asyncio

import pytest
import pytest_asyncio

from bus.cancel import watermark
from bus.events import HungUp, MicAudio, Played, Said, SpeechAudio, TurnRecord
from bus.history import read
from bus.keys import SESSION_KEYS, live_key, session_key
from bus.streams import Bus
from gateway.names import turn_item
from gateway.sweeper import EVERY_TURN, Sweeper, hold
from tests.bus.fake_server import fake_connector

SESSION = "s0-0123456789ab"
RATE = 24_000


@pytest_asyncio.fixture
async def bus():
    bus = Bus(fake_connector())
    yield bus
    await bus.close()


@pytest.fixture
def ended():
    return []


@pytest.fixture
def served():
    return set()


@pytest.fixture
def sweeper(bus, ended, served):
    async def note(session, config):
        ended.append((session, config.get("record")))

    return Sweeper(bus, resume=0.0, retention=60.0, ended=note, served=served)


async def speak(bus, turn, words, heard):
    """A turn of words of 200 ms, of which ``heard`` ms were heard."""
    for index, word in enumerate(words):
        pcm = bytes(RATE // 5 * 2)
        chunk = SpeechAudio(turn, 1, index, 0, index * RATE // 5, RATE, f"{word} ", "exact", pcm)
        await bus.publish(session_key(SESSION, "speech"), chunk)
    await bus.publish(session_key(SESSION, "playback"), Played(turn, 0, heard, 0))


async def alone(bus):
    """A call in its second turn, whose gateway is gone."""
    await hold(bus, SESSION, "gateway-a")
    await bus.configure(SESSION, {"record": "1"})
    await bus.publish(session_key(SESSION, "mic"), MicAudio(0, bytes(640)))
    await speak(bus, 1, ["All", "heard."], 400)
    await bus.publish(session_key(SESSION, "history"), Said(turn_item(SESSION, 1), "assistant", "All heard.", 1))
    await bus.publish(session_key(SESSION, "records"), TurnRecord(1, 1, "done", "", 400, "[]"))
    await speak(bus, 2, ["One", "two", "three", "four"], 500)
    await bus.commands.delete(session_key(SESSION, "lease:gateway"))


async def test_a_session_without_a_gateway_is_ended_as_far_as_it_was_heard(bus, sweeper, ended):
    """Every turn is cancelled, the recogniser is told, the history closed at the word, the keys are left to expire."""
    await alone(bus)
    await sweeper.look()
    assert ended == [(SESSION, "1")]
    assert await watermark(bus, SESSION) == EVERY_TURN
    assert isinstance((await bus.replay(session_key(SESSION, "mic")))[-1].event, HungUp)
    said = await read(bus, SESSION)
    assert [(message.turn, message.text, message.complete) for message in said] == [
        (1, "All heard.", True),
        (2, "One two", False),
    ]
    record = (await bus.replay(session_key(SESSION, "records")))[-1].event
    assert (record.turn, record.outcome, record.reason, record.heard) == (2, "failed", "gateway_lost", 500)
    for name in SESSION_KEYS:
        key = session_key(SESSION, name)
        assert not await bus.commands.exists(key) or 0 < await bus.commands.pttl(key) <= 60_000, name
    assert not await bus.commands.exists(live_key(0))


async def test_it_is_ended_once(bus, sweeper, ended):
    """Two gateways that look at the same time, and one that looks again, change nothing more."""
    await alone(bus)
    other = Sweeper(bus, resume=0.0, retention=60.0, ended=sweeper._ended)
    await asyncio.gather(sweeper.look(), other.look())
    await sweeper.look()
    assert len(ended) == 1
    assert len(await read(bus, SESSION)) == 2


async def test_a_gateway_that_wakes_up_finds_its_session_gone(bus, sweeper):
    """A frozen gateway's lease is not given back to it."""
    await alone(bus)
    await sweeper.look()
    assert not await hold(bus, SESSION, "gateway-a")


async def test_a_session_with_a_gateway_is_left_alone(bus, sweeper, ended):
    await alone(bus)
    await hold(bus, SESSION, "gateway-b")
    await sweeper.look()
    assert ended == [] and await watermark(bus, SESSION) == 0


async def test_what_keeps_a_session_does_not_keep_its_lease(bus):
    """A session's keys live for an hour without a gateway; that nobody holds it shows after five seconds."""
    await alone(bus)
    await hold(bus, SESSION, "gateway-a")
    await bus.keep(SESSION, 3600)
    assert await bus.commands.pttl(session_key(SESSION, "mic")) > 3_000_000
    assert await bus.commands.pttl(session_key(SESSION, "lease:gateway")) <= 5000


async def test_a_gateway_has_time_to_come_back(bus, ended):
    """Nothing is ended before ``resume`` seconds alone; one that was held in between starts afresh."""
    sweeper = Sweeper(bus, resume=3600.0, retention=60.0, ended=None)
    await alone(bus)
    await sweeper.look()
    await hold(bus, SESSION, "gateway-a")
    await sweeper.look()
    await bus.commands.delete(session_key(SESSION, "lease:gateway"))
    await sweeper.look()
    assert await watermark(bus, SESSION) == 0


async def test_a_session_that_had_said_nothing_is_ended_too(bus, sweeper, ended):
    await hold(bus, SESSION, "gateway-a")
    await bus.commands.delete(session_key(SESSION, "lease:gateway"))
    await sweeper.look()
    assert ended == [(SESSION, None)]
    assert await read(bus, SESSION) == []


async def test_a_gateway_that_is_late_with_its_leases_ends_none_of_its_own_calls(bus, sweeper, ended, served):
    """Its lease has expired and it serves the call all the same: it will say so once it gets to it."""
    await alone(bus)
    served.add(SESSION)
    await sweeper.look()
    assert not ended and await watermark(bus, SESSION) == 0
    served.clear()
    await sweeper.look()
    assert [session for session, _ in ended] == [SESSION]
