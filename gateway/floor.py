"""The state of one session's turn logic: who may speak now, which turn is live, what the caller is saying."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gateway.duplex import Duplex
from gateway.inputs import ResponseAsked
from gateway.turns import Turn


class Floor(Enum):
    CALLER = "caller"
    ASSISTANT = "assistant"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of the caller's speech, until its text is known and acted upon. Times in seconds."""

    number: int
    since: float
    """When the stretch of speech going on began; a pause ends it."""
    spoken: float = 0.0
    """Seconds of speech before the last pause."""
    revision: int = 0
    """Pauses so far: each makes the text before it a revision."""
    known: int = 0
    """The highest revision whose final text has come; 0: none."""
    text: str = ""
    paused: bool = False
    ended: bool = False
    overdue: bool = False
    """Whether its text took so long that nothing is held for it any more; it still counts when it comes."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The state of one session's turn logic."""

    rules: Duplex = field(default_factory=Duplex)
    turn: Turn | None = None
    """The newest turn, live or not."""
    cancelling: tuple[Turn, ...] = ()
    """Turns whose stages have not all answered yet."""
    utterances: tuple[Utterance, ...] = ()
    """Utterances not yet acted upon, oldest first; only the last can still be going on."""
    heard: int = 0
    """Utterances so far."""
    asked: ResponseAsked | None = None
    """A response that waits for an utterance's text, or for the end of a turn."""
    unanswered: int = 0
    """The newest utterance that was said over a reply which could not be interrupted; it is answered afterwards."""
    first_audio: float | None = None
    """When the session's first audio came."""

    @property
    def live(self) -> Turn | None:
        """The turn that may still produce something that is heard."""
        return self.turn if self.turn is not None and self.turn.live else None

    @property
    def next_turn(self) -> int:
        """The number of the turn that will begin next."""
        return self.turn.number + 1 if self.turn is not None else 1

    @property
    def speaking(self) -> Utterance | None:
        """The utterance that is going on."""
        return self.utterances[-1] if self.utterances and not self.utterances[-1].ended else None

    @property
    def floor(self) -> Floor:
        """Who may speak now."""
        if self.speaking is not None and not self.speaking.paused:
            return Floor.CALLER
        if self.live is not None:
            return Floor.ASSISTANT
        return Floor.NOBODY
