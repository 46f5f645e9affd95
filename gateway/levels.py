"""How loud a call was: one level for every bar of time, of both voices, for the pictures of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bus.events import MIC_RATE, Event, MicAudio, Played, SpeechAudio
from bus.wire import LONGEST_CALL_S

LONGEST_TURN_S = 3600
"""Seconds of a turn's audio that are looked at."""
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
    energy: dict[int, float] = {}
    for each in events:
        if isinstance(each, MicAudio) and each.pcm and each.offset < LONGEST_CALL_S * MIC_RATE:
            squares = np.frombuffer(each.pcm, "<i2").astype(np.float32) ** 2
            bars = (each.offset + np.arange(len(squares))) // _BAR
            for bar, more in enumerate(np.bincount(bars - bars[0], squares), int(bars[0])):
                energy[bar] = energy.get(bar, 0.0) + float(more)
    loud = {bar: round(math.sqrt(each / _BAR) / _FULL, 4) for bar, each in energy.items()}
    return [loud.get(bar, 0.0) for bar in range(max(loud, default=-1) + 1)]


def of_heard(speech: Iterable[Event], playback: Iterable[Event]) -> Levels:
    """What was heard of the assistant's audio, by its playback reports, to a bar."""
    turns: dict[int, tuple[int, bytearray]] = {}
    for each in speech:
        if isinstance(each, SpeechAudio) and each.offset < LONGEST_TURN_S * each.rate:
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
        if isinstance(report, Played) and report.mic < LONGEST_CALL_S * MIC_RATE:
            levels = made.get(report.turn, [])
            for ms in range(report.start, min(report.end, len(levels) * BAR_MS), BAR_MS // 2):
                bar = (report.mic * 1000 // MIC_RATE + ms - report.start) // BAR_MS
                heard[bar] = max(heard.get(bar, 0.0), levels[ms // BAR_MS])
    return [heard.get(bar, 0.0) for bar in range(max(heard, default=-1) + 1)]
