"""Who works here now: each worker describes itself in a hash that expires, and the gateway lists them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bus.keys import worker_key, workers_index
from bus.streams import Bus

log = logging.getLogger(__name__)

LIFETIME = 5.0
"""Seconds after its last renewal at which a worker counts as gone; renewed every second."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One live worker: its stage, id, engine, voices (comma-separated), and sessions or turns held of capacity."""

    stage: str
    worker: str
    engine: str
    capacity: int
    load: int = 0
    voices: str = ""
    since: int = 0


async def register(bus: Bus, record: WorkerRecord) -> None:
    """Say or renew who one is, for LIFETIME seconds."""
    index, key = workers_index(record.stage), worker_key(record.stage, record.worker)
    now = bus.now()
    async with bus.commands.pipeline(transaction=False) as pipe:
        pipe.hset(key, mapping={name: str(value) for name, value in asdict(record).items()})
        pipe.pexpire(key, int(LIFETIME * 1000))
        pipe.zadd(index, {record.worker: now + int(LIFETIME * 1000)})
        pipe.zremrangebyscore(index, "-inf", now - 60_000)
        await pipe.execute()


async def unregister(bus: Bus, stage: str, worker: str) -> None:
    """Leave the list at once: a worker that drains or ends."""
    await bus.commands.delete(worker_key(stage, worker))
    await bus.commands.zrem(workers_index(stage), worker)


async def workers(bus: Bus, stage: str) -> list[WorkerRecord]:
    """The live workers of a stage."""
    names = await bus.commands.zrange(workers_index(stage), 0, -1)
    found = []
    for name in names:
        row = await bus.commands.hgetall(worker_key(stage, name.decode()))
        if row:
            try:
                found.append(_read(stage, name.decode(), row))
            except ValueError as error:
                log.warning("the record of a worker of %s is malformed: %s", stage, error)
    return found


def _read(stage: str, worker: str, row: Mapping[bytes, bytes]) -> WorkerRecord:
    values = {key.decode(): value.decode() for key, value in row.items()}
    capacity, load, since = (int(values.get(*each)) for each in (("capacity", "1"), ("load", "0"), ("since", "0")))
    return WorkerRecord(stage, worker, values.get("engine", "?"), capacity, load, values.get("voices", ""), since)
