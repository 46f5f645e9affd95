"""The run itself: every side in turn, at each number of calls, with a fresh server and the same callers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import httpx
import uvloop

from benchmarks.figures import percentile
from benchmarks.peers.account import Step
from benchmarks.peers.phone import Phone, Speech
from benchmarks.peers.sides import Running, Side
from benchmarks.peers.usage import between, usage
from tests.product import free_port

SECONDS = {1: 30.0, 5: 18.0}
"""How long a step is measured by default; more calls need less."""
FEWER = 10.0
STAGGER = 0.2
"""Seconds from one call's beginning to the next one's."""
BEGINS = 15.0
"""Seconds in which every call may come to its first reply: some servers load models for each."""
SETTLE = 2.0
"""Seconds after that before it is counted."""
AT_A_TIME = 6
"""Short calls."""
CORES = os.cpu_count() or 1


@contextlib.contextmanager
def scripted_models() -> Iterator[tuple[str, int]]:
    """The model servers' address, and their process."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.peers.models", str(port)])
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/seen")
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def phones(urls: Sequence[str], calls: int, sentences: Sequence[Speech], name: str) -> list[Phone]:
    """Callers, spread evenly over a server's processes."""
    rng = random.Random(name)
    return [
        Phone(urls[number % len(urls)], sentences, f"{name}-{number}", random.Random(rng.random()))
        for number in range(calls)
    ]


async def measure(
    step: Step,
    running: Running,
    sentences: Sequence[Speech],
    seconds: float,
    models: tuple[str, int],
    settle: float = SETTLE,
) -> None:
    """Make the calls of a step, and count those ``seconds`` that begin ``settle`` seconds after the last of them."""
    url, pid = models
    async with httpx.AsyncClient() as http:
        await http.get(f"{url}/seen")
        callers, tasks = phones(running.urls, step.calls, sentences, f"{step.side}-{step.calls}"), []
        for caller in callers:
            tasks.append(asyncio.create_task(caller.run()))
            await asyncio.sleep(STAGGER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGINS if settle else 0.0):
                await asyncio.gather(*(caller.first_reply.wait() for caller in callers))
        await asyncio.sleep(settle)
        named = {**running.processes(), pid: "models", os.getpid(): "callers"}
        before, begin = usage(named), time.monotonic()
        for caller in callers:
            caller.until = begin + seconds
            caller.late.clear()
        await asyncio.sleep(seconds)
        after, end = usage(named), time.monotonic()
        late = [each * 1000 for caller in callers for each in caller.late]
        await asyncio.gather(*tasks)
        seen = (await http.get(f"{url}/seen")).json()
    for caller in callers:
        step.add(caller, seen, begin, end)
    step.cpu, step.machine = between(before, after)
    step.memory = dict(after.memory)
    step.late = percentile(late, 0.99) if late else 0.0


async def short_calls(running: Running, sentences: Sequence[Speech], calls: int) -> list[tuple[int, float]]:
    """(calls so far, MB resident of the server) while short calls come and go: a sentence, a reply that begins."""
    left, done = iter(phones(running.urls, calls, sentences, "short")), 0

    def size() -> float:
        return sum(usage(running.processes()).memory.values())

    sizes = [(0, size())]

    async def some() -> None:
        nonlocal done
        for caller in left:
            caller.until = 0.0
            await caller.run()
            done += 1
            if done % max(1, calls // 20) == 0:
                sizes.append((done, size()))

    await asyncio.gather(*(some() for _ in range(AT_A_TIME)))
    return sizes


def steps(
    sides: Sequence[Side], numbers: Sequence[int], seconds: float | None, sentences: Sequence[Speech]
) -> Iterator[Step]:
    """Measure every side at each number of calls."""
    with scripted_models() as models:
        for side in sides:
            for calls in numbers:
                step = Step(side.name, calls, min(calls, CORES))
                with side.running(f"{models[0]}/v1", step.processes) as running:
                    lasts = seconds or SECONDS.get(calls, FEWER)
                    uvloop.run(measure(step, running, sentences, lasts, models))
                yield step


def memory(
    sides: Sequence[Side], calls: int, sentences: Sequence[Speech]
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """(name, what ``short_calls`` says) of every side, each as one process where it can be."""
    with scripted_models() as models:
        for side in sides:
            with side.running(f"{models[0]}/v1", 1) as running:
                yield side.name, uvloop.run(short_calls(running, sentences, calls))
