"""Coalesced sends: what has gathered leaves in one pipelined round trip.

One awaited write per frame caps a process at about 5 000 writes/s; pipelined writes of what gathered did 25 000/s at
the same CPU. Order is kept. After a lost connection the same commands are sent again until they are answered, so a
write whose reply was lost may stand twice: entries carry their writer and a sequence number, and readers drop what
they have seen.

A server may come back without what it was told last: it failed over to a replica that was behind, or kept nothing. So
after every new connection whoever asked for it (``watch``) is called first, then the entries of the last KEPT
seconds are written again under the ids they had. A server that has them is not changed by it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from bus.backoff import Backoff
from bus.connect import OUTAGE, OnConnect

__all__ = ["OUTAGE", "BusDown", "Outbox", "Outboxes"]

log = logging.getLogger(__name__)

LIMIT = 2_000_000
"""Commands that may wait for the server; beyond it they are refused with BusDown."""
BATCH = 1000
"""Commands in one round trip at most: what waited through an outage must not come as one that takes too long."""
INTERVAL = 0.002
"""Seconds between two round trips at least. A command that comes alone leaves at once; where many come they gather."""
KEPT = 3.0
"""Seconds for which written entries are remembered. A replica is seldom further behind."""
LOOK_EVERY = 1.0
"""Seconds between two looks at a server to which nothing is sent."""


class BusDown(Exception):
    """The server has been away for so long that nothing more can be kept for it."""


Command = tuple[Any, ...]
Entry = tuple[str, tuple[Any, ...]]
"""A stream and the fields of an entry that a command appends there."""
Open = Callable[[OnConnect], Awaitable[Any]]
"""Makes the client that sends."""


class Outbox:
    """Sends commands to one server in order, many in one round trip. Belongs to one event loop."""

    def __init__(self, open_client: Open, scripts: dict[str, str], *, restore: str, looks: bool = False) -> None:
        """``scripts`` maps a SHA-1 to its Lua text; ``restore`` is the one that writes an entry again.

        ``looks``: a server that comes back is noticed though nothing is sent, as soon as somebody is to be told.
        """
        self._open = open_client
        self._scripts = scripts
        self._restore = restore
        self._looks = looks
        self._client: Any = None
        self._reached = False
        """Whether the connection is one that was made by ``_reach``, and everybody was told."""
        self._known = False
        """Whether the server was ever reached."""
        self._waiting: deque[tuple[Command, asyncio.Future[Any], Entry | None]] = deque()
        self._written: deque[tuple[float, str, Entry]] = deque()
        """(when, id, entry) of the last KEPT seconds."""
        self._sent_at = -1e9
        """Loop time of the last round trip's start."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tell: list[Callable[[], Awaitable[None]]] = []
        self._may_connect = False
        self.down_since: float | None = None
        """Loop time at which the server was lost; None while it answers."""
        self.back_since = -1e9
        """Loop time at which the server was last reached anew."""

    def send(self, *command: Any, entry: Entry | None = None) -> asyncio.Future[Any]:
        """Queue a command; the future holds its answer, or the server's own refusal (ResponseError), or BusDown.

        ``entry``: what the command appends, if its answer is an id. A command whose future is cancelled before it
        leaves is not sent.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        answer.add_done_callback(_retrieve)
        if len(self._waiting) >= LIMIT:
            answer.set_exception(BusDown(f"{LIMIT} writes wait for a Redis that does not answer"))
            return answer
        self._waiting.append((command, answer, entry))
        self._start()
        self._wake.set()
        return answer

    def watch(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Call ``tell``, to its end, after every new connection but the first, before anything is sent on it.

        It must not wait for anything that is sent here.
        """
        self._tell.append(tell)
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="bus-outbox")

    async def drain(self) -> None:
        """Return when everything queued so far has been answered."""
        if self._waiting:
            await asyncio.wait([self._waiting[-1][1]])

    async def close(self) -> None:
        """Stop sending. What still waits is dropped; call ``drain`` before to keep it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._let_go()

    async def _run(self) -> None:
        backoff = Backoff(0.05, 2.0)
        while True:
            try:
                await self._gather()
                await self._reach()
                await self._send_some()
            except Exception as error:
                # Whatever it was: a writer that ended would be silent for ever, and its leases be renewed all the same.
                if self.down_since is None:
                    self.down_since = asyncio.get_running_loop().time()
                    log.warning("redis does not answer (%s); writes are kept and sent again", type(error).__name__)
                if not isinstance(error, OUTAGE):
                    log.error("what waits cannot be sent", exc_info=error)
                await self._let_go()
                await asyncio.sleep(backoff.next())
                continue
            if self.down_since is not None:
                log.info("redis answers again after %.1f s", asyncio.get_running_loop().time() - self.down_since)
                self.down_since = None
            backoff.reset()

    async def _gather(self) -> None:
        """Wait until there is something to send, or to look after."""
        looks = self._looks and bool(self._tell)
        if not self._waiting and (self._reached or not (self._known or looks)):
            self._wake.clear()
            try:
                async with asyncio.timeout(LOOK_EVERY if looks else None):
                    await self._wake.wait()
            except TimeoutError:
                await self._client.ping()
        since = asyncio.get_running_loop().time() - self._sent_at
        if self._reached and since < INTERVAL:
            await asyncio.sleep(INTERVAL - since)

    async def _reach(self) -> None:
        """A connection, on which everybody who was to be told has been, and what may be lost stands again."""
        if self._reached:
            return
        self._client, self._may_connect = await self._open(self._connected), True
        if self._known:
            await self._client.ping()
            self.back_since = asyncio.get_running_loop().time()
            for tell in self._tell:
                try:
                    await tell()
                except OUTAGE:
                    raise
                except Exception:
                    log.exception("what redis may have lost could not be said again")
            await self._write_again()
        self._reached = self._known = True

    async def _connected(self, connection: Any) -> None:
        # A client connects once: that its pool connects anew by itself must not go unnoticed.
        if not self._may_connect:
            raise RedisConnectionError("the connection was lost")
        self._may_connect = False
        await connection.on_connect()

    async def _let_go(self) -> None:
        client, self._client, self._reached = self._client, None, False
        if client is not None:
            await client.aclose()

    async def _send_some(self) -> None:
        while self._waiting and self._waiting[0][1].cancelled():
            self._waiting.popleft()
        batch = [item for item in itertools.islice(self._waiting, BATCH) if not item[1].cancelled()]
        if not batch:
            return
        self._sent_at = asyncio.get_running_loop().time()
        answers = await self._exchange([command for command, _, _ in batch])
        now = asyncio.get_running_loop().time()
        for (_, future, entry), answer in zip(batch, answers, strict=True):
            if isinstance(answer, OUTAGE):
                # What comes after it may have been done, but not what it stands for: order is kept by doing it again.
                raise answer
            while self._waiting[0][1] is not future:
                self._waiting.popleft()
            self._waiting.popleft()
            if entry is not None and isinstance(answer, bytes) and b"-" in answer:
                self._written.append((now, answer.decode(), entry))
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        while self._written and self._written[0][0] < now - KEPT:
            self._written.popleft()

    async def _write_again(self) -> None:
        kept = list(self._written)
        for start in range(0, len(kept), BATCH):
            commands = [
                ("EVALSHA", self._restore, 1, key, entry_id, *fields)
                for _, entry_id, (key, fields) in kept[start : start + BATCH]
            ]
            answers = await self._exchange(commands)
            for answer in answers:
                if isinstance(answer, OUTAGE):
                    raise answer

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        answers = await self._pipeline(commands)
        unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # The next batch leaves only after this one, so a stream's entries keep their order.
            try:
                for text in self._scripts.values():
                    await self._client.script_load(text)
            except ResponseError as error:
                log.error("redis takes no scripts: %s", error)
                if isinstance(error, OUTAGE):
                    raise
                return answers
            again = await self._pipeline([commands[n] for n in unknown])
            for n, answer in zip(unknown, again, strict=True):
                answers[n] = answer
        return answers

    async def _pipeline(self, commands: list[Command]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, ResponseError) and not isinstance(answer, (NoScriptError, *OUTAGE)):
                log.warning("redis refused a write: %s", str(answer)[:200])
        return answers


class Outboxes:
    """One outbox, or one for each shard where shards are on several servers: one that is lost holds up no other."""

    def __init__(self, make: Callable[[int], Outbox], spread: bool) -> None:
        """``make`` makes the outbox of a shard; without ``spread`` that of shard 0 serves all."""
        self._make = make
        self._spread = spread
        self._all: dict[int, Outbox] = {}

    def of(self, shard: int) -> Outbox:
        """The outbox that serves a shard."""
        shard = shard if self._spread else 0
        if shard not in self._all:
            self._all[shard] = self._make(shard)
        return self._all[shard]

    def send(self, *command: Any, entry: Entry | None = None) -> asyncio.Future[Any]:
        """As Outbox.send, to where the command's first key is."""
        if not self._spread:
            return self.of(0).send(*command, entry=entry)
        key = command[3] if command[0] == "EVALSHA" else command[1]
        return self.of(int(key.split("{s", 1)[1].split("}", 1)[0])).send(*command, entry=entry)

    async def drain(self) -> None:
        """Return when everything queued so far has been answered."""
        for outbox in list(self._all.values()):
            await outbox.drain()

    async def close(self) -> None:
        """Stop sending."""
        for outbox in self._all.values():
            await outbox.close()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark an exception as seen: whoever does not await an answer does not care for it."""
    if not future.cancelled():
        future.exception()
