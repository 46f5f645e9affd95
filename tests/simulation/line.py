"""A caller's line to its session, through gateways of its own that die, freeze, or lose it; the caller comes back.

To the caller and the client it looks like the session itself. As clients here do, it numbers what it sends, and sends
again what does not stand on the stream yet when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bus.events import Said
from bus.leases import Work
from bus.streams import Bus
from gateway.floor import Conversation
from gateway.resume import Taken, take
from gateway.session import Session
from gateway.settings import Profile
from tests.simulation.audio import probability
from tests.simulation.client import Client
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

STAGES = ("stt", "llm", "tts")
STEADY = (1.0, 15.0)
"""Seconds for which a connection holds."""
AWAY = (0.05, 4.0)
"""Seconds after which a caller is back."""
SLICE = 6400
"""Bytes of audio that are sent at once after a break: 200 ms."""


class Leg:
    """One connection's outlet: what comes after the client has left it is heard by nobody."""

    def __init__(self, line: Line, client: Client) -> None:
        self._line, self._client = line, client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or self._line.leg is self:
            return found
        return lambda *args, **kwargs: None


class Line:
    """One call's."""

    def __init__(self, world: World, name: str, client: Client, profile: Profile) -> None:
        self.leg: Leg | None = None
        """The connection there is; None while there is none."""
        self._world, self._name, self._client, self._profile = world, name, client, profile
        self._rng = world.rng(f"line/{name}")
        self._legs = 0
        self._sent = bytearray()
        """All that was said."""
        self._process: Process
        self._session: Session
        self._go: dict[str, asyncio.Event] = {}
        self._back = asyncio.Event()
        self._gone: list[asyncio.Future[None]] = []
        self._breaking: asyncio.Task[None] | None = None

    # -- as a session

    @property
    def state(self) -> Conversation:
        return self._session.state

    @property
    def holds(self) -> bool:
        """Whether there is a connection, over which everything was sent; else ``state`` is what there was of it."""
        return self._back.is_set()

    @property
    def ended(self) -> asyncio.Event:
        return self._session.ended

    def audio(self, pcm: bytes) -> None:
        self._sent += pcm
        self._do(lambda: self._session.audio(pcm))

    def respond(self) -> None:
        self._do(self._session.respond)

    def cancel(self, reason: str, turn: int = 0) -> int:
        live = self.state.live
        cancelled = self._do(lambda: self._session.cancel(reason, turn))
        return (live.number if live else 0) if cancelled is None else cancelled

    def truncate(self, turn: int, position_ms: int) -> None:
        self._do(lambda: self._session.truncate(turn, position_ms))

    def played(self, turn: int, position_ms: float) -> None:
        self._do(lambda: self._session.played(turn, position_ms))

    def say(self, message: Said) -> None:
        self._do(lambda: self._session.say(message))

    def _do(self, action: Callable[[], Any]) -> Any:
        """In the gateway's process, if there is a connection to it; None else."""
        return self._process._context.copy().run(action) if self.holds else None

    # -- life

    async def start(self) -> None:
        await self._connect(again=False)
        self._breaking = asyncio.create_task(self._break())

    async def close(self) -> None:
        """Hang up, once there is a connection to hang up on."""
        assert self._breaking is not None
        await self._back.wait()
        self._breaking.cancel()
        if self.ended.is_set():
            self._world.fail(f"{self._name}: the session was ended by somebody else")
        self._go["close"].set()
        await self._gone[-1]

    async def _connect(self, *, again: bool) -> None:
        self._legs += 1
        process = self._world._process(f"{self._name}.g{self._legs}")
        ready: asyncio.Future[Session] = self._world.loop.create_future()
        self._gone.append(self._world.loop.create_future())
        self._go = {name: asyncio.Event() for name in ("close", "rest")}
        leg = self.leg = Leg(self, self._client)
        self._process = process
        process.spawn(self._serve(process, leg, again, ready, dict(self._go), self._gone[-1]))
        await ready

    async def _serve(
        self,
        process: Process,
        leg: Leg,
        again: bool,
        ready: asyncio.Future[Session],
        go: dict[str, asyncio.Event],
        gone: asyncio.Future[None],
    ) -> None:
        """A gateway with one session."""
        bus = Bus(self._world.network.connector(process), name=process.name, wall=self._world._wall)
        await bus.wait_until_up()
        work = {stage: Work(bus, stage) for stage in STAGES}
        taken: Taken | None = None
        if again:
            taken = await take(bus, self._name, process.name, work, self._profile.pre_roll_ms)
            self._client.returned(taken.found)
        session = Session(
            bus, self._name, leg, self._profile,  # type: ignore[arg-type]
            input_rate=16_000, probability=probability, work=work, owner=process.name, taken=taken,
        )  # fmt: skip
        self._session = session
        self._client.session = self  # type: ignore[assignment]
        self._client.functions.session = self
        await session.start()
        if taken is not None:
            position = taken.found.mic.position * 2
            session.continues(position / 32)
            for at in range(position, len(self._sent), SLICE):
                session.audio(bytes(self._sent[at : at + SLICE]))
        self._back.set()
        ready.set_result(session)
        waits = [asyncio.create_task(event.wait()) for event in (*go.values(), session.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if session.ended.is_set() and self.leg is leg:
            self._world.fail(f"{self._name}: {process.name} was taken over while its client was there")
        await (session.rest() if go["rest"].is_set() and not session.pen.lost else session.close())
        await bus.close()
        gone.set_result(None)

    # -- what befalls it

    async def _break(self) -> None:
        """Lose one connection after the other, for ever."""
        loop, rng = self._world.loop, self._rng
        while True:
            await asyncio.sleep(rng.uniform(*STEADY))
            if self._world._quiet:
                return
            # A gateway that has not noticed counts on as heard what a client without a word of its own is sent.
            kinds = ("kill", "freeze", "cut", *["unnoticed"] * self._client.remembers)
            what, away = rng.choice(kinds), rng.uniform(*AWAY)
            self._world.note(self._name, f"{what}: {self._process.name}, away for {away:.3f} s")
            self._world.counts[f"breaks: {what}"] += 1
            self._back.clear()
            process, self.leg = self._process, None
            if what == "kill":
                self._world.counts["deaths: gateway"] += 1
                process.kill()
            elif what == "freeze":
                process.pause()
                loop.call_later(away + rng.uniform(0.5, 8.0), process.resume)
            elif what == "cut":
                self._go["rest"].set()
            else:
                away = min(away, 0.5)  # its gateway goes on speaking to nobody
            await asyncio.sleep(away)
            await self._connect(again=True)
