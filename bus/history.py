"""The conversation as heard: messages in order, amended but never rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from bus.events import Amended, Event, Said
from bus.keys import session_key
from bus.streams import Bus


def conversation(events: Iterable[Event]) -> list[Said]:
    """The messages that stand after all amendments, in order; one amended to nothing is left out, and may come anew."""
    messages: dict[str, Said] = {}
    order: list[str] = []
    removed: set[str] = set()
    for event in events:
        if isinstance(event, Said) and (event.item not in messages or event.item in removed):
            if event.item in messages:
                order.remove(event.item)
                removed.discard(event.item)
            messages[event.item] = event
            front = 0 if event.after == "root" else len(order)
            order.insert(order.index(event.after) + 1 if event.after in order else front, event.item)
        elif isinstance(event, Amended) and event.item in messages:
            shorter = event.text != messages[event.item].text
            messages[event.item] = replace(messages[event.item], text=event.text, complete=not shorter)
            (removed.discard if event.text else removed.add)(event.item)
    standing = [messages[item] for item in order if item not in removed]
    return [message for message in standing if message.text or message.role in ("tool", "tool_call")]


async def read(bus: Bus, session: str, until: str = "+") -> list[Said]:
    """A session's conversation up to and including history entry ``until``."""
    entries = await bus.replay(session_key(session, "history"), until=until)
    return conversation(entry.event for entry in entries)


class Posts(Protocol):
    """What appends to a stream without waiting, such as a Bus; the answer is the entry's id."""

    def post(self, key: str, event: Event) -> asyncio.Future[bytes]: ...


class HistoryWriter:
    """The gateway's side: it alone writes a session's history. Writes keep their order and are not waited for."""

    def __init__(self, bus: Posts, session: str) -> None:
        self._bus = bus
        self._key = session_key(session, "history")
        self._last: asyncio.Future[bytes] | None = None

    def say(self, message: Said) -> None:
        """Add a message."""
        self._last = self._bus.post(self._key, message)

    def amend(self, item: str, text: str) -> None:
        """A message's text became known better; empty text removes it."""
        self._last = self._bus.post(self._key, Amended(item, text))

    async def pin(self) -> str:
        """The id of the newest entry, once it stands: what an offer is made from."""
        return (await self._last).decode() if self._last is not None else "0-0"
