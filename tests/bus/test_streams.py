import asyncio

import pytest

from bus.cancel import raise_watermark
from bus.events import EndRequested, MicAudio, Sentence
from bus.keys import new_session, session_key
from bus.streams import Fenced, TurnCancelled

SOON = 5.0


async def take(subscription, count):
    async with asyncio.timeout(SOON):
        return [(await anext(subscription)).event for _ in range(count)]


def sentence(index, turn=1):
    return Sentence(turn, 1, index, f"Sentence {index}.", at=1)


async def test_a_follower_gets_everything_in_order_whenever_it_came(make_bus):
    """A stream is read from its first entry, also by a follower that comes late, and nothing is lost or doubled."""
    writer, reader = make_bus(), make_bus()
    key = session_key(new_session(1), "reply")
    for index in range(300):
        writer.post(key, sentence(index))
    await writer.outbox.drain()
    subscription = reader.follow(key)
    early = await take(subscription, 300)
    for index in range(300, 600):
        writer.post(key, sentence(index))
    assert early + await take(subscription, 300) == [sentence(index) for index in range(600)]


async def test_a_running_reader_adopts_a_new_stream_at_once(make_bus):
    """Following another stream does not wait for the blocked read (5 s) to end."""
    bus = make_bus()
    first, second = (session_key(new_session(1), "reply") for _ in range(2))
    one = bus.follow(first)
    await bus.publish(first, sentence(0))
    await take(one, 1)
    two = bus.follow(second)
    await bus.publish(second, sentence(1))
    async with asyncio.timeout(2):
        assert (await anext(two)).event == sentence(1)


async def test_two_followers_of_one_stream_each_get_all(bus):
    """Two turns may read the same stream in one process, from different places."""
    key = session_key(new_session(1), "reply")
    first_id = await bus.publish(key, sentence(0))
    await bus.publish(key, sentence(1))
    whole, rest = bus.follow(key), bus.follow(key, first_id)
    assert await take(whole, 2) == [sentence(0), sentence(1)]
    assert await take(rest, 1) == [sentence(1)]
    await bus.publish(key, sentence(2))
    assert await take(whole, 1) == await take(rest, 1) == [sentence(2)]


@pytest.mark.parametrize("after", ["done", "", "1-x", "9" * 30, "-1", "$"])
async def test_who_follows_from_what_is_no_id_disturbs_nobody(bus, after):
    """An offer names the entry that its work follows: a malformed one fails there, and the shared read goes on."""
    key = session_key(new_session(1), "reply")
    whole = bus.follow(key)
    with pytest.raises(ValueError, match="not an entry's id"):
        bus.follow(key, after)
    await bus.publish(key, sentence(0))
    assert await take(whole, 1) == [sentence(0)]


async def test_closing_ends_an_iteration_that_waits(bus):
    """A closed subscription never leaves its reader waiting."""
    subscription = bus.follow(session_key(new_session(1), "reply"))

    async def read_all():
        return [entry async for entry in subscription]

    reading = asyncio.create_task(read_all())
    await asyncio.sleep(0)
    subscription.close()
    async with asyncio.timeout(SOON):
        assert await reading == []


async def test_an_entry_stored_twice_is_read_once(bus):
    """A write that was retried after its reply was lost stands twice in the stream, and counts once."""
    key = session_key(new_session(1), "reply")
    fields = bus.fields(sentence(0))
    for _ in range(2):
        await bus.outbox.send("XADD", key, "*", *fields)
    await bus.publish(key, sentence(1))
    assert await take(bus.follow(key), 2) == [sentence(0), sentence(1)]
    assert [entry.event for entry in await bus.replay(key)] == [sentence(0), sentence(1)]


async def test_an_entry_on_another_events_stream_is_left_out_and_the_next_is_read(bus, caplog):
    """Who may write to one stream can do with it only what is for that stream."""
    session = new_session(1)
    key = session_key(session, "reply")
    await bus.publish(key, EndRequested("over"))
    await bus.publish(key, sentence(1))
    assert await take(bus.follow(key), 1) == [sentence(1)]
    assert [entry.event for entry in await bus.replay(key)] == [sentence(1)]
    assert "end_session" in caplog.text
    await bus.publish(session_key(session, "control"), EndRequested("over"))
    assert len(await bus.replay(session_key(session, "control"))) == 1


async def test_a_malformed_entry_is_left_out_and_the_next_is_read(bus, caplog):
    """One bad writer cannot stop a reader."""
    key = session_key(new_session(1), "reply")
    await bus.commands.xadd(key, {"v": 1, "type": "sentence", "turn": "x"})
    await bus.commands.xadd(key, {"v": 9, "type": "from-the-future"})
    await bus.publish(key, sentence(5))
    assert await take(bus.follow(key), 1) == [sentence(5)]
    assert "left out" in caplog.text


async def test_a_slow_follower_is_bounded_and_loses_nothing(bus):
    """Entries that a follower does not take stay on the server beyond the high-water mark, and come when it reads."""
    key = session_key(new_session(1), "reply")
    for index in range(5000):
        bus.post(key, sentence(index))
    await bus.outbox.drain()
    slow = bus.follow(key)
    async with asyncio.timeout(SOON):
        while not slow.full:
            await asyncio.sleep(0.001)
    assert len(slow._entries) < 2500
    assert [event.index for event in await take(slow, 5000)] == list(range(5000))


async def test_raw_samples_survive(bus):
    """Audio crosses as raw bytes."""
    key = session_key(new_session(1), "mic")
    pcm = bytes(range(256)) * 4
    await bus.publish(key, MicAudio(0, pcm))
    assert (await take(bus.follow(key), 1))[0].pcm == pcm


async def test_a_guarded_write_of_a_cancelled_turn_is_refused(bus):
    """After the watermark was raised nothing of that turn enters a stream; a later turn is untouched."""
    session = new_session(1)
    guard = {"stage": "llm", "fence": 1}
    await bus.publish_guarded(session, "reply", sentence(0, turn=3), turn=3, **guard)
    await raise_watermark(bus, session, 3, "test")
    with pytest.raises(TurnCancelled):
        await bus.publish_guarded(session, "reply", sentence(1, turn=3), turn=3, **guard)
    await bus.publish_guarded(session, "reply", sentence(0, turn=4), turn=4, **guard)
    written = await bus.replay(session_key(session, "reply"))
    assert [(entry.event.turn, entry.fence) for entry in written] == [(3, 1), (4, 1)]


async def test_a_guarded_write_below_the_fence_is_refused(bus):
    """A worker whose work was taken over cannot write, though it does not know yet."""
    session = new_session(1)
    await bus.commands.hset(session_key(session, "fence:llm"), "1", 2)
    with pytest.raises(Fenced):
        await bus.publish_guarded(session, "reply", sentence(0), stage="llm", turn=1, fence=1)
    await bus.publish_guarded(session, "reply", sentence(0), stage="llm", turn=1, fence=2)


async def test_guarded_writes_survive_a_forgotten_script(bus):
    """A server that lost its scripts (a restart) is taught them again, and the order stands."""
    session = new_session(1)
    for index in range(3):
        await bus.publish_guarded(session, "reply", sentence(index), stage="llm", turn=1, fence=1)
    await bus.commands.script_flush()
    posted = [
        bus.post_guarded(session, "reply", sentence(index), stage="llm", turn=1, fence=1) for index in range(3, 6)
    ]
    await asyncio.gather(*posted)
    written = await bus.replay(session_key(session, "reply"))
    assert [entry.event.index for entry in written] == [0, 1, 2, 3, 4, 5]


async def test_the_session_leaves_nothing_behind(bus):
    """Every key of a session gets a time to live, and those that do not exist are not created."""
    session = new_session(1)
    await bus.publish(session_key(session, "mic"), MicAudio(0, b"\0\0"))
    await bus.configure(session, {"language": "en-US"})
    await bus.keep(session, 60)
    keys = await bus.commands.keys("*")
    assert len(keys) == 2
    assert all([0 < await bus.commands.ttl(key) <= 60 for key in keys])


async def test_config_has_a_revision_that_rises(bus):
    """Readers can tell which settings an offer was made under."""
    session = new_session(1)
    assert await bus.configure(session, {"voice": "a"}) == 1
    assert await bus.configure(session, {"voice": "b", "language": "de-DE"}) == 2
    assert await bus.config(session) == {"voice": "b", "language": "de-DE", "revision": "2"}
