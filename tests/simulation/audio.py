"""Audio that says of each sample where it belongs.

The caller's: every two 16-bit samples are one little-endian 32-bit number, ``kind << 28 | index of the pair``.
The assistant's: each sample is a function of the reply and the position within it.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

SILENCE, WORD, MURMUR, NOISE = range(4)
"""What a frame of the caller's audio holds: nothing, a word, a backchannel, a sound that is no speech."""
MIC_FRAME = 960
"""Samples of the caller's audio in one frame: 60 ms at 16 kHz."""
PAIRS = MIC_FRAME // 2
_INDEX = (1 << 28) - 1

RATE = 8_000
"""Sample rate of the scripted voice and of every simulated client."""
CHUNK = 480
"""Samples of the scripted voice in one chunk: 60 ms."""

_steps = np.arange(PAIRS, dtype="<u4")


def mic_frame(index: int, kind: int) -> bytes:
    """60 ms of the caller's audio whose first pair is number ``index``."""
    return (_steps + np.uint32(index | kind << 28)).tobytes()


def probability(window: bytes) -> float:
    """The detector's view of 512 samples: whether their middle is a sound."""
    middle = len(window) // 8 * 4
    return 0.95 if window[middle + 3] >> 4 else 0.01


class Ledger:
    """Stretches of sound, in the order in which audio brought them."""

    def __init__(self) -> None:
        self.sounds: list[list[int]] = []
        """[kind, first pair, pair after the last]"""
        self.last = 0
        """The pair after the last one of any kind."""

    def add(self, pcm: bytes) -> None:
        pairs = np.frombuffer(pcm, "<u4")
        if len(pairs):
            self.last = max(self.last, (int(pairs[-1]) & _INDEX) + 1)
        pairs = pairs[pairs > _INDEX]
        if not len(pairs):
            return
        breaks = np.flatnonzero(np.diff(pairs) != 1) + 1
        for run in np.split(pairs, breaks) if len(breaks) else [pairs]:
            kind, first, end = int(run[0]) >> 28, int(run[0]) & _INDEX, (int(run[-1]) & _INDEX) + 1
            if self.sounds and self.sounds[-1][0] == kind and self.sounds[-1][2] == first:
                self.sounds[-1][2] = end
            else:
                self.sounds.append([kind, first, end])

    def text(self, *, settled: bool) -> str:
        """The words heard; unless ``settled``, one that may still go on is left out."""
        words = [
            f"{'w' if kind == WORD else 'mm'}{first}_{end}"
            for kind, first, end in self.sounds
            if kind in (WORD, MURMUR) and (settled or end < self.last)
        ]
        return " ".join(words)


class Murmurs(frozenset[str]):
    """The backchannels of this caller: every word that begins with mm."""

    def __contains__(self, word: object) -> bool:
        return str(word).startswith("mm")


_TOKEN = re.compile(r"[rR](\d+)w(\d+)\.?")


@lru_cache(maxsize=100_000)
def _chunks(token: str) -> int:
    """How many chunks a word of the assistant takes: 3 to 6."""
    return 3 + zlib.crc32(token.lower().rstrip(".").encode()) % 4


@dataclass
class Reply:
    """One answer of the scripted model: its words, each named after the answer and its place in it."""

    number: int
    words: list[str]
    starts: list[int] = field(default_factory=list)
    """Position (samples) at which each word's sound begins; one more for the end."""
    turn: tuple[str, int] | None = None
    """The (session, turn) that it was heard in."""

    def __post_init__(self) -> None:
        at = 0
        for word in self.words:
            self.starts.append(at)
            at += _chunks(word) * CHUNK
        self.starts.append(at)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def text_until(self, position: int) -> str:
        """The words whose sound is complete within the first ``position`` samples."""
        return " ".join(word for word, end in zip(self.words, self.starts[1:], strict=True) if end <= position)


class Replies:
    """Every answer that any scripted model has begun."""

    def __init__(self) -> None:
        self._replies: list[Reply] = []

    def make(self, sentences: list[int]) -> Reply:
        """An answer of sentences with so many words each."""
        number, words = len(self._replies), list[str]()
        for length in sentences:
            first = len(words)
            words += [f"r{number}w{first + n}" for n in range(length)]
            words[first] = words[first].upper().replace("W", "w")
            words[-1] += "."
        self._replies.append(Reply(number, words))
        return self._replies[-1]

    def find(self, token: str) -> tuple[Reply, int]:
        """The answer that a word belongs to, and its place in it. Raises ValueError for a word nobody said."""
        match = _TOKEN.fullmatch(token)
        if match is None or int(match[1]) >= len(self._replies):
            raise ValueError(f"a word that nobody said: {token!r}")
        return self._replies[int(match[1])], int(match[2])

    def newest(self, count: int) -> list[Reply]:
        """The answers begun last, newest first."""
        return self._replies[: -count - 1 : -1]


def speech(reply: int, start: int, count: int) -> bytes:
    """Samples ``start`` to ``start + count`` of an answer's sound."""
    positions = np.arange(start, start + count, dtype=np.uint64)
    mixed = (positions * np.uint64(2_654_435_761) >> np.uint64(9)) ^ np.uint64(zlib.crc32(b"%d" % reply))
    return mixed.astype("<u2").tobytes()
