"""The life every worker leads."""

import asyncio

from workers.runtime import end


async def test_a_lost_cancel_is_repeated():
    """Whoever swallows one cancel and goes on ends with the next; all have ended when it returns."""
    begun, swallowed = asyncio.Event(), []

    async def deaf():
        begun.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(True)

    async def fails():
        raise ValueError("it had failed by itself")

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(60))]
    await begun.wait()
    async with asyncio.timeout(10):
        await end(*tasks)
    assert swallowed and all(task.done() for task in tasks)
