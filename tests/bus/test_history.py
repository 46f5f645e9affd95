"""The conversation as heard, on the stream and after a server that forgot it."""

from bus.events import Said
from bus.history import HistoryWriter, read
from bus.keys import session_key

SESSION = "s0-0000beef"


async def test_a_forgotten_history_is_written_again_before_what_was_on_its_way(bus):
    """The server is empty again, a message was sent whose answer never came: all of them stand, in their order."""
    writer = HistoryWriter(bus, SESSION)
    writer.say(Said("u1", "user", "one"))
    await writer.pin()
    on_its_way = {b"type": b"said", b"v": b"1", b"item": b"a1", b"role": b"assistant", b"text": b"two"}
    on_its_way |= {b"by": bus.name.encode(), b"seq": b"2"}
    await bus.commands.delete(session_key(SESSION, "history"))
    bus.fields(Said("x", "user", "what was sent since"))
    await writer.again(bus)
    await bus.commands.xadd(session_key(SESSION, "history"), on_its_way)
    await writer.again(bus)
    writer.say(Said("u2", "user", "three"))
    await writer.pin()
    assert [message.text for message in await read(bus, SESSION)] == ["one", "two", "three"]


async def test_a_history_that_was_taken_up_can_be_offered_from_and_written_again(bus):
    """Another gateway wrote it: the newest entry is known, and a server that forgets it is told."""
    before = HistoryWriter(bus, SESSION)
    before.say(Said("u1", "user", "one"))
    last = await before.pin()
    writer = HistoryWriter(bus, SESSION)
    writer.take_up(await bus.replay(session_key(SESSION, "history")))
    assert await writer.pin() == last
    await bus.commands.delete(session_key(SESSION, "history"))
    await writer.again(bus)
    assert [message.text for message in await read(bus, SESSION)] == ["one"]
