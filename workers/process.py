"""A worker as a process: its settings, its engine, its signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from pydantic import Field

from bus import tracing
from bus.heap import settle
from bus.logs import start_logging
from bus.notify import Notifier
from bus.settings import CONFIGURATION_ERROR, BusSettings, load
from bus.streams import Bus, connector
from workers.engines import EngineError, find
from workers.runtime import Life, Worker

log = logging.getLogger(__name__)


class WorkerSettings(BusSettings):
    """What any worker is told by its environment. Times in seconds."""

    stt_engine: str = "pocketsphinx"
    """What hears: pocketsphinx, http, nemo, or package.module:Class."""
    llm_engine: str = "demo"
    """What thinks: demo, openai, or package.module:Class."""
    tts_engine: str = "espeak"
    """What speaks: espeak, http, chatterbox, pocket, or package.module:Class."""
    heartbeat_s: float = Field(default=0.3, gt=0, le=10)
    """Seconds after which a worker says again that it is alive."""
    lease_s: float = Field(default=1.0, ge=0.2, le=60)
    """A worker that has not renewed for this many seconds is taken for dead."""
    stt_behind_s: float = Field(default=2.0, gt=0, le=600)
    """Seconds of audio that may gather at a recogniser before it says that it is behind, and takes no new sessions."""
    drain_s: float = Field(default=3.0, ge=0, le=600)
    """Seconds after SIGTERM in which a worker finishes what it has begun; then it is handed over as it is."""


def main(kind: type[Worker]) -> None:
    """Run a worker of this kind until SIGTERM or SIGINT; exit code 2 when its engine or settings are wrong."""
    settings = load(WorkerSettings)
    start_logging(settings.log_level, settings.log_format)
    try:
        if settings.tracing:
            tracing.start(f"bargein-{kind.stage}")
    except tracing.NoTracing as missing:
        print(missing, file=sys.stderr)
        sys.exit(CONFIGURATION_ERROR)
    try:
        engine = find(kind.stage, getattr(settings, f"{kind.stage}_engine"))
    except EngineError as error:
        sys.exit(_complain(error))
    try:
        import uvloop

        sys.exit(uvloop.run(_run(kind, engine, settings)))
    except ImportError:
        sys.exit(asyncio.run(_run(kind, engine, settings)))


async def _run(kind: type[Worker], engine: object, settings: WorkerSettings) -> int:
    bus = Bus(connector(settings.address()), shards=settings.bus_shards)
    life = Life(
        heartbeat=settings.heartbeat_s, lease=settings.lease_s, drain=settings.drain_s, behind=settings.stt_behind_s
    )
    worker = kind(bus, engine, life)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.drain)
    running = asyncio.create_task(worker.run())
    draining = asyncio.create_task(worker.draining.wait())
    told = asyncio.create_task(_tell(worker))
    try:
        await asyncio.wait([running, draining], return_when=asyncio.FIRST_COMPLETED)
        if not worker.ready.is_set() and not running.done():
            running.cancel()  # asked to end while the engine loads: nothing is served yet
        await asyncio.gather(running, return_exceptions=not worker.ready.is_set())
        if running.done() and not running.cancelled() and running.exception() is not None:
            raise running.exception() or RuntimeError
    except EngineError as error:
        return _complain(error)
    finally:
        draining.cancel()
        told.cancel()
        await bus.close()
    return 0


async def _tell(worker: Worker) -> None:
    """Tell systemd once the worker serves, and of its life from then on, until cancelled."""
    notifier = Notifier()
    watching = asyncio.create_task(notifier.watch())
    try:
        await worker.ready.wait()
        settle()
        notifier.ready()
        await worker.draining.wait()
        notifier.stopping()
        await watching
    finally:
        watching.cancel()


def _complain(error: EngineError) -> int:
    print(error, file=sys.stderr)
    return CONFIGURATION_ERROR
