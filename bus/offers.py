"""What is offered to the workers, and claimed by one of them: events on the work streams that all sessions share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bus.events import Event


@dataclass(frozen=True, slots=True)
class SessionOffer(Event):
    """A session that needs a recogniser."""

    type: ClassVar[str] = "session"
    session: str


@dataclass(frozen=True, slots=True)
class TurnOffer(Event):
    """A turn to answer, from the conversation up to and including history entry ``history``.

    ``said`` is what the caller has said since, when it is not certain yet that they are done. ``request`` is JSON with
    what the turn may do besides: ``tools``, ``tool_choice``, ``parallel``, ``max_tokens``, and ``conversation``
    (messages as in Said) when it answers that instead of the session's.
    """

    type: ClassVar[str] = "turn"
    session: str
    turn: int
    history: str
    instructions: str = ""
    said: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True)
class SpeakOffer(Event):
    """A turn to speak; its sentences stand on the reply stream after entry ``after``, the first of them ``first``.

    ``manner`` is JSON with what is other than in the session's config: ``voice``.
    """

    type: ClassVar[str] = "speak"
    session: str
    turn: int
    after: str
    first: int = 0
    manner: str = ""
