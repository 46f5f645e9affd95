"""A caller with a stock client, as the ``openai`` package is one: the connection breaks, and the user's code connects
again with the session's id. What was said meanwhile is lost, and so is what the gateway that died had not written down.
"""

from __future__ import annotations

import asyncio

from gateway.client import Call
from gateway.client_ear import Event
from gateway.client_line import BROKEN, Unreachable
from tests.chaos.caller import Caller

RETRY = 0.25
"""Seconds between two tries to connect again."""
TRIES = 80
TOLD = 2.0
"""Seconds after which everything was told that a new connection begins with: nothing says where that ends."""


class StockCall(Call):
    """A call without the extension that is connected again. Nothing of the caller's is sent twice."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._items: list[Event] | None = None
        """The conversation's items, while they are told anew."""

    async def _come_back(self, ended: str) -> bool:
        self._online = False
        if self._leaving or self._socket.close_code not in BROKEN:
            return False
        for left in reversed(range(TRIES)):
            try:
                self._socket = await self._line.connect(self.session_id)
                break
            except Unreachable as error:
                if not left:
                    self._ended = f"{ended}, and cannot be reached again: {error}"
                    return False
                await asyncio.sleep(RETRY)
        self._items = []
        asyncio.get_running_loop().call_later(TOLD, self._know, None)
        self._kept.sent = self._kept.end
        self._online = True
        return True

    async def _note(self, event: Event) -> None:
        if event["type"] == "conversation.item.added" and self._items is not None:
            self._items.append(event["item"])
        elif event["type"] == "response.created":
            self._know(event["response"]["id"])

    def _know(self, goes_on: str | None) -> None:
        """The conversation was told, and which response goes on: the others have ended as their items say."""
        items, self._items = self._items, None
        if items is None:
            return
        self._ear._returned(goes_on, self.clock.now())
        for item in items:
            self._ear._recalled(item)
        self._wake()


class StockCaller(Caller):
    """Waits less for a reply: what it said may have been lost."""

    patience = 8.0

    def dial(self) -> Call:
        return StockCall(self.url)
