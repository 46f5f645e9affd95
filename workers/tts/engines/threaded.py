"""One sentence on its way from the thread of a model to the loop that asked for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable

import numpy as np

from bus.cancel import CancelToken
from workers.engines import EngineError

log = logging.getLogger(__name__)

CHUNK_MS = 60
LOOK_S = 0.05
"""Seconds between two looks of a waiting model at whether it is still wanted here, or elsewhere."""

Sound = np.ndarray
"""Mono float32, -1 to 1."""


class Speaking:
    """``run``, ``is_wanted`` and ``give`` are for the model's thread, everything else for the loop."""

    def __init__(self, name: str, rate: int, cancel: CancelToken, hurried: Callable[[], bool]) -> None:
        """``name`` is the engine's; ``hurried`` says whether somebody else waits for the model: then it does not wait
        for its listener."""
        self.error: EngineError | None = None
        self.made = 0
        """Samples that the model has given."""
        self.taken = 0
        """Samples that the listener has taken."""
        self._name = name
        self._chunk = rate * CHUNK_MS // 1000
        self._cancel = cancel
        self._hurried = hurried
        self._closed = False
        self._asked = threading.Event()
        """Set while the listener waits for more than there is."""
        self._sounds: asyncio.Queue[tuple[Sound, bool] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Nobody listens any more: the model stops before its next step."""
        self._closed = True
        self._asked.set()

    async def chunks(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """(16-bit samples, whether they are the last), at most CHUNK_MS at once, until the model has ended.

        A cancelled turn has no more of them.
        """
        while True:
            if self._sounds.empty():
                self._asked.set()
            given = await self._sounds.get()
            if given is None:
                return
            sound, last = given
            for start in range(0, len(sound), self._chunk):
                if not self.is_wanted():
                    return
                part = sound[start : start + self._chunk]
                self.taken += len(part)
                yield to_pcm(part), last and start + self._chunk >= len(sound)

    def run(self, work: Callable[[], object]) -> None:
        """Do ``work``, which calls ``give``; what goes wrong becomes ``error``."""
        try:
            if self.is_wanted():
                work()
        except EngineError as error:
            self.error = error
        except Exception as error:
            log.exception("%s failed", self._name)
            self.error = EngineError(f"{self._name}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            self._deliver(None)

    def is_wanted(self) -> bool:
        """Whether anybody still wants this sentence."""
        return not (self._closed or self._cancel.cancelled)

    def give(self, sound: Sound, last: bool) -> None:
        """Give a piece, and wait until the listener has taken it: what is made ahead of them may be made in vain."""
        self._asked.clear()
        self.made += len(sound)
        self._deliver((sound, last))
        while not last and self.is_wanted() and not self._hurried() and not self._asked.wait(LOOK_S):
            pass

    def _deliver(self, given: tuple[Sound, bool] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._sounds.put_nowait, given)
        except RuntimeError:
            self._closed = True  # the loop is closed: nobody waits any more


def to_pcm(sound: Sound) -> bytes:
    """16-bit little-endian; what is louder than full scale is clipped."""
    return bytes((np.clip(sound, -1.0, 1.0) * 32_767.0).astype("<i2").tobytes())
