"""What each event of a Realtime client does to its session. A ProtocolError says why one could not be done."""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
from typing import Any

from bus.events import Said
from gateway.protocols.realtime_aside import Asides
from gateway.protocols.realtime_config import (
    RealtimeConfig,
    check_modalities,
    check_tokens,
    check_tools,
)  # fmt: skip
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_events import event_id
from gateway.protocols.realtime_items import said, whole
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.request import Request
from gateway.session import Session

MAX_APPEND_MS = 43_000
"""Audio in one append: clients send 20 to 100 ms; more at once would delay other calls."""
SLICE_MS = 200
"""What is heard before other calls get their turn."""
MIN_COMMIT_MS = 100
REPLIES = frozenset(("response.create", "response.cancel", "conversation.item.create", "conversation.item.truncate"))
"""What a transcription session has nothing for."""


class Requests:
    """One client's requests to its session."""

    def __init__(
        self, session_id: str, session: Session, outlet: RealtimeOutlet, config: RealtimeConfig, asides: Asides
    ) -> None:
        self._session_id = session_id
        self._session = session
        self._outlet = outlet
        self._config = config
        self._asides = asides
        self._tags = itertools.count(1)
        self._items = itertools.count(1)
        self._uncommitted = 0
        """Bytes of audio since the last commit."""

    async def handle(self, event: dict[str, Any]) -> None:
        """Do what an event asks for. Raises ProtocolError."""
        kind, session, outlet = event["type"], self._session, self._outlet
        if self._config.kind == "transcription" and kind in REPLIES:
            raise ProtocolError("invalid_value", f"{kind}: a transcription session has no replies", "type")
        if kind == "input_audio_buffer.append":
            await self._append(event["audio"])
        elif kind == "input_audio_buffer.commit":
            self._commit()
        elif kind == "input_audio_buffer.clear":
            self._uncommitted = 0
            session.clear()
            outlet.emit("input_audio_buffer.cleared")
        elif kind == "session.update":
            self._update(event)
        elif kind == "conversation.item.create":
            self._create(event)
        elif kind == "conversation.item.retrieve":
            outlet.emit("conversation.item.retrieved", item=outlet.items.get(event["item_id"]))
        elif kind == "conversation.item.delete":
            outlet.items.remove(event["item_id"])
            session.forget(event["item_id"])
            outlet.emit("conversation.item.deleted", item_id=event["item_id"])
        elif kind == "conversation.item.truncate":
            self._truncate(event)
        elif kind == "bargein.output.played":
            self._played(event)
        elif kind == "bargein.input.resumed":
            session.continues(_milliseconds(event, "audio_start_ms"))
        elif kind == "response.create":
            self._respond(event)
        elif kind == "response.cancel":
            self._cancel(event)

    async def _append(self, audio: str) -> None:
        codec = self._config.codec("input")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError("invalid_value", f"audio is not base64: {error}.", "audio") from None
        most = MAX_APPEND_MS * codec.rate * codec.width // 1000
        if len(data) > most:
            message = f"audio has {len(data)} bytes; expected at most {most} in one append. It was left out."
            raise ProtocolError("invalid_value", message, "audio")
        self._uncommitted += len(data)
        size = SLICE_MS * codec.rate * codec.width // 1000
        for start in range(0, len(data), size):
            self._session.audio(codec.decode(data[start : start + size]))
            if start + size < len(data):
                await asyncio.sleep(0)
        if len(data) % codec.width:
            message = (
                f"audio has {len(data)} bytes; expected whole 16-bit samples. The last byte awaits its other half."
            )
            raise ProtocolError("invalid_value", message, "audio")

    def _commit(self) -> None:
        milliseconds = self._config.codec("input").milliseconds(self._uncommitted)
        if milliseconds < MIN_COMMIT_MS:
            problem = f"buffer too small. Expected at least 100ms of audio, but buffer only has {milliseconds}.00ms"
        elif not self._session.commit():
            problem = "no speech since the last commit"
        else:
            self._uncommitted = 0
            return
        message = f"Error committing input audio buffer: {problem} of audio."
        raise ProtocolError("input_audio_buffer_commit_empty", message)

    def _update(self, event: dict[str, Any]) -> None:
        change = event.get("session")
        if not isinstance(change, dict):
            raise ProtocolError("missing_required_parameter", "Missing required parameter: 'session'.", "session")
        config, outlet, session = self._config, self._outlet, self._session
        before = config.snapshot()
        codecs = config.codec("input"), config.codec("output")
        profile = config.update(change)
        if config.codec("output") != codecs[1] and session.state.live is not None:
            config.restore(before)
            where = "session.audio.output.format"
            raise ProtocolError("invalid_value", f"{where} cannot change while a response is in progress", where)
        outlet.configure(config)
        session.configure(profile)
        if (config.codec("input"), config.codec("output")) != codecs:
            session.reformat(config.codec("input").rate)
        outlet.emit("session.updated", session=config.view(self._session_id))

    # -- the conversation

    def _create(self, event: dict[str, Any]) -> None:
        outlet, session = self._outlet, self._session
        while (name := f"item_{self._session_id.replace('-', '_')}_c{next(self._items)}") in outlet.items.by_id:
            pass  # one of an earlier connection's
        item, after = whole(event["item"], name), event.get("previous_item_id")
        message = said(item)
        if item["type"] == "function_call":
            item["call_id"] = message.call_id
        if message.role == "tool" and not session.stagehand.calls.knows(message.call_id):
            problem = f"item.call_id: there is no function call {message.call_id[:80]!r} in this conversation"
            raise ProtocolError("invalid_value", problem, "item.call_id")
        outlet.add_item(item, after=after)
        session.say(message, after or "")

    def _truncate(self, event: dict[str, Any]) -> None:
        # Never an error: clients truncate also what is fully played or unknown here, and some die of an error event.
        item, turn = event["item_id"], self._outlet.turn_of(event["item_id"])
        position = max(0, int(event["audio_end_ms"]))
        if turn:
            position = min(position, self._outlet.length_ms(turn))
            heard = self._session.truncate(turn, position)
            if heard is not None:
                self._outlet.truncated(item, heard)
        where = {"item_id": item, "content_index": int(event["content_index"])}
        self._outlet.emit("conversation.item.truncated", **where, audio_end_ms=position)

    # -- responses

    def _respond(self, event: dict[str, Any]) -> None:
        asked: dict[str, Any] = {**(event.get("response") or {}), "event_id": event_id(event)}
        request = self._request(asked)
        if (where := asked.get("conversation") or "auto") not in ("auto", "none"):
            message = f"response.conversation is {str(where)[:40]!r}; expected 'auto' or 'none'"
            raise ProtocolError("invalid_value", message, "response.conversation")
        if where == "none":
            self._asides.answer(asked, request)
            return
        tag = f"request {self._session.pen.fence}.{next(self._tags)}"
        self._outlet.requests[tag] = asked
        # The protocol has no field for it; metadata is what the SDKs let through.
        interruptible = (asked.get("metadata") or {}).get("interruptible") != "false"
        self._session.respond(tag, request, interruptible=interruptible)

    def _request(self, asked: dict[str, Any]) -> Request:
        """What a response.create asks for. Raises ProtocolError."""
        modalities, tools, most = asked.get("output_modalities"), asked.get("tools"), asked.get("max_output_tokens")
        choice, given = asked.get("tool_choice"), asked.get("input")
        if modalities is not None:
            check_modalities(modalities, "response.output_modalities")
        if tools is not None or isinstance(choice, dict):
            known = tools if tools is not None else self._config.tools
            check_tools(known, choice, "response.")
        if most is not None:
            check_tokens(most, "response.max_output_tokens")
        return Request(
            instructions=asked.get("instructions"),
            text_only=None if modalities is None else modalities == ["text"],
            tools=None if tools is None else (json.dumps(tools) if tools else ""),
            tool_choice=None if choice is None else json.dumps(choice),
            parallel=asked.get("parallel_tool_calls"),
            max_tokens=None if most is None else (most if isinstance(most, int) else 0),
            conversation=None if given is None else tuple(self._given(n, item) for n, item in enumerate(given)),
            voice=self._config.voice_of(asked),
        )

    def _given(self, number: int, item: dict[str, Any]) -> Said:
        """A message that a response.create brings, or refers to."""
        if item.get("type") == "item_reference":
            item = self._outlet.items.get(str(item.get("id")))
        return said(whole(item, f"input_{number}"), f"response.input[{number}]")

    def _cancel(self, event: dict[str, Any]) -> None:
        wanted = event.get("response_id")
        if wanted and self._asides.cancel(wanted):
            return
        turn = self._outlet.turn_of(wanted) if wanted else 0
        if (wanted and not turn) or not self._session.cancel("client_cancelled", turn):
            raise ProtocolError("response_cancel_not_active", "Cancellation failed: no active response found")

    def _played(self, event: dict[str, Any]) -> None:
        position, response = _milliseconds(event, "audio_end_ms"), event.get("response_id")
        if not isinstance(response, str):
            message = "Missing required parameter: 'response_id'."
            raise ProtocolError("missing_required_parameter", message, "response_id")
        self._session.played(self._outlet.turn_of(response), position)


def _milliseconds(event: dict[str, Any], name: str) -> float:
    """A position in an event. Raises ProtocolError."""
    position = event.get(name)
    if not isinstance(position, int | float) or isinstance(position, bool) or not 0 <= position < 1e9:
        raise ProtocolError("invalid_value", f"{name} is {str(position)[:40]!r}; expected milliseconds >= 0", name)
    return position
