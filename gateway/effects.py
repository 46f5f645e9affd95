"""What a session does towards Redis, one thing after the other, each until it has succeeded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bus.backoff import Backoff
from bus.outbox import OUTAGE
from bus.streams import Fenced

log = logging.getLogger(__name__)

Effect = Callable[[], Awaitable[None]]


class Effects:
    """One session's queue. An effect that a lost server stopped is tried again; one that fails otherwise is logged."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._waiting: asyncio.Queue[Effect] = asyncio.Queue()

    async def run(self) -> None:
        """Do the effects in order, for ever."""
        backoff = Backoff(0.05, 1.0)
        while True:
            effect = await self._waiting.get()
            while True:
                try:
                    await effect()
                    backoff.reset()
                    break
                except OUTAGE:
                    await asyncio.sleep(backoff.next())
                except Fenced:
                    break  # another gateway has the session, and does it
                except Exception:
                    log.exception("%s: a step towards redis failed", self._session)
                    break
            self._waiting.task_done()

    def later(self, effect: Effect) -> None:
        """Queue an effect."""
        self._waiting.put_nowait(effect)

    async def idle(self) -> None:
        """Return when every effect queued so far is done."""
        await self._waiting.join()
