"""What the turn logic sees, and what it answers with. Every time is in seconds of the session's own clock."""

from __future__ import annotations

from dataclasses import dataclass

# -- inputs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller began to speak at sample ``offset`` (16 kHz) of what was heard of them."""

    at: float
    offset: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The caller fell silent at ``offset``, shortly, so far."""

    at: float
    offset: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The caller went on after a pause, from ``offset``."""

    at: float
    offset: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The silence has lasted long enough to be the end of the utterance."""

    at: float
    offset: int


@dataclass(frozen=True, slots=True)
class SpeechCleared:
    """The client takes back what it has sent since the last utterance's end."""

    at: float
    offset: int


@dataclass(frozen=True, slots=True)
class Words:
    """The recogniser's text of an utterance so far; ``final``: the whole of it up to the pause of ``revision``."""

    at: float
    utterance: int
    revision: int
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class FirstAudio:
    """The first synthesised audio of a turn is here."""

    at: float
    turn: int


@dataclass(frozen=True, slots=True)
class PlayedOut:
    """All of a turn's audio has been heard."""

    at: float
    turn: int


@dataclass(frozen=True, slots=True)
class TextComplete:
    """A turn that has no audio is complete."""

    at: float
    turn: int


@dataclass(frozen=True, slots=True)
class Called:
    """The turn calls a function of the client's; what comes of it is asked for with ResponseAsked."""

    at: float
    turn: int


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A stage cannot go on with a turn."""

    at: float
    turn: int
    stage: str
    error: str


@dataclass(frozen=True, slots=True)
class AllStopped:
    """Every stage has said that it no longer works on a cancelled turn."""

    at: float
    turn: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The client, an operator or the session's end asks to cancel ``turn`` (0: the live one)."""

    at: float
    turn: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResponseAsked:
    """The client, or a greeting, asks for a turn; ``text`` is spoken as it is when given, else the LLM answers."""

    at: float
    text: str = ""
    tag: str = ""
    """Handed through to OpenTurn: whose request it was."""
    interruptible: bool = True
    """Whether speech may end the turn."""
    waits: bool = False
    """Whether it waits for the end of a turn that is going on, instead of being refused."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was set has come due."""

    at: float
    timer: str
    number: int


Input = (
    SpeechStarted | SpeechPaused | SpeechResumed | SpeechEnded | SpeechCleared | Words | FirstAudio | PlayedOut
    | TextComplete | Called | StageFailed | AllStopped | CancelAsked | ResponseAsked | TimerFired
)  # fmt: skip

# -- actions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartUtterance:
    """Tell the recogniser that an utterance began at ``offset``, less the pre-roll; ``over``: the turn spoken over."""

    utterance: int
    offset: int
    over: int


@dataclass(frozen=True, slots=True)
class PauseUtterance:
    utterance: int
    revision: int
    offset: int


@dataclass(frozen=True, slots=True)
class ResumeUtterance:
    utterance: int
    revision: int


@dataclass(frozen=True, slots=True)
class EndUtterance:
    utterance: int
    revision: int
    offset: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The utterance said ``text``: it joins the conversation, after turn ``over`` if one is still going on."""

    utterance: int
    text: str
    backchannel: bool = False
    over: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """The utterance had no words."""

    utterance: int


@dataclass(frozen=True, slots=True)
class StayedSilent:
    """Nobody has said anything for ``seconds``: that joins the conversation as an utterance without words."""

    utterance: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Silence the turn's output at once and remember the position."""

    turn: int
    utterance: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Play on from the exact position: it was no interruption."""

    turn: int


@dataclass(frozen=True, slots=True)
class CancelTurn:
    """Stop a turn everywhere, raise the watermark, and keep what was heard."""

    turn: int
    reason: str
    utterance: int


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """Begin a turn; ``text`` as in ResponseAsked.

    ``said``: the turn is speculative. It answers words that are not in the conversation yet, the client is not told of
    it, and its audio is kept back until ReleaseTurn.
    """

    turn: int
    utterance: int
    text: str
    tag: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseTurn:
    """A speculative turn is one from now on: tell the client, and let its audio go."""

    turn: int


@dataclass(frozen=True, slots=True)
class CloseTurn:
    """A turn has ended: ``outcome`` is done or failed, ``error`` why."""

    turn: int
    outcome: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """A cancelled turn is finished with: whatever stage has not answered by now is late."""

    turn: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A request cannot be met: ``code`` as the Realtime protocol names it."""

    code: str
    message: str
    tag: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Feed TimerFired(timer, number) at time ``at``; a timer of the same name and number is replaced."""

    timer: str
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    timer: str
    number: int


Action = (
    StartUtterance | PauseUtterance | ResumeUtterance | EndUtterance | Commit | Discard | StayedSilent | Hold | Resume
    | CancelTurn | OpenTurn | ReleaseTurn | CloseTurn | Settle | Refuse | SetTimer | StopTimer
)  # fmt: skip
