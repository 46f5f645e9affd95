"""What a caller says: sound files, and a microphone that never closes.

Everything is mono, 16-bit, 24 kHz. Times are milliseconds since the call began.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Int16 = npt.NDArray[np.int16]

RATE = 24_000
PER_MS = RATE // 1000
FRAME_MS = 20
FRAME = FRAME_MS * PER_MS
"""Samples of one frame of the microphone."""
SOUND_SHARE = 0.05
"""A frame sounds when its level (RMS) is at least this share (-26 dB) of the loudest frame's."""


class AudioError(Exception):
    """A file that cannot be used as audio: which, and why."""


def load(path: str | Path) -> Int16:
    """A sound file of any rate, channels and subtype, as 24 kHz mono. Raises AudioError."""
    try:
        with Path(path).open("rb"):  # says more of why it cannot be read
            channels, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: cannot be read as audio: {error.error_string}") from None
    if not 1000 <= rate <= 768_000:
        raise AudioError(f"{path}: has {rate} samples a second; expected 1000 to 768000")
    samples: npt.NDArray[np.float32] = channels.mean(axis=1)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    if not len(samples):
        raise AudioError(f"{path}: holds no audio")
    return np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)


def sounding(pcm: Int16) -> tuple[float, float]:
    """From when to when (ms, in steps of 10) ``pcm`` sounds: the first and last frame above SOUND_SHARE."""
    step = 10 * PER_MS
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % step, np.int16)]).astype(np.float64)
    levels = np.sqrt((padded.reshape(-1, step) ** 2).mean(axis=1))
    if not len(levels) or levels.max() == 0:
        return 0.0, 0.0
    loud = np.flatnonzero(levels >= SOUND_SHARE * levels.max())
    return float(loud[0] * 10), float((loud[-1] + 1) * 10)


class Clock:
    """The call's time in ms, which runs ``speed`` times as fast as the world's."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._began = time.monotonic()

    def now(self) -> float:
        """Milliseconds since the call began."""
        return (time.monotonic() - self._began) * 1000 * self.speed

    async def sleep_until(self, at: float) -> None:
        """Return at ``at`` ms, or at once if that is past."""
        await asyncio.sleep(max(0.0, self.seconds(at - self.now())))

    def seconds(self, ms: float) -> float:
        """What ``ms`` of the call are in seconds of the world."""
        return ms / 1000 / self.speed


@dataclass
class Spoken:
    """Something the caller says. ``started``, ``onset`` and ``last_sound`` are None until it is being said."""

    pcm: Int16
    name: str = ""
    started: float | None = None
    """When its first sample entered the microphone (ms)."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its last frame is on its way."""

    def __post_init__(self) -> None:
        self._sounding = sounding(self.pcm)
        self._sent = 0

    @property
    def seconds(self) -> float:
        return len(self.pcm) / RATE

    @property
    def onset(self) -> float | None:
        """When it began to sound (ms)."""
        return None if self.started is None else self.started + self._sounding[0]

    @property
    def last_sound(self) -> float | None:
        """When it sounds, or will have sounded, for the last time (ms)."""
        return None if self.started is None else self.started + self._sounding[1]

    def take(self, samples: int, at: float) -> Int16:
        """The next samples, at most so many; the first of them was spoken at ``at`` ms."""
        if self.started is None:
            self.started = at
        piece = self.pcm[self._sent : self._sent + samples]
        self._sent += len(piece)
        if self._sent == len(self.pcm):
            self.ended.set()
        return piece


class Microphone:
    """Frame after frame: what the caller says, and silence in between."""

    def __init__(self) -> None:
        self._waiting: deque[Spoken] = deque()

    def say(self, spoken: Spoken) -> None:
        """Say it after what is being said already."""
        self._waiting.append(spoken)

    def frame(self, now: float) -> tuple[bytes, list[Spoken]]:
        """The FRAME_MS that end at ``now``, as little-endian PCM; and whatever began in them."""
        frame = np.zeros(FRAME, "<i2")
        began = []
        filled = 0
        while self._waiting and filled < FRAME:
            spoken = self._waiting[0]
            if spoken.started is None:
                began.append(spoken)
            piece = spoken.take(FRAME - filled, now - FRAME_MS + filled / PER_MS)
            frame[filled : filled + len(piece)] = piece
            filled += len(piece)
            if spoken.ended.is_set():
                self._waiting.popleft()
        return frame.tobytes(), began
