"""What a caller hears: replies, a loudspeaker that remembers every sample, and the ear that keeps them in step.

Nothing here does I/O or has a clock: the caller's end of the protocol is ``Ear.take(event, now)``. Audio is mono,
16-bit, 24 kHz. Times are milliseconds since the call began.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gateway.client_audio import PER_MS, Int16, Spoken

Event = dict[str, Any]
Tell = Callable[[float, Event], None]


BROKE_OFF = "the connection broke"
"""Why a reply counts as ended of whose end nothing was told."""


@dataclass
class Hold:
    """One moment at which a reply was silenced."""

    at: float
    """When the loudspeaker fell silent (ms)."""
    played: float
    """How much of the reply had been played (ms of its audio)."""
    after_onset: float | None = None
    """Milliseconds from the onset of what the caller was saying to the silence; None if the caller said nothing."""
    resumed_from: float | None = None
    """The position (ms) from which it was taken up again; None if it was not."""


@dataclass
class Reply:
    """One response of the assistant, as it reached the caller's ear. Times in ms since the call began."""

    response_id: str
    item_id: str = ""
    status: str = "in_progress"
    """in_progress, then completed, cancelled, failed or incomplete."""
    reason: str = ""
    """Why it was cancelled or failed, in the server's word."""
    created: float = 0.0
    started: float | None = None
    """When its first sample was heard."""
    ended: float | None = None
    """When its last sample so far was heard."""
    done: float | None = None
    """When the server said that it was over."""
    received: int = 0
    """Samples that arrived."""
    stale_samples: int = 0
    """Samples that arrived although the server had ended or held it."""
    position: int = 0
    """Samples of it that have been played, counted from its beginning: what was repeated counts once."""
    held: bool = False
    holds: list[Hold] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cursor = 0
        self._pieces: list[Int16] = []
        self._texts: dict[str, str] = {}

    @property
    def transcript(self) -> str:
        """What the assistant said in it, as the server has it."""
        return " ".join(text.strip() for text in self._texts.values() if text.strip())

    def add_text(self, item: str, delta: str) -> None:
        """More words of one of its items."""
        self._texts[item] = self._texts.get(item, "") + delta

    def forget_text(self) -> None:
        """It is about to be told anew."""
        self._texts.clear()

    def set_text(self, item: str, text: str) -> None:
        """The whole of what one of its items says."""
        self._texts[item] = text

    @property
    def pcm(self) -> Int16:
        """What was heard of it, gaps left out."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    @property
    def heard_ms(self) -> float:
        """How much of it was heard."""
        return sum(len(piece) for piece in self._pieces) / PER_MS

    @property
    def closed(self) -> bool:
        """Whether no audio may arrive for it now."""
        return self.held or self.status == "cancelled"

    def arrive(self, samples: int) -> int:
        """The position of audio that arrives now."""
        offset = self._cursor
        self._cursor += samples
        self.received += samples
        return offset

    def rewind(self, position_ms: float) -> None:
        """The audio that arrives next belongs to ``position_ms`` of it."""
        self._cursor = round(position_ms * PER_MS)

    def hear(self, piece: Int16, offset: int, at: int) -> None:
        """A piece of it, from ``offset``, was played from sample ``at`` of the call on."""
        self._pieces.append(piece)
        self.position = offset + len(piece)
        if self.started is None:
            self.started = at / PER_MS
        self.ended = (at + len(piece)) / PER_MS


class Loudspeaker:
    """A buffer that real time empties, and a record of every sample that came out of it."""

    def __init__(self) -> None:
        self._buffer: deque[tuple[Reply, int, Int16]] = deque()
        self._at = 0
        self._heard: list[tuple[int, Int16]] = []

    def advance(self, now: float) -> None:
        """Play what is due by ``now`` ms."""
        until = int(now * PER_MS)
        while self._buffer and self._at < until:
            reply, offset, pcm = self._buffer.popleft()
            piece, rest = pcm[: until - self._at], pcm[until - self._at :]
            reply.hear(piece, offset, self._at)
            self._heard.append((self._at, piece))
            self._at += len(piece)
            if len(rest):
                self._buffer.appendleft((reply, offset + len(piece), rest))
        self._at = max(self._at, until)

    def write(self, reply: Reply, pcm: Int16, now: float) -> None:
        """Audio of a reply arrives; it is played as soon as what arrived before it is."""
        self.advance(now)
        self._buffer.append((reply, reply.arrive(len(pcm)), pcm))

    def drop(self, now: float, reply: Reply | None = None) -> None:
        """Be silent from ``now`` on: forget what waits, of one reply or of all."""
        self.advance(now)
        self._buffer = deque(waiting for waiting in self._buffer if reply is not None and waiting[0] is not reply)

    def holds(self, reply: Reply) -> bool:
        """Whether audio of a reply waits to be played."""
        return any(waiting[0] is reply for waiting in self._buffer)

    @property
    def empty_at(self) -> float:
        """When all that waits will have been played (ms)."""
        return (self._at + sum(len(pcm) for _, _, pcm in self._buffer)) / PER_MS

    def recording(self) -> Int16:
        """All that was played since the call began, silence where nothing was."""
        length = max((at + len(pcm) for at, pcm in self._heard), default=0)
        samples = np.zeros(length, np.int16)
        for at, pcm in self._heard:
            samples[at : at + len(pcm)] = pcm
        return samples


class Ear:
    """The caller's side of the protocol. ``extended`` follows docs/realtime-extensions.md, else what stock clients do.

    ``spoken``: what the caller has begun to say, filled in by the owner. ``tell``: called with (ms, event) for what
    happens at this end: ``client.heard``, ``client.played_out`` and ``client.silenced``.
    """

    def __init__(self, extended: bool, spoken: Sequence[Spoken], tell: Tell) -> None:
        self.loudspeaker = Loudspeaker()
        self.replies: list[Reply] = []
        self._extended = extended
        self._spoken = spoken
        self._tell = tell
        self._told: set[tuple[str, str]] = set()

    def take(self, event: Event, now: float) -> list[Event]:
        """An event of the server arrived; the events to answer it with. Raises KeyError or ValueError on a bad one."""
        self.advance(now)
        kind = event.get("type")
        if kind == "response.created":
            self._reply(event["response"]["id"], now).forget_text()
        elif kind == "bargein.session" and event.get("resumed"):
            self._returned(event.get("response_id"), now)
        elif kind == "conversation.item.added":
            self._recalled(event["item"])
        elif kind == "response.output_item.added" and event["item"]["type"] == "message":
            self._reply(event["response_id"], now).item_id = event["item"]["id"]
        elif kind == "response.output_audio.delta":
            self._audio(event, now)
        elif kind in ("response.output_audio_transcript.delta", "response.output_text.delta"):
            self._reply(event["response_id"], now).add_text(event["item_id"], event["delta"])
        elif kind == "response.output_audio_transcript.done":
            self._reply(event["response_id"], now).set_text(event["item_id"], event["transcript"])
        elif kind == "response.output_text.done":
            self._reply(event["response_id"], now).set_text(event["item_id"], event["text"])
        elif kind == "response.done":
            return self._done(event["response"], now)
        elif kind == "bargein.output.held":
            reply = self._silence(self._reply(event["response_id"], now), now)
            played = {"response_id": reply.response_id, "audio_end_ms": round(reply.holds[-1].played, 3)}
            return [{"type": "bargein.output.played", **played}]
        elif kind == "bargein.output.resumed":
            self._resume(self._reply(event["response_id"], now), event["audio_start_ms"])
        elif kind == "input_audio_buffer.speech_started" and not self._extended:
            return [self._truncation(self._silence(reply, now)) for reply in self.replies if self._sounds(reply)]
        return []

    def advance(self, now: float) -> None:
        """Let the loudspeaker play on until ``now``."""
        self.loudspeaker.advance(now)
        for reply in self.replies:
            if reply.started is not None:
                self._tell_once("client.heard", reply, reply.started, since_caller_ms=self._since_caller(reply.started))
            over = reply.status == "completed" and not reply.held and not self.loudspeaker.holds(reply)
            if over and reply.ended is not None:
                self._tell_once("client.played_out", reply, reply.ended, heard_ms=reply.heard_ms)

    def _reply(self, response_id: str, now: float) -> Reply:
        for reply in reversed(self.replies):
            if reply.response_id == response_id:
                return reply
        self.replies.append(Reply(response_id, created=now))
        return self.replies[-1]

    def _returned(self, response_id: str | None, now: float) -> None:
        """On a new connection ``response_id`` goes on; of any other its end was never told.

        One of which nothing had come is forgotten: if it is still to come it is announced anew.
        """
        for reply in [each for each in self.replies if each.done is None and each.response_id != response_id]:
            if reply.received or reply.transcript:
                reply.done, reply.status, reply.reason = now, "incomplete", BROKE_OFF
            else:
                self.replies.remove(reply)

    def _recalled(self, item: Event) -> None:
        """How a reply ended that ended while nobody could be told: what the conversation holds of it."""
        for reply in self.replies:
            if reply.reason == BROKE_OFF and reply.item_id == item.get("id") and item.get("content"):
                reply.set_text(reply.item_id, item["content"][0].get("transcript", ""))
                if item.get("status") == "completed":
                    reply.status, reply.reason = "completed", ""

    def _audio(self, event: Event, now: float) -> None:
        reply = self._reply(event["response_id"], now)
        pcm = np.frombuffer(base64.b64decode(event["delta"], validate=True), "<i2")
        reply.item_id = event.get("item_id", reply.item_id)
        if reply.closed:
            reply.received += len(pcm)
            reply.stale_samples += len(pcm)
        else:
            self.loudspeaker.write(reply, pcm, now)

    def _done(self, response: Event, now: float) -> list[Event]:
        reply = self._reply(response["id"], now)
        sounded = self._sounds(reply)
        details = response.get("status_details") or {}
        reply.done = now
        reply.status = response["status"]
        reply.reason = str(details.get("reason") or (details.get("error") or {}).get("message") or "")
        if reply.status == "cancelled" and sounded:
            return [self._truncation(self._silence(reply, now))]
        return []

    def _sounds(self, reply: Reply) -> bool:
        """Whether a reply is being said: begun and not over, or over and still in the buffer; and not silenced."""
        unfinished = reply.done is None and reply.received > 0
        return not reply.held and (unfinished or self.loudspeaker.holds(reply))

    def _silence(self, reply: Reply, now: float) -> Reply:
        """Stop playing at once: nothing that is buffered will be heard."""
        self.loudspeaker.drop(now)
        at = now if reply.ended is None else reply.ended
        hold = Hold(at, reply.position / PER_MS)
        onset = max((said.onset for said in self._spoken if said.onset is not None and said.onset <= now), default=None)
        if onset is not None and reply.started is not None and reply.started <= onset <= at:
            hold.after_onset = at - onset
        reply.held = True
        reply.holds.append(hold)
        fields = {"played_ms": hold.played, "onset_to_silence_ms": hold.after_onset}
        self._tell(at, {"type": "client.silenced", "response_id": reply.response_id, **fields})
        return reply

    def _resume(self, reply: Reply, position_ms: float) -> None:
        reply.held = False
        reply.rewind(position_ms)
        if reply.holds:
            reply.holds[-1].resumed_from = position_ms

    def _truncation(self, reply: Reply) -> Event:
        place = {"item_id": reply.item_id, "content_index": 0, "audio_end_ms": int(reply.holds[-1].played)}
        return {"type": "conversation.item.truncate", **place}

    def _since_caller(self, now: float) -> float | None:
        """How long (ms) before ``now`` the caller last sounded; None if never or still."""
        last = max((said.last_sound for said in self._spoken if said.last_sound is not None), default=None)
        return None if last is None or last > now else now - last

    def _tell_once(self, kind: str, reply: Reply, at: float, **fields: object) -> None:
        if (kind, reply.response_id) not in self._told:
            self._told.add((kind, reply.response_id))
            self._tell(at, {"type": kind, "response_id": reply.response_id, **fields})
