"""Work for after a call, handed to the jobs process through RQ."""

from __future__ import annotations

import asyncio
import logging

from bus.connect import connector
from gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

QUEUE = "bargein-jobs"
RECORD = "workers.jobs.recording.record"
"""Named, not imported: the gateway never imports a worker."""


async def enqueue_recording(settings: GatewaySettings, session: str) -> None:
    """Ask for a call's recording and transcript. A failure is logged: the call itself is over."""
    try:
        await asyncio.to_thread(_enqueue, settings, session)
    except Exception as error:
        log.error("%s: the recording could not be asked for: %s", session, error)


def _enqueue(settings: GatewaySettings, session: str) -> None:
    from rq import Queue, Retry

    connection = connector(settings.queue_address(settings.jobs_redis_url)).sync(5, patient=True)
    try:
        # Named after the session, so that asking twice makes one job.
        Queue(QUEUE, connection=connection).enqueue(
            RECORD, session, job_id=f"record-{session}", retry=Retry(max=3, interval=[5, 30, 120])
        )
    finally:
        connection.close()
