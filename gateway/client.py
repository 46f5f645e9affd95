"""A caller for scripts, terminals and tests: speaks audio into the Realtime WebSocket and hears the replies.

    import asyncio
    from gateway.client import Call

    async def main():
        async with Call() as call:
            await call.say("question.wav")
            reply = await call.reply(timeout=20)
            print(reply.status, reply.transcript, f"{reply.heard_ms:.0f} ms heard")

    asyncio.run(main())

``python -m gateway.client question.wav --out reply.wav`` does that from a terminal.

The microphone stays open, silent while nothing is said. Replies go into a virtual loudspeaker that plays 24 kHz in
real time, so that what was heard is known to the sample. With ``extensions=bargein`` in the URL the call obeys
docs/realtime-extensions.md; without, it does what stock clients do: on ``speech_started`` it drops what it has
buffered and tells the server how much was played.

A bargein gateway that dies, or a network that breaks, does not end a call with the extension: it comes back to its
session by itself, at whatever gateway answers, hears the rest of what was being said, and sends what it had said
meanwhile and what the gateway had not acknowledged.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bus.keys import is_session
from gateway.client_audio import FRAME_MS, PER_MS, Clock, Int16, Microphone, Spoken, load
from gateway.client_ear import Ear, Event, Reply, Tell
from gateway.client_kept import Kept
from gateway.client_line import BROKEN, CallError, HungUp, Line, NoReply, Unreachable, message

DEFAULT_URL = "ws://127.0.0.1:8080/v1/realtime?model=bargein&extensions=bargein"


__all__ = ["Call", "CallError", "HungUp", "NoReply", "Unreachable"]

UNDERSTOOD = "conversation.item.input_audio_transcription.completed"
LOST_FOR = 7.0
"""Seconds for which a session outlives its gateway at least, besides those that the gateway says: its lease."""
AT_ONCE = 500
"""Milliseconds of the caller's audio in one message, where some has gathered."""
BAD_EVENT = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What taking in an event raises that is none of the protocol's."""


class Call:
    """One call. ``async with`` connects it and hangs up.

    ``url``: a ws:// or wss:// address, or several of gateways that share their Redis: the first one that takes the call
    has it, and when that dies the next. ``session``: sent as ``session.update`` at the beginning. ``listener``: called
    with (ms, event) for every event received and for what happens at this end, whose types begin with ``client.``.
    ``speed``: how much faster than real time the call runs; above 1 only against a scripted server.
    All times are milliseconds since the call began. Raises ValueError for another kind of address, and Unreachable
    on entering. ``key``: an API key for a gateway that asks for one. ``returns``: come back when the connection breaks.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        session: Event | None = None,
        listener: Tell | None = None,
        speed: float = 1.0,
        connect_timeout: float = 10.0,
        key: str = "",
        returns: bool = True,
    ) -> None:
        urls = [url] if isinstance(url, str) else list(url)
        for each in urls or [""]:
            if urlsplit(each).scheme not in ("ws", "wss") or not urlsplit(each).hostname:
                raise ValueError(f"{each}: not a WebSocket address; expected ws://host:port/v1/realtime")
        self.events: list[tuple[float, Event]] = []
        """Everything received, with the time of its arrival."""
        self.spoken: list[Spoken] = []
        """What the caller has begun to say."""
        extended = "bargein" in parse_qs(urlsplit(urls[0]).query).get("extensions", [])
        self.clock = Clock(speed)
        self._ear = Ear(extended, self.spoken, self._tell)
        self._session = session
        self._listener = listener
        self._connect_timeout = connect_timeout
        self._line = Line(urls, key, connect_timeout)
        self._returns = returns and extended
        self._microphone = Microphone()
        self._kept = Kept()
        self._online = False
        """Whether what is said can be sent."""
        self._leaving = False
        self._may_be_away: float | None = None
        """Seconds for which the session waits, once a gateway has said so."""
        self._due: float | None = None
        """Until when (ms) to try to come back, once the connection has broken."""
        self._returned = 0
        self._texts: dict[str, str] = {}
        """What was understood of each utterance, by its item."""
        self._changed = asyncio.Event()
        self._ended = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Call:
        self._socket = await self._line.connect()
        self.clock = Clock(self.clock.speed)
        self._tasks = [asyncio.create_task(self._receive())]
        try:
            await self.wait_for("session.created", timeout=self._connect_timeout * self.clock.speed)
            if self._session is not None:
                await self.send({"type": "session.update", "session": {"type": "realtime", **self._session}})
        except CallError as error:
            await self._hang_up()
            errors = [event for _, event in self.events if event.get("type") == "error"]
            raise Unreachable(f"{self.url}: {message(errors[-1]) if errors else error}") from None
        except BaseException:
            await self._hang_up()
            raise
        self._online = True
        self._tasks.append(asyncio.create_task(self._stream()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hang_up()

    @property
    def url(self) -> str:
        """Where the call is made."""
        return self._line.url

    @property
    def session_id(self) -> str:
        """What the server calls this call in ``POST /cancel/{session_id}``, known on entering; "" if not bargein's."""
        created = next(event for _, event in self.events if event.get("type") == "session.created")
        name = str((created.get("session") or {}).get("id", "")).removeprefix("sess_")
        return name if is_session(name) else ""

    @property
    def replies(self) -> list[Reply]:
        """The server's responses in the order of their creation."""
        return self._ear.replies

    def recording(self) -> Int16:
        """All that was heard since the call began, 24 kHz, silence where nothing was."""
        return self._ear.loudspeaker.recording()

    @property
    def stale_samples(self) -> int:
        """Samples that arrived for a response that had been cancelled or was held. Always 0 with a sound server."""
        return sum(reply.stale_samples for reply in self.replies)

    def play(self, pcm: Int16, name: str = "") -> Spoken:
        """Say ``pcm`` (24 kHz mono) after what is being said; returns at once, with its times to come."""
        spoken = Spoken(pcm, name)
        if len(pcm):
            self._microphone.say(spoken)
        else:
            spoken.ended.set()
        return spoken

    async def say(self, audio: str | Path | Int16) -> Spoken:
        """Say a sound file, or 24 kHz mono samples; returns once it was said. Raises AudioError and HungUp."""
        spoken = self.play(audio, "audio") if isinstance(audio, np.ndarray) else self.play(load(audio), str(audio))
        await self._until(spoken.ended.is_set, math.inf, "")
        return spoken

    async def reply(self, timeout: float = 30.0) -> Reply:
        """The next response, once it is over and its audio was played out. ``timeout`` in seconds of the call.

        Raises NoReply and HungUp.
        """
        number = self._returned
        due = self.clock.now() + timeout * 1000
        what = f"response {number + 1} did not end"
        await self._until(lambda: len(self.replies) > number and self.replies[number].done is not None, timeout, what)
        reply, loudspeaker = self.replies[number], self._ear.loudspeaker
        while loudspeaker.holds(reply):
            if loudspeaker.empty_at > due:
                raise NoReply(f"response {number + 1} was not played out within {timeout:g} s")
            await self.clock.sleep_until(loudspeaker.empty_at)
            self._ear.advance(self.clock.now())
        self._returned += 1
        return reply

    async def reply_started(self, timeout: float = 30.0) -> Reply:
        """The response that ``reply`` returns next, as soon as it is heard. Raises NoReply and HungUp."""
        number = self._returned
        what = f"nothing of response {number + 1} was heard"
        await self._until(lambda: len(self.replies) > number and self.replies[number].received > 0, timeout, what)
        return self.replies[number]

    async def wait_for(self, kind: str, timeout: float = 30.0, after: int = 0) -> Event:
        """The first event of a type at or after index ``after`` of ``events``. Raises NoReply and HungUp."""

        def found() -> list[Event]:
            return [event for _, event in self.events[after:] if event.get("type") == kind]

        await self._until(found, timeout, f"no {kind} came")
        return found()[0]

    async def wait_for_news(self, timeout: float = 30.0) -> None:
        """Return when anything has come. Raises NoReply and HungUp."""
        known = len(self.events)
        await self._until(lambda: len(self.events) > known, timeout, "nothing came")

    async def send(self, event: Event) -> None:
        """Send any client event. Raises HungUp."""
        try:
            await self._socket.send(json.dumps(event))
        except ConnectionClosed:
            raise HungUp(self._ended or "the server ended the call") from None

    async def _receive(self) -> None:
        """Take in what the server sends until the connection has ended for good, and wake whoever waits for it."""
        while True:
            ended = await self._hear(self._socket)
            if not await self._come_back(ended):
                break
        self._ended = self._ended or ended or "the server ended the call"
        self._wake()

    async def _hear(self, socket: ClientConnection) -> str:
        """Take in what comes on one connection, to its end; what to say of that."""
        try:
            async for text in socket:
                now = self.clock.now()
                event = json.loads(text)
                if not isinstance(event, dict):
                    raise TypeError("a message that is not a JSON object")
                if self._told_before(event):
                    continue
                self.events.append((now, event))
                self._tell(now, event)
                for answer in self._ear.take(event, now):
                    await socket.send(json.dumps(answer))
                await self._note(event)
                self._wake()
        except ConnectionClosed:
            pass
        except BAD_EVENT as error:
            await socket.close()
            return f"the server sent what the protocol does not have: {error!r}"
        reason = f", {socket.close_reason}" if socket.close_reason else ""
        return f"the server ended the call (code {socket.close_code}{reason})"

    def _told_before(self, event: Event) -> bool:
        """Whether it says once more what was said of an utterance: a gateway that dies may have told what the next one
        tells again."""
        if event.get("type") != UNDERSTOOD:
            return False
        item, text = event["item_id"], event["transcript"]
        known: bool = self._texts.get(item) == text
        self._texts[item] = text
        return known

    async def _note(self, event: Event) -> None:
        kind = event.get("type")
        if kind == "bargein.input.acknowledged":
            self._kept.acknowledge(event["audio_end_ms"])
        elif kind == "bargein.session":
            self._may_be_away = event.get("resume_s") if self._returns else None
            if event.get("resumed"):
                start = self._kept.rewind(event["audio_end_ms"])
                await self._socket.send(json.dumps({"type": "bargein.input.resumed", "audio_start_ms": start}))
                self._tell(self.clock.now(), {"type": "client.returned", "audio_start_ms": start})
                self._online, self._due = True, None

    async def _come_back(self, ended: str) -> bool:
        """The connection has ended: whether the session is gone on with on another one."""
        self._online = False
        if self._leaving or self._may_be_away is None or self._socket.close_code not in BROKEN:
            return False
        now = self.clock.now()
        if self._due is None:
            self._tell(now, {"type": "client.lost", "reason": ended})
            self._due = now + (self._may_be_away + LOST_FOR) * 1000
        try:
            self._socket = await self._line.reconnect(self.session_id, self.clock.seconds(self._due - now))
        except Unreachable as error:
            self._ended = f"{ended}, and cannot be reached again: {error}"
            return False
        return True

    async def _stream(self) -> None:
        """Take a frame of the microphone every FRAME_MS, late ones too, and send what was not sent."""
        due = self.clock.now()
        while not self._ended:
            due += FRAME_MS
            await self.clock.sleep_until(due)
            frame, began = self._microphone.frame(due)
            self._kept.add(frame)
            try:
                while self._online and (pcm := self._kept.take(AT_ONCE * PER_MS)):
                    audio = base64.b64encode(pcm).decode("ascii")
                    await self._socket.send('{"type": "input_audio_buffer.append", "audio": "' + audio + '"}')
            except ConnectionClosed:
                self._online = False
            for spoken in began:
                self.spoken.append(spoken)
                said = {"name": spoken.name, "onset_ms": spoken.onset, "seconds": spoken.seconds}
                self._tell(spoken.started or due, {"type": "client.speaks", **said})
            self._ear.advance(self.clock.now())
            self._wake()

    async def _hang_up(self) -> None:
        self._leaving = True
        for task in self._tasks[1:]:
            task.cancel()
        self._ear.advance(self.clock.now())
        await self._socket.close()
        if not self._online:
            self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Return once ``condition()`` holds. Raises NoReply after ``timeout`` s of the call, HungUp when it ends."""
        due = self.clock.now() + timeout * 1000
        while not condition():
            if self._ended:
                raise HungUp(self._ended)
            left = self.clock.seconds(due - self.clock.now())
            # Not asyncio.wait_for: in Python 3.11 a cancel that comes with the event is lost in it.
            try:
                async with asyncio.timeout(None if math.isinf(left) else max(left, 0.0)):
                    await self._changed.wait()
            except TimeoutError:
                raise NoReply(f"{what} within {timeout:g} s") from None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _tell(self, at: float, event: Event) -> None:
        if self._listener is not None:
            self._listener(at, event)


if __name__ == "__main__":
    from gateway.client_cli import main

    sys.exit(main())
