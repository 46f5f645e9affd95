"""What is queued after a call was written down: the webhook, and the second pass."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator
from redis import Redis
from rq import Queue, Retry
from rq.job import Job, JobStatus

from bus.address import Address
from bus.connect import connector
from bus.settings import BusSettings, RedisUrl, load

QUEUE = "bargein-jobs"
WEBHOOK_AGAIN_S = (10, 60, 300, 900, 3600, 10_800, 21_600, 43_200)
SECOND_PASS_AGAIN_S = (30, 300, 3600)
KEPT_S = 7 * 86_400
"""How long (s) a job that is done is remembered, so that it is not done again."""
LONGEST_S = 3600


class JobSettings(BusSettings):
    """Where the queue of jobs is."""

    jobs_redis_url: RedisUrl | None = Field(default=None, repr=False)
    """The server that holds the queue; ``REDIS_URL`` when not set. Not a cluster."""
    webhook_url: str = Field(default="", repr=False)
    """Set: a job tells it of each recorded call."""
    second_pass_engine: str = ""
    """Set: a job hears each recorded call again."""

    @property
    def queue(self) -> Address:
        """The address in effect."""
        return self.queue_address(self.jobs_redis_url)

    @model_validator(mode="after")
    def _has_a_queue(self) -> JobSettings:
        self.queue_address(self.jobs_redis_url)
        return self


def follow_up(session: str) -> None:
    """Queue what is wanted besides the recording, each once however often it is asked for."""
    settings = load(JobSettings)
    wanted = list[tuple[str, str, Sequence[int]]]()
    if settings.webhook_url:
        wanted.append(("webhook", "workers.jobs.webhook.deliver", WEBHOOK_AGAIN_S))
    if settings.second_pass_engine:
        wanted.append(("second-pass", "workers.jobs.second_pass.transcribe", SECOND_PASS_AGAIN_S))
    if not wanted:
        return
    with connector(settings.queue).sync(5, patient=True) as connection:
        for name, job, again in wanted:
            _once(connection, f"{name}-{session}", job, session, again)


def _once(connection: Redis, name: str, job: str, session: str, again: Sequence[int]) -> None:
    if Job.exists(name, connection) and Job.fetch(name, connection).get_status() is not JobStatus.FAILED:
        return
    Queue(QUEUE, connection=connection).enqueue(
        job, session, job_id=name, retry=Retry(max=len(again), interval=list(again)), result_ttl=KEPT_S,
        failure_ttl=KEPT_S, job_timeout=LONGEST_S,
    )  # fmt: skip
