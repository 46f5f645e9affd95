"""An out-of-band response (``conversation: "none"``): a child session ``<session>.1`` with a turn of its own.

It runs beside the conversation's responses, joins no conversation, and no interruption touches it. It ends with the
connection; a client that comes back to its session is told so of each whose end it was not told. For that the parent's
config has their names, in the field ASIDES.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from bus.events import Said
from bus.history import read
from bus.keys import session_key
from bus.outbox import OUTAGE
from gateway.names import turn_item
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.protocols.realtime_response import Response
from gateway.request import Request
from gateway.session import Session
from gateway.settings import Profile

log = logging.getLogger(__name__)

ASIDES = "asides"
"""A session's open out-of-band responses in its config: JSON, response -> its metadata."""
MOST_ASIDES = 4
"""Out-of-band responses at a time."""
MOST_CHILDREN = 100_000
"""Out-of-band responses of one connection: those of the next are named after them."""
CONNECTION_LOST = "connection_lost"
MakeSession = Callable[..., Session]
"""Makes the session for an outlet, a profile, the rate in Hz of what comes in, and whether it listens."""


class AsideOutlet(RealtimeOutlet):
    """What a child session tells goes to its parent's client."""

    def __init__(self, session: str, parent: RealtimeOutlet) -> None:
        super().__init__(session, lambda event: None, extensions=False)
        self.conversation = None
        self.codec, self.most, self.spoken = parent.codec, parent.most, parent.spoken
        self.closed = asyncio.Event()
        self.on_closed: Callable[[], None] = lambda: None
        """Called when its end is about to be told."""
        self._parent = parent

    def emit(self, kind: str, **fields: Any) -> None:
        self._parent.emit(kind, **fields)

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        self.on_closed()
        super().turn_closed(turn, outcome, reason, heard_text, heard_ms)
        self.closed.set()

    def unanswered(self, asked: dict[str, Any]) -> None:
        """It cannot be answered, or not to its end."""
        if not self.closed.is_set():
            if not self._responses:
                self.requests["aside"] = asked
                self.turn_opened(1, "aside", True)
            self.turn_closed(1, "failed", "redis does not answer", "", 0)


class Aside:
    """One out-of-band response."""

    def __init__(self, session_id: str, parent: RealtimeOutlet, make_session: MakeSession, profile: Profile) -> None:
        """``session_id`` is the child's; ``profile`` that of its parent."""
        self.outlet = AsideOutlet(session_id, parent)
        alone = replace(profile, greeting="", record=False, echo_cancellation="off", by_hand=True, own_tools=())
        alone.duplex = replace(alone.duplex, respond=False, interrupt=False, eager=False, idle=0.0)
        self._session = make_session(self.outlet, alone, parent.rate, listens=False)

    async def run(
        self, asked: dict[str, Any], request: Request, conversation: Callable[[], Awaitable[list[Said]]]
    ) -> None:
        """Answer ``request``, in view of ``conversation`` where it brings none of its own, to the end.

        Raises what a lost server raises.
        """
        session = self._session
        try:
            if request.conversation is None:
                request = replace(request, conversation=tuple(await conversation()))
            await session.start()
            self.outlet.requests["aside"] = asked
            session.respond("aside", request)
            await self.outlet.closed.wait()
        finally:
            await session.close()

    def cancel(self) -> bool:
        """The client cancels it; false when it is over."""
        return bool(self._session.cancel("client_cancelled"))


class Asides:
    """The out-of-band responses of one connection."""

    def __init__(self, session: Session, outlet: RealtimeOutlet, make_session: MakeSession) -> None:
        self._session = session
        self._outlet = outlet
        self._make = make_session
        self._numbers = itertools.count(1)
        self._running: dict[asyncio.Task[None], Aside] = {}
        self._open: dict[str, Any] = {}
        self._closed = False

    def answer(self, asked: dict[str, Any], request: Request) -> None:
        """Begin to answer a ``response`` that a client ``asked`` for. Raises ProtocolError."""
        if len(self._running) >= MOST_ASIDES:
            message = f"{MOST_ASIDES} out-of-band responses are in progress; wait until one is finished"
            raise ProtocolError("rate_limit_exceeded", message, "response.conversation")
        session = self._session
        child = f"{session.id}.{next(self._numbers) + (session.pen.fence - 1) * MOST_CHILDREN}"
        aside = Aside(child, self._outlet, self._make, session.profile)
        task = asyncio.create_task(self._run(aside, asked, request), name=child)
        self._running[task] = aside
        task.add_done_callback(lambda done: self._running.pop(done, None))

    def cancel(self, response: str) -> bool:
        """Cancel the one of this name; false when there is none that goes on."""
        return any(aside.outlet.turn_of(response) and aside.cancel() for aside in self._running.values())

    def broken(self, names: str) -> None:
        """Tell the client, which has come back, that those whose ``names`` its session's config had have failed."""
        error = {"type": "server_error", "code": CONNECTION_LOST, "message": "The connection broke; ask once more."}
        told: dict[str, Any] = json.loads(names)
        for name, metadata in told.items():
            response = Response(name, turn_item("", 0), True, None, metadata)
            view = response.view("failed", {"type": "failed", "error": error})
            self._outlet.emit("response.done", response=view)
        if told:
            self._note()

    async def close(self) -> None:
        """End them, with the connection."""
        self._closed = True
        tasks = list(self._running)
        for task, aside in list(self._running.items()):
            aside.outlet.closed.set()  # in Python 3.11 a cancel can be lost in a wait_for that has just got its answer
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, aside: Aside, asked: dict[str, Any], request: Request) -> None:
        session, name = self._session, aside.outlet.response_id(1)

        async def conversation() -> list[Said]:
            return await read(session.bus, session.id, await session.stagehand.history.pin())

        def over() -> None:
            self._open.pop(name, None)
            self._note()

        aside.outlet.on_closed = over
        self._open[name] = asked.get("metadata")
        self._note()
        try:
            await aside.run(asked, request, conversation)
        except OUTAGE as error:
            log.warning("%s: redis does not answer (%s)", session.id, type(error).__name__)
            aside.outlet.unanswered(asked)

    def _note(self) -> None:
        if not (self._closed or self._session.pen.lost):
            key = session_key(self._session.id, "config")
            self._session.bus.outbox.send("HSET", key, ASIDES, json.dumps(self._open))
