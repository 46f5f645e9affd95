"""One seeded world: a server, a gateway, workers that die and sleep, wires that fail, and callers.

Everything that is drawn comes from ``random.Random(f"{seed}/{purpose}")``, so adding a draw in one place changes
nothing elsewhere, and the same seed gives the same log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import bus.backoff
from bus.keys import work_key
from bus.leases import Work
from bus.streams import Bus
from gateway import turns
from gateway.duplex import Duplex
from gateway.journal import read_rules
from gateway.session import Session
from gateway.settings import Profile
from gateway.speech import Endpointing
from tests.simulation.audio import Murmurs, Replies, probability
from tests.simulation.caller import Caller
from tests.simulation.checks import GUARDED, Watch, after_call
from tests.simulation.client import Client
from tests.simulation.engines import Moods, ScriptedLlm, ScriptedStt, ScriptedTts
from tests.simulation.functions import Made
from tests.simulation.line import Line
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.records import Records
from tests.simulation.server import EPOCH, server, virtual_time
from tests.simulation.wire import Network, Weather
from workers.llm.worker import LlmWorker
from workers.runtime import Life, Worker
from workers.stt.worker import SttWorker
from workers.tts.worker import TtsWorker

KINDS: dict[str, type[Worker]] = {"stt": SttWorker, "llm": LlmWorker, "tts": TtsWorker}
SETTLE = 30.0
"""Seconds after the last call and the last death within which all work has to be done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a world is made of. Times in seconds of virtual time."""

    slots: int = 8
    """Calls at the same time."""
    seconds: float = 60.0
    """How long new calls are begun."""
    workers: int = 3
    """Processes of each stage."""
    call: tuple[float, float] = (20.0, 60.0)
    """Length of a call."""
    trouble: tuple[float, float] = (0.5, 4.0)
    """Time between two deaths, pauses or broken connections."""
    weather: Weather = field(default_factory=Weather)
    moods: Moods = field(default_factory=Moods)
    travels: float = 0.2
    """Share of the calls whose connection breaks again and again, and that have gateways of their own, which die."""
    lifetime: float = 1.0
    """Length of a worker's lease."""


@dataclass(slots=True)
class Outcome:
    """What came of a world."""

    seed: int
    failure: str | None
    log: list[str]
    digest: str
    session_seconds: float
    counts: Counter[str]
    steps: Counter[str]
    outcomes: Counter[str]
    transitions: Counter[tuple[turns.TurnState, turns.Cause]]

    @property
    def barge_ins(self) -> int:
        """Times that the caller's voice held what was being said."""
        return self.steps["held"]


class World:
    """Runs once."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.seed = seed
        self.plan = plan or Plan()
        self.loop = VirtualLoop()
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.transitions: Counter[tuple[turns.TurnState, turns.Cause]] = Counter()
        self.generating: set[tuple[str, str, int]] = set()
        """(writer, session, turn) whose engine is at work."""
        self.guarded_sha = hashlib.sha1(GUARDED.encode()).hexdigest().encode()
        self.replies = Replies()
        self.made = Made(self.fail)
        self._digest = hashlib.sha256()
        self._failure: str | None = None
        self._over: asyncio.Future[None] = self.loop.create_future()
        self._closed: set[str] = set()
        self._born: Counter[str] = Counter()
        self._alive: dict[str, list[Process]] = {stage: [] for stage in KINDS}
        self._processes: list[Process] = []
        self._workers: dict[str, Worker] = {}
        self._session_seconds = 0.0
        self._quiet = False
        """No more trouble: what is going on shall come to its end."""

    # -- what the parts say

    def rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")

    def note(self, who: str, what: str) -> None:
        if self._failure is None and not self._over.done():
            line = f"{self.loop.now:11.6f} {who:12} {what}"
            self.log.append(line)
            self._digest.update(line.encode())

    def trace(self, what: bytes) -> None:
        """Count something into the digest that is too frequent for the log."""
        self._digest.update(b"%d %b" % (round(self.loop.now * 1e6), what))

    def fail(self, what: str) -> None:
        """An invariant is broken: the first one ends the world."""
        if self._failure is None and not self._over.done():
            self.note("FAILURE", what)
            self._failure = what
            self._over.set_result(None)

    def closed(self, session: str) -> bool:
        return session in self._closed

    # -- life

    def run(self) -> Outcome:
        """Live from the first call to the last, and on until all work is done."""
        with ExitStack() as stack:
            for context in (virtual_time(self.loop, f"{self.seed}/server"), self._seeded(), self._logged()):
                stack.enter_context(context)
            stack.callback(self.loop.close)
            self.network = Network(self.loop, server(), str(self.seed), self.plan.weather)
            self.watch = self.network.watch = Watch(self)
            self.loop.run_until_complete(self._live())
        self.counts.update({f"refused: {why}": n for why, n in self.watch.refused.items()})
        self.counts.update({f"announcements or connections {k}": n for k, n in self.network.counts.items()})
        return Outcome(
            self.seed, self._failure, self.log, self._digest.hexdigest()[:16], self._session_seconds, self.counts,
            self.steps, self.outcomes, self.transitions,
        )  # fmt: skip

    async def _live(self) -> None:
        gateway = self._process("gateway")
        main = gateway.spawn(self._gateway(gateway))
        for stage in KINDS:
            for _ in range(self.plan.workers):
                self._begin(stage)
        trouble = asyncio.create_task(self._trouble())
        main.add_done_callback(lambda _: self._end())
        await self._over
        trouble.cancel()
        await self._bury()

    async def _gateway(self, process: Process) -> None:
        bus = Bus(self.network.connector(process), name="gateway", wall=self._wall)
        await bus.wait_until_up()
        work = {stage: Work(bus, stage) for stage in KINDS}
        await asyncio.gather(*(self._slot(bus, work, slot) for slot in range(self.plan.slots)))
        self._quiet = True
        for process in self._processes:
            process.resume()
        deadline = self.loop.now + SETTLE
        while left := await self._left(bus):
            if self.loop.now > deadline:
                self.fail(f"work that is never done: {left}")
                return
            await asyncio.sleep(0.2)
        self.note("world", "all work is done")

    async def _left(self, bus: Bus) -> list[str]:
        """What has not been finished: offers on the work streams, and leases that live workers hold."""
        offers = [stage for stage in KINDS if await bus.commands.xlen(work_key(0, stage))]
        leases = [name for name, worker in self._workers.items() if worker._serving]
        return [*(f"offers for {stage}" for stage in offers), *(f"work in {name}" for name in leases)]

    async def _slot(self, bus: Bus, work: dict[str, Work], slot: int) -> None:
        """One call after the other."""
        rng = self.rng(f"slot/{slot}")
        await asyncio.sleep(rng.uniform(0.0, 2.0))
        number = 0
        while self.loop.now < self.plan.seconds:
            number += 1
            await self._call(bus, work, f"s0-{slot:04d}{number:04d}", rng)

    async def _call(self, bus: Bus, work: dict[str, Work], name: str, rng: random.Random) -> None:
        text_only, half = rng.random() < 0.03, rng.random() < 0.04
        eager = rng.random() < 0.4 and not text_only
        greeting = self.replies.make([rng.randint(3, 6)]).text if rng.random() < 0.5 else ""
        profile = Profile(
            greeting=greeting,
            duplex=Duplex(may_interrupt=not half, backchannels=Murmurs(), eager=eager),
            text_only=text_only,
            streaming_stt=rng.random() < 0.9,
            endpointing=Endpointing(silence_ms=rng.choice((300, 300, 500))),
        )
        client = Client(self, name, drops=rng.random() < 0.6, text_only=text_only, replies=self.replies)
        session: Session | Line
        if travels := self.rng(f"travels/{name}").random() < self.plan.travels:
            session = Line(self, name, client, profile)
        else:
            session = client.session = client.functions.session = Session(
                bus, name, client, profile, input_rate=16_000, probability=probability, work=work, owner="gateway"
            )
        caller = Caller(self, name, session, client)
        kind = f"{'drops' if client.drops else 'keeps'}{' text' * text_only}{' half' * half}"
        self.note(name, f"begins: {kind}, streaming {profile.streaming_stt}, greeting {bool(greeting)}")
        began = self.loop.now
        await session.start()
        await caller.live(rng.uniform(*self.plan.call))
        client.functions.over = True
        await session.close()
        self._closed.add(name)
        if session.ended.is_set() and not travels:
            self.fail(f"{name}: the session was ended by somebody else")
        self._session_seconds += self.loop.now - began
        self.counts["calls"] += 1
        self.note(name, "is over")
        await asyncio.sleep(6.0)
        await after_call(self, bus, name, caller, client, muted=half)

    # -- workers, and what befalls them

    def _process(self, name: str) -> Process:
        process = Process(self.loop, name, self._crashed)
        self._processes.append(process)
        return process

    def _begin(self, stage: str) -> None:
        """A new worker process of a stage."""
        self._born[stage] += 1
        process = self._process(f"{stage}{self._born[stage]}")
        self._alive[stage].append(process)
        self.note(process.name, "starts")
        process.spawn(self._work(stage, process))

    async def _work(self, stage: str, process: Process) -> None:
        bus = Bus(self.network.connector(process), name=process.name, wall=self._wall)
        rng, moods = self.rng(f"engine/{process.name}"), self.plan.moods
        engine: Any
        if stage == "stt":
            engine = ScriptedStt(rng, moods)
        elif stage == "llm":
            engine = ScriptedLlm(rng, moods, self.replies, self.made)
        else:
            engine = ScriptedTts(rng, moods, self.replies)
        engine.generating, engine.writer = self.generating, process.name
        life = Life(lease=self.plan.lifetime, deliveries=30)
        # A fallback is the same text each time, and here every text is told from every other.
        worker = LlmWorker(bus, engine, life, fallback="") if stage == "llm" else KINDS[stage](bus, engine, life)
        self._workers[process.name] = worker
        await worker.run()

    async def _trouble(self) -> None:
        rng = self.rng("trouble")
        while not self._quiet:
            await asyncio.sleep(rng.uniform(*self.plan.trouble))
            if self._quiet:
                return
            draw, stage = rng.random(), rng.choice(list(KINDS))
            if draw < 0.25:
                name = rng.choice(["gateway", *(p.name for s in KINDS for p in self._alive[s])])
                self.note("trouble", f"breaks {self.network.reset(name)} connections of {name}")
                continue
            up = [process for process in self._alive[stage] if not process.paused]
            if len(up) < 2:
                continue
            victim = rng.choice(up)
            if draw < 0.75:
                self._kill(stage, victim, rng.uniform(0.1, 2.0))
            else:
                nap = rng.uniform(0.05, 8.0)
                self.note("trouble", f"pauses {victim.name} for {nap:.3f} s")
                self.counts["pauses"] += 1
                victim.pause()
                self.loop.call_later(nap, self._wake, victim)

    def _kill(self, stage: str, victim: Process, until_next: float) -> None:
        self.note("trouble", f"kill -9 {victim.name}")
        self.counts[f"deaths: {stage}"] += 1
        self.counts["deaths"] += 1
        self._alive[stage].remove(victim)
        self._workers.pop(victim.name, None)
        self.generating -= {key for key in self.generating if key[0] == victim.name}
        victim.kill()
        self.loop.call_later(until_next, self._succeed, stage)

    def _succeed(self, stage: str) -> None:
        if not self._over.done():
            self._begin(stage)

    def _wake(self, process: Process) -> None:
        if not process.dead and process.paused:
            self.note("trouble", f"wakes {process.name}")
            process.resume()

    def _crashed(self, name: str, error: BaseException) -> None:
        self.fail(f"{name} ended with {type(error).__name__}: {error}")

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _bury(self) -> None:
        """Unwind every task, so that nothing of this world is left."""
        self.network.over = True
        for links in self.network.links.values():
            for link in list(links):
                link.reset()
        for process in self._processes:
            process.release()
        for _ in range(200):
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def _wall(self) -> float:
        return EPOCH + self.loop.now

    # -- what would not repeat

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """The few draws that the code makes itself come from the seed; transitions are counted."""
        rng, names = self.rng("backoff"), self.rng("names")
        go, counted = turns.Turn.go, self.transitions

        def counting(turn: turns.Turn, cause: turns.Cause) -> turns.Turn:
            after = go(turn, cause)
            counted[turn.state, cause] += 1
            return after

        made = types.SimpleNamespace(Random=lambda: random.Random(rng.random()))
        with (
            patch.object(bus.backoff, "random", made),
            patch("workers.runtime.secrets.token_hex", lambda n: f"{names.getrandbits(8 * n):0{2 * n}x}"),
            patch.object(turns.Turn, "go", counting),
            # These rules are code, which a journal cannot hold.
            patch("gateway.rerun.read_rules", lambda entry: replace(read_rules(entry), backchannels=Murmurs())),
        ):
            yield

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Log records become part of the log; one that tells of an exception is a failure."""
        handler = Records(self)
        loggers = [logging.getLogger(name) for name in ("bus", "gateway", "workers", "asyncio")]
        before = [(each.propagate, each.level) for each in loggers]
        for each in loggers:
            each.addHandler(handler)
            each.propagate = False
            each.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for each, (propagate, level) in zip(loggers, before, strict=True):
                each.removeHandler(handler)
                each.propagate = propagate
                each.setLevel(level)
