"""The server events of the OpenAI Realtime GA protocol: what one session tells a Realtime client.

The order within a response is the protocol's: created, output_item.added, content_part.added, deltas, then
output_audio.done, output_audio_transcript.done, content_part.done, output_item.done, response.done.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.playback import Frame
from gateway.protocols.realtime_config import RATE
from gateway.stagehand import turn_item, utterance_item

Send = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class _Response:
    """A response on its way to the client."""

    id: str
    item: str
    metadata: dict[str, str] | None
    text_only: bool
    begun: bool = False
    transcript: str = ""


@dataclass(slots=True)
class Items:
    """The conversation's items as the client knows them, in order."""

    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def last(self) -> str | None:
        return next(reversed(self.by_id), None)


class RealtimeOutlet:
    """Implements ``gateway.outlet.Outlet``."""

    rate = RATE

    def __init__(self, session: str, send: Send, *, extensions: bool, cancels_echo: bool = True) -> None:
        """``send`` queues one event for the client; ``extensions``: see docs/realtime-extensions.md."""
        self.session = session
        self.drops = extensions
        self.cancels_echo = cancels_echo
        self.text_only = False
        self.items = Items()
        self.requests: dict[str, dict[str, Any]] = {}
        """Tag -> the ``response`` object of the response.create that asked."""
        self._send = send
        self._extensions = extensions
        self._responses: dict[int, _Response] = {}
        self._numbers = itertools.count(1)

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event; fields that are None are left out."""
        event = {"type": kind, "event_id": f"event_{next(self._numbers)}"}
        event.update((key, value) for key, value in fields.items() if value is not None)
        self._send(event)

    def error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        """Send an error event; the session goes on."""
        error = {"type": "invalid_request_error", "code": code, "message": message}
        error |= {key: value for key, value in (("param", param), ("event_id", event_id)) if value is not None}
        self.emit("error", error=error)

    def add_item(self, item: dict[str, Any], *, done: bool = True) -> None:
        """An item joins the conversation."""
        previous = self.items.last
        self.items.by_id[item["id"]] = item
        self.emit("conversation.item.added", previous_item_id=previous, item=item)
        if done:
            self.emit("conversation.item.done", previous_item_id=previous, item=item)

    def response_id(self, turn: int) -> str:
        """The response's name on the wire."""
        return f"resp_{self.session.replace('-', '_')}_{turn}"

    def turn_of(self, item_or_response: str) -> int:
        """The turn that an item or response of the assistant belongs to; 0 when there is none such."""
        for prefix in (turn_item(self.session, 0)[:-1], self.response_id(0)[:-1]):
            number = item_or_response.removeprefix(prefix)
            if number != item_or_response and number.isdigit():
                return int(number)
        return 0

    # -- gateway.outlet.Outlet

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        item = utterance_item(self.session, utterance)
        self.emit("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=item)

    def speech_stopped(self, utterance: int, end_ms: int) -> None:
        item = utterance_item(self.session, utterance)
        self.emit("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=item)
        self.buffer_committed(item)

    def buffer_committed(self, item: str) -> None:
        """The audio of an utterance became a user message, whose text is still to come."""
        self.emit("input_audio_buffer.committed", previous_item_id=self.items.last, item_id=item)
        content: list[dict[str, Any]] = [{"type": "input_audio"}]
        message = {"id": item, "object": "realtime.item", "type": "message", "role": "user", "status": "completed"}
        self.add_item({**message, "content": content})

    def partial(self, utterance: int, text: str) -> None:
        if self._extensions:
            self.emit("bargein.transcript.partial", item_id=utterance_item(self.session, utterance), text=text)

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None:
        item = utterance_item(self.session, utterance)
        if item in self.items.by_id:
            self.items.by_id[item]["content"][0]["transcript"] = text
        kind = "conversation.item.input_audio_transcription"
        if text:
            self.emit(f"{kind}.delta", item_id=item, content_index=0, delta=text)
        usage = {"type": "duration", "seconds": round(max(0, end_ms - start_ms) / 1000, 3)}
        self.emit(f"{kind}.completed", item_id=item, content_index=0, transcript=text, usage=usage)

    def turn_opened(self, turn: int, tag: str) -> None:
        request = self.requests.pop(tag, {})
        response = _Response(
            self.response_id(turn), turn_item(self.session, turn), request.get("metadata"), self.text_only
        )
        self._responses = {turn: response}
        self.emit("response.created", response=self._view(response, "in_progress"))

    def audio(self, frame: Frame) -> None:
        response = self._responses.get(frame.turn)
        if response is None:
            return
        self._begin(response)
        where = {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}
        self.emit("response.output_audio.delta", **where, delta=base64.b64encode(frame.pcm).decode())
        if frame.text:
            response.transcript += frame.text
            self.emit("response.output_audio_transcript.delta", **where, delta=frame.text)

    def text(self, turn: int, text: str) -> None:
        response = self._responses.get(turn)
        if response is None:
            return
        self._begin(response)
        response.transcript += text
        where = {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}
        self.emit("response.output_text.delta", **where, delta=text)

    def held(self, turn: int, onset_ms: int) -> None:
        where = {"response_id": self.response_id(turn), "item_id": turn_item(self.session, turn)}
        self.emit("bargein.output.held", **where, onset_ms=onset_ms)

    def resumed(self, turn: int, start_ms: float) -> None:
        where = {"response_id": self.response_id(turn), "item_id": turn_item(self.session, turn)}
        self.emit("bargein.output.resumed", **where, audio_start_ms=start_ms)

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        response = self._responses.pop(turn, None)
        if response is None:
            return
        if response.begun:
            self._finish(response, outcome)
        details: dict[str, Any] | None = None
        if outcome == "cancelled":
            details = {"type": "cancelled", "reason": reason if reason == "turn_detected" else "client_cancelled"}
        elif outcome == "failed":
            details = {"type": "failed", "error": {"type": "server_error", "code": "stage_failed", "message": reason}}
        view = self._view(response, outcome)
        if details is not None:
            view["status_details"] = details
        self.emit("response.done", response=view)

    def refused(self, code: str, message: str, tag: str) -> None:
        request = self.requests.pop(tag, {})
        self.error(code, message, event_id=request.get("event_id"))

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None:
        if self._extensions:
            self.emit("bargein.step", turn=turn, step=step, at_ms=round(at_ms, 1), detail=detail)

    def ended(self, reason: str) -> None:
        self.error("session_expired", f"The session has ended: {reason}.")

    # -- a response

    def _begin(self, response: _Response) -> None:
        if response.begun:
            return
        response.begun = True
        item = self._item(response, "in_progress")
        self.emit("response.output_item.added", response_id=response.id, output_index=0, item=item)
        self.add_item(item, done=False)
        part = {"type": "text", "text": ""} if response.text_only else {"type": "audio", "transcript": ""}
        where = {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}
        self.emit("response.content_part.added", **where, part=part)

    def _finish(self, response: _Response, outcome: str) -> None:
        where = {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}
        said = response.transcript
        if response.text_only:
            self.emit("response.output_text.done", **where, text=said)
            part = {"type": "text", "text": said}
        else:
            self.emit("response.output_audio.done", **where)
            self.emit("response.output_audio_transcript.done", **where, transcript=said)
            part = {"type": "audio", "transcript": said}
        self.emit("response.content_part.done", **where, part=part)
        item = self._item(response, "completed" if outcome == "completed" else "incomplete")
        self.items.by_id[response.item] = item
        self.emit("response.output_item.done", response_id=response.id, output_index=0, item=item)
        self.emit("conversation.item.done", item=item)

    def _item(self, response: _Response, status: str) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if status != "in_progress":
            kind, name = ("output_text", "text") if response.text_only else ("output_audio", "transcript")
            content = [{"type": kind, name: response.transcript}]
        item = {"id": response.item, "object": "realtime.item", "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": content}

    def _view(self, response: _Response, status: str) -> dict[str, Any]:
        output = []
        if status != "in_progress" and response.begun:
            output = [self._item(response, "completed" if status == "completed" else "incomplete")]
        view: dict[str, Any] = {
            "object": "realtime.response",
            "id": response.id,
            "status": status,
            "output": output,
            "conversation_id": f"conv_{self.session.replace('-', '_')}",
            "output_modalities": ["text"] if response.text_only else ["audio"],
        }
        if response.metadata is not None:
            view["metadata"] = response.metadata
        return view
