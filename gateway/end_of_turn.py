"""Whether a caller who pauses is done: a model that is asked at each pause, beside the silence that ends a turn anyway.

``EndOfTurn`` is what the detector asks (``gateway.speech``). ``SmartTurn`` answers it with smart-turn v3.2 (Daily,
BSD-2), an ONNX model that hears intonation, not words: a file, or the one within an installed ``pipecat-ai``. It takes
8 s of audio as Whisper's log-mel spectrogram and gives the probability that the utterance is complete: some 20 ms for
the spectrogram and 80 ms for the model on one core.
"""

from __future__ import annotations

import importlib.util
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

log = logging.getLogger(__name__)

EndOfTurnKind = Literal["vad", "smart-turn"]

RATE = 16_000
HEARD_S = 8
"""Seconds of the utterance's end that a model is given."""
BUNDLED = "audio/turn/smart_turn/data/smart-turn-v3*cpu.onnx"
"""Where pipecat-ai keeps the model, below its package."""
MISSING_MODEL = (
    "has no model: set SMART_TURN_MODEL to a smart-turn v3 .onnx file, or pip install --no-deps pipecat-ai, which "
    "contains one"
)


class EndOfTurn(Protocol):
    """Judges pauses. One object serves many sessions."""

    def ask(self, pcm: bytes) -> Future[float]:
        """Begin to judge whether an utterance is complete, and return at once.

        ``pcm`` is its end, at most HEARD_S seconds of 16 kHz mono 16-bit with the pause behind it. The result is a
        probability from 0 to 1, complete from 0.5 on; an exception when there is none to be had. Nobody waits for it;
        who no longer wants it cancels it.
        """


class SmartTurn:
    """The smart-turn v3 model, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        """``path`` of the .onnx file. It is loaded in the thread; what is wrong with it is the answer's exception."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="smart-turn")
        self._model = self._thread.submit(_load, path)

    def ask(self, pcm: bytes) -> Future[float]:
        """See ``EndOfTurn``. Questions are answered one after the other."""
        return self._thread.submit(self._answer, pcm)

    def _answer(self, pcm: bytes) -> float:
        features = log_mel(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
        return float(self._model.result().run(None, {"input_features": features[np.newaxis]})[0].item())


def problem(kind: EndOfTurnKind, path: Path | None) -> str:
    """Why turns cannot be ended in this way here; empty when they can."""
    if kind == "vad":
        return ""
    if path is not None and not path.is_file():
        return "has no model: SMART_TURN_MODEL is not a file"
    return "" if find_model(path) else MISSING_MODEL


def find_model(path: Path | None) -> Path | None:
    """``path``, else the newest smart-turn v3 model within an installed pipecat-ai, which is not imported."""
    if path is not None:
        return path
    found = importlib.util.find_spec("pipecat")
    folders = (found.submodule_search_locations if found else None) or ()
    files = [file for folder in folders for file in Path(folder).glob(BUNDLED)]
    return max(files, default=None)


@cache
def shared(kind: EndOfTurnKind, path: Path | None) -> EndOfTurn | None:
    """The process's one model; None for ``vad``. Raises ValueError when there is none to be had."""
    if kind == "vad":
        return None
    file = find_model(path)
    if wrong := problem(kind, path):
        raise ValueError(f"END_OF_TURN={kind} {wrong}")
    assert file is not None
    return SmartTurn(file)


def _load(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# -- Whisper's log-mel spectrogram, as Hugging Face's WhisperFeatureExtractor(chunk_length=8) makes it

WINDOW, HOP, MELS = 400, 160, 80


def log_mel(samples: np.ndarray) -> np.ndarray:
    """float32 [80, 800] of the last 8 s of ``samples`` (float32, 16 kHz); silence is put in front of less."""
    size = HEARD_S * RATE
    samples = np.pad(samples[-size:], (max(0, size - len(samples)), 0))
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    padded = np.pad(samples.astype(np.float64), WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    logs = np.log10(np.maximum(power @ _filters(), 1e-10)).T
    logs = np.maximum(logs, logs.max() - 8.0)
    scaled: np.ndarray = ((logs + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def _filters() -> np.ndarray:
    """[201, 80]: triangles of equal area, spaced on Slaney's mel scale (linear to 1 kHz, logarithmic above)."""
    top = 15.0 + np.log(RATE / 2 / 1000) * 27 / np.log(6.4)
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, np.newaxis]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
    filters: np.ndarray = triangles * 2 / (high - low)
    return filters
