"""A model server for tests that plays scripted answers.

It speaks HTTP/1.1 over asyncio, so that a test decides every byte, and sees a client go away as a real server does: by
the end of file on its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client closed the connection before the answer was complete."""


class Gone(Exception):
    """The client has closed the connection."""


class HttpServer:
    """Answers requests through ``answer``; a connection serves one after the other."""

    def __init__(self):
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

    async def asked(self, number=1, path="/v1/chat/completions") -> Request:
        """The ``number``-th request for ``path``, waited for."""
        async with asyncio.timeout(10):
            while len(found := [request for request in self.requests if request.path == path]) < number:
                await asyncio.sleep(0.001)
        return found[number - 1]

    async def answer(self, request: Request, wire: Wire) -> None:
        raise NotImplementedError

    async def _connect(self, reader, writer):
        task = asyncio.current_task()
        self._connections.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, json.loads(raw) if raw else {})
                self.requests.append(request)
                wire = Wire(reader, writer)
                try:
                    await self.answer(request, wire)
                except (Gone, ConnectionError):
                    request.gone.set()
                    break
                if wire.dropped:
                    break
        self._connections.discard(task)
        writer.transport.abort() if not writer.is_closing() else None


class Wire:
    """One answer on its way."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.dropped = False

    @property
    def closed(self) -> bool:
        """Whether the client has gone: what a peek at the socket shows."""
        return self._reader.at_eof() or self._reader.exception() is not None or self._writer.is_closing()

    async def until_closed(self):
        """Return when the client has gone."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read(1)

    async def json(self, status, value, *, content_type="application/json"):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} Status\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.raw(head.encode() + body)

    async def begin(self):
        """The headers of a stream."""
        await self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    async def send(self, data: bytes):
        """A piece of a stream, in a TCP segment of its own as far as that can be had."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))
        await asyncio.sleep(0)

    async def end(self):
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes):
        if self.closed:
            raise Gone
        self._writer.write(data)
        await self._writer.drain()

    def drop(self):
        """Close the connection in mid-answer."""
        self.dropped = True
        self._writer.transport.abort()


def chunk(delta=None, finish=None, **more) -> bytes:
    """One server-sent event of ``/chat/completions``; a text ``delta`` is its content, None means no choices."""
    delta = {"content": delta} if isinstance(delta, str) else delta
    choices = [] if delta is None and finish is None else [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


DONE = chunk(finish="stop") + b"data: [DONE]\n\n"


class Scripted(HttpServer):
    """An OpenAI-compatible server without slots. Each request takes the next of ``plays``, the last one for ever.

    A play is ``async (request, wire) -> None``.
    """

    def __init__(self, *plays):
        super().__init__()
        self.plays = list(plays)

    async def answer(self, request, wire):
        if request.path != "/v1/chat/completions":
            await wire.json(404, {"error": {"message": "not found"}})
            return
        play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
        await play(request, wire)


def says(*pieces: bytes):
    """A play: a stream of exactly these pieces."""

    async def play(request, wire):
        await wire.begin()
        for piece in pieces:
            await wire.send(piece)
        await wire.end()

    return play


def stalls(*pieces: bytes):
    """A play: these pieces, then nothing until the client goes (with no pieces: not even headers)."""

    async def play(request, wire):
        if pieces:
            await wire.begin()
        for piece in pieces:
            await wire.send(piece)
        await wire.until_closed()
        request.gone.set()
        raise Gone

    return play


def drops(*pieces: bytes):
    """A play: these pieces, then the connection breaks."""

    async def play(request, wire):
        await wire.begin()
        for piece in pieces:
            await wire.send(piece)
        await asyncio.sleep(0.02)
        wire.drop()

    return play


def refuses(status: int, body):
    """A play: an error."""

    async def play(request, wire):
        await wire.json(status, body)

    return play
