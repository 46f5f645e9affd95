"""What is done for a session every second."""

import asyncio
import time
from types import SimpleNamespace

from gateway import upkeep


def stand_still(seconds):
    """The whole process does nothing."""
    time.sleep(seconds)


async def test_a_gateway_that_was_stopped_does_not_take_that_for_silence(monkeypatch):
    """What the client sent meanwhile waits in the socket: the utterance goes on, and is not cut in two."""
    monkeypatch.setattr(upkeep, "LEASE", 0.5)
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    async def hold():
        return True

    def stalled(at):
        looks.append(loop.time())
        return []

    microphone = SimpleNamespace(stalled=stalled, trim=lambda: None)
    profile = SimpleNamespace(record=True)

    async def keep(session, seconds):
        pass

    session = SimpleNamespace(
        id="s0-0123456789ab", microphone=microphone, profile=profile, pen=SimpleNamespace(hold=hold), now=0.0,
        bus=SimpleNamespace(keep=keep),
    )  # fmt: skip
    running = asyncio.create_task(upkeep.Upkeep(session).run())
    try:
        async with asyncio.timeout(10):
            while not looks:
                await asyncio.sleep(0.01)
            stand_still(0.4)
            woke, known = loop.time(), len(looks)
            while len(looks) == known:
                await asyncio.sleep(0.01)
        assert looks[known] - woke > 0.05, "it looked before it had heard"
    finally:
        running.cancel()
