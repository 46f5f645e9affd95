"""A caller's connection to the gateway: how it is made, and how long it is tried again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Response

from bus.backoff import Backoff

CLOSE_TIMEOUT = 2.0
"""Seconds a closing handshake may take."""
SESSION_HEADER = "X-Bargein-Session"
FIRST_WAIT, LONGEST_WAIT = 0.1, 1.0
"""Seconds between two rounds of tries to get back, the first and the longest; each is drawn from the upper half of its
range. A gateway that is gone refuses within the millisecond, and a session waits but a few seconds."""
BROKEN = frozenset((None, 1001, 1005, 1006, 1011, 1012, 1013, 1014))
"""Close codes after which a session may be there still: its gateway died, is being replaced, or the network broke."""


class CallError(Exception):
    """What went wrong with a call; one of those below."""


class Unreachable(CallError):
    """Nobody took the call: refused, not ready, no answer in time, not a Realtime server."""


class HungUp(CallError):
    """The server ended the call."""


class NoReply(CallError):
    """What was waited for did not come in time."""


class Line:
    """Where a call is made, and with what key. ``timeout``: seconds that a connection may take to be made."""

    def __init__(self, urls: Sequence[str], key: str, timeout: float) -> None:
        """``urls``: gateways that share their sessions, the first one tried first."""
        self._urls = list(urls) or [""]
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout

    @property
    def url(self) -> str:
        """Where the call is, or was tried last."""
        return self._urls[0]

    async def connect(self, session: str = "") -> ClientConnection:
        """Connect to the first gateway that takes the call, to come back to ``session`` if it is given.

        Raises the last one's Unreachable.
        """
        for _ in self._urls[1:]:
            try:
                return await self._connect(self.url, session)
            except Unreachable:
                self._urls.append(self._urls.pop(0))
        return await self._connect(self.url, session)

    async def _connect(self, url: str, session: str) -> ClientConnection:
        try:
            host = urlsplit(url).hostname or ""
            local = host == "localhost" or (host.replace(".", "").isdigit() and ip_address(host).is_loopback)
            return await connect(
                url,
                additional_headers=self._headers | ({SESSION_HEADER: session} if session else {}),
                compression=None,
                max_size=2**24,
                open_timeout=self._timeout,
                close_timeout=CLOSE_TIMEOUT,
                proxy=None if local else True,
            )
        except InvalidStatus as error:
            raise Unreachable(f"{url}: {_refusal(error.response)}") from None
        except TimeoutError:
            raise Unreachable(f"{url}: no answer within {self._timeout:g} s") from None
        except ConnectionRefusedError:
            raise Unreachable(f"{url}: connection refused; is it running? make run starts it") from None
        except (OSError, InvalidHandshake, InvalidURI, EOFError, LookupError, ValueError) as error:
            raise Unreachable(f"{url}: {getattr(error, 'strerror', None) or error}") from None

    async def reconnect(self, session: str, seconds: float) -> ClientConnection:
        """Connect again to ``session``, trying for ``seconds``, with waits that grow. Raises the last Unreachable."""
        clock = asyncio.get_running_loop().time
        due, backoff = clock() + seconds, Backoff(FIRST_WAIT, LONGEST_WAIT)
        while True:
            await asyncio.sleep(backoff.next())
            try:
                return await self.connect(session)
            except Unreachable:
                if clock() > due:
                    raise


def message(body: object) -> str:
    """The message in an error event or an error's body, which have the same shape."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", error) if isinstance(error, dict) else body)


def _refusal(response: Response) -> str:
    """What the server answered instead of taking the call: its status, and its message if it gave one."""
    said = (response.body or b"").decode("utf-8", "replace").strip()
    try:
        said = message(json.loads(said))
    except ValueError:
        pass
    return f"the server answers {response.status_code}{': ' if said else ''}{said[:300]}"
