"""The worker of jobs that follow a call: an RQ worker on a connection of its own.

Whoever wants a job done enqueues it by name, so that no other process imports it::

    Queue("bargein-jobs", connection=Redis.from_url(JOBS_REDIS_URL)).enqueue("workers.jobs.recording.record", session)

RQ works on synchronous connections whose answers are bytes, and not on Redis Cluster; hence ``JOBS_REDIS_URL``.
A job that was under way in a worker killed with -9 is tried again about 90 s later with the times below.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Any

from pydantic import Field
from redis import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError
from rq import Queue, Worker

from bus.address import Address
from bus.backoff import Backoff
from bus.child import tie_forks
from bus.connect import connector
from bus.embedded import Problem
from bus.logs import start_logging
from bus.notify import Notifier
from bus.server import answers
from bus.settings import CONFIGURATION_ERROR, load, masked, no_arguments
from workers.jobs.queue import QUEUE, JobSettings
from workers.jobs.recording import RecordingSettings
from workers.jobs.retention import sweep
from workers.jobs.second_pass import SecondPassSettings
from workers.jobs.webhook import WebhookSettings

log = logging.getLogger("workers.jobs")

WORKER_TTL = 30
"""Seconds without a heartbeat after which a worker counts as dead."""
MAINTENANCE_EVERY = 20
MONITOR_EVERY = 5
SWEEP_EVERY = 3600
"""Seconds between two looks for recordings that are too old."""
IDLE_READ = 3
"""Seconds that an idle worker waits for a job in one read, RQ's own 15: a signal that comes in the moment before the
read blocks is handled when it returns, which is to be before whoever sent it loses patience (SHUTDOWN_S)."""
SOCKET_TIMEOUT = WORKER_TTL
"""Longer than the blocking read."""


class SweepSettings(RecordingSettings):
    """How long recordings are kept."""

    recordings_keep_days: int = Field(default=0, ge=0, le=36_500)
    """Days after which recordings are removed; 0: never."""


class JobWorker(Worker):
    """An RQ worker that also removes recordings that are too old, at its start and every SWEEP_EVERY seconds."""

    swept = 0.0
    dequeue_timeout = IDLE_READ
    notifier = Notifier({})

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """RQ's own sign of life, while it waits for a job and while one is done; systemd gets it too."""
        self.notifier.alive()
        super().heartbeat(*args, **kwargs)

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for a job: from the first time on RQ's own signal handlers are there, and it is ready."""
        self.notifier.ready()
        return super().dequeue_job_and_maintain_ttl(*args, **kwargs)

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        now = time.time()
        if now >= self.swept + SWEEP_EVERY:
            self.swept = now
            settings = load(SweepSettings)
            sweep(settings.recordings_dir, settings.recordings_keep_days, now)


def wait_for(where: Address) -> None:
    """Return once a server answers there. Raises Problem when what answers is not Redis."""
    backoff, said = Backoff(0.1, 5.0), False
    while not answers(where):
        if not said:
            log.warning("nobody answers at %s; waiting for it", masked(where.url))
            said = True
        time.sleep(backoff.next())


def make_worker(connection: Redis) -> JobWorker:
    """The worker, not yet at work."""
    return JobWorker(
        [Queue(QUEUE, connection=connection)],
        connection=connection,
        worker_ttl=WORKER_TTL,
        maintenance_interval=MAINTENANCE_EVERY,
        job_monitoring_interval=MONITOR_EVERY,
    )


def main() -> int:
    settings = load(JobSettings)
    for kind in (SweepSettings, WebhookSettings, SecondPassSettings):
        load(kind)
    start_logging(settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        wait_for(settings.queue)
        connection = connector(settings.queue).sync(SOCKET_TIMEOUT, patient=True)
        connection.ping()
    except (Problem, AuthenticationError, AuthorizationError, ResponseError) as error:
        log.error("the server at %s cannot be used: %s", masked(settings.queue.url), error)
        return CONFIGURATION_ERROR
    except KeyboardInterrupt:
        return 0
    log.info("taking jobs from %s", QUEUE)
    tie_forks(signal.SIGKILL)
    # At INFO rq reports its own upkeep every MAINTENANCE_EVERY seconds; jobs log what they did themselves.
    level = "DEBUG" if settings.log_level == "DEBUG" else "WARNING"
    # The scheduler, a process of its own, is what carries out a retry with an interval.
    worker = make_worker(connection)
    worker.notifier = Notifier()
    worker.work(logging_level=level, with_scheduler=True)
    return 0


if __name__ == "__main__":
    no_arguments("workers.jobs.worker", __doc__)
    sys.exit(main())
