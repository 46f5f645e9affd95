"""A recogniser that does not keep up, and one that takes a long call up."""

import asyncio

import pytest

from bus.events import Final, MicAudio
from bus.keys import session_key
from bus.registry import workers
from bus.streams import Bus
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedStt
from tests.workers.stt.stt_world import Caller
from workers.runtime import Life
from workers.stt.worker import KEPT, SttWorker

SESSION = "s0-abcdef"
BASE = 1_700_000_000_000
SECOND = 16_000


class Slow(ScriptedStt):
    """Answers when it is let."""

    def __init__(self):
        super().__init__()
        self.let = asyncio.Event()

    async def open(self, language):
        recognizer = await super().open(language)
        flush = recognizer.flush

        async def slowly():
            await self.let.wait()
            return await flush()

        recognizer.flush = slowly
        return recognizer


async def test_a_recogniser_that_is_behind_says_so_and_has_no_room():
    """When more audio gathers than the limit it is counted and no capacity is advertised, until it has caught up."""
    make_client = fake_connector()
    bus, own, engine = Bus(make_client), Bus(make_client), Slow()
    worker = SttWorker(own, engine, Life(heartbeat=0.05, lease=5.0, register=0.02, behind=0.6))
    running, caller = asyncio.create_task(worker.run()), Caller(bus, SESSION)

    async def advertised():
        return [record.capacity for record in await workers(bus, "stt")]

    try:
        async with asyncio.timeout(20):
            await worker.ready.wait()
            await caller.offer()
            await caller.start()
            await caller.audio(bytes(640))
            while not engine.heard or not engine.heard[0]:
                await asyncio.sleep(0.01)
            assert await advertised() == [engine.capacity]
            await caller.pause()
            await caller.audio(bytes(2 * SECOND))
            engine.let.set()
            while not worker.behind:
                await asyncio.sleep(0.01)
            while await advertised() != [1]:
                await asyncio.sleep(0.01)
            await caller.audio(bytes(640))
            while worker.behind:
                await asyncio.sleep(0.01)
            assert worker.counts["behind"] == 1
            while await advertised() != [engine.capacity]:
                await asyncio.sleep(0.01)
            await caller.hang_up()
    finally:
        worker.drain()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.gather(bus.close(), own.close())


@pytest.mark.parametrize(("late", "found"), [(200, True), (60_000, False)])
async def test_a_long_call_is_read_from_its_last_utterance_on(late, found):
    """Whoever takes it up reads what is needed and little before; all of it when the clock leads past that."""
    bus = Bus(fake_connector())
    for frame in range(100):  # 20 s, in frames of 200 ms
        audio = MicAudio(frame * SECOND // 5, bytes(2 * SECOND // 5))
        await bus.commands.execute_command(
            "XADD", session_key(SESSION, "mic"), f"{BASE + frame * 200}-0", *bus.fields(audio)
        )
    final = Final(1, 0, "hello", 15 * SECOND, 16 * SECOND, "")
    entry = f"{BASE + 16_000 + late}-0"
    await bus.commands.execute_command("XADD", session_key(SESSION, "transcript"), entry, *bus.fields(final))
    finished, after = await SttWorker(bus, ScriptedStt())._so_far(SESSION, 0)
    assert finished == {(1, 0)}
    if found:
        (first, *_) = await bus.replay(session_key(SESSION, "mic"), after)
        assert 9 * SECOND <= first.event.offset <= 15 * SECOND - KEPT
    else:
        assert after == "0-0"
    await bus.close()
