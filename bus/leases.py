"""Who may work on what: offers, claims, leases, fences.

An offer is an entry of a work stream; the consumer group hands it to one worker. The pending entry is the claim, its
idle time is the lease (it expires when it is not renewed), and the fence is its proof: a number that only rises, kept
with the session in one hash per stage, with a field per turn (0 for the whole session). Whoever takes an expired claim
over raises the fence, and from then on every guarded write of the one before is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from bus import scripts
from bus.connect import OUTAGE
from bus.events import Event
from bus.keys import PREFIX, is_session, session_key, shard_of, work_key
from bus.offers import SessionOffer, SpeakOffer, TurnOffer
from bus.reader import Entry, is_entry_id, read_entry
from bus.streams import Bus, granted
from bus.wire import encode

log = logging.getLogger(__name__)

SETTLE = 3.0
"""Seconds after an outage in which nobody takes work over: who held it may need as long to say that it still does."""

Offer = SessionOffer | TurnOffer | SpeakOffer


@dataclass(slots=True)
class Lease:
    """The right to serve a session (stt) or a turn (llm, tts), until it is lost or completed."""

    stage: str
    key: str
    entry: str
    offer: Offer
    fence: int
    watermark: int
    deliveries: int
    """How often the offer was handed out, this time included: more than a few times means that it kills workers."""
    owner: str = ""
    """The worker that holds it."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the fence was refused: stop, and write nothing more."""
    refused: Counter[str] = field(default_factory=Counter)
    """Writes that the server refused: ``fenced``, ``cancelled``."""

    @property
    def session(self) -> str:
        return self.offer.session

    @property
    def turn(self) -> int:
        """The turn that the lease is for; 0 for a whole session."""
        return _turn(self.offer)


def _turn(offer: Event) -> int:
    return int(getattr(offer, "turn", 0))


def _offer_in(key: str, entry: bytes, fields: dict[bytes, bytes]) -> Offer | None:
    """The offer in an entry of the work stream ``key``, of a session in that stream's shard; None for anything else."""
    read = read_entry(key, entry, fields)
    if read is None or not isinstance(read.event, Offer):
        return None
    session = read.event.session
    if not is_entry_id(getattr(read.event, "after", "0-0")):
        log.warning("entry %s of %s left out: it begins after no entry", entry.decode(), key)
        return None
    if not is_session(session) or not key.startswith(f"{PREFIX}:{{s{shard_of(session)}}}:"):
        log.warning("entry %s of %s left out: it offers %r", entry.decode(), key, session[:40])
        return None
    return read.event


class Work:
    """The offers of one stage, from a worker's side (claim ...) and from the gateway's (offer, withdraw)."""

    def __init__(self, bus: Bus, stage: str, worker: str = "") -> None:
        """``worker`` is the consumer's name, unique to the process; the gateway needs none."""
        self.bus = bus
        self.stage = stage
        self.worker = worker
        self._grouped: set[str] = set()
        self._blocked: dict[int, Any] = {}
        self._calm_until = -1e9

    async def offer(self, offer: Offer, fence: int = 0) -> str:
        """Put an offer on its session's work stream; its entry id, by which it can be withdrawn.

        ``fence``: of the gateway's lease, which is compared first (0: it is not). Raises Fenced.
        """
        key = work_key(shard_of(offer.session), self.stage)
        await self._group(key)
        return granted(await self.bus.offer(key, offer, stage=self.stage, fence=fence))

    async def offered(self, session: str, turn: int) -> bool:
        """Whether the server knows that a turn (0: the session) was offered; one that forgot does not."""
        return bool(await self.bus.commands.hexists(session_key(session, f"offers:{self.stage}"), str(turn)))

    async def outstanding(self, session: str, turn: int) -> Entry | None:
        """An offer that is neither done nor withdrawn, claimed or not; None when there is none."""
        entry = await self.bus.commands.hget(session_key(session, f"offers:{self.stage}"), str(turn))
        if entry is None:
            return None
        rows = await self.bus.commands.xrange(work_key(shard_of(session), self.stage), entry, entry)
        return read_entry(work_key(shard_of(session), self.stage), *rows[0]) if rows else None

    async def withdraw(self, session: str, entry: str) -> bool:
        """Take back an offer that nobody has claimed: true if so, false when it was claimed or is done."""
        key = work_key(shard_of(session), self.stage)
        return bool(await self.bus.run(scripts.WITHDRAW, [key], [self.stage, entry]))

    async def claim(
        self, shard: int, block: float = 5.0, room: Callable[[], Awaitable[bool]] | None = None
    ) -> Lease | None:
        """Wait up to ``block`` seconds for a new offer in a shard. One at a time, so that workers share alike.

        ``room`` is asked when an offer has come: without any it is offered again, to others.
        """
        key = work_key(shard, self.stage)
        await self._group(key)
        if shard not in self._blocked:
            self._blocked[shard] = await self.bus.near(shard, None)
        try:
            async with asyncio.timeout(block + 5):
                answer = await self._blocked[shard].xreadgroup(
                    self.stage, self.worker, {key: ">"}, count=1, block=max(1, int(block * 1000))
                )
        except OUTAGE:
            if client := self._blocked.pop(shard, None):
                await client.aclose()
            raise
        for _, entries in answer or ():
            for entry, fields in entries:
                if room is not None and not await room():
                    await self._offer_again(key, entry, fields)
                    return None
                return await self._take(key, entry, fields, new=True)
        return None

    async def reclaim(self, shard: int, idle: float, serving: Container[str] = ()) -> Lease | None:
        """Take over a claim that was not renewed for ``idle`` seconds, if there is one.

        ``serving`` holds the entries this worker works on: XAUTOCLAIM returns one's own late ones too, which renews
        them and is no takeover.
        """
        key = work_key(shard, self.stage)
        await self._group(key)
        clock = asyncio.get_running_loop().time
        asked = clock()
        if asked < self._calm_until:
            return None
        try:
            answer = await self.bus.commands.xautoclaim(
                key, self.stage, self.worker, int(idle * 1000), start_id="0-0", count=1
            )
        except OUTAGE:
            self._calm_until = clock() + SETTLE
            raise
        if clock() - asked > idle / 2:
            # The server was frozen, not the worker: who holds the work renews it now, and gets it back by that.
            self._calm_until = clock() + SETTLE
            return None
        for entry, fields in answer[1]:
            if fields and entry.decode() not in serving:
                return await self._take(key, entry, fields)
        return None

    async def renew(self, lease: Lease, *, steady: bool = False) -> int:
        """Start the lease's time anew; the session's watermark. Sets ``lease.lost`` and returns -1 when refused.

        ``steady``: the work goes well, so its offer counts as handed out once.
        """
        mark = int(
            await self.bus.run(
                scripts.RENEW,
                [lease.key, *self._session_keys(lease)],
                [self.stage, self.worker, lease.entry, lease.turn, lease.fence, 1 if steady else 0],
            )
        )
        if mark == -2:
            return 0 if await self.hold(lease) else -1
        if mark < 0:
            lease.lost.set()
        return mark

    async def hold(self, lease: Lease) -> bool:
        """Say that a lease is held to a server that may have forgotten. Sets ``lease.lost`` when it is not, any more.

        The entry that stands for it may be another one from then on.
        """
        keys = [lease.key, self._session_keys(lease)[0], session_key(lease.session, f"offers:{self.stage}")]
        fields = itertools.chain.from_iterable(encode(lease.offer, self.bus.now()).items())
        arguments = [self.stage, self.worker, lease.entry, lease.turn, lease.fence, *fields]
        entry = await self.bus.run(scripts.HOLD, keys, arguments)
        if entry is None:
            lease.lost.set()
            return False
        lease.entry = entry.decode()
        return True

    async def complete(self, lease: Lease) -> bool:
        """The work is done: its offer leaves the stream, after everything that was written for it, also when a server
        that is away has to be waited for. False when the fence was refused."""
        keys = [lease.key, self._session_keys(lease)[0]]
        arguments = [self.stage, lease.entry, lease.turn, lease.fence, self.worker]
        return bool(await self.bus.post_script(scripts.COMPLETE, keys, arguments))

    async def hand_back(self, lease: Lease) -> bool:
        """Leave the work to others, after everything that was written for it; false when the fence was refused.

        What is offered is ``lease.offer`` as it is now; it counts as handed out never.
        """
        keys = [lease.key, self._session_keys(lease)[0], session_key(lease.session, f"offers:{self.stage}")]
        arguments = [self.stage, lease.entry, lease.turn, lease.fence, self.worker, *self.bus.fields(lease.offer)]
        return bool(await self.bus.post_script(scripts.HAND_BACK, keys, arguments))

    async def interrupt(self) -> None:
        """End claims that block now; they return None."""
        for client in list(self._blocked.values()):
            await client.aclose()

    async def close(self) -> None:
        await self.interrupt()

    def _session_keys(self, lease: Lease) -> list[str]:
        return [session_key(lease.session, f"fence:{self.stage}"), session_key(lease.session, "cancelled")]

    async def _offer_again(self, key: str, entry: bytes, fields: dict[bytes, bytes]) -> None:
        offer = _offer_in(key, entry, fields)
        if offer is None:
            await self._drop(key, entry)
            return
        offers = session_key(offer.session, f"offers:{self.stage}")
        await self.bus.run(scripts.OFFER_AGAIN, [key, offers], [self.stage, self.worker, entry, _turn(offer)])

    async def _drop(self, key: str, entry: bytes) -> None:
        await self.bus.commands.xack(key, self.stage, entry)
        await self.bus.commands.xdel(key, entry)

    async def _take(self, key: str, entry: bytes, fields: dict[bytes, bytes], *, new: bool = False) -> Lease | None:
        offer = _offer_in(key, entry, fields)
        if offer is None:
            await self._drop(key, entry)
            return None
        lease = Lease(self.stage, key, entry.decode(), offer, 0, 0, 0, self.worker)
        answer = await self.bus.run(
            scripts.TAKE,
            [key, *self._session_keys(lease)],
            [self.stage, self.worker, lease.entry, lease.turn, 1 if new else 0],
        )
        if not answer:
            return None
        lease.fence, lease.watermark, lease.deliveries = (int(value) for value in answer)
        return lease

    async def _group(self, key: str) -> None:
        if key in self._grouped:
            return
        try:
            await self.bus.commands.xgroup_create(key, self.stage, "0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._grouped.add(key)

    def forget_groups(self) -> None:
        """Make the groups again at the next call: the server lost them (it answered NOGROUP)."""
        self._grouped.clear()
