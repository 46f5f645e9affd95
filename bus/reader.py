"""Following streams: one blocked call per shard serves every stream that a process follows there.

A new stream is adopted by waking the blocked call with CLIENT UNBLOCK. Every follower resumes from an id of its own,
never from ``$``; a connection that broke is taken up again where it was. A follower that does not read is bounded:
its stream is left alone until it has caught up.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from bus.backoff import Backoff
from bus.connect import OUTAGE
from bus.events import Event
from bus.wire import BadEvent, belongs, decode

log = logging.getLogger(__name__)

BLOCK_MS = 5_000
BATCH = 200
PAUSE = 40e-6
"""Seconds between two reads for each stream that is read: a read costs this process and the server time for each of
them, so what comes is gathered where there are many. 250 streams, those of 50 calls, are read 125 times a second."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.008
_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
HIGH_WATER = 2_000
"""Entries a follower may leave unread before its stream is no longer read for it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry: its stream's key, its id, its event, and the fence of the lease that wrote it (0: none)."""

    key: str
    id: str
    event: Event
    fence: int = 0


def position(entry_id: str) -> tuple[int, int]:
    """A stream id as a pair that compares as Redis compares ids."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def is_entry_id(text: str) -> bool:
    """Whether a text is the whole id of a stream entry: ``1795669552550-0``."""
    return _ID.fullmatch(text) is not None


class Unique:
    """Recognises entries that a retried write stored twice, by writer and sequence number."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def is_new(self, fields: Mapping[bytes, bytes]) -> bool:
        writer = fields.get(b"by")
        if writer is None:
            return True
        try:
            seq = int(fields.get(b"seq", b"0"))
        except ValueError:
            return True  # it was not one of ours that wrote it
        if seq <= self._seen.get(writer, 0):
            return False
        self._seen[writer] = seq
        return True


def read_entry(key: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry | None:
    """The entry as an event. None when its type is not known here; with a log line, when it is malformed or belongs on
    another stream than ``key``."""
    try:
        event = decode(fields)
        fence = int(fields.get(b"fence", b"0"))
    except (BadEvent, ValueError) as error:
        log.warning("entry %s of %s left out: %s", entry_id.decode(), key, error)
        return None
    if event is None:
        return None
    if not belongs(event, key):
        log.warning("entry %s of %s left out: an event of type %s stands there", entry_id.decode(), key, event.type)
        return None
    return Entry(key, entry_id.decode(), event, fence)


class Subscription:
    """An endless iterator over one stream's entries after a given id. Close it when done."""

    def __init__(self, key: str, after: str, on_change: Callable[[Subscription], None]) -> None:
        self.key = key
        self._began = after
        self.position = after
        """Id of the last entry that was taken from the stream for this follower."""
        self.closed = False
        self._entries: deque[Entry] = deque()
        self._unique = Unique()
        self._ready = asyncio.Event()
        self._on_change = on_change

    @property
    def full(self) -> bool:
        return len(self._entries) >= HIGH_WATER

    def offer(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Take an entry from the reader; one at or before ``position``, or seen before, is left out."""
        name = entry_id.decode()
        if position(name) <= position(self.position):
            return
        self.position = name
        if not self._unique.is_new(fields):
            return
        entry = read_entry(self.key, entry_id, fields)
        if entry is not None:
            self._entries.append(entry)
            self._ready.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Entry:
        while not self._entries:
            if self.closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        was_full = self.full
        entry = self._entries.popleft()
        if was_full:
            self._on_change(self)
        return entry

    def rewind(self, last: str) -> None:
        """The stream ends at id ``last`` now. If more had been read, its ids say nothing: it is read from where this
        began, and what was here already is known by its writer and number."""
        if position(last) < position(self.position):
            self.position = min(self._began, last, key=position)

    def take(self) -> Entry | None:
        """The next entry if one is here already, without waiting."""
        return self._entries.popleft() if self._entries else None

    def close(self) -> None:
        """Stop following; an iteration that waits ends."""
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._on_change(self)


class Reader:
    """Follows the streams of one shard over one connection. Belongs to one event loop."""

    def __init__(self, make_client: Callable[[], Awaitable[Any]], wake: Callable[[int], Awaitable[None]]) -> None:
        """``make_client`` makes the connection that blocks (no socket timeout); ``wake`` wakes it, by its id."""
        self._make_client = make_client
        self._wake = wake
        self._was_lost = False
        self._client: Any = None
        self._client_id = 0
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._wanted: dict[str, str] = {}
        """Key -> the id after which it is read: that of its follower that is furthest behind."""
        self._stale = False
        self._closed = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waker: asyncio.Task[None] | None = None

    def follow(self, key: str, after: str = "0-0") -> Subscription:
        """Follow a stream from the entry after ``after``; the stream need not exist yet.

        Raises ValueError when ``after`` is no entry's id: a server would refuse to read any stream together with it.
        """
        if not is_entry_id(after):
            raise ValueError(f"{after[:40]!r} is not an entry's id; expected milliseconds-number")
        subscription = Subscription(key, after, self._on_change)
        self._subscriptions.setdefault(key, []).append(subscription)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="bus-reader")
        self._on_change(subscription)
        return subscription

    async def close(self) -> None:
        """End every subscription and the connection."""
        self._closed = True
        for subscription in list(itertools.chain.from_iterable(self._subscriptions.values())):
            subscription.close()
        tasks = [task for task in (self._task, self._waker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _on_change(self, subscription: Subscription) -> None:
        key = subscription.key
        if subscription.closed and subscription in (followers := self._subscriptions.get(key, [])):
            followers.remove(subscription)
            if not followers:
                del self._subscriptions[key]
        self._place(key)
        self._stale = True
        self._changed.set()
        if self._client_id and (self._waker is None or self._waker.done()):
            self._waker = asyncio.get_running_loop().create_task(self._unblock(), name="bus-unblock")

    async def _unblock(self) -> None:
        # The wake-up may come before the call has blocked, so it is repeated until the new set is being read.
        while self._stale and self._client_id and not self._closed:
            try:
                await self._wake(self._client_id)
            except (*OUTAGE, ResponseError):
                return
            if self._stale:
                await asyncio.sleep(0.002)

    async def _run(self) -> None:
        backoff = Backoff(0.05, 2.0)
        while not self._closed:
            self._stale = False
            self._changed.clear()
            if not self._wanted:
                await self._changed.wait()
                continue
            try:
                answer = await self._read()
                backoff.reset()
            except (*OUTAGE, ResponseError) as error:
                self._client_id, self._was_lost = 0, True
                if self._client is not None:
                    await self._client.aclose()
                    self._client = None
                if isinstance(error, ResponseError) and "LOADING" not in str(error):
                    log.error("a stream cannot be read: %s", error)
                await asyncio.sleep(backoff.next())
                continue
            for name, entries in answer:
                key = name.decode()
                for each in list(self._subscriptions.get(key, ())):
                    for entry_id, fields in entries:
                        each.offer(entry_id, fields)
                self._place(key)
            if (pause := min(LONGEST_PAUSE, len(self._wanted) * PAUSE)) >= SHORTEST_PAUSE:
                await asyncio.sleep(pause)

    def _place(self, key: str) -> None:
        """Find out anew from where a stream is to be read."""
        positions = [each.position for each in self._subscriptions.get(key, ()) if not each.full]
        if positions:
            self._wanted[key] = min(positions, key=position)
        else:
            self._wanted.pop(key, None)

    async def _read(self) -> Any:
        if self._client is None:
            self._client = await self._make_client()
            self._client_id = await self._client.client_id()
            if self._was_lost:
                await self._look_back(list(self._wanted))
                self._was_lost = False
                return ()
            if self._stale:
                return ()
        async with asyncio.timeout(BLOCK_MS / 1000 + 5):
            answer = await self._client.xread(self._wanted, count=BATCH, block=BLOCK_MS)
        return answer or ()

    async def _look_back(self, keys: list[str]) -> None:
        """A server that failed over may have lost entries that were read here: new ones may have lower ids."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.xrevrange(key, count=1)
            newest = await pipe.execute()
        for key, rows in zip(keys, newest, strict=True):
            for each in self._subscriptions.get(key, ()):
                each.rewind(rows[0][0].decode() if rows else "0-0")
            self._place(key)
