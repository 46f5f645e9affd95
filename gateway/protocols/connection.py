"""One client's WebSocket: what goes out, in order; how long the client may stay; how its session ends.

Every protocol's connection is one of these.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from contextlib import suppress
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bus.streams import Fenced
from gateway.limits import Limits
from gateway.session import Session

log = logging.getLogger(__name__)

HUNG_UP = (1000, 1001)
"""Close codes of a client that goes on purpose: it does not come back to its session."""
NO_CODE = 1005
"""What uvicorn says of a close frame without a code, and of a connection that broke: the latter without a reason."""
TAKEN_OVER = 4409
"""Close code: another connection, to this gateway or another, has the session now."""
MAX_UNSENT = 8 << 20
"""Bytes a client may leave unread before it is cut."""


class Connection:
    """Belongs to one event loop, whose time is its clock."""

    def __init__(self, socket: WebSocket, session_id: str, limits: Limits) -> None:
        self.session_id = session_id
        self.limits = limits
        self._socket = socket
        self._unsent: deque[str] = deque()
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._cut = ""
        self._clock = asyncio.get_running_loop().time
        self.returns = False
        """Whether a client whose connection breaks is expected back: its session is not ended then."""
        self.session: Session | None = None
        """The session that was served."""
        self.resting = False
        """Whether the session was let go of without being ended."""
        self._hung_up = False
        """Whether the client closed the socket on purpose."""
        self._began = self._heard = self._clock()
        """When the session began, and when the client last sent something."""

    async def take(self, raw: str | bytes) -> None:
        """A message of the client's. Raises nothing."""
        raise NotImplementedError

    def tell_end(self, code: str, message: str) -> None:
        """The session ends, by nobody's wish at the client's end: tell it why, where its protocol can."""

    def begun(self) -> None:
        """The session has started; nothing of the client's was taken yet."""

    async def ending(self) -> None:
        """The socket is about to be closed from this end."""

    async def closing(self) -> None:
        """The client is gone; its session is about to be closed."""

    async def serve(self, session: Session) -> None:
        """Serve the client until it leaves, is cut, or its session is ended from outside, by a limit, or taken over."""
        sending = asyncio.create_task(self._send_all())
        tasks: list[asyncio.Task[Any]] = [sending]
        self._began -= session.now
        self.session, gone = session, True
        try:
            with suppress(Fenced):
                await session.start()  # what the client sends waits for it
                self.begun()
            receiving = asyncio.create_task(self._receive_all())
            ended = asyncio.create_task(session.ended.wait())
            expiring = asyncio.create_task(self._until_expired())
            tasks += [receiving, ended, expiring]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            gone = not (ended.done() or expiring.done() or self._cut)
            if session.pen.lost:
                self.tell_end("session_taken_over", "Another connection has this session now.")
                await self._flush()
                await self.close(TAKEN_OVER, "session taken over")
            elif (ended.done() or expiring.done()) and not receiving.done():
                outside = ("session_expired", "The session has ended: it was ended from outside.")
                if expiring.done() or session.own_tools.goodbye is None:
                    self.tell_end(*(expiring.result() if expiring.done() else outside))
                await self._flush()
                await self.ending()
                await self.close(1000, "session ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.closing()
            self.resting = gone and self.returns and not self._hung_up and not session.pen.lost
            await (session.rest() if self.resting else session.close())
            if self._cut:
                await self.close(1008, self._cut)

    def queue(self, event: dict[str, Any]) -> None:
        """Send an event after those before it."""
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        self._unsent.append(text)
        self._unsent_bytes += len(text)
        if self._unsent_bytes > MAX_UNSENT and not self._cut:
            self._cut = "the client does not read"
            log.warning("%s: cut: %d bytes unread", self.session_id, self._unsent_bytes)
        self._wake.set()

    async def receive(self) -> Message:
        """What the socket has next; its time counts as the client's last."""
        message = await self._socket.receive()
        self._heard = self._clock()
        return message

    async def close(self, code: int, reason: str) -> None:
        """Close the socket, if it is open."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            try:
                async with asyncio.timeout(1):
                    await self._socket.close(code, reason)
            except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                pass

    async def _receive_all(self) -> None:
        while (message := await self.receive())["type"] != "websocket.disconnect":
            await self.take(message.get("text") or message.get("bytes") or b"")
        self._hung_up = message.get("code") in HUNG_UP or (message.get("code") == NO_CODE and "reason" in message)

    async def _send_all(self) -> None:
        while not self._cut:
            self._wake.clear()
            if not await self._flush():
                return
            if not self._unsent:
                await self._wake.wait()

    async def _flush(self) -> bool:
        while self._unsent and not self._cut:
            text = self._unsent.popleft()
            self._unsent_bytes -= len(text)
            try:
                await self._socket.send_text(text)
            except (WebSocketDisconnect, RuntimeError, OSError):
                return False
        return True

    async def _until_expired(self) -> tuple[str, str]:
        """Return (code, message) when the client has stayed too long, or said nothing for too long."""
        while (reached := self.limits.reached(self._began, self._heard, self._clock())) is None:
            due = self.limits.due(self._began, self._heard)
            await asyncio.sleep(3600 if due is None else max(0.0, due - self._clock()))
        return reached
