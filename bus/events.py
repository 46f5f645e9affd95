"""Every event on a session's streams, one small dataclass each; offers to workers are in ``bus.offers``.

One event is one stream entry with flat fields, readable in ``redis-cli monitor`` and ``XRANGE``::

    v 1  type sentence  at 1795353600123  turn 2  attempt 1  index 0  text "It opened in 1883."

``bus.wire`` writes and reads them. ``at`` is the writer's wall clock in milliseconds since 1970, informative only: no
decision compares clocks of two machines. It is filled in on writing when it is 0.

Positions: ``offset``, ``start`` and ``end`` of the caller's audio count samples at 16 kHz since the session began.
Positions of the assistant's audio count milliseconds of playout since its turn began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

MIC_RATE = 16_000
"""Sample rate in Hz of everything on a mic stream."""


@dataclass(frozen=True, slots=True)
class Event:
    """What every event has. ``at`` is filled in by ``encode`` when it is 0."""

    type: ClassVar[str] = ""
    at: int = field(default=0, kw_only=True)


# -- <session>:mic, gateway -> stt ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MicAudio(Event):
    """The caller's audio: 16 kHz mono, 16-bit, starting at sample ``offset``; contiguous with what came before."""

    type: ClassVar[str] = "audio"
    offset: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class UtteranceStarted(Event):
    """Speech began; ``offset`` includes the pre-roll, so audio from there on belongs to the utterance."""

    type: ClassVar[str] = "start"
    utterance: int
    offset: int


@dataclass(frozen=True, slots=True)
class UtterancePaused(Event):
    """The caller fell silent at ``offset``: flush, and answer with a Final of this revision. It may be resumed."""

    type: ClassVar[str] = "pause"
    utterance: int
    revision: int
    offset: int


@dataclass(frozen=True, slots=True)
class UtteranceResumed(Event):
    """The caller went on within the same utterance: the Final of ``revision - 1`` was not the last word."""

    type: ClassVar[str] = "resume"
    utterance: int
    revision: int


@dataclass(frozen=True, slots=True)
class UtteranceEnded(Event):
    """The utterance is over at ``offset``; the Final of ``revision`` stands."""

    type: ClassVar[str] = "end"
    utterance: int
    revision: int
    offset: int


@dataclass(frozen=True, slots=True)
class HungUp(Event):
    """The session is over; nothing follows on the mic stream."""

    type: ClassVar[str] = "hangup"


# -- <session>:transcript, stt -> gateway -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Partial(Event):
    """What the recogniser believes so far of an utterance: the whole text, which a later one may change."""

    type: ClassVar[str] = "partial"
    utterance: int
    revision: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Final(Event):
    """The text of an utterance up to the pause of ``revision``; empty when no words were recognised.

    Where the engine knows more: ``words`` is JSON text, a list of {"word", "start", "end", "confidence"} with positions
    as above; ``confidence`` of the whole is 0 to 1, 0 for not known; ``language`` is a BCP-47 tag the model named.
    """

    type: ClassVar[str] = "final"
    utterance: int
    revision: int
    text: str
    start: int
    end: int
    error: str = ""
    words: str = ""
    confidence: float = 0.0
    language: str = ""


# -- <session>:reply, llm -> tts and gateway --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyBegun(Event):
    """The model has written its first token, or called a function."""

    type: ClassVar[str] = "reply_begun"
    turn: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Sentence(Event):
    """One sentence of a turn, in order; ``attempt`` is the fence of the lease that wrote it, ``index`` from 0."""

    type: ClassVar[str] = "sentence"
    turn: int
    attempt: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolArguments(Event):
    """A piece of a function call's arguments, as the model writes it: ``start`` characters came before.

    No call is made by it: that is ToolCall, which has all of them. Without one (a cancel, a failure, a worker that
    died) the pieces count for nothing; the next call, the next worker's too, has another ``index`` and ``call_id``.
    """

    type: ClassVar[str] = "tool_arguments"
    turn: int
    attempt: int
    index: int
    call_id: str
    name: str
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall(Event):
    """A function call of a turn; ``arguments`` is JSON text. Published once, never generated again."""

    type: ClassVar[str] = "tool_call"
    turn: int
    attempt: int
    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ReplyEnd(Event):
    """No more sentences of a turn follow. ``reason`` is done, cancelled or failed.

    ``tokens`` counts what the model wrote and ``prompt_tokens`` what it was shown: as its server counts them, else
    deltas and an estimate. ``finish`` is ``length`` when the limit for the reply's length ended it.
    """

    type: ClassVar[str] = "reply_end"
    turn: int
    attempt: int
    reason: str
    sentences: int
    tokens: int = 0
    error: str = ""
    prompt_tokens: int = 0
    finish: str = ""


# -- <session>:speech, tts -> gateway ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechAudio(Event):
    """Synthesised audio of a turn: mono, 16-bit, at ``rate`` Hz, ``offset`` samples after the turn's first.

    ``index`` counts the turn's chunks from 0; ``sentence`` names the sentence spoken. ``text`` is the part of the
    turn's text whose sound is complete at the end of this chunk: all chunks' texts joined are the turn's text.
    ``alignment`` is ``exact`` when the engine says so itself, else ``estimated`` and never ahead of the sound.
    """

    type: ClassVar[str] = "speech"
    turn: int
    attempt: int
    index: int
    sentence: int
    offset: int
    rate: int
    text: str
    alignment: str
    pcm: bytes


@dataclass(frozen=True, slots=True)
class SpeechEnd(Event):
    """No more audio of a turn follows. ``reason`` is done, cancelled or failed."""

    type: ClassVar[str] = "speech_end"
    turn: int
    attempt: int
    reason: str
    chunks: int
    samples: int
    error: str = ""


# -- <session>:history, gateway -> llm --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said(Event):
    """One message of the conversation as heard: ``role`` is system, user, assistant, tool_call or tool.

    ``item`` names it for the client; ``text`` is what was said (for tool_call the arguments, for tool the output);
    ``turn`` is 0 for what the caller said; ``complete`` is false when an interruption cut it short. It follows the
    message ``after``, ``root`` meaning the front, and everything when that is empty or unknown.
    """

    type: ClassVar[str] = "said"
    item: str
    role: str
    text: str
    turn: int = 0
    complete: bool = True
    call_id: str = ""
    name: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Amended(Event):
    """A message's text became known better (a late truncation by the client); empty text removes the message."""

    type: ClassVar[str] = "amended"
    item: str
    text: str


# -- <session>:playback, gateway -> tts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Played(Event):
    """A turn's audio from ``start`` to ``end`` ms was heard, its beginning when the mic stream stood at ``mic``.

    An earlier position than was reported before takes back what followed it; so does an empty stretch.
    """

    type: ClassVar[str] = "played"
    turn: int
    start: int
    end: int
    mic: int


# -- <session>:acks, every stage -> gateway ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """A stage's word that it no longer works on a cancelled turn.

    ``outcome``: ``stopped`` in mid-work, ``finished`` before the cancel arrived, ``never_started``.
    ``took`` is milliseconds from learning of the cancel to having stopped. ``samples`` is what was made and not heard,
    ``tokens`` what the LLM had generated by then, or the voice had sampled without a sound of it. ``last`` is the index
    of the last entry written to the stage's own stream, -1 for none. ``steps`` is how many steps of its model the stage
    began after it knew of the cancel (0 is the aim), -1 where nobody counts them.
    """

    type: ClassVar[str] = "stopped"
    turn: int
    stage: str
    outcome: str
    took: float = 0.0
    samples: int = 0
    tokens: int = 0
    last: int = -1
    detail: str = ""
    steps: int = -1


# -- <session>:records, gateway ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnRecord(Event):
    """What became of one turn, written once, when it is settled.

    ``outcome`` is done, cancelled or failed, ``reason`` says why. ``steps`` is JSON: ``[[name, ms, detail], ...]`` in
    order, ms since the session began, from the onset of the utterance that led to the turn; the names are those of
    ``bargein.step``. ``unanswered`` names the stages, comma-separated, that did not say within their limit that they
    had stopped. ``heard`` is in ms; ``samples`` were made by the voice and not heard, ``tokens`` by the LLM.
    """

    type: ClassVar[str] = "turn_record"
    turn: int
    utterance: int
    outcome: str
    reason: str
    heard: int
    steps: str
    unanswered: str = ""
    samples: int = 0
    tokens: int = 0


# -- <session>:inputs, gateway ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input(Event):
    """One event the turn logic saw, in order: its ``name``, its fields as JSON, and what was decided. Replay reads it.

    ``actions`` is JSON: ``[[name, {field: value}], ...]``, empty for none. Three names are no events of the turn logic:
    ``Rules`` are those of the session from now on (the first entry is one), ``Closing`` is its end, and with
    ``Resumed`` it is served again, by another gateway or for another connection.
    """

    type: ClassVar[str] = "input"
    name: str
    data: str
    actions: str = ""


# -- <session>:control, any gateway -> the owning one -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CancelRequested(Event):
    """Somebody outside asks that turn ``turn`` (0: whichever is live) be cancelled."""

    type: ClassVar[str] = "cancel"
    turn: int
    reason: str


@dataclass(frozen=True, slots=True)
class EndRequested(Event):
    """Somebody outside asks that the session be ended."""

    type: ClassVar[str] = "end_session"
    reason: str
