"""What a session was doing when its gateway, or its client's connection, went away: derived from its streams alone.

Pure. The turn logic's state is what its journal leads to; everything else that a gateway keeps in memory follows from
that and from what stands on the other streams. The session's clock stands still while nobody serves it: it goes on
from the last moment at which somebody did, so that no limit expires meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bus.events import MIC_RATE, Event, Final, Input, MicAudio, Partial, Played, Said, Sentence, TurnRecord
from bus.history import conversation
from bus.reader import Entry, position
from gateway import inputs
from gateway.floor import Conversation
from gateway.journal import CLOSING, RULES, BadJournal, read_rules
from gateway.names import utterance_item
from gateway.rerun import Rerun, Timers, rerun
from gateway.turns import Turn, TurnState

Entries = Sequence[Entry]


GIVEN_UP = "gateway_lost"
"""Why a turn is cancelled of which nobody knows how far it had got."""


class Ended(Exception):
    """The session had come to its end."""


@dataclass(frozen=True, slots=True)
class Left:
    """A session's streams, in order. Of the audio, mic holds the newest entries, the others those of the live turn."""

    session: str
    inputs: Entries = ()
    mic: Entries = ()
    transcript: Entries = ()
    reply: Entries = ()
    speech: Entries = ()
    history: Entries = ()
    playback: Entries = ()
    records: Entries = ()
    watermark: int = 0
    now: int = 0
    """Milliseconds since 1970, by the server's clock."""


@dataclass(frozen=True, slots=True)
class Heard:
    """How far the caller was heard. Samples at 16 kHz."""

    position: int = 0
    """What stands on the mic stream ends here: what the client sends next begins here."""
    known_until: int = 0
    """Up to where audio is in some text."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a gateway goes on from."""

    state: Conversation
    timers: Timers = field(default_factory=dict)
    at: float = 0.0
    """Seconds of the session's clock."""
    sound: bool = True
    """Whether the journal could be run again; else nothing that was going on is."""
    mic: Heard = field(default_factory=Heard)
    quiet: int = 0
    """Milliseconds since the last of the caller's audio was written down."""
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Utterance not yet acted upon -> (its first sample with the pre-roll, its onset)."""
    over: frozenset[int] = frozenset()
    """Those of them that began over a turn."""
    messages: tuple[Said, ...] = ()
    """The conversation as heard."""
    unsaid: tuple[Said, ...] = ()
    """What was said over the live turn, and is to follow it."""
    settling: tuple[TurnRecord, ...] = ()
    """Cancelled turns whose record was not written yet."""
    opened: inputs.OpenTurn | None = None
    """How the live turn was opened."""
    heard: int = 0
    """Milliseconds of the live turn that were heard."""
    reply: tuple[Event, ...] = ()
    speech: tuple[Event, ...] = ()
    """What stands on these streams of the live turn."""
    before: str = "0-0"
    """The entry of the reply stream that the live turn's first one follows."""
    words: tuple[Event, ...] = ()
    """The newest texts of utterances not yet acted upon."""
    cancelled: bool = False
    """Whether the live turn is at or below the watermark."""

    @property
    def turn(self) -> int:
        """The turn that goes on, as far as a client knows; 0: none."""
        live = self.state.live
        return 0 if live is None or live.state is TurnState.SPECULATIVE else live.number


def recover(left: Left, pre_roll_ms: int) -> Recovered:
    """Where a session stands. Raises Ended."""
    journal = [entry.event for entry in left.inputs if isinstance(entry.event, Input)]
    if any(entry.name == CLOSING for entry in journal):
        raise Ended
    try:
        done = rerun(journal)
    except BadJournal:
        done = None
    if done is None or done.difference is not None or not done.moments:
        return _afresh(left, journal)
    last = done.moments[-1]
    state, live = last.after, last.after.live
    number = live.number if live is not None else 0
    starts, over, known = _utterances(done, pre_roll_ms)
    pending = {each.number for each in state.utterances}
    messages = tuple(conversation(_events(left.history)))
    reply = [entry for entry in left.reply if getattr(entry.event, "turn", 0) == number]
    played = [e for e in _events(left.playback) if isinstance(e, Played) and e.turn == number]
    return Recovered(
        state=state,
        timers=last.timers,
        at=last.at + _served_since(left),
        mic=Heard(_position(left.mic), known),
        quiet=_quiet(left),
        starts={u: starts[u] for u in pending if u in starts},
        over=over & pending,
        messages=messages,
        unsaid=_unsaid(left, done, messages),
        settling=_settling(left, done, state),
        opened=_opened(done, number),
        heard=played[-1].end if played else 0,
        reply=tuple(entry.event for entry in reply),
        speech=tuple(e for e in _events(left.speech) if getattr(e, "turn", 0) == number),
        before=_before(left.reply, number),
        words=_words(left.transcript, pending),
        cancelled=bool(number) and number <= left.watermark,
    )


def _afresh(left: Left, journal: Sequence[Input]) -> Recovered:
    """The journal is of another version, or empty: the conversation goes on, but no turn or utterance of it does."""
    turns = [getattr(e, "turn", 0) for s in (left.reply, left.speech, left.history, left.records) for e in _events(s)]
    heard = [getattr(e, "utterance", 0) for s in (left.mic, left.transcript, left.records) for e in _events(s)]
    rules = []
    for entry in journal:
        if entry.name == RULES:
            with suppress(BadJournal):
                rules.append(read_rules(entry))
    last = max([*turns, left.watermark if left.watermark < 2**31 - 1 else 0], default=0)
    # One more than was seen: an offer may have been made of which nothing is written yet.
    state = Conversation(turn=Turn(last + 1, 0, TurnState.CANCELLED), heard=max(heard, default=0) + 1)
    if rules:
        state = Conversation(rules=rules[-1], turn=state.turn, heard=state.heard)
    written = {event.turn for event in _events(left.records) if isinstance(event, TurnRecord)}
    given_up = sorted({turn for turn in turns if turn} - written)
    return Recovered(
        state=state,
        settling=tuple(TurnRecord(turn, 0, "cancelled", GIVEN_UP, 0, "") for turn in given_up),
        sound=not journal,
        at=_served_since(left),
        mic=Heard(_position(left.mic), _position(left.mic)),
        quiet=_quiet(left),
        messages=tuple(conversation(_events(left.history))),
    )


def _events(entries: Entries) -> Iterable[Event]:
    return (entry.event for entry in entries)


def _position(mic: Entries) -> int:
    """Samples that stand on the mic stream."""
    return max((e.offset + len(e.pcm) // 2 for e in _events(mic) if isinstance(e, MicAudio)), default=0)


def _time(entries: Entries) -> int:
    return position(entries[-1].id)[0] if entries else 0


def _quiet(left: Left) -> int:
    audio = [entry for entry in left.mic if isinstance(entry.event, MicAudio)]
    return max(0, left.now - _time(audio)) if audio else 0


def _served_since(left: Left) -> float:
    """Seconds for which the session was still served after the journal's last entry, by the server's own times."""
    newest = max(_time(left.mic), _time(left.playback), _time(left.inputs))
    return (newest - _time(left.inputs)) / 1000 if left.inputs else 0.0


def _utterances(done: Rerun, pre_roll_ms: int) -> tuple[dict[int, tuple[int, int]], frozenset[int], int]:
    """(starts as in Recovered, utterances that began over a turn, sample up to which audio is in some text)."""
    starts: dict[int, tuple[int, int]] = {}
    over, known = set(), 0
    for action in _actions(done):
        if isinstance(action, inputs.StartUtterance):
            first = max(known, action.offset - pre_roll_ms * MIC_RATE // 1000, 0)
            starts[action.utterance] = (first, action.offset)
            over |= {action.utterance} if action.over else set()
        elif isinstance(action, inputs.PauseUtterance | inputs.EndUtterance):
            known = max(known, action.offset)
    return starts, frozenset(over), known


def _actions(done: Rerun) -> Iterable[inputs.Action]:
    return (action for moment in done.moments for action in moment.actions)


def _unsaid(left: Left, done: Rerun, messages: Sequence[Said]) -> tuple[Said, ...]:
    known = {event.item for event in _events(left.history) if isinstance(event, Said)}
    found = []
    for action in _actions(done):
        if isinstance(action, inputs.Commit):
            item = utterance_item(left.session, action.utterance)
            if item not in known:
                found.append(Said(item, "user", action.text, name="backchannel" if action.backchannel else ""))
    return tuple(found)


def _settling(left: Left, done: Rerun, state: Conversation) -> tuple[TurnRecord, ...]:
    written = {event.turn for event in _events(left.records) if isinstance(event, TurnRecord)}
    reasons = {action.turn: action.reason for action in _actions(done) if isinstance(action, inputs.CancelTurn)}
    heard = {event.turn: event.end for event in _events(left.playback) if isinstance(event, Played)}
    due = [turn for turn in state.cancelling if turn.number not in written]
    told = [(turn, reasons.get(turn.number, ""), heard.get(turn.number, 0)) for turn in due]
    return tuple(TurnRecord(turn.number, turn.utterance, "cancelled", why, ms, "") for turn, why, ms in told)


def _opened(done: Rerun, turn: int) -> inputs.OpenTurn | None:
    opened = (action for action in _actions(done) if isinstance(action, inputs.OpenTurn))
    return next((action for action in opened if action.turn == turn), None)


def _before(reply: Entries, turn: int) -> str:
    """The entry that the first sentence of a turn follows."""
    before = "0-0"
    for entry in reply:
        if isinstance(entry.event, Sentence) and entry.event.turn == turn:
            return before
        before = entry.id
    return before


def _words(transcript: Entries, pending: set[int]) -> tuple[Event, ...]:
    newest: dict[tuple[int, bool], Event] = {}
    for event in _events(transcript):
        if isinstance(event, Final | Partial) and event.utterance in pending:
            final = isinstance(event, Final)
            newest.pop((event.utterance, final), None)
            newest[event.utterance, final] = event
            if final:
                newest.pop((event.utterance, False), None)
    return tuple(newest.values())
