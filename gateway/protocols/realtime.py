"""The OpenAI Realtime GA protocol over a WebSocket: a client's events, validated, become a session's calls.

Whatever a client sends wrong is answered with an ``error`` event that says what was wrong and what was expected; the
session goes on. Shapes are checked against the ``openai`` package's own types.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from openai.types import realtime as types
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bus.events import Said
from gateway.protocols.realtime_config import RATE, ProtocolError, RealtimeConfig
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.session import Session
from gateway.settings import Profile

log = logging.getLogger(__name__)

MAX_APPEND = 2 << 20
"""Bytes of audio in one append (43 s): clients send 20 to 100 ms; more at once would delay other calls."""
SLICE = RATE * 2 // 5
"""Bytes (200 ms) that are heard before other calls get their turn."""
MAX_UNSENT = 8 << 20
"""Bytes a client may leave unread before it is cut."""
MIN_COMMIT_MS = 100

MakeSession = Callable[[RealtimeOutlet, Profile, int], Session]
"""Makes the session for an outlet, a profile and the rate in Hz of the audio that comes in."""

EVENTS: dict[str, Any] = {
    "session.update": None,
    "input_audio_buffer.append": types.InputAudioBufferAppendEvent,
    "input_audio_buffer.commit": types.InputAudioBufferCommitEvent,
    "input_audio_buffer.clear": types.InputAudioBufferClearEvent,
    "conversation.item.create": types.ConversationItemCreateEvent,
    "conversation.item.retrieve": types.ConversationItemRetrieveEvent,
    "conversation.item.truncate": types.ConversationItemTruncateEvent,
    "conversation.item.delete": types.ConversationItemDeleteEvent,
    "response.create": types.ResponseCreateEvent,
    "response.cancel": types.ResponseCancelEvent,
    "output_audio_buffer.clear": types.OutputAudioBufferClearEvent,
    "bargein.output.played": None,
}


class RealtimeConnection:
    """One client on one WebSocket."""

    def __init__(self, socket: WebSocket, session_id: str, config: RealtimeConfig, *, extensions: bool) -> None:
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
        self._tags = itertools.count(1)
        self._items = itertools.count(1)
        self._uncommitted = 0
        """Bytes of audio since the last commit."""
        self._session: Session

    async def run(self, make_session: MakeSession) -> None:
        """Serve the client until it leaves, is cut, or the session is ended from outside."""
        self._session = session = make_session(self.outlet, self._config.profile(), RATE)
        self.outlet.emit("session.created", session=self._config.view(self._session_id))
        if self.outlet.drops:
            self.outlet.emit("bargein.session", session_id=self._session_id)
        sending = asyncio.create_task(self._send_all())
        receiving = asyncio.create_task(self._receive_all())
        ended = asyncio.create_task(session.ended.wait())
        try:
            await session.start()
            await asyncio.wait([sending, receiving, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not receiving.done():
                self.outlet.ended("it was ended from outside")
                await self._flush()
                await self._close(1000, "session ended")
        finally:
            for task in (sending, receiving, ended):
                task.cancel()
            await asyncio.gather(sending, receiving, ended, return_exceptions=True)
            await session.close()
            if self._cut:
                await self._close(1008, self._cut)

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
            raw = message.get("text") or message.get("bytes") or b""
            event_id = None
            try:
                event = self._parse(raw)
                event_id = event.get("event_id")
                await self._handle(event)
            except ProtocolError as error:
                event_id = event_id if isinstance(event_id, str) else None
                self.outlet.error(error.code, error.message, error.param, event_id)
            except Exception:
                log.exception("%s: a client's event could not be handled", self._session_id)
                self.outlet.error("internal_error", "The server had an error while processing your event.")

    def _parse(self, raw: str | bytes) -> dict[str, Any]:
        try:
            event = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("invalid_json", f"The event is not JSON: {str(error)[:120]}.") from None
        if not isinstance(event, dict):
            raise ProtocolError("invalid_value", f"The event is a JSON {type(event).__name__}; expected an object.")
        kind = event.get("type")
        if kind is None:
            raise ProtocolError("missing_required_parameter", "Missing required parameter: 'type'.", "type")
        if not isinstance(kind, str) or kind not in EVENTS:
            known = ", ".join(f"'{name}'" for name in EVENTS)
            message = f"Invalid value: '{str(kind)[:80]}'. Supported values are: {known}."
            raise ProtocolError("invalid_value", message, "type")
        model = EVENTS[kind]
        if model is not None:
            try:
                model.model_validate(event)
            except ValidationError as error:
                raise _wrong_shape(kind, error) from None
        return event

    async def _handle(self, event: dict[str, Any]) -> None:
        kind, session = event["type"], self._session
        if kind == "input_audio_buffer.append":
            await self._append(event["audio"])
        elif kind == "input_audio_buffer.commit":
            self._commit()
        elif kind == "input_audio_buffer.clear":
            self._uncommitted = 0
            session.clear()
            self.outlet.emit("input_audio_buffer.cleared")
        elif kind == "session.update":
            self._update(event)
        elif kind == "response.create":
            self._respond(event)
        elif kind == "response.cancel":
            self._cancel(event)
        elif kind == "conversation.item.create":
            self._create(event["item"])
        elif kind == "conversation.item.retrieve":
            self.outlet.emit("conversation.item.retrieved", item=self._item(event["item_id"]))
        elif kind == "conversation.item.delete":
            self._item(event["item_id"])
            del self.outlet.items.by_id[event["item_id"]]
            session.forget(event["item_id"])
            self.outlet.emit("conversation.item.deleted", item_id=event["item_id"])
        elif kind == "conversation.item.truncate":
            self._truncate(event)
        elif kind == "bargein.output.played":
            self._played(event)

    async def _append(self, audio: str) -> None:
        try:
            pcm = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError("invalid_value", f"audio is not base64: {error}.", "audio") from None
        if len(pcm) > MAX_APPEND:
            message = f"audio has {len(pcm)} bytes; expected at most {MAX_APPEND} in one append. It was left out."
            raise ProtocolError("invalid_value", message, "audio")
        self._uncommitted += len(pcm)
        for start in range(0, len(pcm), SLICE):
            self._session.audio(pcm[start : start + SLICE])
            if start + SLICE < len(pcm):
                await asyncio.sleep(0)
        if len(pcm) % 2:
            message = f"audio has {len(pcm)} bytes; expected whole 16-bit samples. The last byte awaits its other half."
            raise ProtocolError("invalid_value", message, "audio")

    def _commit(self) -> None:
        milliseconds = self._uncommitted * 1000 // (2 * RATE)
        if milliseconds < MIN_COMMIT_MS:
            raise ProtocolError(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {milliseconds}.00ms of audio.",
            )
        self._uncommitted = 0
        self._session.commit()

    def _update(self, event: dict[str, Any]) -> None:
        change = event.get("session")
        if not isinstance(change, dict):
            raise ProtocolError("missing_required_parameter", "Missing required parameter: 'session'.", "session")
        profile = self._config.update(change)
        self.outlet.text_only = profile.text_only
        self._session.configure(profile)
        self.outlet.emit("session.updated", session=self._config.view(self._session_id))

    def _respond(self, event: dict[str, Any]) -> None:
        request = event.get("response") or {}
        tag = f"request {next(self._tags)}"
        self.outlet.requests[tag] = {**request, "event_id": event.get("event_id")}
        # The protocol has no field for it; metadata is what the SDKs let through.
        interruptible = (request.get("metadata") or {}).get("interruptible") != "false"
        self._session.respond(tag, request.get("instructions") or "", interruptible=interruptible)

    def _cancel(self, event: dict[str, Any]) -> None:
        wanted = event.get("response_id")
        turn = self.outlet.turn_of(wanted) if wanted else 0
        if (wanted and not turn) or not self._session.cancel("client_cancelled", turn):
            raise ProtocolError("response_cancel_not_active", "Cancellation failed: no active response found")

    def _create(self, item: dict[str, Any]) -> None:
        item = {**item, "id": item.get("id") or f"item_{self._session_id.replace('-', '_')}_c{next(self._items)}"}
        item |= {"object": "realtime.item", "status": item.get("status") or "completed"}
        if item["id"] in self.outlet.items.by_id:
            raise ProtocolError("item_create_duplicate_item_id", f"Item '{item['id']}' exists already.", "item.id")
        if item["type"] == "message":
            parts = item.get("content") or []
            text = " ".join(part.get("text") or part.get("transcript") or "" for part in parts).strip()
            self._session.say(Said(item["id"], item["role"], text))
        elif item["type"] == "function_call_output":
            self._session.say(Said(item["id"], "tool", item["output"], call_id=item["call_id"]))
        elif item["type"] == "function_call":
            call = (item.get("call_id") or "", item["name"])
            self._session.say(Said(item["id"], "tool_call", item["arguments"], call_id=call[0], name=call[1]))
        else:
            raise ProtocolError("invalid_value", f"item.type '{item['type']}' is not supported here.", "item.type")
        self.outlet.add_item(item)

    def _item(self, item_id: str) -> dict[str, Any]:
        item = self.outlet.items.by_id.get(item_id)
        if item is None:
            raise ProtocolError("item_retrieve_invalid_item_id", f"Item with item_id not found: {item_id}", "item_id")
        return item

    def _truncate(self, event: dict[str, Any]) -> None:
        # Never an error: clients truncate also what is fully played or unknown here, and some die of an error event.
        item, position = event["item_id"], max(0, int(event["audio_end_ms"]))
        turn = self.outlet.turn_of(item)
        if turn:
            self._session.truncate(turn, position)
        where = {"item_id": item, "content_index": event["content_index"]}
        self.outlet.emit("conversation.item.truncated", **where, audio_end_ms=position)

    def _played(self, event: dict[str, Any]) -> None:
        position, response = event.get("audio_end_ms"), event.get("response_id")
        if not isinstance(position, int | float) or isinstance(position, bool) or not 0 <= position < 1e9:
            message = f"audio_end_ms is {str(position)[:40]!r}; expected milliseconds >= 0"
            raise ProtocolError("invalid_value", message, "audio_end_ms")
        if not isinstance(response, str):
            raise ProtocolError(
                "missing_required_parameter", "Missing required parameter: 'response_id'.", "response_id"
            )
        self._session.played(self.outlet.turn_of(response), position)


def _wrong_shape(kind: str, error: ValidationError) -> ProtocolError:
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"] if isinstance(part, int) or str(part)[:1].islower()]
    where = ".".join(parts)
    if first["type"] == "missing":
        return ProtocolError("missing_required_parameter", f"Missing required parameter: '{where}'.", where)
    return ProtocolError("invalid_value", f"{kind}: {where}: {first['msg']}", where)
