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
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Response

from bus.keys import is_session
from gateway.client_audio import FRAME_MS, Clock, Int16, Microphone, Spoken, load
from gateway.client_ear import Ear, Event, Reply, Tell

DEFAULT_URL = "ws://127.0.0.1:8080/v1/realtime?model=bargein&extensions=bargein"

CLOSE_TIMEOUT = 2.0
"""Seconds a closing handshake may take."""


class CallError(Exception):
    """What went wrong with a call; one of those below."""


class Unreachable(CallError):
    """Nobody took the call: refused, not ready, no answer in time, not a Realtime server."""


class HungUp(CallError):
    """The server ended the call."""


class NoReply(CallError):
    """What was waited for did not come in time."""


class Call:
    """One call. ``async with`` connects it and hangs up.

    ``url``: a ws:// or wss:// address. ``session``: sent as ``session.update`` at the beginning. ``listener``: called
    with (ms, event) for every event received and for what happens at this end, whose types begin with ``client.``.
    ``speed``: how much faster than real time the call runs; above 1 only against a scripted server.
    All times are milliseconds since the call began. Raises ValueError for another kind of address, and Unreachable
    on entering. ``key``: an API key for a gateway that asks for one.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        session: Event | None = None,
        listener: Tell | None = None,
        speed: float = 1.0,
        connect_timeout: float = 10.0,
        key: str = "",
    ) -> None:
        if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).hostname:
            raise ValueError(f"{url}: not a WebSocket address; expected ws://host:port/v1/realtime")
        self.url = url
        self.events: list[tuple[float, Event]] = []
        """Everything received, with the time of its arrival."""
        self.spoken: list[Spoken] = []
        """What the caller has begun to say."""
        extended = "bargein" in parse_qs(urlsplit(url).query).get("extensions", [])
        self.clock = Clock(speed)
        self._ear = Ear(extended, self.spoken, self._tell)
        self._session = session
        self._listener = listener
        self._connect_timeout = connect_timeout
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._microphone = Microphone()
        self._returned = 0
        self._changed = asyncio.Event()
        self._ended = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Call:
        self._socket = await self._connect()
        self.clock = Clock(self.clock.speed)
        self._tasks = [asyncio.create_task(self._receive())]
        try:
            await self.wait_for("session.created", timeout=self._connect_timeout * self.clock.speed)
            if self._session is not None:
                await self.send({"type": "session.update", "session": {"type": "realtime", **self._session}})
        except CallError as error:
            await self._hang_up()
            errors = [event for _, event in self.events if event.get("type") == "error"]
            raise Unreachable(f"{self.url}: {_message(errors[-1]) if errors else error}") from None
        except BaseException:
            await self._hang_up()
            raise
        self._tasks.append(asyncio.create_task(self._stream()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hang_up()

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

    async def _connect(self) -> ClientConnection:
        try:
            host = urlsplit(self.url).hostname or ""
            local = host == "localhost" or (host.replace(".", "").isdigit() and ip_address(host).is_loopback)
            return await connect(
                self.url,
                additional_headers=self._headers,
                compression=None,
                max_size=2**24,
                open_timeout=self._connect_timeout,
                close_timeout=CLOSE_TIMEOUT,
                proxy=None if local else True,
            )
        except InvalidStatus as error:
            raise Unreachable(f"{self.url}: {_refusal(error.response)}") from None
        except TimeoutError:
            raise Unreachable(f"{self.url}: no answer within {self._connect_timeout:g} s") from None
        except ConnectionRefusedError:
            raise Unreachable(f"{self.url}: connection refused; is it running? make run starts it") from None
        except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:
            raise Unreachable(f"{self.url}: {getattr(error, 'strerror', None) or error}") from None

    async def _receive(self) -> None:
        """Take in what the server sends until the connection ends, and wake whoever waits for it."""
        try:
            async for message in self._socket:
                now = self.clock.now()
                event = json.loads(message)
                if not isinstance(event, dict):
                    raise TypeError("a message that is not a JSON object")
                self.events.append((now, event))
                self._tell(now, event)
                for answer in self._ear.take(event, now):
                    await self._socket.send(json.dumps(answer))
                self._wake()
        except ConnectionClosed:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._ended = f"the server sent what the protocol does not have: {error!r}"
            await self._socket.close()
        finally:
            reason = f", {self._socket.close_reason}" if self._socket.close_reason else ""
            self._ended = self._ended or f"the server ended the call (code {self._socket.close_code}{reason})"
            self._wake()

    async def _stream(self) -> None:
        """Send a frame of the microphone every FRAME_MS; late ones catch up."""
        due = self.clock.now()
        while not self._ended:
            due += FRAME_MS
            await self.clock.sleep_until(due)
            frame, began = self._microphone.frame(due)
            audio = base64.b64encode(frame).decode("ascii")
            try:
                await self._socket.send('{"type": "input_audio_buffer.append", "audio": "' + audio + '"}')
            except ConnectionClosed:
                return
            for spoken in began:
                self.spoken.append(spoken)
                said = {"name": spoken.name, "onset_ms": spoken.onset, "seconds": spoken.seconds}
                self._tell(spoken.started or due, {"type": "client.speaks", **said})
            self._ear.advance(self.clock.now())
            self._wake()

    async def _hang_up(self) -> None:
        for task in self._tasks[1:]:
            task.cancel()
        self._ear.advance(self.clock.now())
        await self._socket.close()
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


def _refusal(response: Response) -> str:
    """What the server answered instead of taking the call: its status, and its message if it gave one."""
    said = (response.body or b"").decode("utf-8", "replace").strip()
    try:
        said = _message(json.loads(said))
    except ValueError:
        pass
    return f"the server answers {response.status_code}{': ' if said else ''}{said[:300]}"


def _message(body: object) -> str:
    """The message in an error event or an error's body, which have the same shape."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", error) if isinstance(error, dict) else body)


if __name__ == "__main__":
    from gateway.client_cli import main

    sys.exit(main())
