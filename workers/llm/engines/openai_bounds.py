"""How much of an answer is kept while its end is waited for: the ``openai`` package reads on till one is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from workers.servers import TooLong

LONGEST = 1 << 20
"""Bytes of one streamed event, or of an answer that is no stream."""
_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
"""What parts events."""


async def bound(response: httpx2.Response) -> None:
    """A client's hook: reading the answer raises TooLong once an event, or a refusal, has more than LONGEST bytes."""
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, whole=response.status_code != 200)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, *, whole: bool) -> None:
        """``whole``: the answer counts as one event."""
        self._stream = stream
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, tail = 0, b""
        async for piece in self._stream:
            seen = tail + piece
            ends = [] if self._whole else [at + len(end) for end in _ENDS if (at := seen.rfind(end)) >= 0]
            size = len(seen) - max(ends) if ends else size + len(piece)
            tail = seen[-3:]
            if size > LONGEST:
                raise TooLong(f"the model server sent an event of more than {LONGEST} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
