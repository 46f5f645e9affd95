import asyncio

import pytest

from bus.cancel import raise_watermark
from bus.events import Sentence
from bus.keys import new_session, work_key
from bus.leases import Work
from bus.offers import SessionOffer, TurnOffer
from bus.streams import Fenced

SOON = 5.0


@pytest.fixture
def make_work(make_bus):
    made = []

    def make(worker, stage="llm"):
        work = Work(make_bus(), stage, worker)
        made.append(work)
        return work

    return make


async def claim(work, block=SOON):
    async with asyncio.timeout(SOON + 5):
        return await work.claim(0, block)


async def test_an_offer_is_claimed_by_exactly_one_worker(make_work, bus):
    """Ten offers, three workers: each offer is served once."""
    sessions = [new_session(1) for _ in range(10)]
    for session in sessions:
        await Work(bus, "llm").offer(TurnOffer(session, 1, "0-0"))
    workers = [make_work(f"w{n}") for n in range(3)]
    leases = [await claim(workers[n % 3]) for n in range(10)]
    assert sorted(lease.session for lease in leases) == sorted(sessions)
    assert [lease.fence for lease in leases] == [1] * 10
    assert await claim(workers[0], block=0.05) is None


async def test_a_blocked_claim_wakes_for_a_new_offer(make_work, bus):
    """A worker that waits gets the offer when it comes."""
    worker = make_work("w")
    waiting = asyncio.create_task(claim(worker))
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 7, "0-0"))
    lease = await waiting
    assert (lease.session, lease.turn) == (session, 7)


async def test_an_offer_made_before_any_worker_lived_is_served(make_work, bus):
    """A group starts at the stream's beginning, never at ``$``: nobody's first words are lost."""
    await Work(bus, "llm").offer(TurnOffer(new_session(1), 1, "0-0"))
    assert await claim(make_work("late")) is not None


async def test_a_claim_that_is_not_renewed_is_taken_over_and_the_zombie_fenced(make_work, bus):
    """After a takeover the one before can neither write, renew, nor complete; its successor can."""
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 1, "0-0"))
    dead, heir = make_work("dead"), make_work("heir")
    old = await claim(dead)
    new = None
    async with asyncio.timeout(SOON):
        while new is None:
            new = await heir.reclaim(0, idle=0.05)
            await asyncio.sleep(0.005)
    assert (old.fence, new.fence, new.deliveries) == (1, 2, 2)
    guard = {"stage": "llm", "turn": 1}
    with pytest.raises(Fenced):
        await dead.bus.publish_guarded(session, "reply", Sentence(1, 1, 0, "Old."), fence=old.fence, **guard)
    await heir.bus.publish_guarded(session, "reply", Sentence(1, 2, 0, "New."), fence=new.fence, **guard)
    assert await dead.renew(old) == -1
    assert old.lost.is_set()
    assert not await dead.complete(old)
    assert await heir.renew(new) == 0
    assert await heir.complete(new)


async def test_renewing_keeps_a_claim(make_work, bus):
    """A live worker's claim is not taken over, however long the work."""
    await Work(bus, "llm").offer(TurnOffer(new_session(1), 1, "0-0"))
    busy, other = make_work("busy"), make_work("other")
    lease = await claim(busy)
    for _ in range(20):
        assert await busy.renew(lease) == 0
        assert await other.reclaim(0, idle=0.5) is None
        await asyncio.sleep(0.01)


async def test_a_late_worker_does_not_take_its_own_work_over(make_work, bus):
    """A worker that renewed too late, with nobody else there, goes on with the same fence."""
    await Work(bus, "llm").offer(TurnOffer(new_session(1), 1, "0-0"))
    worker = make_work("w")
    lease = await claim(worker)
    await asyncio.sleep(0.02)
    assert await worker.reclaim(0, idle=0.01, serving={lease.entry}) is None
    assert await worker.renew(lease) == 0
    assert await make_work("other").reclaim(0, idle=1.0) is None


async def test_work_that_goes_well_does_not_count_as_killing_its_workers(make_work, bus):
    """Deliveries count deaths in a row: a call that outlives many workers is not given up."""
    await Work(bus, "stt").offer(SessionOffer(new_session(1)))
    lease = await claim(make_work("w0", stage="stt"))
    for number in range(1, 4):
        worker, taken = make_work(f"w{number}", stage="stt"), None
        async with asyncio.timeout(SOON):
            while taken is None:
                taken = await worker.reclaim(0, idle=0.02)
                await asyncio.sleep(0.005)
        assert (taken.fence, taken.deliveries) == (lease.fence + number, 2)
        assert await worker.renew(taken, steady=True) == 0


async def test_renewing_tells_of_a_cancel(make_work, bus):
    """A worker that missed the announcement learns the watermark with its next heartbeat."""
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 3, "0-0"))
    worker = make_work("w")
    lease = await claim(worker)
    assert lease.watermark == 0
    await raise_watermark(bus, session, 3, "test")
    assert await worker.renew(lease) == 3


async def test_a_job_claimed_after_its_cancel_sees_the_mark_first(make_work, bus):
    """A turn cancelled before anybody claimed it never begins."""
    session = new_session(1)
    await Work(bus, "llm").offer(TurnOffer(session, 3, "0-0"))
    await raise_watermark(bus, session, 3, "test")
    assert (await claim(make_work("w"))).watermark == 3


async def test_an_unclaimed_offer_can_be_withdrawn_a_claimed_one_not(make_work, bus):
    """Withdrawing answers for nobody only where nobody had begun."""
    gateway, session = Work(bus, "llm"), new_session(1)
    first = await gateway.offer(TurnOffer(session, 1, "0-0"))
    assert await gateway.withdraw(session, first)
    assert not await gateway.withdraw(session, first)
    second = await gateway.offer(TurnOffer(session, 2, "0-0"))
    lease = await claim(make_work("w"))
    assert lease.entry == second
    assert not await gateway.withdraw(session, second)


async def test_completed_work_leaves_the_stream(make_work, bus):
    """Work streams have no MAXLEN and no time to live, so done work must leave by itself."""
    await Work(bus, "stt").offer(SessionOffer(new_session(1)))
    worker = make_work("w", stage="stt")
    assert await worker.complete(await claim(worker))
    assert await bus.commands.xlen(work_key(0, "stt")) == 0
    assert (await bus.commands.xpending(work_key(0, "stt"), "stt"))["pending"] == 0


async def test_an_offer_that_cannot_be_read_is_removed(make_work, bus):
    """A malformed offer is dropped with a log line and does not come back."""
    worker = make_work("w")
    await bus.commands.xadd(work_key(0, "llm"), {"v": 1, "type": "turn", "turn": "x"})
    assert await claim(worker) is None
    assert await bus.commands.xlen(work_key(0, "llm")) == 0


async def test_fences_of_two_turns_do_not_disturb_each_other(make_work, bus):
    """A new turn's claim does not fence the acknowledgement of the one that is being cancelled."""
    session = new_session(1)
    for turn in (1, 2):
        await Work(bus, "llm").offer(TurnOffer(session, turn, "0-0"))
    one, two = await claim(make_work("a")), await claim(make_work("b"))
    assert (one.fence, two.fence) == (1, 1)
    await bus.publish_guarded(session, "reply", Sentence(1, 1, 0, "x"), stage="llm", turn=1, fence=one.fence)
