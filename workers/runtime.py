"""The life every worker leads: register, claim, serve, renew, drain, die well.

A stage's worker derives from ``Worker`` and says in ``serve`` what it does with one lease. Everything it needs comes
from outside: the bus, the engine, the times; so many workers can live in one process on a clock of the test's own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from redis.exceptions import ResponseError

from bus import tracing
from bus.backoff import Backoff
from bus.cancel import CancelGuard, Cancelled, CancelToken, listen
from bus.events import Stopped
from bus.keys import session_key, shard_of
from bus.leases import Lease, Work
from bus.logs import concern
from bus.outbox import OUTAGE
from bus.registry import LIFETIME, WorkerRecord, register, unregister
from bus.streams import Bus
from bus.tallies import tell

log = logging.getLogger(__name__)

HOLDERS_FIRST = 1.0
"""Seconds after an outage before anything new is claimed: a server that failed over may hand out what is held."""
SHAKEN = 10.0
"""Seconds after an outage in which a session without a gateway is not taken for abandoned."""
STALE_AFTER = 30_000
"""Milliseconds without an entry on the mic stream after which a session without a gateway is over."""


class HandOver(Exception):
    """The worker drains and its work stands at a boundary: another goes on, by ``lease.offer`` as it is now."""


@dataclass(frozen=True, slots=True)
class Life:
    """A worker's times, in seconds, and how often an offer may be handed out before it is given up."""

    heartbeat: float = 0.3
    lease: float = 1.0
    drain: float = 5.0
    """How long what goes on may take to reach a boundary when the worker drains; then it is handed over as it is."""
    register: float = 1.0
    deliveries: int = 4
    behind: float = 2.0
    """Seconds of audio that may gather at a recogniser before it counts as behind real time."""
    steady: float = 10.0
    """Work that has gone on for so long does not count as killing its workers."""
    idle: float = 5.0
    """Without any word from a session for so long, its gateway is looked for."""


class Worker(ABC):
    """One process's worth of a stage. ``run`` lives until ``drain`` is called or the task is cancelled."""

    stage: ClassVar[str]

    def __init__(self, bus: Bus, engine: Any, life: Life | None = None) -> None:
        """``engine`` follows the stage's interface and is loaded by ``run``."""
        self.bus = bus
        self.engine = engine
        self.life = life or Life()
        self.name = f"{self.stage}-{secrets.token_hex(4)}"
        self.guard = CancelGuard()
        self.work = Work(bus, self.stage, self.name)
        self.ready = asyncio.Event()
        self._leases: dict[tuple[str, str], Lease] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self.draining = asyncio.Event()
        self.behind: set[str] = set()
        """Sessions whose work does not keep up with real time: while there are any, no others are taken."""
        self.counts: Counter[str] = Counter()
        """What it has counted, by the names in ``bus.tallies.COUNTS``."""

    @abstractmethod
    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Do the work of one lease to its end. Returning completes it; EngineError and others call ``give_up``.

        While ``draining`` is set it raises HandOver at the next boundary. It may be cancelled anywhere.
        """

    @abstractmethod
    async def give_up(self, lease: Lease, error: str) -> None:
        """Tell the session that this work cannot be done."""

    async def run(self) -> None:
        """Load the engine, then serve until drained."""
        await self.bus.wait_until_up()
        await self.engine.load()
        self._free = asyncio.Semaphore(self.engine.capacity)
        shards = range(self.bus.shards)
        tasks = [
            asyncio.create_task(task)
            for task in (
                listen(self.bus, self.guard),
                self._for_ever("heartbeat", self._beat, longest=self.life.heartbeat),
                self._for_ever("register", self._register),
                *(self._for_ever("claim", self._claim, shard) for shard in shards),
                *(self._for_ever("reclaim", self._reclaim, shard) for shard in shards),
            )
        ]
        self.bus.on_return(self._hold_again)
        try:
            await self._register_once()
            log.info("%s is ready: engine %s, capacity %d", self.name, self.engine.name, self.engine.capacity)
            self.ready.set()
            drained = asyncio.create_task(self.draining.wait())
            done, _ = await asyncio.wait([drained, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {drained}:
                task.result()
            await self._finish()
        finally:
            await end(*tasks, *self._serving)
            await self.work.close()

    def drain(self) -> None:
        """Claim nothing more; ``run`` returns when all work has ended or is handed over, by ``life.drain`` seconds."""
        self.draining.set()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(1):
                await unregister(self.bus, self.stage, self.name)
        except OUTAGE:
            pass
        if self._serving:
            log.info("%s drains: %d in work", self.name, len(self._serving))
            await asyncio.wait(self._serving, timeout=self.life.drain)
        await end(*self._serving)
        try:
            async with asyncio.timeout(1):
                await self.bus.outbox.drain()
        except OUTAGE:
            pass

    async def _for_ever(self, what: str, step: Any, *arguments: Any, longest: float = 2.0) -> None:
        backoff = Backoff(0.05, longest)
        while True:
            try:
                await step(*arguments)
                backoff.reset()
            except OUTAGE as error:
                log.warning("%s: %s: redis does not answer (%s)", self.name, what, type(error).__name__)
                await asyncio.sleep(backoff.next())
            except ResponseError as error:
                log.warning("%s: %s: %s", self.name, what, error)
                self.work.forget_groups()
                await asyncio.sleep(backoff.next())

    async def _register(self) -> None:
        await asyncio.sleep(self.life.register)
        if not self.draining.is_set():
            await self._register_once()

    async def _register_once(self) -> None:
        engine = self.engine
        voices = ",".join(getattr(engine, "voices", ()))
        load = len(self._serving)
        capacity = min(load, engine.capacity) if self.behind else engine.capacity
        await register(self.bus, WorkerRecord(self.stage, self.name, engine.name, capacity, load, voices))
        await tell(self.bus, self.stage, self.name, dict(self.counts), LIFETIME)

    async def _beat(self) -> None:
        await asyncio.sleep(self.life.heartbeat)
        held = {claimed: lease for claimed, lease in self._leases.items() if not lease.lost.is_set()}
        leases = list(held.values())
        steady = asyncio.get_running_loop().time() - self.life.steady
        marks = await asyncio.gather(
            *(self.work.renew(lease, steady=self._begun[claimed] < steady) for claimed, lease in held.items())
        )
        for lease, mark in zip(leases, marks, strict=True):
            if mark >= 0:
                self.guard.raise_to(lease.session, mark)

    async def _hold_again(self, shard: int | None) -> None:
        """Redis was away, and may have forgotten who holds what."""
        held = [lease for lease in self._leases.values() if shard is None or shard_of(lease.session) == shard]
        await asyncio.gather(*(self.work.hold(lease) for lease in held if not lease.lost.is_set()))

    async def _claim(self, shard: int) -> None:
        if self.draining.is_set():
            await asyncio.Event().wait()
        # Every shard is waited on while there is room for one; what then comes without room is handed back.
        async with self._free:
            pass
        reserved, lease = False, None

        async def room() -> bool:
            nonlocal reserved
            if self._free.locked() or self.draining.is_set():
                return False
            reserved = await self._free.acquire()
            return True

        try:
            lease = await self.work.claim(shard, room=room)
        except OUTAGE:
            await asyncio.sleep(HOLDERS_FIRST)
            raise
        finally:
            if reserved and lease is None:
                self._free.release()
        if lease is not None:
            self.counts["claims"] += 1
            await self._accept(lease)

    async def _reclaim(self, shard: int) -> None:
        await asyncio.sleep(self.life.lease / 4)
        # A worker that died leaves many claims: they are taken over without a pause between them.
        while not self.draining.is_set() and not self._free.locked() and await self._take_over(shard):
            pass

    async def _take_over(self, shard: int) -> bool:
        """Take over one claim that has expired; whether there was one."""
        await self._free.acquire()
        lease = None
        try:
            serving = {lease.entry for lease in self._leases.values() if shard_of(lease.session) == shard}
            lease = await self.work.reclaim(shard, self.life.lease, serving)
        finally:
            if lease is None:
                self._free.release()
        if lease is not None:
            log.warning("%s takes over turn %d of %s (fence %d)", self.name, lease.turn, lease.session, lease.fence)
            self.counts["takeovers"] += 1
            await self._accept(lease)
        return lease is not None

    async def _accept(self, lease: Lease) -> None:
        """Serve a lease for which there is room; one that came when the worker already drained goes to others."""
        if self.draining.is_set():
            self._free.release()
            await self._hand_back(lease)
            return
        self._leases[lease.key, lease.entry] = lease
        self._begun[lease.key, lease.entry] = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._lead(lease), name=f"serve-{lease.session}-{lease.turn}")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _lead(self, lease: Lease) -> None:
        concern(lease.session, lease.turn)
        claimed = (lease.key, lease.entry)
        token, began = self.guard.token(lease.session, lease.turn), asyncio.get_running_loop().time()
        if lease.turn:
            self.guard.raise_to(lease.session, lease.watermark)
        try:
            if lease.deliveries > self.life.deliveries:
                self.counts["given_up"] += 1
                await self.give_up(lease, f"given up after {lease.deliveries - 1} workers died of it")
                finished = True
            else:
                finished = await self._until_lost(lease, self._attempt(lease, token))
            if finished:
                self.counts["completed"] += 1
                await self.work.complete(lease)
            else:
                self.counts["lost_leases"] += 1
                log.warning("%s lost its lease on turn %d of %s", self.name, lease.turn, lease.session)
        except HandOver:
            await self._hand_back(lease)
        except asyncio.CancelledError:
            if self.draining.is_set():
                await self._hand_back(lease)
            raise
        except OUTAGE as error:
            log.warning("%s: redis was lost at the end of %s (%s)", self.name, lease.session, type(error).__name__)
        finally:
            self.guard.release(token)
            took = asyncio.get_running_loop().time() - began
            self.counts.update(lease.refused)
            self.counts["busy_seconds"] += took  # type: ignore[assignment]
            facts = {"bargein.worker": self.name, "bargein.engine": self.engine.name, "bargein.fence": lease.fence}
            tracing.lease(lease.session, lease.turn, self.stage, took, {**facts, "bargein.cancelled": token.cancelled})
            if self._leases.get(claimed) is lease:
                del self._leases[claimed], self._begun[claimed]
            self._free.release()

    async def _attempt(self, lease: Lease, token: CancelToken) -> None:
        try:
            await self.serve(lease, token)
        except (*OUTAGE, HandOver):
            raise
        except Exception as error:
            log.exception("%s: turn %d of %s failed", self.name, lease.turn, lease.session)
            self.counts["errors"] += 1
            await self.give_up(lease, f"{type(error).__name__}: {error}")

    async def _hand_back(self, lease: Lease) -> None:
        """Offer the work anew; without a server it is taken over when its lease expires."""
        try:
            async with asyncio.timeout(1):
                handed = await self.work.hand_back(lease)
            what = "handed over" if handed else "had lost"
            log.info("%s %s turn %d of %s", self.name, what, lease.turn, lease.session)
        except OUTAGE as error:
            log.warning("%s: redis was lost before %s was handed over (%r)", self.name, lease.session, error)

    async def _until_lost(self, lease: Lease, work: Coroutine[Any, Any, None]) -> bool:
        serving = asyncio.create_task(work)
        lost = asyncio.create_task(lease.lost.wait())
        try:
            await asyncio.wait([serving, lost], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                return True
            return False
        finally:
            await end(serving, lost)

    async def abandoned(self, session: str) -> bool:
        """Whether nobody holds the session any more and its microphone has long been silent: its gateway died."""
        try:
            if self.bus.shaken(shard_of(session), SHAKEN):
                return False
            if await self.bus.commands.exists(session_key(session, "lease:gateway")):
                return False
            last = await self.bus.last_id(session_key(session, "mic"))
        except OUTAGE:
            return False  # nothing is known
        return self.bus.now() - int(last.partition("-")[0]) > STALE_AFTER

    def acknowledge(self, lease: Lease, ack: Stopped) -> None:
        """Tell the session that this stage has stopped a cancelled turn."""
        self.counts["stops"] += 1
        self.counts["stop_seconds"] += ack.took / 1000  # type: ignore[assignment]
        self.bus.post(session_key(lease.session, "acks"), ack)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return once all have ended.

    A library may lose a cancel: asyncio.wait_for of Python 3.11 does when it comes together with what was waited for.
    So it is repeated.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_cancelled(token: CancelToken, work: Coroutine[Any, Any, None]) -> float | None:
    """Run ``work`` to its end, or until the turn is cancelled and the work has really stopped.

    None when it ended by itself; else the milliseconds from learning of the cancel to having stopped.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    cancelled_at: list[float] = []

    def stop() -> None:
        cancelled_at.append(loop.time())
        task.cancel()

    token.on_cancel(stop)
    try:
        await task
    except (asyncio.CancelledError, Cancelled):
        if not cancelled_at:
            raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return (loop.time() - cancelled_at[0]) * 1000 if cancelled_at else None
