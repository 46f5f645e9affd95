"""A server for tests with OpenAI's two audio endpoints, which plays what a test tells it to.

It speaks HTTP/1.1 over asyncio, so that a test decides every byte, and notes when a client goes away as a real server
sees it: by the end of file on its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import io
import json
import wave
from dataclasses import dataclass, field

import numpy as np

HEAR = "/v1/audio/transcriptions"
SPEAK = "/v1/audio/speech"


@dataclass
class Request:
    """One request: ``fields`` are its JSON or its form without the file, ``pcm`` the samples of a WAV in its form."""

    path: str
    headers: dict[str, str]
    fields: dict[str, str]
    pcm: bytes
    wav: tuple[int, int, int] | None = None
    """(channels, bytes a sample, rate) of that WAV."""
    sent: int = 0
    """Bytes of the answer's body that were written."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client closed the connection before the answer was complete."""
    gone_at: float = 0.0
    """The loop's time of that."""


class Gone(Exception):
    """The client has closed the connection."""


class AudioStandIn:
    """Answers each request with the next of the plays for its endpoint, the last one for ever.

    A play is ``async (request, wire) -> None``.
    """

    def __init__(self, *, hear=(), speak=()):
        self.plays = {HEAR: list(hear), SPEAK: list(speak)}
        self.requests: list[Request] = []
        self.url = ""
        self._connections: set[asyncio.Task] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def of(self, path: str) -> list[Request]:
        """The requests for one endpoint so far."""
        return [request for request in self.requests if request.path == path]

    async def asked(self, path: str, number: int = 1) -> Request:
        """The ``number``-th request for an endpoint, waited for."""
        async with asyncio.timeout(20):
            while len(self.of(path)) < number:
                await asyncio.sleep(0.002)
        return self.of(path)[number - 1]

    async def _connect(self, reader, writer):
        self._connections.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._serve(reader, writer):
                    pass
        finally:
            self._connections.discard(asyncio.current_task())
            writer.transport.abort()

    async def _serve(self, reader, writer) -> bool:
        """Answer one request; whether another may follow on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = _read(path, headers, body)
        self.requests.append(request)
        wire = Wire(request, reader, writer)
        plays = self.plays.get(path) or [refuses(404, {"detail": f"no {path} here"})]
        play = plays.pop(0) if len(plays) > 1 else plays[0]
        playing = asyncio.create_task(play(request, wire))
        # A client sends nothing while it waits for an answer: what can be read is its going away.
        watching = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done() and playing.exception() is None:
                return not wire.dropped
            request.gone_at = asyncio.get_running_loop().time()
            request.gone.set()
            return False
        finally:
            playing.cancel()
            watching.cancel()
            await asyncio.gather(playing, watching, return_exceptions=True)


class Wire:
    """One answer on its way."""

    def __init__(self, request: Request, reader, writer):
        self._request, self._reader, self._writer = request, reader, writer
        self.dropped = False

    async def whole(self, status: int, body: bytes, content_type: str):
        """An answer of a known length."""
        head = f"HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        self._request.sent += len(body)
        await self._writer.drain()

    async def begin(self, content_type: str):
        """The head of a stream."""
        kind = f"content-type: {content_type}\r\n" if content_type else ""
        self._writer.write(f"HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n\r\n".encode())
        await self._writer.drain()

    async def send(self, data: bytes):
        """A piece of a stream, in a TCP segment of its own as far as that can be had."""
        if data:  # an empty one would be the end
            self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._writer.drain()
        self._request.sent += len(data)
        await asyncio.sleep(0)

    async def end(self):
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def drop(self):
        """Break the connection."""
        self.dropped = True
        self._writer.transport.abort()


def _read(path: str, headers: dict[str, str], body: bytes) -> Request:
    kind = headers.get("content-type", "")
    if kind.startswith("application/json"):
        return Request(path, headers, json.loads(body), b"")
    form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    request = Request(path, headers, {}, b"")
    for part in form.get_payload() if form.is_multipart() else ():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if name != "file":
            request.fields[name] = content.decode()
            continue
        with wave.open(io.BytesIO(content)) as file:
            request.wav = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            request.pcm = file.readframes(file.getnframes())
    return request


# -- plays ------------------------------------------------------------------------------------------------------


def understands(text: str):
    """A transcription, as such servers answer it."""

    async def play(request, wire):
        await wire.whole(200, json.dumps({"text": text}).encode(), "application/json")

    return play


def answers(body: bytes, content_type: str = "audio/pcm", status: int = 200):
    """An answer of a known length."""

    async def play(request, wire):
        await wire.whole(status, body, content_type)

    return play


def refuses(status: int, value=None):
    """An error with a JSON body."""
    return answers(json.dumps(value).encode(), "application/json", status)


def streams(*pieces: bytes, content_type: str = "audio/pcm", pace: float = 0.0):
    """These pieces, ``pace`` seconds before each, and the end."""

    async def play(request, wire):
        await wire.begin(content_type)
        for piece in pieces:
            await asyncio.sleep(pace)
            await wire.send(piece)
        await wire.end()

    return play


def stalls(*pieces: bytes, content_type: str = "audio/pcm"):
    """These pieces, then nothing for ever; without pieces not even a head."""

    async def play(request, wire):
        if pieces:
            await wire.begin(content_type)
        for piece in pieces:
            await wire.send(piece)
        await asyncio.Event().wait()

    return play


def drops(*pieces: bytes, content_type: str = "audio/pcm"):
    """These pieces, then the connection breaks; without pieces before the head."""

    async def play(request, wire):
        if pieces:
            await wire.begin(content_type)
        for piece in pieces:
            await wire.send(piece)
        await asyncio.sleep(0.02)  # an abort throws away what the socket has not sent yet
        wire.drop()

    return play


def tone(seconds: float, rate: int = 24_000) -> bytes:
    """440 Hz, 16-bit mono."""
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype("<i2").tobytes()


def cut(data: bytes, size: int) -> list[bytes]:
    """``data`` in pieces of ``size`` bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def wav(pcm: bytes, rate: int, *, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        writer.writeframes(pcm)
    return file.getvalue()
