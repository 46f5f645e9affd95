"""A TCP proxy between one process and Redis, which can be cut, frozen or slowed."""

from __future__ import annotations

import asyncio
import contextlib


class Proxy:
    """Passes bytes on, as long as it is whole. Belongs to one event loop."""

    def __init__(self, host: str, port: int) -> None:
        """``host`` and ``port`` are where it leads to."""
        self.delay = 0.0
        """Seconds that each piece is held back, in each direction."""
        self.port = 0
        self._to = (host, port)
        self._cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, and every one that is tried, until ``heal``."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass nothing on, and break nothing, until ``heal``."""
        self._flows.clear()

    def heal(self) -> None:
        """Be whole and quick again."""
        self._cut, self.delay = False, 0.0
        self._flows.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._cut:
            writer.transport.abort()
            return
        far: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                far_reader, far = await asyncio.open_connection(*self._to)
                self._writers.add(far)
                ways = [
                    asyncio.create_task(self._pass(reader, far)),
                    asyncio.create_task(self._pass(far_reader, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for each in (writer, far):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
