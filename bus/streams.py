"""The Bus: publish, follow, replay, on Redis Streams.

One Bus per process. It holds few connections whatever the number of sessions: one for sends, one for control (which
therefore never queues behind audio), one blocked read per shard, one subscription to the cancel channel.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from bus import scripts
from bus.backoff import Backoff
from bus.events import Event
from bus.keys import KEPT_KEYS, session_key
from bus.outbox import OUTAGE, Outbox
from bus.reader import Entry, Reader, Subscription, Unique, read_entry
from bus.wire import encode

Client = Any
"""A ``redis.asyncio.Redis`` whose answers are bytes. redis-py types them as unions of every possible setting."""

MakeClient = Callable[[float | None], Client]
"""Makes a client; the argument is its socket timeout in seconds (None: none)."""

COMMAND_TIMEOUT = 5.0
SCRIPTS = (
    scripts.APPEND_GUARDED, scripts.RAISE, scripts.TAKE, scripts.RENEW, scripts.COMPLETE, scripts.WITHDRAW,
    scripts.HAND_BACK, scripts.HOLD_LEASE, scripts.SEIZE_LEASE, scripts.RELEASE_LEASE,
    scripts.TAKE_PLACE, scripts.RENEW_PLACES, scripts.COUNT_PLACES,
)  # fmt: skip


class Refused(Exception):
    """A guarded write was not made."""


class Fenced(Refused):
    """A higher fence was given for the same work: somebody else has taken it over."""


class TurnCancelled(Refused):
    """The turn is at or below the cancel watermark."""


def connector(url: str) -> MakeClient:
    """Makes clients for a server at ``url`` (redis://, rediss:// or unix://), which retry nothing by themselves.

    redis-py's defaults (5 s socket timeout, 10 retries) make a blocking read never return and write entries twice.
    """

    def make(timeout: float | None) -> Client:
        return Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=COMMAND_TIMEOUT,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )

    return make


class Bus:
    """Streams of events, for one process. Belongs to one event loop."""

    def __init__(
        self,
        make_client: MakeClient,
        *,
        shards: int = 1,
        name: str = "",
        linger: float = 0.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``name`` marks this process's entries (made up if empty); ``wall`` gives the time since 1970 in seconds."""
        self.make_client = make_client
        self.shards = shards
        self.name = name or secrets.token_hex(4)
        self.commands: Client = make_client(COMMAND_TIMEOUT)
        self._wall = wall
        self._writes: Client = make_client(COMMAND_TIMEOUT)
        self._shas = {text: hashlib.sha1(text.encode()).hexdigest() for text in SCRIPTS}
        self.outbox = Outbox(self._writes, {sha: text for text, sha in self._shas.items()}, linger)
        self._readers: dict[int, Reader] = {}
        self._sequence = itertools.count(1)

    def now(self) -> int:
        """Wall clock in milliseconds since 1970."""
        return int(self._wall() * 1000)

    # -- writing

    def post(self, key: str, event: Event, *, maxlen: int | None = None) -> asyncio.Future[bytes]:
        """Append an event without waiting; the future holds its id. ``maxlen`` trims, approximately."""
        trim = ("MAXLEN", "~", maxlen) if maxlen else ()
        return self.outbox.send("XADD", key, *trim, "*", *self.fields(event))

    async def publish(self, key: str, event: Event) -> str:
        """Append an event and wait until the server has it; its id."""
        entry: bytes = await self.post(key, event)
        return entry.decode()

    def post_guarded(
        self, session: str, name: str, event: Event, *, stage: str, turn: int, fence: int
    ) -> asyncio.Future[bytes]:
        """Append to a session's stream for the lease of ``stage`` with ``fence``; ``turn`` is 0 for stt.

        The answer is the entry's id, ``FENCED`` or ``CANCELLED``; ``granted`` turns those into exceptions.
        """
        key = session_key(session, name)
        return self.post_fenced(key, session, event, stage=stage, turn=turn, fence=fence)

    def post_fenced(
        self, key: str, session: str, event: Event, *, stage: str, turn: int, fence: int
    ) -> asyncio.Future[bytes]:
        """Like ``post_guarded``, to any stream in the session's shard."""
        keys = (key, session_key(session, f"fence:{stage}"), session_key(session, "cancelled"))
        fields = (*self.fields(event), "fence", fence) if fence else self.fields(event)
        sha = self._shas[scripts.APPEND_GUARDED]
        return self.outbox.send("EVALSHA", sha, 3, *keys, turn, fence, *fields)

    async def publish_guarded(self, session: str, name: str, event: Event, *, stage: str, turn: int, fence: int) -> str:
        """Like ``post_guarded``, and wait; the entry's id. Raises Fenced or TurnCancelled."""
        return granted(await self.post_guarded(session, name, event, stage=stage, turn=turn, fence=fence))

    def fields(self, event: Event) -> tuple[Any, ...]:
        """An event as the names and values of a stream entry, marked as this process's next."""
        fields = encode(event, self.now())
        pcm = fields.pop("pcm", None)
        fields["by"] = self.name.encode()
        fields["seq"] = b"%d" % next(self._sequence)
        if pcm is not None:
            fields["pcm"] = pcm
        return tuple(itertools.chain.from_iterable(fields.items()))

    # -- reading

    def follow(self, key: str, after: str = "0-0") -> Subscription:
        """Every entry of a stream after id ``after``, as they come; the stream need not exist yet. Close it."""
        shard = int(key.split("{s", 1)[1].split("}", 1)[0])
        reader = self._readers.get(shard)
        if reader is None:
            reader = self._readers[shard] = Reader(lambda: self.make_client(None), self.commands)
        return reader.follow(key, after)

    async def replay(self, key: str, after: str = "-", until: str = "+", count: int | None = None) -> list[Entry]:
        """The entries that a stream holds now, after id ``after`` (``-``: from the first) up to ``until``."""
        start = after if after == "-" else f"({after}"
        unique = Unique()
        rows = await self.commands.xrange(key, start, until, count=count)
        found = (read_entry(key, entry_id, fields) for entry_id, fields in rows if unique.is_new(fields))
        return [entry for entry in found if entry is not None]

    async def last_id(self, key: str) -> str:
        """The id of a stream's newest entry; ``0-0`` for an empty one."""
        rows = await self.commands.xrevrange(key, count=1)
        return rows[0][0].decode() if rows else "0-0"

    def trim(self, key: str, before: str) -> None:
        """Let go of a stream's entries older than id ``before``, approximately, without waiting."""
        self.outbox.send("XTRIM", key, "MINID", "~", before)

    # -- a session's values

    async def configure(self, session: str, values: dict[str, str]) -> int:
        """Set fields of a session's config hash; the new revision."""
        key = session_key(session, "config")
        if values:
            await self.outbox.send("HSET", key, *itertools.chain.from_iterable(values.items()))
        return int(await self.outbox.send("HINCRBY", key, "revision", 1))

    async def config(self, session: str) -> dict[str, str]:
        """A session's config hash; empty when there is no such session."""
        rows = await self.commands.hgetall(session_key(session, "config"))
        return {name.decode(): value.decode() for name, value in rows.items()}

    async def keep(self, session: str, seconds: float, names: Iterable[str] = KEPT_KEYS) -> None:
        """Let a session's keys live ``seconds`` from now; those that do not exist are left alone."""
        for name in names:
            last = self.outbox.send("PEXPIRE", session_key(session, name), int(seconds * 1000))
        await last

    # -- scripts and life

    async def run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        """Run one of SCRIPTS on the control connection."""
        sha = self._shas[script]
        try:
            return await self.commands.evalsha(sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.commands.eval(script, len(keys), *keys, *arguments)

    def post_script(self, script: str, keys: list[str], arguments: list[Any]) -> asyncio.Future[Any]:
        """Run one of SCRIPTS after everything posted before, without waiting; the future holds its answer."""
        return self.outbox.send("EVALSHA", self._shas[script], len(keys), *keys, *arguments)

    async def wait_until_up(self) -> None:
        """Return once the server answers a PING; tries for ever, with a growing wait."""
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                await self.commands.ping()
                return
            except OUTAGE:
                await asyncio.sleep(backoff.next())

    async def close(self) -> None:
        """Close every connection; queued writes that have not left are dropped."""
        await asyncio.gather(*(reader.close() for reader in self._readers.values()))
        await self.outbox.close()
        await self._writes.aclose()
        await self.commands.aclose()


def granted(answer: bytes) -> str:
    """The id that a guarded write was given. Raises Fenced or TurnCancelled."""
    if answer == b"FENCED":
        raise Fenced("a higher fence was given for this work")
    if answer == b"CANCELLED":
        raise TurnCancelled("the turn is at or below the cancel watermark")
    return answer.decode()
