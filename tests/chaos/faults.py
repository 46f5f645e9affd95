"""What is done to a running product. A fault lasts until its coroutine returns; the schedule says when it begins."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.fleet import STAGES, Fleet, Process

STOPPED = 3.0
"""Seconds that a process is stopped, or cut off."""
FROZEN = 10.0
STARTS = 3.0
"""Seconds that a gateway takes to be there."""
DELAY = 0.05
"""Seconds in each direction."""

Strike = Callable[[Fleet, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One row of the table. ``strikes``: how often it happens in a round; ``lasts``: seconds a round gets for it."""

    name: str
    strike: Strike
    strikes: int = 2
    lasts: float = 0.0
    caller: str = "client"
    """Who calls, one of ``tests.chaos.__main__``'s CALLERS."""


def _pick(fleet: Fleet, kind: str, rng: random.Random) -> Process:
    return rng.choice(fleet.processes[kind])


def _kill(kind: str) -> Strike:
    async def strike(fleet: Fleet, rng: random.Random) -> None:
        victim = _pick(fleet, kind, rng)
        await fleet.replaced(victim, victim.signal(signal.SIGKILL))

    return strike


async def _kill_gateway(fleet: Fleet, rng: random.Random) -> None:
    """The one that was there longest, since most calls are there: of two strikes each call is hit by one at least."""
    victim = min(fleet.processes["gateway"], key=lambda each: (each.replaced, rng.random()))
    await fleet.replaced(victim, victim.signal(signal.SIGKILL))
    await fleet.staffed(len(fleet.processes["stt"]))


async def _kill_gateways(fleet: Fleet, rng: random.Random) -> None:
    """All of them at once: clients wait for one to be started again."""
    victims = fleet.processes["gateway"]
    dead = [victim.signal(signal.SIGKILL) for victim in victims]
    await asyncio.gather(*(fleet.replaced(*pair) for pair in zip(victims, dead, strict=True)))


def _stop(kind: str, seconds: float = STOPPED) -> Strike:
    async def strike(fleet: Fleet, rng: random.Random) -> None:
        victim = _pick(fleet, kind, rng)
        victim.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.signal(signal.SIGCONT)

    return strike


def _cut(kind: str, how: str) -> Strike:
    async def strike(fleet: Fleet, rng: random.Random) -> None:
        proxy = _pick(fleet, kind, rng).proxy
        assert proxy is not None
        proxy.cut() if how == "cut" else proxy.freeze()
        try:
            await asyncio.sleep(STOPPED)
        finally:
            proxy.heal()

    return strike


async def _nothing(fleet: Fleet, rng: random.Random) -> None:
    pass


async def _slow(fleet: Fleet, rng: random.Random) -> None:
    proxies = [each.proxy for kind in STAGES for each in fleet.processes[kind] if each.proxy is not None]
    for proxy in proxies:
        proxy.delay = DELAY
    try:
        await asyncio.sleep(STOPPED)
    finally:
        for proxy in proxies:
            proxy.heal()


async def _rolling(fleet: Fleet, rng: random.Random) -> None:
    """SIGTERM to every process, one after the other, each when the one before is back."""
    kinds = ("stt", "llm", "tts", "jobs")
    for process in [each for kind in kinds for each in fleet.processes[kind]]:
        await fleet.replaced(process, process.signal(signal.SIGTERM))
        await fleet.staffed(len(fleet.processes["stt"]))


async def _rolling_gateways(fleet: Fleet, rng: random.Random) -> None:
    for process in fleet.processes["gateway"]:
        await fleet.replaced(process, process.signal(signal.SIGTERM))
        await fleet.staffed(len(fleet.processes["stt"]))


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("none", _nothing),
        *(Fault(f"kill-{kind}", _kill(kind)) for kind in ("stt", "llm", "tts", "jobs")),
        *(Fault(f"stop-{kind}", _stop(kind), lasts=STOPPED) for kind in ("stt", "llm", "tts", "gateway", "jobs")),
        *(Fault(f"cut-{kind}", _cut(kind, "cut"), lasts=STOPPED) for kind in ("stt", "llm", "tts")),
        *(Fault(f"freeze-{kind}", _cut(kind, "freeze"), lasts=STOPPED) for kind in ("stt", "llm", "tts")),
        Fault("delay", _slow, lasts=STOPPED),
        Fault("rolling", _rolling, strikes=1, lasts=20.0),
        Fault("rolling-gateway", _rolling_gateways, strikes=1, lasts=5.0),
        Fault("kill-gateway", _kill_gateway, lasts=STARTS),
        Fault("kill-gateways", _kill_gateways, strikes=1),
        *(
            Fault(f"kill-gateway/{caller}", _kill_gateway, lasts=STARTS, caller=caller)
            for caller in ("page", "stock", "phone")
        ),
        *(Fault(f"kill-{kind}/phone", _kill(kind), caller="phone") for kind in ("stt", "llm", "tts")),
        Fault("cut-gateway", _cut("gateway", "cut"), lasts=STOPPED),
        Fault("freeze-gateway", _cut("gateway", "freeze"), lasts=STOPPED),
        Fault("kill-redis", _kill("redis"), strikes=1, lasts=5.0),
        Fault("kill-redis/phone", _kill("redis"), strikes=1, lasts=5.0, caller="phone"),
        Fault("stop-redis", _stop("redis", FROZEN), strikes=1, lasts=FROZEN),
    )
}
SHORT = ("none", "kill-stt", "kill-llm", "kill-tts", "stop-tts", "kill-gateway/stock", "rolling")
"""The rows of a short run."""
