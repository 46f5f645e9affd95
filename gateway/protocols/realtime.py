"""The OpenAI Realtime GA protocol over a WebSocket: a client's events, validated, become a session's calls.

Whatever a client sends wrong is answered with an ``error`` event that says what was wrong and what was expected; the
session goes on. Shapes are checked against the ``openai`` package's own types.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gateway.limits import Limits
from gateway.protocols.realtime_aside import MakeSession
from gateway.protocols.realtime_config import ProtocolError, RealtimeConfig
from gateway.protocols.realtime_events import event_id, parse
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.protocols.realtime_requests import Requests

log = logging.getLogger(__name__)

MAX_UNSENT = 8 << 20
"""Bytes a client may leave unread before it is cut."""


class RealtimeConnection:
    """One client on one WebSocket."""

    def __init__(
        self, socket: WebSocket, session_id: str, config: RealtimeConfig, *, extensions: bool, limits: Limits
    ) -> None:
        # Browsers and the page cancel echo themselves; a client that does not says so in its URL.
        cancels_echo = socket.query_params.get("echo") != "cancel"
        self.outlet = RealtimeOutlet(session_id, self._queue, extensions=extensions, cancels_echo=cancels_echo)
        self._socket = socket
        self._config = config
        self._session_id = session_id
        self._unsent: deque[str] = deque()
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._cut = ""
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._began = self._heard = self._clock()
        """When the session began, and when the client last sent something."""
        self._requests: Requests

    async def run(self, make_session: MakeSession) -> None:
        """Serve the client until it leaves, is cut, or the session is ended from outside."""
        session = make_session(self.outlet, self._config.profile(), self._config.codec("input").rate)
        self.outlet.manual, self.outlet.most = self._config.manual, self._config.most
        self.outlet.streams_text = self._config.kind == "transcription"
        self.outlet.codec = self._config.codec("output")
        self._requests = Requests(self._session_id, session, self.outlet, self._config, make_session)
        self.outlet.emit("session.created", session=self._config.view(self._session_id))
        if self.outlet.drops:
            self.outlet.emit("bargein.session", session_id=self._session_id)
        sending = asyncio.create_task(self._send_all())
        receiving = asyncio.create_task(self._receive_all())
        ended = asyncio.create_task(session.ended.wait())
        expiring = asyncio.create_task(self._until_expired())
        tasks = [sending, receiving, ended, expiring]
        try:
            await session.start()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if (ended.done() or expiring.done()) and not receiving.done():
                if expiring.done():
                    self.outlet.error(*expiring.result())
                else:
                    self.outlet.ended("it was ended from outside")
                await self._flush()
                await self._close(1000, "session ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._requests.close()
            await session.close()
            if self._cut:
                await self._close(1008, self._cut)

    async def _until_expired(self) -> tuple[str, str]:
        """Return (code, message) when the client has stayed too long, or said nothing for too long."""
        while (reached := self._limits.reached(self._began, self._heard, self._clock())) is None:
            due = self._limits.due(self._began, self._heard)
            await asyncio.sleep(3600 if due is None else max(0.0, due - self._clock()))
        return reached

    # -- to the client

    def _queue(self, event: dict[str, Any]) -> None:
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        self._unsent.append(text)
        self._unsent_bytes += len(text)
        if self._unsent_bytes > MAX_UNSENT and not self._cut:
            self._cut = "the client does not read"
            log.warning("%s: cut: %d bytes unread", self._session_id, self._unsent_bytes)
        self._wake.set()

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

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            try:
                async with asyncio.timeout(1):
                    await self._socket.close(code, reason)
            except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                pass

    # -- from the client

    async def _receive_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._heard = self._clock()
            raw = message.get("text") or message.get("bytes") or b""
            event: dict[str, Any] = {}
            try:
                self._measure(raw)
                event = parse(raw)
                await self._requests.handle(event)
            except ProtocolError as error:
                self.outlet.error(error.code, error.message, error.param, error.event_id or event_id(event))
            except RecursionError:
                self.outlet.error("invalid_value", "The event is nested too deeply.", event_id=event_id(event))
            except Exception:
                log.exception("%s: a client's event could not be handled", self._session_id)
                sorry = "The server had an error while processing your event."
                self.outlet.error("internal_error", sorry, event_id=event_id(event))

    def _measure(self, raw: str | bytes) -> None:
        size, most = len(raw) if isinstance(raw, bytes) or raw.isascii() else len(raw.encode()), self._limits.message
        if size > most:
            problem = f"The message has {size} bytes; expected at most {most}. It was left out."
            raise ProtocolError("message_too_big", problem)
