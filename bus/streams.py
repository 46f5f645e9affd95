"""The Bus: publish, follow, replay, on Redis Streams.

One Bus per process. It holds few connections whatever the number of sessions: one for sends, one for control (which
therefore never queues behind audio), one blocked read per shard, one subscription to the cancel channel. On a cluster
there is one for sends in each shard, and one for control on each node.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError

from bus import scripts
from bus.backoff import Backoff
from bus.connect import COMMAND_TIMEOUT, OUTAGE, Client, MakeClient, OnConnect, Whereabouts, connector
from bus.events import Event
from bus.keys import KEPT_KEYS, live_key, session_key
from bus.offers import SessionOffer, SpeakOffer, TurnOffer
from bus.outbox import Outbox, Outboxes
from bus.reader import Entry, Reader, Subscription, Unique, read_entry
from bus.wire import encode

__all__ = ["Bus", "Fenced", "Refused", "TurnCancelled", "connector", "granted"]

SCRIPTS = (
    scripts.APPEND_GUARDED, scripts.RESTORE, scripts.OFFER, scripts.OFFER_AGAIN, scripts.RAISE, scripts.TAKE,
    scripts.HOLD, scripts.RENEW, scripts.COMPLETE, scripts.HAND_BACK, scripts.WITHDRAW, scripts.HOLD_LEASE,
    scripts.SEIZE_LEASE, scripts.RELEASE_LEASE, scripts.TAKE_PLACE, scripts.RENEW_PLACES, scripts.COUNT_PLACES,
)  # fmt: skip
SHAS = {text: hashlib.sha1(text.encode()).hexdigest() for text in SCRIPTS}


class Refused(Exception):
    """A guarded write was not made."""


class Fenced(Refused):
    """A higher fence was given for the same work: somebody else has taken it over."""


class TurnCancelled(Refused):
    """The turn is at or below the cancel watermark."""


class Bus:
    """Streams of events, for one process. Belongs to one event loop."""

    def __init__(
        self,
        make_client: MakeClient,
        *,
        shards: int = 1,
        name: str = "",
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``name`` marks this process's entries (made up if empty); ``wall`` gives the time since 1970 in seconds."""
        self.make_client = make_client
        self.shards = shards
        self.name = name or secrets.token_hex(4)
        self.commands: Client = make_client(COMMAND_TIMEOUT)
        self._wall = wall
        self._where = Whereabouts(make_client)
        self.outbox = Outboxes(self._make_outbox, self._where.spread)
        self._readers: dict[int, Reader] = {}
        self._sequence = itertools.count(1)

    def now(self) -> int:
        """Wall clock in milliseconds since 1970."""
        return int(self._wall() * 1000)

    def on_return(self, tell: Callable[[int | None], Awaitable[None]]) -> None:
        """Call ``tell`` when a server has been lost and is there again, before anything more is written to it.

        It is given the shard that the server holds, None for all of them. What it says again must go through
        ``commands`` or ``run``.
        """
        if self._where.spread:
            for shard in range(self.shards):
                self.outbox.of(shard).watch(partial(tell, shard))
        else:
            self.outbox.of(0).watch(partial(tell, None))

    def shaken(self, shard: int, seconds: float) -> bool:
        """Whether the server of a shard is away, or came back less than ``seconds`` ago: what it lacks says nothing."""
        return self.away(shard) or asyncio.get_running_loop().time() - self.outbox.of(shard).back_since < seconds

    def away(self, shard: int) -> bool:
        """Whether the server of a shard does not answer what was last written to it."""
        return self.outbox.of(shard).down_since is not None

    async def near(self, shard: int, timeout: float | None) -> Client:
        """A client of its own for the server of a shard, with a socket timeout in seconds. Close it."""
        return await self._where.holder(self.commands, live_key(shard), timeout)

    async def anywhere(self) -> Client:
        """A client of its own for any server, without a socket timeout: for channels. Close it."""
        return await self._where.anybody(self.commands, None)

    def _make_outbox(self, shard: int) -> Outbox:
        async def open_client(on_connect: OnConnect) -> Client:
            return await self._where.holder(self.commands, live_key(shard), COMMAND_TIMEOUT, on_connect)

        return Outbox(
            open_client,
            {sha: text for text, sha in SHAS.items()},
            restore=SHAS[scripts.RESTORE],
            looks=self._where.tells,
        )

    # -- writing

    def post(self, key: str, event: Event, *, maxlen: int | None = None) -> asyncio.Future[bytes]:
        """Append an event without waiting; the future holds its id. ``maxlen`` trims, approximately."""
        trim = ("MAXLEN", "~", maxlen) if maxlen else ()
        fields = self.fields(event)
        return self.outbox.send("XADD", key, *trim, "*", *fields, entry=(key, fields))

    async def publish(self, key: str, event: Event) -> str:
        """Append an event and wait until the server has it; its id."""
        entry: bytes = await self.post(key, event)
        return entry.decode()

    async def offer(
        self, key: str, offer: SessionOffer | TurnOffer | SpeakOffer, *, stage: str, fence: int = 0
    ) -> bytes:
        """Append an offer to a work stream, once however often it is sent; the answer is that of ``post_guarded``.

        ``fence`` is that of the gateway's lease (0: not compared).
        """
        fields = self.fields(offer)
        turn, token = getattr(offer, "turn", 0), secrets.token_hex(8)
        keys = (key, session_key(offer.session, f"offers:{stage}"), session_key(offer.session, "fence:gateway"))
        answer: bytes = await self.outbox.send("EVALSHA", SHAS[scripts.OFFER], 3, *keys, turn, token, fence, *fields)
        return answer

    async def write_again(self, key: str, entry_id: str, event: Event) -> None:
        """Append an event under the id it had, unless it stands there; at once, before what waits to be sent.

        It carries no sequence number: what still waits has a lower one than it would get, and is not to be taken for
        a doubled write.
        """
        fields = encode(event, self.now())
        await self.run(scripts.RESTORE, [key], [entry_id, *itertools.chain.from_iterable(fields.items())])

    def post_guarded(
        self, session: str, name: str, event: Event, *, stage: str, turn: int, fence: int, owner: str = ""
    ) -> asyncio.Future[bytes]:
        """Append to a session's stream for the lease of ``stage`` with ``fence``; ``turn`` is 0 for stt.

        The answer is the entry's id, ``FENCED`` or ``CANCELLED``; ``granted`` turns those into exceptions.
        """
        key = session_key(session, name)
        return self.post_fenced(key, session, event, stage=stage, turn=turn, fence=fence, owner=owner)

    def post_fenced(
        self, key: str, session: str, event: Event, *, stage: str, turn: int, fence: int, owner: str = ""
    ) -> asyncio.Future[bytes]:
        """Like ``post_guarded``, to any stream in the session's shard."""
        keys = (key, session_key(session, f"fence:{stage}"), session_key(session, "cancelled"))
        fields = (*self.fields(event), "fence", fence) if fence else self.fields(event)
        sha = SHAS[scripts.APPEND_GUARDED]
        return self.outbox.send("EVALSHA", sha, 3, *keys, turn, fence, owner, *fields, entry=(keys[0], fields))

    async def publish_guarded(
        self, session: str, name: str, event: Event, *, stage: str, turn: int, fence: int, owner: str = ""
    ) -> str:
        """Like ``post_guarded``, and wait; the entry's id. Raises Fenced or TurnCancelled."""
        options: dict[str, Any] = {"stage": stage, "turn": turn, "fence": fence, "owner": owner}
        return granted(await self.post_guarded(session, name, event, **options))

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
            reader = self._readers[shard] = Reader(
                lambda: self.near(shard, None), lambda wake: self._where.unblock(self.commands, live_key(shard), wake)
            )
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
        sha = SHAS[script]
        try:
            return await self.commands.evalsha(sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.commands.eval(script, len(keys), *keys, *arguments)

    def post_script(self, script: str, keys: list[str], arguments: list[Any]) -> asyncio.Future[Any]:
        """Run one of SCRIPTS after everything posted before, without waiting; the future holds its answer."""
        return self.outbox.send("EVALSHA", SHAS[script], len(keys), *keys, *arguments)

    async def wait_until_up(self) -> None:
        """Return once the server answers; tries for ever, with a growing wait."""
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                await self.commands.exists(live_key(0))
                return
            except OUTAGE:
                await asyncio.sleep(backoff.next())

    async def close(self) -> None:
        """Close every connection; queued writes that have not left are dropped."""
        await asyncio.gather(*(reader.close() for reader in self._readers.values()))
        await self.outbox.close()
        await self.commands.aclose()


def granted(answer: bytes) -> str:
    """The id that a guarded write was given. Raises Fenced or TurnCancelled."""
    if answer == b"FENCED":
        raise Fenced("a higher fence was given for this work")
    if answer == b"CANCELLED":
        raise TurnCancelled("the turn is at or below the cancel watermark")
    return answer.decode()
