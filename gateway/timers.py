"""The timers that the turn logic sets: each has a name and a number, and at most one of a kind runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """One session's timers."""

    def __init__(self, at: Callable[[float, Callable[[], None]], asyncio.TimerHandle]) -> None:
        """``at(when, callback)`` calls back at ``when`` seconds of the session's clock."""
        self._at = at
        self._running: dict[tuple[str, int], asyncio.TimerHandle] = {}

    def set(self, name: str, number: int, when: float, fire: Callable[[], None]) -> None:
        """Call ``fire`` at ``when``, instead of what was set under this name and number before."""
        self.stop(name, number)

        def fired() -> None:
            del self._running[name, number]
            fire()

        self._running[name, number] = self._at(when, fired)

    def stop(self, name: str, number: int) -> None:
        """Let it not fire, if it is set."""
        timer = self._running.pop((name, number), None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Stop all of them."""
        for timer in self._running.values():
            timer.cancel()
        self._running.clear()
