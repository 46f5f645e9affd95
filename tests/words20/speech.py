"""Spoken words by Debian's espeak-ng: sentences for tests, and the corpus for training."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from tests.words20 import WORDS

RATE = 16_000


class CannotSpeak(Exception):
    """There is no espeak-ng here; the text says what to do."""


@dataclass(frozen=True)
class Spoken:
    """What was said, and its 16 kHz mono samples in [-1, 1]."""

    text: str
    samples: np.ndarray

    @property
    def pcm(self) -> bytes:
        """As 16-bit samples."""
        return (self.samples * 32767).astype("<i2").tobytes()


def say(text: str, voice: str, speed: int = 160, pitch: int = 50, separator: str = " ") -> np.ndarray:
    """The bare words by espeak-ng: ``speed`` in words a minute, ``pitch`` 0 to 99. Raises CannotSpeak."""
    if shutil.which("espeak-ng") is None:
        raise CannotSpeak("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", "--stdin"]
    done = subprocess.run(command, input=text.replace(" ", separator).encode(), capture_output=True, check=True)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return soxr.resample(samples, rate, RATE)


def utterance(chance: random.Random, voices: Sequence[str], words: Sequence[str]) -> Spoken:
    """The words in one of the voices, with silence around them, in some noise, at some loudness."""
    samples = say(
        " ".join(words), chance.choice(voices), chance.randint(130, 190), chance.randint(35, 65),
        chance.choice([" ", " ", ", "]),
    )  # fmt: skip
    lead, tail = (np.zeros(int(chance.uniform(*span) * RATE), np.float32) for span in ((0.0, 0.5), (0.1, 0.7)))
    samples = np.concatenate([lead, samples, tail]) * chance.uniform(0.3, 1.0)
    noise = np.random.default_rng(chance.getrandbits(32)).standard_normal(len(samples))
    samples = samples + noise.astype(np.float32) * 10 ** chance.uniform(-4.5, -2.5)
    return Spoken(" ".join(words), np.clip(samples, -1, 1).astype(np.float32))


def sequence(chance: random.Random, longest: int, repeats: bool = True) -> list[str]:
    """1 to ``longest`` words; without ``repeats`` no word follows itself."""
    words: list[str] = []
    for _ in range(chance.randint(1, longest)):
        words.append(chance.choice([word for word in WORDS if repeats or word not in words[-1:]]))
    return words


def corpus(seed: int, count: int, voices: Sequence[str], longest: int = 4, repeats: bool = True) -> list[Spoken]:
    """So many utterances, the same for the same seed. Raises CannotSpeak."""

    def one(number: int) -> Spoken:
        chance = random.Random(seed * 1_000_003 + number)
        return utterance(chance, voices, sequence(chance, longest, repeats))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(count)))
