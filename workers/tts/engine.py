"""What a voice must offer: the interface of every TTS engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Protocol

from bus.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 60 ms of one sentence: mono 16-bit little-endian ``pcm`` at the engine's rate.

    ``text`` is the part of the sentence whose sound is complete at the end of this chunk; a sentence's chunks'
    texts joined are the sentence. ``exact`` says whether the engine knows that or estimated it (rounded down).
    """

    pcm: bytes
    text: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Waste:
    """What a cancelled turn had cost within an engine, beyond the chunks it gave out.

    An engine that knows it has a method ``wasted(cancel) -> Waste``; it is asked once ``speak`` has ended.
    """

    steps: int = -1
    """Model steps begun after the cancel; -1 when the engine cannot count them."""
    tokens: int = 0
    """Tokens sampled that did not become sound."""
    samples: int = 0
    """Samples made that no chunk carried."""
    detail: str = ""
    """What was observed of a stop elsewhere, in a few words."""

    def __add__(self, other: Waste) -> Waste:
        steps = max(0, self.steps) + max(0, other.steps) if max(self.steps, other.steps) >= 0 else -1
        detail = self.detail or other.detail
        return Waste(steps, self.tokens + other.tokens, self.samples + other.samples, detail)


class TtsEngine(Protocol):
    """One voice model. Constructed once per process; loads in ``load``."""

    name: str
    rate: int
    """Samples per second of every chunk; known after ``load``."""
    capacity: int
    """How many turns one process speaks at once (>= 1)."""
    voices: tuple[str, ...]
    """What they are called, without commas; empty when the engine does not know: then any name is passed to it."""

    # An engine may have these as well:
    #   repeatable: bool  whether a sentence spoken again has its words at the same samples, give or take 10 ms; then a
    #                     worker that takes a turn over does not let what was heard be heard again. Absent: false.
    #   own_speed: bool   whether ``speak`` takes ``speed=`` (0.25 to 4). Absent: the worker stretches the sound.
    #   wasted(cancel: CancelToken) -> Waste

    def load(self) -> Awaitable[None]:
        """Load and warm up with a whole synthesis. Raises EngineError with the remedy."""

    def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        """Synthesise one sentence, chunk by chunk, the first as early as the model can.

        ``voice`` "" means the engine's default for ``language`` (BCP-47). Stops inside the model as soon as
        ``cancel.cancelled`` is true and then raises ``bus.cancel.Cancelled``; closing the iterator stops it too.
        Raises EngineError when this sentence cannot be spoken.
        """
