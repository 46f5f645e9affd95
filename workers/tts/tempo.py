"""Speech faster or slower at the same pitch, for engines that have no speed of their own: WSOLA, as it comes.

Frames of 40 ms are laid over each other by half. Each is taken from within 10 ms of where it is due, where it fits best
what is there already, so that the waveform goes on without a step. The result is as long as the original divided by the
speed, to the sample.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np

from workers.tts.engine import Chunk

FRAME_S = 0.040
REACH_S = 0.010
CHUNK_MS = 60


class Tempo:
    """Mono 16-bit sound at ``rate`` Hz, made ``speed`` times as fast (0.25 to 4), in pieces of any size."""

    def __init__(self, rate: int, speed: float) -> None:
        self._speed = speed
        self._hop = round(rate * FRAME_S) // 2
        self._reach = round(rate * REACH_S)
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(2 * self._hop) + 0.5) / (2 * self._hop))
        self._taken = 0
        """Samples taken so far."""
        self._given = 0
        self._sound = np.zeros(self._reach + self._hop)
        """What may still be needed; before the beginning there is silence."""
        self._at = -len(self._sound)
        """The sample of the original at which ``_sound`` begins."""
        self._frames = 0
        self._next = -self._hop
        """Where the frame before would go on."""
        self._tail = np.zeros(self._hop)
        """The falling half of the frame before."""

    def take(self, pcm: bytes) -> bytes:
        """The sound that is certain with ``pcm``."""
        samples = np.frombuffer(pcm, "<i2").astype(float)
        self._taken += len(samples)
        self._sound = np.concatenate([self._sound, samples])
        return self._frames_until(self._taken)

    def finish(self) -> bytes:
        """The rest."""
        whole = round(self._taken / self._speed)
        self._sound = np.concatenate([self._sound, np.zeros(4 * self._hop + 2 * self._reach)])
        rest = self._frames_until(self._at + len(self._sound))
        missing = 2 * (whole - (self._given - len(rest) // 2))
        self._given = whole
        return rest[: max(0, missing)].ljust(max(0, missing), b"\0")

    def _frames_until(self, end: int) -> bytes:
        """Every frame whose samples, and those it may be taken from, stand before ``end``."""
        made: list[np.ndarray] = []
        hop, reach = self._hop, self._reach
        while (due := round((self._frames * hop - hop) * self._speed)) + reach + 2 * hop <= end:
            start = self._best(due)
            frame = self._part(start, 2 * hop) * self._window
            made.append(self._tail + frame[:hop])
            self._tail, self._next = frame[hop:], start + hop
            self._frames += 1
            self._forget(min(due, self._next) - reach)
        # The first half frame lies before the beginning.
        sound = np.concatenate([*made, np.zeros(0)])
        if made and self._frames == len(made):
            sound = sound[hop:]
        self._given += len(sound)
        return bytes(np.clip(np.rint(sound), -32_768, 32_767).astype("<i2").tobytes())

    def _best(self, due: int) -> int:
        """Where within reach of ``due`` the sound is most like what would follow the frame before."""
        if self._frames == 0:
            return due
        wanted = self._part(self._next, self._hop)
        field = self._part(due - self._reach, 2 * self._reach + self._hop)
        likeness = np.correlate(field, wanted, "valid")
        energy = np.convolve(field**2, np.ones(self._hop), "valid")
        return due - self._reach + int(np.argmax(likeness / np.sqrt(energy + 1.0)))

    def _part(self, start: int, size: int) -> np.ndarray:
        part = self._sound[start - self._at : start - self._at + size]
        return np.pad(part, (0, size - len(part)))

    def _forget(self, before: int) -> None:
        unneeded = max(0, before - self._at)
        self._sound = self._sound[unneeded:]
        self._at += unneeded


async def at_speed(chunks: AsyncGenerator[Chunk, None], rate: int, speed: float) -> AsyncIterator[Chunk]:
    """``chunks`` of one sentence at another speed. A text is told where its sound is complete, as before."""
    tempo, size = Tempo(rate, speed), 2 * (rate * CHUNK_MS // 1000)
    texts: list[tuple[int, str]] = []
    sound, taken, given, exact = bytearray(), 0, 0, True

    def chunk(upto: int, *, last: bool = False) -> Chunk:
        nonlocal given
        pcm = bytes(sound[:upto])
        del sound[:upto]
        given += len(pcm) // 2
        told = ""
        while texts and (last or texts[0][0] <= given * speed):
            told += texts.pop(0)[1]
        return Chunk(pcm, told, exact)

    try:
        async for each in chunks:
            taken, exact = taken + len(each.pcm) // 2, each.exact
            if each.text:
                texts.append((taken, each.text))
            sound += tempo.take(each.pcm)
            while len(sound) > size:
                yield chunk(size)
        sound += tempo.finish()
        while len(sound) > size:
            yield chunk(size)
        yield chunk(len(sound), last=True)
    finally:
        await chunks.aclose()
