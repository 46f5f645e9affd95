"""Silero's voice activity model, one for all calls of a process: what it remembers of each is the call's own.

A window of 32 ms takes it 110 us on a server's core, with the interpreter's lock released; it is not asked about
silence. ``models/silero_vad.onnx`` is v6.2.3 as Silero published it (MIT).
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
QUIET = 8
"""A window without a sample (of 32768) beyond this is silence: -72 dBFS, below any line's or room's noise."""
MODEL = Path(__file__).with_name("models") / "silero_vad.onnx"


@functools.cache
def model() -> Any:
    """The model, in 50 ms; once. It runs in whichever thread asks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena never gives memory back
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


class Detector:
    """One call's: the windows it is given follow each other."""

    def __init__(self) -> None:
        self._run = model().run
        self._input = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self._feeds = {"input": self._input, "sr": np.array(RATE, np.int64)}
        self._rested = True

    def __call__(self, window: bytes) -> float:
        """The probability that 512 samples of 16 kHz 16-bit audio, following those before, hold speech."""
        samples = np.frombuffer(window, "<i2")
        if samples.min() >= -QUIET and samples.max() <= QUIET:
            self._rested = True
            return 0.0
        heard = self._input[0]
        if self._rested:  # to the model the audio after a silence is another stream
            self._feeds["state"] = np.zeros((2, 1, 128), np.float32)
            heard[:CONTEXT] = 0.0
            self._rested = False
        else:
            heard[:CONTEXT] = heard[-CONTEXT:]
        np.multiply(samples, np.float32(1 / 32_768), out=heard[CONTEXT:])
        probability, self._feeds["state"] = self._run(None, self._feeds)
        return float(probability[0, 0])
