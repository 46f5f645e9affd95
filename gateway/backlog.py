"""The caller's audio that Redis has not taken yet: kept through an outage up to a bound, in order.

Beyond the bound the oldest is let go of, and the client is told how much that was once Redis takes audio again: what
is said now matters more than what was said a minute ago.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial

from bus.events import MIC_RATE
from bus.keys import shard_of
from bus.streams import Bus
from gateway.outlet import Outlet

log = logging.getLogger(__name__)

AUDIO_LOST = "audio_lost"


class Backlog:
    """One session's share. Belongs to one event loop."""

    def __init__(self, bus: Bus, session: str, seconds: float, outlet: Outlet) -> None:
        """``seconds`` of audio are kept while Redis is away; one that sends faster than it takes is not bounded."""
        self.lost = 0
        """Samples that were let go of and not told of yet."""
        self._away = partial(bus.away, shard_of(session))
        self._session = session
        self._limit = round(seconds * MIC_RATE)
        self._outlet = outlet
        self._waiting: deque[tuple[asyncio.Future[bytes], int, int]] = deque()
        """(entry, its first sample, its samples)"""
        self._samples = 0
        self._first = 0

    def add(self, entry: asyncio.Future[bytes], offset: int, samples: int) -> None:
        """Audio is on its way to the stream; ``entry`` is done when it stands there."""
        self._waiting.append((entry, offset, samples))
        self._samples += samples
        stands = False
        while self._waiting and self._waiting[0][0].done():
            answer, at, length = self._take()
            if answer.cancelled() or answer.exception() is not None:
                self._lose(at, length)
            else:
                stands = True
        while self._samples > self._limit and self._away():
            answer, at, length = self._take()
            answer.cancel()
            self._lose(at, length)
        if stands and self.lost:
            self._tell()

    def _take(self) -> tuple[asyncio.Future[bytes], int, int]:
        oldest = self._waiting.popleft()
        self._samples -= oldest[2]
        return oldest

    def _lose(self, offset: int, samples: int) -> None:
        if not self.lost:
            self._first = offset
            log.warning("%s: redis has been away for too long; the caller's audio is lost from now on", self._session)
        self.lost += samples

    def _tell(self) -> None:
        ms, since = self.lost * 1000 // MIC_RATE, self._first * 1000 // MIC_RATE
        self.lost = 0
        message = f"{ms} ms of the caller's audio were lost, from {since} ms on: Redis did not answer for too long."
        log.error("%s: %s", self._session, message)
        self._outlet.refused(AUDIO_LOST, message, "")
