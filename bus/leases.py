"""Who may work on what: offers, claims, leases, fences.

An offer is an entry of a work stream; the consumer group hands it to one worker. The pending entry is the claim, its
idle time is the lease (it expires when it is not renewed), and the fence is its proof: a number that only rises, kept
with the session in one hash per stage, with a field per turn (0 for the whole session). Whoever takes an expired claim
over raises the fence, and from then on every guarded write of the one before is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from bus import scripts
from bus.events import Event, SessionOffer, SpeakOffer, TurnOffer
from bus.keys import session_key, shard_of, work_key
from bus.reader import read_entry
from bus.streams import Bus, granted

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


class Work:
    """The offers of one stage, from a worker's side (claim ...) and from the gateway's (offer, withdraw)."""

    def __init__(self, bus: Bus, stage: str, worker: str = "") -> None:
        """``worker`` is the consumer's name, unique to the process; the gateway needs none."""
        self.bus = bus
        self.stage = stage
        self.worker = worker
        self._grouped: set[str] = set()
        self._blocked = {shard: bus.make_client(None) for shard in range(bus.shards)} if worker else {}

    async def offer(self, offer: Offer, fence: int = 0) -> str:
        """Put an offer on its session's work stream; its entry id, by which it can be withdrawn.

        ``fence``: of the gateway's lease, which is compared first (0: it is not). Raises Fenced.
        """
        key = work_key(shard_of(offer.session), self.stage)
        await self._group(key)
        if not fence:
            return await self.bus.publish(key, offer)
        answer = self.bus.post_fenced(key, offer.session, offer, stage="gateway", turn=0, fence=fence)
        return granted(await answer)

    async def offered(self, session: str, turn: int) -> str:
        """The entry of an offer that is neither done nor withdrawn, claimed or not; empty when there is none."""
        entries = await self.bus.replay(work_key(shard_of(session), self.stage))
        found = (e.id for e in entries if getattr(e.event, "session", "") == session and turn == _turn(e.event))
        return next(found, "")

    async def withdraw(self, session: str, entry: str) -> bool:
        """Take back an offer that nobody has claimed: true if so, false when it was claimed or is done."""
        key = work_key(shard_of(session), self.stage)
        return bool(await self.bus.run(scripts.WITHDRAW, [key], [self.stage, entry]))

    async def claim(self, shard: int, block: float = 5.0) -> Lease | None:
        """Wait up to ``block`` seconds for a new offer in a shard. One at a time, so that workers share alike."""
        key = work_key(shard, self.stage)
        await self._group(key)
        async with asyncio.timeout(block + 5):
            answer = await self._blocked[shard].xreadgroup(
                self.stage, self.worker, {key: ">"}, count=1, block=max(1, int(block * 1000))
            )
        for _, entries in answer or ():
            for entry, fields in entries:
                return await self._take(key, entry, fields)
        return None

    async def reclaim(self, shard: int, idle: float, serving: Container[str] = ()) -> Lease | None:
        """Take over a claim that was not renewed for ``idle`` seconds, if there is one.

        ``serving`` holds the entries this worker works on: XAUTOCLAIM returns one's own late ones too, which renews
        them and is no takeover.
        """
        key = work_key(shard, self.stage)
        await self._group(key)
        answer = await self.bus.commands.xautoclaim(
            key, self.stage, self.worker, int(idle * 1000), start_id="0-0", count=1
        )
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
        if mark < 0:
            lease.lost.set()
        return mark

    async def complete(self, lease: Lease) -> bool:
        """The work is done: its offer leaves the stream. False when the fence was refused."""
        keys = [lease.key, self._session_keys(lease)[0]]
        arguments = [self.stage, lease.entry, lease.turn, lease.fence]
        return bool(await self.bus.run(scripts.COMPLETE, keys, arguments))

    async def hand_back(self, lease: Lease) -> bool:
        """Leave the work to others, after everything that was written for it; false when the fence was refused.

        What is offered is ``lease.offer`` as it is now; it counts as handed out never.
        """
        keys = [lease.key, self._session_keys(lease)[0]]
        arguments = [self.stage, lease.entry, lease.turn, lease.fence, *self.bus.fields(lease.offer)]
        return bool(await self.bus.post_script(scripts.HAND_BACK, keys, arguments))

    async def interrupt(self) -> None:
        """End claims that block now; they return None."""
        for client in self._blocked.values():
            await client.aclose()

    async def close(self) -> None:
        await self.interrupt()

    def _session_keys(self, lease: Lease) -> list[str]:
        return [session_key(lease.session, f"fence:{self.stage}"), session_key(lease.session, "cancelled")]

    async def _take(self, key: str, entry: bytes, fields: dict[bytes, bytes]) -> Lease | None:
        read = read_entry(key, entry, fields)
        if read is None or not isinstance(read.event, Offer):
            await self.bus.commands.xack(key, self.stage, entry)
            await self.bus.commands.xdel(key, entry)
            return None
        lease = Lease(self.stage, key, read.id, read.event, 0, 0, 0)
        answer = await self.bus.run(
            scripts.TAKE, [key, *self._session_keys(lease)], [self.stage, self.worker, read.id, lease.turn]
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
