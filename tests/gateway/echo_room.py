"""A room with a loudspeaker and a microphone, for echo: what is played comes back late, quieter, blurred and noisy."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soxr

from gateway.echo import EchoCanceller, Played
from gateway.hearing import Hearing
from gateway.inputs import SpeechStarted
from gateway.speech import RATE, SpeechDetector, silero
from tests import recordings, speech

LEAD = 0.2
STEP = 0.02
"""Seconds: how far audio is sent ahead of its time, and how much the client sends at once."""
PAUSE = 0.8
"""Seconds between two sentences: long enough to end an utterance."""


def spoken(names: list[str], instead: list[str], rate: int) -> np.ndarray:
    """Recordings, PAUSE after each, 16-bit samples at ``rate`` Hz; where they are absent, ``instead`` by flite.

    Skips the test where neither is there.
    """
    try:
        files = [recordings.path(name) for name in names]
    except pytest.skip.Exception:
        files = [speech.path(name) for name in instead]
    return np.concatenate([np.append(read(file, rate), np.zeros(int(PAUSE * rate), "<i2")) for file in files])


def read(file: Path, rate: int) -> np.ndarray:
    """A WAV file of 16 kHz mono, at ``rate`` Hz."""
    with wave.open(str(file)) as wav:
        samples = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
    return samples if rate == RATE else soxr.resample(samples, RATE, rate)


def echo(played: np.ndarray, rate: int, delay_ms: int, gain_db: float, seed: int = 1) -> np.ndarray:
    """What comes back of ``played``: direct sound and 120 ms of decaying reverberation, ``gain_db`` in all."""
    rng = np.random.default_rng(seed)
    length = rate * 120 // 1000
    response = rng.normal(size=length) * np.exp(-np.arange(length) / (rate * 0.02))
    response[0] = 3.0
    response *= 10 ** (gain_db / 20) / np.sqrt((response**2).sum())
    heard = np.convolve(played.astype(float), response)
    return np.concatenate([np.zeros(rate * delay_ms // 1000), heard])


def microphone(*sounds: np.ndarray, noise_db: float, seed: int = 1) -> np.ndarray:
    """The sum of sounds, as long as the first, with white noise of ``noise_db`` to full scale: 16-bit."""
    noise = np.random.default_rng(seed).normal(size=len(sounds[0])) * 32768 * 10 ** (noise_db / 20)
    for sound in sounds:
        noise[: len(sound)] += sound[: len(noise)]
    return np.clip(np.round(noise), -32768, 32767).astype("<i2")


@dataclass
class Heard:
    """What a gateway made of a microphone."""

    samples: np.ndarray
    """After the canceller, at the client's rate."""
    onsets: list[float]
    """Seconds at which speech began."""


def listen(played: np.ndarray, heard: np.ndarray, rate: int, *, cancel: bool = True) -> Heard:
    """Play one and hear the other through the canceller, a resampler and Silero, as a session does.

    Nothing takes real time. Both begin at the same moment.
    """
    now = 0.0
    reference = Played(rate)
    canceller = EchoCanceller(rate, reference, lambda: now)
    canceller.load()
    hearing, detector = Hearing(rate), SpeechDetector(silero())
    step, sent = int(STEP * rate), 0
    samples, events = [], []
    for start in range(0, len(heard) - step + 1, step):
        due = min(len(played), int((now + LEAD) * rate) // step * step)
        if due > sent:
            reference.send(played[sent:due].tobytes(), now)
            sent = due
        now = (start + step) / rate
        pcm = heard[start : start + step].tobytes()
        if cancel:
            pcm = canceller.feed(pcm)
        samples.append(pcm)
        events += detector.feed(hearing.feed(pcm)[0], now)
    onsets = [event.offset / RATE for event in events if isinstance(event, SpeechStarted)]
    return Heard(np.frombuffer(b"".join(samples), "<i2"), onsets)


def erle(echoed: np.ndarray, left: np.ndarray) -> float:
    """Echo return loss enhancement in dB: how much weaker what is left is than the echo that came in."""
    return float(10 * np.log10(np.mean(echoed.astype(float) ** 2) / max(np.mean(left.astype(float) ** 2), 1e-9)))
