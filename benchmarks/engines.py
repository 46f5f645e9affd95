"""Engines that cost next to nothing, for load: what is measured is bargein, not a model.

They stand in for model servers with times as measured of peers: 150 ms to the LLM's first token and 40 tokens a second,
80 ms to the voice's first audio, then faster than real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np

from bus.cancel import CancelToken
from workers.llm.engine import Message
from workers.tts.engine import Chunk

WORDS_PER_S = 3


class Stt:
    """Understands every utterance as the same words, the first 350 ms after its start."""

    name = "bench"
    capacity = 200

    async def load(self) -> None:
        pass

    async def open(self, language: str) -> _Recognizer:
        return _Recognizer()


class _Recognizer:
    def __init__(self) -> None:
        self._samples = 0

    async def begin(self) -> None:
        self._samples = 0

    async def feed(self, pcm: bytes) -> str:
        self._samples += len(pcm) // 2
        return "tell me" if self._samples > 16_000 * 0.65 else ""

    async def flush(self) -> str:
        return "tell me a story"

    async def close(self) -> None:
        pass


class Llm:
    """A long answer, 40 words a second after 150 ms."""

    name = "bench"
    capacity = 200

    async def load(self) -> None:
        pass

    async def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        await asyncio.sleep(0.15)
        for number in range(240):
            await asyncio.sleep(1 / 40)
            yield "word. " if number % 12 == 11 else "word "


class Tts:
    """A tone, three words a second, 80 ms to its first chunk, four times as fast as real time."""

    name = "bench"
    capacity = 200
    rate = 24_000
    repeatable = True
    voices: tuple[str, ...] = ()

    async def load(self) -> None:
        pass

    async def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0.08)
        samples = self.rate // 20
        tone = (6000 * np.sin(2 * np.pi * 220 * np.arange(samples) / self.rate)).astype("<i2").tobytes()
        words = text.split(" ")
        chunks = len(words) * 20 // WORDS_PER_S
        told = 0
        for number in range(chunks):
            await asyncio.sleep(0.05 / 4)
            cancel.check()
            upto = (number + 1) * len(words) // chunks
            part = " ".join(words[told:upto])
            yield Chunk(tone, part if upto == len(words) or not part else part + " ", exact=True)
            told = upto
