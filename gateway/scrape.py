"""The workers' and queues' part of ``GET /metrics``, read from Redis at each scrape: one target shows every process.

Every gateway shows the same workers, so sums over several gateways go through ``max by (stage, worker)`` first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis.exceptions import ResponseError

from bus.outbox import OUTAGE
from bus.streams import Bus
from bus.tallies import COUNTS, Queue, Tally, queue, tallies

log = logging.getLogger(__name__)

LIMIT = 2.0
"""Seconds after which a scrape goes without what Redis has not answered."""
STAGES = ("stt", "llm", "tts")


class _Given:
    """A collector of families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def scrape(bus: Bus) -> bytes:
    """Workers and queues in Prometheus' text format; ``bargein_redis_up`` alone when Redis does not answer."""
    found: list[Tally] = []
    queues: dict[str, Queue] = {}
    up = True
    try:
        async with asyncio.timeout(LIMIT):
            for stage in STAGES:
                found += await tallies(bus, stage)
                queues[stage] = await queue(bus, stage)
    except (*OUTAGE, ResponseError) as error:
        log.warning("metrics without workers: redis does not answer (%s)", type(error).__name__)
        found, queues, up = [], {}, False
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families(found, queues, up)))
    return generate_latest(registry)


def families(found: list[Tally], queues: dict[str, Queue], up: bool) -> list[Metric]:
    """What is shown of workers and queues."""
    labels = ["stage", "worker", "engine"]
    made: list[Metric] = [GaugeMetricFamily("bargein_redis_up", "Whether Redis answered this scrape.", float(up))]
    for name, meaning in COUNTS.items():
        counter = CounterMetricFamily(f"bargein_worker_{name}", meaning, labels=labels)
        for tally in found:
            counter.add_metric([tally.stage, tally.worker, tally.engine], tally.counts[name])
        made.append(counter)
    for name, meaning in (("load", "Sessions or turns being served."), ("capacity", "How many can be.")):
        gauge = GaugeMetricFamily(f"bargein_worker_{name}", meaning, labels=labels)
        for tally in found:
            gauge.add_metric([tally.stage, tally.worker, tally.engine], float(getattr(tally, name)))
        made.append(gauge)
    for name, meaning in (
        ("waiting", "Offers that nobody has claimed."),
        ("oldest", "Age in seconds of the oldest of them."),
        ("in_work", "Offers that somebody works on."),
    ):
        gauge = GaugeMetricFamily(f"bargein_queue_{name}{'_seconds' * (name == 'oldest')}", meaning, labels=["stage"])
        for stage, each in queues.items():
            gauge.add_metric([stage], float(getattr(each, name)))
        made.append(gauge)
    return made
