"""A server that forgot what it was told: readers are not deaf, nobody works twice, nothing is offered twice."""

import asyncio

import pytest
from redis import Redis

from bus import scripts
from bus.connect import connector
from bus.events import Sentence
from bus.keys import new_session, session_key, work_key
from bus.leases import Work
from bus.offers import TurnOffer
from bus.outbox import BATCH
from bus.streams import SHAS, Bus, Fenced
from tests.servers import Server, servers, wire

SOON = 5.0


@pytest.fixture
def make_work(make_bus):
    return lambda worker: Work(make_bus(), "llm", worker)


async def claim(work, room=None, block=SOON):
    async with asyncio.timeout(SOON + 5):
        return await work.claim(0, block, room)


async def forget(bus):
    await bus.commands.flushall()


async def test_a_holder_keeps_its_work_on_a_server_that_forgot(make_work, bus):
    """After HOLD the offer is there again, belongs to its holder, and comes to nobody as new."""
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 1, "0-0"))
    holder, other = make_work("holder"), make_work("other")
    lease = await claim(holder)
    await forget(bus)
    assert await holder.renew(lease) == 0
    assert await holder.renew(lease) == 0
    other.forget_groups()
    assert await claim(other, block=0.05) is None
    assert await claim(holder, block=0.05) is None
    assert not lease.lost.is_set() and await holder.complete(lease)
    assert await bus.commands.xlen(work_key(0, "llm")) == 0


async def test_one_fence_given_twice_is_good_for_one(make_work, bus):
    """Two workers that a failover gave the same fence: who holds the work writes, the other is refused."""
    session = new_session(1)
    gateway = Work(bus, "llm")
    await gateway.offer(TurnOffer(session, 1, "0-0"))
    first, second = make_work("first"), make_work("second")
    old = await claim(first)
    await forget(bus)
    gateway.forget_groups()
    second.forget_groups()
    await gateway.offer(TurnOffer(session, 1, "0-0"))
    new = await claim(second)
    assert (old.fence, new.fence) == (1, 1)
    guard = {"stage": "llm", "turn": 1, "fence": 1}
    await second.bus.publish_guarded(session, "reply", Sentence(1, 1, 0, "x"), owner=new.owner, **guard)
    with pytest.raises(Fenced):
        await first.bus.publish_guarded(session, "reply", Sentence(1, 1, 0, "x"), owner=old.owner, **guard)
    assert await first.renew(old) == -1 and old.lost.is_set()
    assert not await first.hold(old)
    assert await second.renew(new) == 0


async def test_an_offer_whose_answer_was_lost_is_made_once(bus):
    """The same command again offers nothing new; another offer of the same turn does."""
    session = new_session(1)
    key, offers = work_key(0, "llm"), session_key(session, "offers:llm")
    keys = (key, offers, session_key(session, "fence:gateway"))
    command = ("EVALSHA", SHAS[scripts.OFFER], 3, *keys, 1, "token", 0, "v", "1")
    assert await bus.outbox.send(*command) == await bus.outbox.send(*command)
    assert await bus.commands.xlen(key) == 1
    await bus.offer(key, TurnOffer(session, 1, "0-0"), stage="llm")
    assert await bus.commands.xlen(key) == 2


async def test_what_comes_without_room_goes_to_another(make_work, bus):
    """An offer that was claimed without room for it is offered again, unspoilt."""
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 3, "0-0"))

    async def none():
        return False

    assert await claim(make_work("full"), none) is None
    lease = await claim(make_work("free"))
    assert (lease.session, lease.turn, lease.fence, lease.deliveries) == (session, 3, 1, 1)


async def test_an_entry_is_written_again_under_its_id(bus):
    """Once, where it was lost; not at all where it stands; at the end where its id has passed."""
    key = session_key(new_session(1), "reply")
    first = await bus.publish(key, Sentence(1, 1, 0, "a", at=1))
    await bus.write_again(key, first, Sentence(1, 1, 0, "a", at=1))
    assert [entry.id for entry in await bus.replay(key)] == [first]
    await forget(bus)
    await bus.write_again(key, first, Sentence(1, 1, 0, "a", at=1))
    second = await bus.publish(key, Sentence(1, 1, 1, "b", at=1))
    await bus.write_again(key, "1-1", Sentence(1, 1, 2, "c", at=1))
    found = await bus.replay(key)
    assert [entry.id for entry in found[:2]] == [first, second]
    assert [entry.event.text for entry in found] == ["a", "b", "c"]


async def test_a_long_queue_leaves_in_pieces_and_in_order(bus):
    """What waited through an outage is no single command that takes too long; what was taken back is not sent."""
    key = session_key(new_session(1), "reply")
    posted = [bus.post(key, Sentence(1, 1, index, "x", at=1)) for index in range(2 * BATCH + 10)]
    posted[5].cancel()
    await bus.outbox.drain()
    kept = [index for index in range(2 * BATCH + 10) if index != 5]
    assert [entry.event.index for entry in await bus.replay(key)] == kept


@pytest.mark.real
async def test_a_reader_is_not_deaf_to_lower_ids(tmp_path):
    """A new master whose clock is behind gives ids below what was read on the old one: they are read, the old not
    again."""
    with servers() as made:
        made += [Server(tmp_path / "one"), Server(tmp_path / "two")]
        async with wire(made[0].port) as line:
            make = connector(f"redis://127.0.0.1:{line.port}/0")
            reader, key = Bus(make), session_key(new_session(1), "reply")
            fields = ("v", "1", "type", "sentence", "turn", "1", "attempt", "1", "text", "x", "by", "w")
            for server in made:
                with Redis(port=server.port) as client:
                    client.execute_command("XADD", key, "100-0", *fields, "index", "0", "seq", "1")
            with Redis(port=made[0].port) as client:
                client.execute_command("XADD", key, "9999999999999-0", *fields, "index", "1", "seq", "2")
            try:
                subscription = reader.follow(key)
                async with asyncio.timeout(SOON):
                    assert [(await anext(subscription)).event.index for _ in range(2)] == [0, 1]
                line.target = made[1].port
                line.cut()
                with Redis(port=made[1].port) as client:
                    for index, seq in ((2, 3), (3, 4)):
                        client.execute_command("XADD", key, "*", *fields, "index", index, "seq", seq)
                async with asyncio.timeout(SOON):
                    assert [(await anext(subscription)).event.index for _ in range(2)] == [2, 3]
            finally:
                await reader.close()
