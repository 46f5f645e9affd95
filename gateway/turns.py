"""A turn's states, and the only ways between them.

THINKING --first audio--> SPEAKING --all played--> DONE
   |  |                     |  ^
   |  +-text only--> DONE   |  | taken back
   |                 onset  v  |
   +--first audio, caller  HELD
   |  speaking-----------> |
   +------ confirmed ------+--> CANCELLING --every stage answered, or the limit--> CANCELLED
   +------ a stage failed -+--> FAILED

SPECULATIVE --end of turn confirmed--> THINKING, or SPEAKING when its audio is here already
   +------ the caller goes on ------> CANCELLING
   +------ a stage failed ----------> FAILED
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class TurnState(Enum):
    SPECULATIVE = "speculative"
    """Begun at a pause, before the caller's turn is known to be over; the client knows nothing of it."""
    THINKING = "thinking"
    SPEAKING = "speaking"
    HELD = "held"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DONE = "done"


class Cause(Enum):
    """Why a turn changes its state."""

    FIRST_AUDIO = "first audio"
    FIRST_AUDIO_HELD = "first audio while the caller speaks"
    ONSET = "onset"
    TAKEN_BACK = "taken back"
    CONFIRMED = "confirmed"
    FAILED = "a stage failed"
    PLAYED = "all played"
    TEXT_ONLY = "text only, complete"
    STOPPED = "every stage answered, or the limit"
    RELEASED = "end of turn confirmed"
    RELEASED_SPEAKING = "end of turn confirmed, audio here"
    WENT_ON = "the caller goes on"


LIVE = frozenset((TurnState.SPECULATIVE, TurnState.THINKING, TurnState.SPEAKING, TurnState.HELD))

S, C = TurnState, Cause
TRANSITIONS: dict[tuple[TurnState, Cause], TurnState] = {
    (S.THINKING, C.FIRST_AUDIO): S.SPEAKING,
    (S.THINKING, C.FIRST_AUDIO_HELD): S.HELD,
    (S.THINKING, C.TEXT_ONLY): S.DONE,
    (S.THINKING, C.CONFIRMED): S.CANCELLING,
    (S.THINKING, C.FAILED): S.FAILED,
    (S.SPEAKING, C.ONSET): S.HELD,
    (S.SPEAKING, C.PLAYED): S.DONE,
    (S.SPEAKING, C.CONFIRMED): S.CANCELLING,
    (S.SPEAKING, C.FAILED): S.FAILED,
    (S.HELD, C.TAKEN_BACK): S.SPEAKING,
    (S.HELD, C.CONFIRMED): S.CANCELLING,
    (S.HELD, C.FAILED): S.FAILED,
    (S.CANCELLING, C.STOPPED): S.CANCELLED,
    (S.SPECULATIVE, C.RELEASED): S.THINKING,
    (S.SPECULATIVE, C.RELEASED_SPEAKING): S.SPEAKING,
    (S.SPECULATIVE, C.WENT_ON): S.CANCELLING,
    (S.SPECULATIVE, C.FAILED): S.FAILED,
}


class ForbiddenTransition(RuntimeError):
    """A change of state that is not in the table: an error of the turn logic, never of a caller."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant reply. Times in seconds of the session's clock."""

    number: int
    """From 1."""
    utterance: int
    """The utterance that led to it; 0: none."""
    state: TurnState = TurnState.THINKING
    interruptible: bool = True
    """Whether speech may end it."""
    began: float | None = None
    """When its first audio came."""
    called: bool = False
    """Whether it has called a function: what is asked for then waits for its end."""
    complete: bool = False
    """Whether it is known, ahead of its release, to have no sound."""

    @property
    def live(self) -> bool:
        """Whether it may still produce something that is heard."""
        return self.state in LIVE

    @property
    def audible(self) -> bool:
        """Whether the caller hears it, or would if it were not held."""
        return self.state in (TurnState.SPEAKING, TurnState.HELD)

    def go(self, cause: Cause) -> Turn:
        """The turn after ``cause``. Raises ForbiddenTransition."""
        after = TRANSITIONS.get((self.state, cause))
        if after is None:
            raise ForbiddenTransition(f"turn {self.number}: {cause.value!r} while {self.state.value}")
        return replace(self, state=after)
