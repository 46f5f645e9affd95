"""What a speech recogniser must offer: the interface of every STT engine."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word."""

    text: str
    start: int
    """Samples at 16 kHz since the utterance's first."""
    end: int
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Details:
    """What an engine knows of an utterance beyond its text."""

    words: tuple[Word, ...] = ()
    confidence: float = 0.0
    """0 to 1, 0 where it is not known."""
    language: str = ""
    """A BCP-47 tag, where the model itself names the language it heard."""


class Recognizer(Protocol):
    """The recogniser of one session. It is fed in order and never concurrently.

    One that can say more than the text has ``details() -> Details`` as well, about the text it gave last.
    """

    def begin(self) -> Awaitable[None]:
        """An utterance starts: forget the words of the one before (an encoder's acoustic context may stay)."""

    def feed(self, pcm: bytes) -> Awaitable[str]:
        """Take 16 kHz mono 16-bit audio of any length; the text of the utterance so far ("" while unknown)."""

    def flush(self) -> Awaitable[str]:
        """The caller paused: the utterance's text with its last word. The utterance may go on with ``feed``."""

    def close(self) -> Awaitable[None]:
        """Give back what the session held."""


class SttEngine(Protocol):
    """One model, serving many sessions. Constructed once per process; loads in ``load``.

    One whose understanding rests on what came before an utterance has ``context``, in samples: where a session is
    taken over, so much of its earlier audio is fed before ``begin``.
    """

    name: str
    capacity: int
    """How many sessions one process serves at once (>= 1)."""

    def load(self) -> Awaitable[None]:
        """Load and warm up; after it the first ``feed`` is as fast as any. Raises EngineError with the remedy."""

    def open(self, language: str) -> Awaitable[Recognizer]:
        """A recogniser for one session; ``language`` is a BCP-47 tag such as ``en-US``. Raises EngineError."""
