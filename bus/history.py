"""The conversation as heard: messages in order, amended but never rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from bus.events import Amended, Event, Said
from bus.keys import session_key
from bus.reader import Entry, position
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
        self._written: list[tuple[asyncio.Future[bytes], Event]] = []

    def say(self, message: Said) -> None:
        """Add a message."""
        self._written.append((self._bus.post(self._key, message), message))

    def amend(self, item: str, text: str) -> None:
        """A message's text became known better; empty text removes it."""
        amended = Amended(item, text)
        self._written.append((self._bus.post(self._key, amended), amended))

    async def pin(self) -> str:
        """The id of the newest entry, once it stands: what an offer is made from."""
        return (await self._written[-1][0]).decode() if self._written else "0-0"

    def take_up(self, entries: Iterable[Entry]) -> None:
        """Go on with a history that somebody else has written; ``entries`` are all of it."""
        for entry in entries:
            stands = asyncio.get_running_loop().create_future()
            stands.set_result(entry.id.encode())
            self._written.append((stands, entry.event))

    async def again(self, bus: Bus) -> None:
        """Write again what a server that was away has forgotten, under the ids it had."""
        last = position(await bus.last_id(self._key))
        for entry, event in self._written:
            if entry.done() and not entry.cancelled() and entry.exception() is None:
                entry_id = entry.result().decode()
                if position(entry_id) > last:
                    await bus.write_again(self._key, entry_id, event)
