"""What each worker has counted, and what waits on the work streams: the workers' part of ``/metrics``.

A worker writes its counts beside its record (``bus.registry``), with the same lifetime: a worker that is gone is no
longer counted, and a server that restarts has nothing to lose.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from bus.keys import work_key, worker_key
from bus.reader import position
from bus.registry import workers
from bus.streams import Bus

log = logging.getLogger(__name__)

COUNTS = {
    "claims": "Offers claimed.",
    "takeovers": "Leases taken over from a worker that did not renew.",
    "lost_leases": "Leases lost to another worker.",
    "given_up": "Offers given up because workers died of them.",
    "fenced": "Writes refused because somebody else has the work.",
    "cancelled": "Writes refused because the turn was cancelled.",
    "errors": "Work that failed with an error.",
    "completed": "Leases completed.",
    "behind": "Times that a session's recognition fell behind real time.",
    "busy_seconds": "Seconds spent on leases that have ended.",
    "stops": "Cancels answered.",
    "stop_seconds": "Seconds from learning of those cancels to having stopped.",
}
"""What a worker counts, and what it means; each only rises."""
MOST = 1000
"""Offers that are counted at most: a queue that is longer is long enough."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one live worker has counted since it began."""

    stage: str
    worker: str
    engine: str
    load: int
    capacity: int
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Queue:
    """A stage's offers on all shards: how many nobody has claimed, the age (s) of the oldest, how many are in work."""

    waiting: int = 0
    oldest: float = 0.0
    in_work: int = 0


def counts_key(stage: str, worker: str) -> str:
    """The hash in which a worker's counts stand."""
    return f"{worker_key(stage, worker)}:counts"


async def tell(bus: Bus, stage: str, worker: str, counts: dict[str, float], seconds: float) -> None:
    """Write a worker's counts, to be kept for ``seconds``."""
    if counts:
        key = counts_key(stage, worker)
        async with bus.commands.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping={name: repr(round(value, 6)) for name, value in counts.items()})
            pipe.pexpire(key, int(seconds * 1000))
            await pipe.execute()


async def tallies(bus: Bus, stage: str) -> list[Tally]:
    """What every live worker of a stage has counted; a count that it never made is 0."""
    found = []
    for record in await workers(bus, stage):
        row = await bus.commands.hgetall(counts_key(stage, record.worker))
        try:
            counts = {each: float(row.get(each.encode(), 0)) for each in COUNTS}
        except ValueError as error:
            log.warning("the counts of %s are malformed: %s", record.worker, error)
            continue
        found.append(Tally(stage, record.worker, record.engine, record.load, record.capacity, counts))
    return found


async def queue(bus: Bus, stage: str) -> Queue:
    """What waits for a stage, and since when, by the server's own clock."""
    waiting, oldest, in_work = 0, 0.0, 0
    for shard in range(bus.shards):
        key = work_key(shard, stage)
        try:
            groups: list[dict[str, Any]] = await bus.commands.xinfo_groups(key)
        except ResponseError:
            continue  # nothing was ever offered here
        for group in groups:
            rows = await bus.commands.xrange(key, f"({group['last-delivered-id'].decode()}", count=MOST)
            in_work += int(group["pending"])
            waiting += len(rows)
            if rows:
                clock: Any = await bus.commands.time()
                seconds, microseconds = next(iter(clock.values())) if isinstance(clock, dict) else clock
                age = seconds + microseconds / 1e6 - position(rows[0][0].decode())[0] / 1000
                oldest = max(oldest, age)
    return Queue(waiting, round(max(0.0, oldest), 3), in_work)
