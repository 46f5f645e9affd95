"""Silero's voice activity model, one for all calls of a process: what it remembers of each is the call's own.

It runs with the interpreter's lock released, and is not asked about silence. ``models/silero_vad.onnx`` is v6.2.3 as
Silero published it (MIT).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
WINDOW = 512
CONTEXT = 64
"""Samples before each window that the model is given too."""
QUIET = 64
"""A window without a sample (of 32768) beyond this, -54 dBFS, is silence, as on a quiet line. Not to ask about it saves
much of a gateway's work (``benchmarks.load --noise``); a very soft onset may be found a window or two later."""
MODEL = Path(__file__).with_name("models") / "silero_vad.onnx"


@functools.cache
def model() -> Any:
    """The model, loaded once. It runs in whichever thread asks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena never gives memory back
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


def hush() -> np.ndarray:
    """Four windows of a quiet room, -70 dBFS: what the model is taken to have heard last after a silence."""
    return np.random.default_rng(0).normal(0, 10, (4, WINDOW)).round().astype("<i2")


@functools.cache
def rested() -> tuple[np.ndarray, np.ndarray]:
    """(state, context) of a call that was silent: from nothing at all the model would hear an onset later.

    The state has the shape (2, 1, 128), the context CONTEXT samples from -1 to 1.
    """
    detector = Detector(rest=False)
    for window in hush():
        detector.hear(window)
    return detector.state, detector.context.copy()


class Detector:
    """One call's: the windows it is given follow each other."""

    def __init__(self, *, rest: bool = True) -> None:
        """``rest``: it begins after a silence, as a call does; else with nothing."""
        self._run = model().run
        self._input = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self.state = np.zeros((2, 1, 128), np.float32)
        self._rate = np.array(RATE, np.int64)
        self._rested = rest

    @property
    def context(self) -> np.ndarray:
        """The end of the last window."""
        return self._input[0, -CONTEXT:]

    def __call__(self, window: bytes) -> float:
        """The probability that 512 samples of 16 kHz 16-bit audio, following those before, hold speech."""
        samples = np.frombuffer(window, "<i2")
        if samples.min() >= -QUIET and samples.max() <= QUIET:
            self._rested = True
            return 0.0
        if self._rested:  # to the model the audio after a silence is another stream
            self._rested = False
            self.state, self.context[:] = rested()
        return self.hear(samples)

    def hear(self, samples: np.ndarray) -> float:
        """The same, whether or not it is silence."""
        heard = self._input[0]
        heard[:CONTEXT] = heard[-CONTEXT:]
        np.multiply(samples, np.float32(1 / 32_768), out=heard[CONTEXT:])
        feeds = {"input": self._input, "state": self.state, "sr": self._rate}
        probability, self.state = self._run(None, feeds)
        return float(probability[0, 0])
