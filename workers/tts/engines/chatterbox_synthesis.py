"""One sentence on its way from a model's thread to the loop that asked for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable

from bus.cancel import CancelToken
from workers.engines import EngineError
from workers.tts.engine import Waste
from workers.tts.engines.chatterbox_abort import Watch
from workers.tts.engines.chatterbox_model import ChatterboxModel
from workers.tts.engines.chatterbox_stream import RATE, SAMPLES, Sound, to_pcm

log = logging.getLogger(__name__)

CHUNK = RATE * 60 // 1000
"""Samples of one chunk."""
LOOK_S = 0.05
"""Seconds between two looks of a waiting model at whether it is still wanted here, or elsewhere."""


class Synthesis:
    """``run`` lives in the model's thread, everything else in the loop."""

    def __init__(self, model: ChatterboxModel, cancel: CancelToken, hurried: Callable[[], bool]) -> None:
        """``hurried`` says whether somebody else waits for the model: then it does not wait for its listener."""
        self.error: EngineError | None = None
        self.taken = 0
        """Samples that the listener has taken."""
        self._model = model
        self._cancel = cancel
        self._hurried = hurried
        self._watch = Watch(self._is_wanted)
        self._closed = False
        self._made = 0
        self._asked = threading.Event()
        """Set while the listener waits for more than there is."""
        self._sounds: asyncio.Queue[tuple[Sound, bool] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def seconds(self) -> float | None:
        """How long the whole sentence is; None while that is not known."""
        return None if self._watch.total is None else self._watch.total * SAMPLES / RATE

    def close(self) -> None:
        """Nobody listens any more: the model stops before its next block."""
        self._closed = True
        self._asked.set()

    def waste(self) -> Waste:
        """What was done in vain, once ``run`` has ended."""
        watch = self._watch
        return Waste(steps=watch.late, tokens=watch.sampled - watch.voiced, samples=self._made - self.taken)

    async def chunks(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """(16-bit samples, whether they are the last), at most CHUNK at once, until the synthesis has ended."""
        while True:
            if self._sounds.empty():
                self._asked.set()
            given = await self._sounds.get()
            if given is None:
                return
            sound, last = given
            for start in range(0, len(sound), CHUNK):
                part = sound[start : start + CHUNK]
                self.taken += len(part)
                yield to_pcm(part), last and start + CHUNK >= len(sound)

    def run(self, text: str, voice: str, language: str, seed: int, limit: int) -> None:
        """Synthesise; see ``ChatterboxModel.speak``."""
        try:
            if self._is_wanted():
                self._model.speak(text, voice, language, seed=seed, limit=limit, watch=self._watch, emit=self._emit)
        except EngineError as error:
            self.error = error
        except Exception as error:
            log.exception("chatterbox failed")
            self.error = EngineError(f"chatterbox: {type(error).__name__}: {str(error)[:200]}")
        finally:
            self._deliver(None)

    def _is_wanted(self) -> bool:
        return not (self._closed or self._cancel.cancelled)

    def _emit(self, sound: Sound, last: bool) -> None:
        """Give a piece, and wait until the listener has taken it: what is made ahead of them may be made in vain."""
        self._asked.clear()
        self._made += len(sound)
        self._deliver((sound, last))
        while not last and self._is_wanted() and not self._hurried() and not self._asked.wait(LOOK_S):
            pass

    def _deliver(self, given: tuple[Sound, bool] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._sounds.put_nowait, given)
        except RuntimeError:
            self._closed = True  # the loop is closed: nobody waits any more
