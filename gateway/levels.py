"""How loud a call was: one level for every bar of time, of both voices, for the pictures of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bus.events import MIC_RATE, Event, MicAudio, Played, SpeechAudio

BAR_MS = 50
"""What one level stands for."""
_BAR = MIC_RATE * BAR_MS // 1000
_FULL = 32_768.0

Levels = list[float]
"""Root mean squares, 0..1, from the session's beginning; 0 where nothing was heard."""


def of_samples(samples: npt.NDArray[np.int16], bar: int = _BAR) -> Levels:
    """Levels of mono samples, ``bar`` of them each."""
    if not len(samples):
        return []
    padded = np.zeros(-(-len(samples) // bar) * bar, np.float32)
    padded[: len(samples)] = samples
    means = np.sqrt((padded.reshape(-1, bar) ** 2).mean(axis=1)) / _FULL
    return [round(float(level), 4) for level in means]


def of_recording(path: Path) -> tuple[Levels, Levels]:
    """(caller, heard) of a stereo recording at 16 kHz. Raises soundfile.LibsndfileError and OSError."""
    import soundfile

    caller, heard = Levels(), Levels()
    for block in soundfile.blocks(str(path), blocksize=_BAR * 200, dtype="int16", always_2d=True):
        caller += of_samples(block[:, 0])
        heard += of_samples(block[:, -1])
    return caller, heard


def of_caller(events: Iterable[Event]) -> Levels:
    """What the caller's audio on the mic stream says; what was trimmed away is silent."""
    chunks = [(each.offset, np.frombuffer(each.pcm, "<i2")) for each in events if isinstance(each, MicAudio)]
    samples = np.zeros(max((offset + len(chunk) for offset, chunk in chunks), default=0), np.int16)
    for offset, chunk in chunks:
        samples[offset : offset + len(chunk)] = chunk
    return of_samples(samples)


def of_heard(speech: Iterable[Event], playback: Iterable[Event]) -> Levels:
    """What was heard of the assistant's audio, by its playback reports, to a bar."""
    turns: dict[int, tuple[int, bytearray]] = {}
    for each in speech:
        if isinstance(each, SpeechAudio):
            rate, audio = turns.setdefault(each.turn, (each.rate, bytearray()))
            begin = each.offset * rate // each.rate * 2
            audio.extend(bytes(max(0, begin - len(audio))))
            audio[begin : begin + len(each.pcm)] = each.pcm
    made = {
        turn: of_samples(np.frombuffer(bytes(audio), "<i2"), rate * BAR_MS // 1000)
        for turn, (rate, audio) in turns.items()
    }
    heard: dict[int, float] = {}
    for report in playback:
        if isinstance(report, Played):
            levels = made.get(report.turn, [])
            for ms in range(report.start, report.end, BAR_MS // 2):
                bar = (report.mic * 1000 // MIC_RATE + ms - report.start) // BAR_MS
                level = levels[ms // BAR_MS] if ms // BAR_MS < len(levels) else 0.0
                heard[bar] = max(heard.get(bar, 0.0), level)
    return [heard.get(bar, 0.0) for bar in range(max(heard, default=-1) + 1)]
