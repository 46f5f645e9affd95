"""Telling a voice server to stop: ``POST`` to TTS_CANCEL_URL, where a server has such an endpoint.

``{session}`` in the address is the call's id; the body is ``{"session_id": id, "turn": number}``. The speech requests
of that call carry the same id as ``X-Session-Id``. A key is sent only to where it is sent for speech: the same host and
port.
"""

from __future__ import annotations

import asyncio

import httpx2

from bus.cancel import CancelToken
from workers.engines import EngineError

LIMIT_S = 1.0
"""Seconds that an answer is waited for; the turn is acknowledged after that at the latest."""
SESSION = "X-Session-Id"


class CancelEndpoint:
    """Where a server is told that a session's turn is cancelled."""

    def __init__(self, address: str, client: httpx2.AsyncClient) -> None:
        """``client`` is the one that speaks, with its key. Raises EngineError for an address that cannot be one."""
        self._address = address
        self._client = client
        try:
            url = httpx2.URL(address.replace("{session}", "s0-0"))
            valid = url.scheme in ("http", "https") and bool(url.host) and not any(sign in address for sign in "@?#")
        except httpx2.InvalidURL:
            valid = False
        if not valid:
            secretive = any(sign in address for sign in "@?#")
            raise EngineError(
                f"TTS_CANCEL_URL={'(hidden)' if secretive else address[:80]}: expected http://host:port/path, perhaps "
                "with {session} in it, without user, password or query"
            )
        own = client.base_url
        self._is_own = (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    async def tell(self, cancel: CancelToken) -> str:
        """Tell it; what it answered, in a few words. Raises nothing but CancelledError."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        request = self._client.build_request(
            "POST",
            self._address.replace("{session}", cancel.session),
            json={"session_id": cancel.session, "turn": cancel.turn},
            headers={SESSION: cancel.session},
        )
        if not self._is_own:
            request.headers.pop("authorization", None)
        try:
            async with asyncio.timeout(LIMIT_S):
                answer = await self._client.send(request)
        except TimeoutError:
            return f"the server did not answer the cancel within {LIMIT_S:g} s"
        except httpx2.HTTPError as error:
            return f"the server could not be told: {type(error).__name__}"
        return f"the server answered the cancel with {answer.status_code} after {(loop.time() - began) * 1000:.0f} ms"
