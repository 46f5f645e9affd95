"""Scripted engines: seeded times, and content that says of itself whether it is right."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from bus.cancel import CancelToken
from tests.simulation.audio import CHUNK, RATE, Ledger, Replies, speech
from tests.simulation.functions import Made
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.tools import Call, CallPiece, Request
from workers.tts.engine import Chunk


@dataclass(frozen=True, slots=True)
class Moods:
    """How often engines misbehave; chances 0 to 1."""

    crash: float = 0.02
    """Chance that a voice raises in the middle of a sentence."""
    refuses: float = 0.03
    """Chance that a model fails before it has said anything."""
    dumb: float = 0.01
    """Chance that a model answers nothing at all."""
    stall: float = 0.02
    """Chance that any step takes up to a second."""
    calls: float = 0.15
    """Chance that a model calls functions, half of the time without having said anything."""


class InjectedCrash(Exception):
    """An engine's bug, of the kind that it does not announce as EngineError."""


class Scripted:
    """What the three share: a capacity, and seeded times."""

    capacity = 64
    voices = ()
    rate = RATE
    repeatable = True
    name = "scripted"
    writer = ""
    generating: set[tuple[str, str, int]]
    """(writer, session, turn) of what is being generated now, by any engine."""

    def __init__(self, rng: random.Random, moods: Moods) -> None:
        self._rng = rng
        self._moods = moods

    async def load(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.01, 0.2))

    async def _think(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(
            self._rng.uniform(0.3, 1.0)
            if self._rng.random() < self._moods.stall
            else self._rng.uniform(shortest, longest)
        )


class ScriptedStt(Scripted):
    """A recogniser whose text is the list of sounds in the audio it was fed, with their positions."""

    async def open(self, language: str) -> _Recognizer:
        return _Recognizer(self)


class _Recognizer:
    def __init__(self, engine: ScriptedStt) -> None:
        self._engine = engine
        self._ledger = Ledger()

    async def begin(self) -> None:
        self._ledger = Ledger()

    async def feed(self, pcm: bytes) -> str:
        self._ledger.add(pcm)
        await self._engine._think(0.002, 0.01)
        return self._ledger.text(settled=False)

    async def flush(self) -> str:
        await self._engine._think(0.01, 0.06)
        return self._ledger.text(settled=True)

    async def close(self) -> None:
        self._ledger = Ledger()


class ScriptedLlm(Scripted):
    """A model that answers with words nobody has said before, several to a delta, and calls functions."""

    def __init__(self, rng: random.Random, moods: Moods, replies: Replies, made: Made) -> None:
        super().__init__(rng, moods)
        self._replies = replies
        self._made = made

    async def respond(
        self, messages: Sequence[Message], language: str, cancel: CancelToken, request: Request
    ) -> AsyncIterator[str | CallPiece | Call]:
        self._made.prompt(messages)
        work = (self.writer, cancel.session, cancel.turn)
        self.generating.add(work)
        try:
            async for delta in self._answer():
                yield delta
        finally:
            # A connection takes a moment to close, and only then has the model stopped.
            try:
                await asyncio.sleep(0.01)
            finally:
                self.generating.discard(work)

    async def _answer(self) -> AsyncIterator[str | CallPiece | Call]:
        await self._think(0.03, 0.25)
        if self._rng.random() < self._moods.refuses:
            raise EngineError("the model refused")
        if self._rng.random() < self._moods.dumb:
            return
        calls = self._rng.random() < self._moods.calls
        if not calls or self._rng.random() < 0.5:
            async for delta in self._words():
                yield delta
        if calls:
            async for call in self._calls():
                yield call

    async def _words(self) -> AsyncIterator[str]:
        reply = self._replies.make([self._rng.randint(2, 7) for _ in range(self._rng.randint(1, 4))])
        size = self._rng.randint(2, 5)
        for at in range(0, len(reply.words), size):
            yield ("" if at == 0 else " ") + " ".join(reply.words[at : at + size])
            await self._think(0.01, 0.12)

    async def _calls(self) -> AsyncIterator[CallPiece | Call]:
        generation = self._made.generation()
        for number in range(self._rng.choice((1, 1, 2))):
            arguments = self._made.arguments(generation)
            for at in range(0, len(arguments), 12) if self._rng.random() < 0.8 else ():
                yield CallPiece(number, "do", at, arguments[at : at + 12])
                await self._think(0.01, 0.1)
            yield Call("1", "do", arguments)
            await self._think(0.0, 0.1)
            if self._rng.random() < self._moods.refuses:
                raise EngineError("the model refused to go on")


class ScriptedTts(Scripted):
    """A voice that gives each word of a scripted reply its own sound, exactly aligned."""

    def __init__(self, rng: random.Random, moods: Moods, replies: Replies) -> None:
        super().__init__(rng, moods)
        self._replies = replies

    async def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        work = (self.writer, cancel.session, cancel.turn)
        self.generating.add(work)
        try:
            async for chunk in self._sound(text, cancel):
                yield chunk
        finally:
            try:
                await asyncio.sleep(0.005)
            finally:
                self.generating.discard(work)

    async def _sound(self, text: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        crashes = self._rng.random() < self._moods.crash
        await self._think(0.01, 0.1)
        first = True
        for token in text.split():
            reply, place = self._replies.find(token)
            start, end = reply.starts[place], reply.starts[place + 1]
            for at in range(start, end, CHUNK):
                cancel.check()
                await self._think(0.004, 0.035)
                last = at + CHUNK >= end
                said = (token if first else f" {token}") if last else ""
                yield Chunk(speech(reply.number, at, CHUNK), said, True)
            first = False
            if crashes and self._rng.random() < 0.3:
                raise InjectedCrash("the voice broke")
