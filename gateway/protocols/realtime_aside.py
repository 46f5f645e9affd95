"""An out-of-band response (``conversation: "none"``): a child session ``<session>.1`` with a turn of its own.

It runs beside the conversation's responses, joins no conversation, and no interruption touches it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from bus.events import Said
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.request import Request
from gateway.session import Session
from gateway.settings import Profile

MakeSession = Callable[..., Session]
"""Makes the session for an outlet, a profile, the rate in Hz of what comes in, and whether it listens."""


class AsideOutlet(RealtimeOutlet):
    """What a child session tells goes to its parent's client."""

    def __init__(self, session: str, parent: RealtimeOutlet) -> None:
        super().__init__(session, lambda event: None, extensions=False)
        self.conversation = None
        self.codec, self.most, self.spoken = parent.codec, parent.most, parent.spoken
        self.closed = asyncio.Event()
        self._parent = parent

    def emit(self, kind: str, **fields: Any) -> None:
        self._parent.emit(kind, **fields)

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        super().turn_closed(turn, outcome, reason, heard_text, heard_ms)
        self.closed.set()


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
        """Answer ``request``, in view of ``conversation`` where it brings none of its own, to the end."""
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
