"""The server events of the OpenAI Realtime GA protocol: what one session tells a Realtime client.

The order within a response is the protocol's: created, output_item.added, content_part.added, deltas, then
output_audio.done, output_audio_transcript.done, content_part.done, output_item.done, response.done.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bus.events import Said
from gateway.backlog import AUDIO_LOST
from gateway.codecs import PCM, Codec
from gateway.names import turn_item, utterance_item
from gateway.playback import Frame
from gateway.protocols.append_only import AppendOnly
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_items import Items, item_of
from gateway.protocols.realtime_response import Response
from gateway.protocols.realtime_voice import voice_id

Send = Callable[[dict[str, Any]], None]
TRANSCRIPTION = "conversation.item.input_audio_transcription"


class RealtimeOutlet:
    """Implements ``gateway.outlet.Outlet``."""

    abilities = frozenset(("end_call",))

    def __init__(self, session: str, send: Send, *, extensions: bool, cancels_echo: bool = True) -> None:
        """``send`` queues one event for the client; ``extensions``: see docs/realtime-extensions.md."""
        self.session = session
        self.drops = self.remembers = extensions
        self.cancels_echo = cancels_echo
        self.codec: Codec = PCM
        """How the audio that it is sent is written."""
        self.manual = False
        """Whether the client itself says when an utterance ends: it is not told of speech."""
        self.conversation: str | None = f"conv_{session.replace('-', '_')}"
        self.most: Any = "inf"
        """The session's ``max_output_tokens``."""
        self.spoken: dict[str, Any] = {}
        """How its responses sound, as they tell it: ``format`` and ``voice``."""
        self.items = Items()
        self.requests: dict[str, dict[str, Any]] = {}
        """Tag -> the ``response`` object of the response.create that asked."""
        self._send = send
        self._extensions = extensions
        self._responses: dict[int, Response] = {}
        self._lengths: dict[int, int] = {}
        """Turn -> milliseconds of its audio that were sent."""
        self._numbers = itertools.count(1)
        self.streams_text = False
        """Whether words are told as they become certain, before the utterance has ended."""
        self._words: dict[int, AppendOnly] = {}

    def configure(self, config: RealtimeConfig) -> None:
        """The session is another from now on."""
        self.manual, self.codec, self.most = config.manual, config.codec("output"), config.most
        self.spoken = config.spoken

    @property
    def rate(self) -> int:
        return self.codec.rate

    def emit(self, kind: str, **fields: Any) -> None:
        """Send an event; fields that are None are left out."""
        event = {"type": kind, "event_id": f"event_{next(self._numbers)}"}
        event.update((key, value) for key, value in fields.items() if value is not None)
        self._send(event)

    def error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        """Send an error event; the session goes on."""
        kind = "server_error" if code == AUDIO_LOST else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message}
        error |= {key: value for key, value in (("param", param), ("event_id", event_id)) if value is not None}
        self.emit("error", error=error)

    def add_item(self, item: dict[str, Any], *, done: bool = True, after: str | None = None) -> None:
        """An item joins the conversation, behind ``after`` or at its end. Raises ProtocolError."""
        self.items.add(item, after)
        self._tell_item("added", item)
        if done:
            self._tell_item("done", item)

    def response_id(self, turn: int) -> str:
        """The response's name on the wire."""
        return f"resp_{_plain(self.session)}_{turn}"

    def turn_of(self, item_or_response: str) -> int:
        """The turn that an item or response of the assistant belongs to; 0 when there is none such."""
        for prefix in (turn_item(self.session, 0)[:-1], self.response_id(0)[:-1]):
            number = item_or_response.removeprefix(prefix)
            if number != item_or_response and number.isascii() and number.isdigit() and len(number) < 10:
                return int(number)
        return 0

    def length_ms(self, turn: int) -> int:
        """How much of a turn's audio the client was sent."""
        response = self._responses.get(turn)
        return response.sent * 1000 // response.codec.rate if response else self._lengths.get(turn, 0)

    def truncated(self, item_id: str, text: str) -> None:
        """An item's text is only what was heard."""
        item = self.items.by_id.get(item_id)
        if item and item.get("content"):
            self.items.by_id[item_id] = {**item, "content": [{**item["content"][0], "transcript": text}]}

    # -- gateway.outlet.Outlet

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        if not self.manual:
            item = utterance_item(self.session, utterance)
            self.emit("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=item)

    def speech_stopped(self, utterance: int, end_ms: int) -> None:
        item = utterance_item(self.session, utterance)
        if not self.manual:
            self.emit("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=item)
        self.buffer_committed(item)

    def buffer_committed(self, item: str) -> None:
        """The audio of an utterance became a user message, whose text is still to come."""
        self.emit("input_audio_buffer.committed", previous_item_id=self.items.last, item_id=item)
        # The JavaScript SDK takes no item without a transcript, not even one that is still to come.
        content: list[dict[str, Any]] = [{"type": "input_audio", "transcript": None}]
        message = {"id": item, "object": "realtime.item", "type": "message", "role": "user", "status": "completed"}
        self.add_item({**message, "content": content})

    def partial(self, utterance: int, text: str) -> None:
        if self.streams_text:
            self._tell_words(utterance, self._words.setdefault(utterance, AppendOnly()).partial(text))
        if self._extensions:
            self.emit("bargein.transcript.partial", item_id=utterance_item(self.session, utterance), text=text)

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None:
        item, words = utterance_item(self.session, utterance), self._words.pop(utterance, AppendOnly())
        if item not in self.items.by_id:
            return  # cleared, or removed by the client
        self.items.by_id[item]["content"][0]["transcript"] = text
        where = {"item_id": item, "content_index": 0}
        self._tell_words(utterance, words.final(text))
        usage = {"type": "duration", "seconds": round(max(0, end_ms - start_ms) / 1000, 3)}
        self.emit(f"{TRANSCRIPTION}.completed", **where, transcript=text, usage=usage)

    def _tell_words(self, utterance: int, words: str) -> None:
        if words:
            where = {"item_id": utterance_item(self.session, utterance), "content_index": 0}
            self.emit(f"{TRANSCRIPTION}.delta", **where, delta=words)

    def not_transcribed(self, utterance: int, error: str) -> None:
        reason = {"type": "server_error", "code": "transcription_failed", "message": error}
        where = {"item_id": utterance_item(self.session, utterance), "content_index": 0}
        self.emit(f"{TRANSCRIPTION}.failed", **where, error=reason)

    def stayed_silent(self, utterance: int, start_ms: int, end_ms: int) -> None:
        item = utterance_item(self.session, utterance)
        where = {"audio_start_ms": start_ms, "audio_end_ms": end_ms, "item_id": item}
        self.emit("input_audio_buffer.timeout_triggered", **where)
        self.buffer_committed(item)
        self.committed(utterance, "", start_ms, end_ms)

    def turn_opened(self, turn: int, tag: str, text_only: bool) -> None:
        request = self.requests.pop(tag, {})
        response = Response(self.response_id(turn), turn_item(self.session, turn), text_only, self.conversation)
        response.metadata, response.codec = request.get("metadata"), self.codec
        response.most = request.get("max_output_tokens") or self.most
        asked = (request.get("audio") or {}).get("output") or {}
        response.spoken = self.spoken | ({"voice": voice_id(asked["voice"])} if asked.get("voice") else {})
        self._responses = {turn: response}
        self.emit("response.created", response=response.view("in_progress"))

    def audio(self, frame: Frame) -> None:
        response = self._responses.get(frame.turn)
        if response is None:
            return
        where = self._begin(response)
        delta = base64.b64encode(response.codec.encode(frame.pcm)).decode()
        response.sent = max(response.sent, frame.start + len(frame.pcm) // 2)
        self.emit("response.output_audio.delta", **where, delta=delta)
        if frame.text:
            response.transcript += frame.text
            self.emit("response.output_audio_transcript.delta", **where, delta=frame.text)

    def text(self, turn: int, text: str) -> None:
        response = self._responses.get(turn)
        if response is None:
            return
        where = self._begin(response)
        response.transcript += text
        self.emit("response.output_text.delta", **where, delta=text)

    def calling(self, turn: int, item_id: str, call_id: str, name: str, arguments: str) -> None:
        response = self._responses.get(turn)
        if response is not None:
            self._arguments(response, item_id, call_id, name, arguments)

    def called(self, turn: int, item_id: str, call_id: str, name: str, arguments: str) -> None:
        response = self._responses.get(turn)
        if response is None:
            return
        where = self._arguments(response, item_id, call_id, name, arguments)
        self.emit("response.function_call_arguments.done", **where, name=name, arguments=arguments)
        item = {**response.output[where["output_index"]], "status": "completed", "name": name}
        self._item_done(response, where["output_index"], item)

    def press(self, keys: str) -> None: ...

    def counted(self, turn: int, prompt_tokens: int, tokens: int, finish: str) -> None:
        response = self._responses.get(turn)
        if response is not None:
            response.counts, response.finish = (prompt_tokens, tokens), finish

    def held(self, turn: int, onset_ms: int) -> None:
        where = {"response_id": self.response_id(turn), "item_id": turn_item(self.session, turn)}
        self.emit("bargein.output.held", **where, onset_ms=onset_ms)

    def resumed(self, turn: int, start_ms: float) -> None:
        where = {"response_id": self.response_id(turn), "item_id": turn_item(self.session, turn)}
        self.emit("bargein.output.resumed", **where, audio_start_ms=start_ms)

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        self._lengths[turn] = self.length_ms(turn)
        response = self._responses.pop(turn, None)
        if response is None:
            return
        if outcome == "completed" and response.finish == "length":
            outcome = "incomplete"
        if response.message is not None:
            self._finish(response, outcome)
        self._take_back_calls(response)
        details: dict[str, Any] | None = None
        if outcome == "cancelled":
            details = {"type": "cancelled", "reason": reason if reason == "turn_detected" else "client_cancelled"}
        elif outcome == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        elif outcome == "failed":
            details = {"type": "failed", "error": {"type": "server_error", "code": "stage_failed", "message": reason}}
        self.emit("response.done", response=response.view(outcome, details))

    def recalled(self, messages: Sequence[Said]) -> None:
        ours = (utterance_item(self.session, 0)[:-1], turn_item(self.session, 0)[:-1])
        for said in messages:
            if said.name != "backchannel" and said.item not in self.items.by_id:
                self.add_item(item_of(said, spoken=said.item.startswith(ours) and said.role in ("user", "assistant")))

    def continued(self, turn: int, text: str, start_ms: float) -> None:
        response = self._responses.get(turn)
        if response is None:
            return
        where = self._begin(response)
        response.sent = max(response.sent, round(start_ms * response.codec.rate / 1000))
        response.transcript = text
        if text:
            self.emit("response.output_audio_transcript.delta", **where, delta=text)

    def lost(self, said: Said, at_ms: int, lost_ms: int) -> None:
        self.add_item(item_of(said, spoken=False))
        if self._extensions:
            self.emit("bargein.input.lost", audio_end_ms=at_ms, lost_ms=lost_ms)
        else:
            problem = f"{lost_ms} ms of the caller's audio were lost, before {at_ms} ms: the connection was broken."
            self.error(AUDIO_LOST, problem)

    def refused(self, code: str, message: str, tag: str) -> None:
        request = self.requests.pop(tag, {})
        self.error(code, message, event_id=request.get("event_id"))

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None:
        if self._extensions:
            self.emit("bargein.step", turn=turn, step=step, at_ms=round(at_ms, 1), detail=detail)

    def _tell_item(self, what: str, item: dict[str, Any]) -> None:
        # A null is told: it says that the item is the first, and to leave it out would say nothing.
        event = {"type": f"conversation.item.{what}", "event_id": f"event_{next(self._numbers)}"}
        self._send({**event, "previous_item_id": self.items.before(item["id"]), "item": item})

    # -- a response

    def _begin(self, response: Response) -> dict[str, Any]:
        """Open the response's message, unless it is open; what its events carry."""
        if response.message is None:
            response.message = len(response.output)
            item = response.message_item("in_progress")
            response.output.append(item)
            self.emit("response.output_item.added", response_id=response.id, output_index=response.message, item=item)
            self._add(response, item)
            self.emit("response.content_part.added", **response.where(), part=response.part())
        return response.where()

    def _finish(self, response: Response, outcome: str) -> None:
        where, said = response.where(), response.transcript
        if response.text_only:
            self.emit("response.output_text.done", **where, text=said)
        else:
            self.emit("response.output_audio.done", **where)
            self.emit("response.output_audio_transcript.done", **where, transcript=said)
        self.emit("response.content_part.done", **where, part=response.part())
        item = response.message_item("completed" if outcome == "completed" else "incomplete")
        self._item_done(response, where["output_index"], item)

    def _arguments(self, response: Response, item_id: str, call_id: str, name: str, arguments: str) -> dict[str, Any]:
        """Tell what is new of a call's arguments; what events about them carry."""
        index = next((n for n, each in enumerate(response.output) if each["id"] == item_id), len(response.output))
        if index == len(response.output):
            item = {"id": item_id, "object": "realtime.item", "type": "function_call", "status": "in_progress"}
            item |= {"call_id": call_id, "name": name, "arguments": ""}
            response.output.append(item)
            self.emit("response.output_item.added", response_id=response.id, output_index=index, item=item)
            self._add(response, item)
        where = {"response_id": response.id, "item_id": item_id, "output_index": index, "call_id": call_id}
        if delta := arguments[len(response.output[index]["arguments"]) :]:
            self.emit("response.function_call_arguments.delta", **where, delta=delta)
        response.output[index] = {**response.output[index], "arguments": arguments}
        return where

    def _take_back_calls(self, response: Response) -> None:
        """Calls that were begun and not made leave the conversation, and no event says that they are done.

        The protocol would end them as ``incomplete``; clients execute what is done without looking at that.
        """
        half = [item["id"] for item in response.output if item["status"] == "in_progress"]
        response.output[:] = [item for item in response.output if item["id"] not in half]
        for item_id in half:
            if item_id in self.items.by_id:
                self.items.remove(item_id)
                self.emit("conversation.item.deleted", item_id=item_id)

    def _add(self, response: Response, item: dict[str, Any]) -> None:
        """An item that begins joins the conversation, where the response does."""
        if response.conversation is None:
            return
        try:
            self.add_item(item, done=False)
        except ProtocolError as error:  # a client has taken its name
            self.error(error.code, error.message)

    def _item_done(self, response: Response, index: int, item: dict[str, Any]) -> None:
        response.output[index] = item
        self.emit("response.output_item.done", response_id=response.id, output_index=index, item=item)
        if response.conversation is not None and item["id"] in self.items.by_id:
            self.items.by_id[item["id"]] = item
            self._tell_item("done", item)


def _plain(session: str) -> str:
    return session.replace("-", "_")
