"""When a batched step starts and who is in it; no model is needed."""

import asyncio
import math

import pytest

from workers.engines import EngineError
from workers.stt.engines.nemo_batch import Batcher, Gathering


def test_nobody_is_never_due():
    assert Gathering(0.004).due(0) == math.inf


def test_the_first_waits_for_company_but_only_so_long():
    gathering = Gathering(0.004)
    gathering.add("a", 10.0)
    gathering.add("b", 10.003)
    assert gathering.due(3) == pytest.approx(10.004)
    assert gathering.take() == ["a", "b"]
    assert gathering.due(3) == math.inf


@pytest.mark.parametrize("expected", [0, 1, 2])
def test_when_all_are_here_nothing_is_waited_for(expected):
    gathering = Gathering(0.004)
    gathering.add("a", 10.0)
    gathering.add("b", 10.001)
    assert gathering.due(expected) == 10.0


class Steps:
    """A step that ends when told to, and what it was given."""

    def __init__(self):
        self.given = []
        self.go = asyncio.Semaphore(0)
        self.begun = asyncio.Semaphore(0)

    async def __call__(self, items):
        self.given.append(list(items))
        self.begun.release()
        await self.go.acquire()
        return [item.upper() for item in items]


@pytest.fixture
def steps():
    return Steps()


async def test_a_lone_session_does_not_wait(steps):
    batcher = Batcher(steps, 3600.0, lambda: 1)
    steps.go.release()
    assert await asyncio.wait_for(batcher.ask("a"), 5) == "A"


async def test_what_comes_during_a_step_goes_in_the_next_together(steps):
    """One step at a time; nobody waits for more than the one that runs, and each gets its own answer."""
    batcher = Batcher(steps, 0.0, lambda: 99)
    first = asyncio.create_task(batcher.ask("a"))
    await steps.begun.acquire()
    later = [asyncio.create_task(batcher.ask(name)) for name in "bcd"]
    await asyncio.sleep(0)
    steps.go.release()
    assert await first == "A"
    steps.go.release()
    assert await asyncio.gather(*later) == ["B", "C", "D"]
    assert steps.given == [["a"], ["b", "c", "d"]]


async def test_who_hangs_up_while_waiting_is_left_out(steps):
    batcher = Batcher(steps, 0.0, lambda: 99)
    first = asyncio.create_task(batcher.ask("a"))
    await steps.begun.acquire()
    gone, stays = asyncio.create_task(batcher.ask("b")), asyncio.create_task(batcher.ask("c"))
    await asyncio.sleep(0)
    gone.cancel()
    steps.go.release()
    steps.go.release()
    assert (await first, await stays) == ("A", "C")
    assert steps.given == [["a"], ["c"]]


async def test_who_hangs_up_during_a_step_does_not_disturb_the_others(steps):
    listening = 2
    batcher = Batcher(steps, 3600.0, lambda: listening)
    gone, stays = asyncio.create_task(batcher.ask("a")), asyncio.create_task(batcher.ask("b"))
    await steps.begun.acquire()
    gone.cancel()
    listening = 1
    await asyncio.sleep(0)
    steps.go.release()
    assert await stays == "B"
    steps.go.release()
    assert await batcher.ask("c") == "C"
    assert steps.given == [["a", "b"], ["c"]]


async def test_a_step_that_fails_is_told_to_all_in_it_and_the_next_works():
    failing = True

    async def step(items):
        if failing:
            raise EngineError("out of memory")
        return items

    listening = 2
    batcher = Batcher(step, 3600.0, lambda: listening)
    answers = await asyncio.gather(batcher.ask("a"), batcher.ask("b"), return_exceptions=True)
    assert [str(each) for each in answers] == ["out of memory"] * 2
    failing, listening = False, 1
    assert await batcher.ask("c") == "c"
