"""What a voice must offer: the interface of every TTS engine."""

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


class TtsEngine(Protocol):
    """One voice model. Constructed once per process; loads in ``load``."""

    name: str
    rate: int
    """Samples per second of every chunk; known after ``load``."""
    capacity: int
    """How many turns one process speaks at once (>= 1)."""
    voices: tuple[str, ...]

    def load(self) -> Awaitable[None]:
        """Load and warm up with a whole synthesis. Raises EngineError with the remedy."""

    def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        """Synthesise one sentence, chunk by chunk, the first as early as the model can.

        ``voice`` "" means the engine's default for ``language`` (BCP-47). Stops inside the model as soon as
        ``cancel.cancelled`` is true and then raises ``bus.cancel.Cancelled``; closing the iterator stops it too.
        Raises EngineError when this sentence cannot be spoken.
        """
