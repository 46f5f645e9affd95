import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.cancel import CancelGuard, Cancelled, listen, raise_watermark, watermark
from bus.keys import CANCEL_CHANNEL, new_session

SOON = 5.0


async def test_the_watermark_only_rises(bus):
    """A cancel that comes late or twice never lowers the mark."""
    session = new_session(1)
    assert await watermark(bus, session) == 0
    assert [await raise_watermark(bus, session, turn, "test") for turn in (2, 1, 2, 5, 3)] == [2, 2, 2, 5, 5]
    assert await watermark(bus, session) == 5


async def test_an_announcement_reaches_another_process_and_only_its_turns(make_bus):
    """A worker learns of the cancel at once; the turn after it goes on."""
    gateway, worker = make_bus(), make_bus()
    session, guard = new_session(1), CancelGuard()
    doomed, later = guard.token(session, 1), guard.token(session, 2)
    listening = asyncio.create_task(listen(worker, guard))
    async with asyncio.timeout(SOON):
        while (
            not await gateway.commands.pubsub_numsub(CANCEL_CHANNEL)
            or not (await gateway.commands.pubsub_numsub(CANCEL_CHANNEL))[0][1]
        ):
            await asyncio.sleep(0.001)
        await raise_watermark(gateway, session, 1, "barge-in")
        await doomed.wait()
    assert not later.cancelled
    listening.cancel()


async def test_a_subscriber_that_comes_late_reads_the_mark(make_bus):
    """An announcement missed while nobody listened costs nothing: the key is read on every subscription."""
    gateway, worker = make_bus(), make_bus()
    session, guard = new_session(1), CancelGuard()
    token = guard.token(session, 4)
    await raise_watermark(gateway, session, 4, "barge-in")
    listening = asyncio.create_task(listen(worker, guard))
    async with asyncio.timeout(SOON):
        await token.wait()
    listening.cancel()


async def test_a_malformed_announcement_harms_nobody(make_bus):
    """The listener goes on after a message that is not an announcement."""
    gateway, worker = make_bus(), make_bus()
    session, guard = new_session(1), CancelGuard()
    first, second = guard.token(session, 1), guard.token(session, 2)
    listening = asyncio.create_task(listen(worker, guard))
    await raise_watermark(gateway, session, 1, "test")
    async with asyncio.timeout(SOON):
        await first.wait()
        await gateway.commands.publish(CANCEL_CHANNEL, b"\xff not json")
        await raise_watermark(gateway, session, 2, "test")
        while not second.cancelled:
            await raise_watermark(gateway, session, 2, "again")
            await asyncio.sleep(0.001)
    listening.cancel()


async def test_a_thread_sees_the_cancel_and_stops():
    """Synthesis in a thread asks the token and gets the answer without the loop."""
    guard = CancelGuard()
    token = guard.token("s0-abcdef", 1)
    stopped = threading.Event()

    def synthesise():
        try:
            while True:
                token.check()
        except Cancelled:
            stopped.set()

    thread = threading.Thread(target=synthesise)
    thread.start()
    guard.raise_to("s0-abcdef", 1)
    assert await asyncio.to_thread(stopped.wait, SOON)
    thread.join()


async def test_a_forgetful_server_does_not_revive_a_turn():
    """The guard keeps the highest mark it has seen, whatever a failed-over server says later."""
    guard = CancelGuard()
    keep = guard.token("s0-abcdef", 9)
    guard.raise_to("s0-abcdef", 3)
    guard.raise_to("s0-abcdef", 2)
    assert guard.token("s0-abcdef", 3).cancelled
    assert not keep.cancelled


@given(st.lists(st.integers(1, 9)), st.permutations(range(1, 10)))
def test_late_doubled_and_reordered_cancels_are_harmless(marks, turns):
    """In whatever order marks and turns come, exactly the turns at or below the highest mark are cancelled."""
    guard = CancelGuard()
    tokens = [guard.token("s0-abcdef", turn) for turn in turns[:5]]
    for mark in marks:
        guard.raise_to("s0-abcdef", mark)
    tokens += [guard.token("s0-abcdef", turn) for turn in turns[5:]]
    assert {t.turn for t in tokens if t.cancelled} == set(range(1, max(marks, default=0) + 1))


def test_a_cancelled_token_refuses_work():
    """A job that starts after its cancel sees the mark first and never begins."""
    guard = CancelGuard()
    guard.token("s0-abcdef", 9)
    guard.raise_to("s0-abcdef", 1)
    with pytest.raises(Cancelled):
        guard.token("s0-abcdef", 1).check()
