"""What a session was doing follows from its streams: wherever they end, and whatever the writer was about to write."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import events
from bus.events import Final, Input, MicAudio, Partial, Played, Said, Sentence, SpeechAudio, TurnRecord
from bus.reader import Entry
from gateway.conductor import policy
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.inputs import (
    AllStopped,
    CancelAsked,
    FirstAudio,
    PlayedOut,
    ResponseAsked,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TimerFired,
    Words,
)  # fmt: skip
from gateway.journal import Journal
from gateway.names import turn_item, utterance_item
from gateway.recovery import Ended, Left, recover
from gateway.rerun import _set
from gateway.turns import TurnState

SESSION = "s0-0123456789ab"


class Recording:
    """A session's journal as it is written, with what the turn logic made of it."""

    def __init__(self, rules=None):
        self.state, self.timers, self.now = Conversation(rules=rules or Duplex()), {}, 0.0
        self.entries, self.actions = [], []
        self.journal = Journal(self.entries.append)
        self.journal.rules(0.0, self.state.rules)

    def __call__(self, kind, *fields, after=0.1):
        self.now += after
        event = kind(self.now, *fields)
        self.state, actions = self.journal.decide(self.state, event)
        self.timers = _set(self.timers, event, actions)
        self.actions += actions
        return self

    def asked(self, text="hello", offset=16_000):
        """An utterance, to its end and its text."""
        self(SpeechStarted, offset)(SpeechPaused, offset + 8000)
        number = self.state.heard
        return self(Words, number, 1, text, True)(SpeechEnded, offset + 12_000)


def entries(found, first=1_000_000, step=20):
    return tuple(Entry("", f"{first + step * n}-0", event) for n, event in enumerate(found))


def left(recording, **streams):
    return Left(session=SESSION, inputs=entries(recording.entries), **streams)


def history(*said):
    return entries([Said(item, role, text) for item, role, text in said])


KINDS = st.sampled_from((
    SpeechStarted, SpeechPaused, SpeechResumed, SpeechEnded, Words, FirstAudio, PlayedOut, AllStopped, CancelAsked,
    ResponseAsked, TimerFired,
))  # fmt: skip


def step(recording, kind, after):
    """Feed an input that may come now."""
    state = recording.state
    turn = state.turn.number if state.turn else 1
    if kind in (SpeechStarted, SpeechPaused, SpeechResumed, SpeechEnded):
        recording(kind, int((recording.now + after) * 16_000), after=after)
    elif kind is Words:
        utterance = state.utterances[0] if state.utterances else None
        number, revision = (utterance.number, utterance.revision) if utterance else (1, 1)
        recording(kind, number, revision, "some words", revision > 0, after=after)
    elif kind in (FirstAudio, PlayedOut, AllStopped):
        recording(kind, turn, after=after)
    elif kind is CancelAsked:
        recording(kind, 0, "client_cancelled", after=after)
    elif kind is ResponseAsked:
        recording(kind, after=after)
    elif recording.timers:
        (timer, number), at = min(recording.timers.items(), key=lambda item: item[1])
        recording(TimerFired, timer, number, after=max(after, at - recording.now))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KINDS, st.floats(0, 2)), max_size=40), st.booleans())
def test_the_state_is_what_the_journal_leads_to(steps, eager):
    """Whatever happened: state, timers and clock of the recovered session are those of the one that died."""
    recording = Recording(Duplex(eager=eager))
    for kind, after in steps:
        step(recording, kind, after)
    found = recover(left(recording), 300)
    assert found.sound and found.state == recording.state and found.timers == recording.timers
    assert found.at == pytest.approx(recording.now)
    assert set(found.starts) == {each.number for each in recording.state.utterances}
    assert {record.turn for record in found.settling} == {turn.number for turn in recording.state.cancelling}
    for utterance in found.starts:
        start, onset = found.starts[utterance]
        assert onset - 4800 <= start <= onset or start <= found.mic.known_until


def test_nothing_waits_longer_for_a_gateway_that_died():
    """The clock goes on from the last moment served: an entry of any stream, by the server's own times."""
    recording = Recording().asked()
    last = 1_000_000 + 20 * (len(recording.entries) - 1)
    mic = (Entry("", f"{last + 700}-0", MicAudio(32_000, bytes(640))),)
    found = recover(left(recording, mic=mic, now=last + 5_700), 300)
    assert found.at == pytest.approx(recording.now + 0.7)
    assert found.quiet == 5_000 and found.mic.position == 32_320
    (number, due), *_ = ((k, at) for k, at in found.timers.items())
    assert due > found.at, number


def test_what_was_heard_is_the_last_word_of_the_account():
    """Also where a client took back what the paced clock had counted."""
    recording = Recording().asked()(FirstAudio, 1)
    played = entries([Played(1, 0, 100, 0), Played(1, 100, 200, 0), Played(1, 150, 150, 0)])
    chunk = SpeechAudio(1, 1, 0, 0, 0, 24_000, "Hello.", "exact", bytes(48_000))
    old = SpeechAudio(0, 1, 0, 0, 0, 24_000, "Old.", "exact", bytes(480))
    reply = entries([Sentence(0, 1, 0, "Old."), Sentence(1, 1, 0, "Hello."), Sentence(1, 1, 1, "You.")])
    found = recover(left(recording, playback=played, speech=entries([old, chunk]), reply=reply), 300)
    assert found.state.live.state is TurnState.SPEAKING and found.turn == 1
    assert (found.heard, found.speech, found.before) == (150, (chunk,), reply[0].id)
    assert [event.text for event in found.reply] == ["Hello.", "You."]


def test_a_cancel_of_which_the_journal_does_not_know_counts():
    """The watermark was raised just before the gateway died: the turn is not brought back to life."""
    recording = Recording().asked()(FirstAudio, 1)
    assert recover(left(recording, watermark=1), 300).cancelled
    assert not recover(left(recording, watermark=0), 300).cancelled


def test_what_was_said_over_the_turn_is_kept():
    """It waited for the turn's end in the dead gateway's memory; what stands in the history already is not doubled."""
    recording = Recording(Duplex(interrupt=False)).asked()(FirstAudio, 1)
    recording.asked("and another thing", 40_000)
    said = history((utterance_item(SESSION, 1), "user", "hello"))
    found = recover(left(recording, history=said), 300)
    assert [(each.item, each.text) for each in found.unsaid] == [(utterance_item(SESSION, 2), "and another thing")]
    assert found.state.unanswered == 2


def test_texts_that_came_while_nobody_listened():
    """Of each utterance that waits, the newest final and what was understood after it."""
    recording = Recording()(SpeechStarted, 0)(SpeechPaused, 8000)
    transcript = entries([
        Final(9, 1, "old", 0, 1), Partial(1, 1, "what", 0, 1), Final(1, 1, "what time", 0, 1),
        Partial(1, 1, "what time is", 0, 1), Partial(1, 1, "what time is it", 0, 1),
    ])  # fmt: skip
    words = recover(left(recording, transcript=transcript), 300).words
    assert [(type(each).__name__, each.text) for each in words] == [
        ("Final", "what time"),
        ("Partial", "what time is it"),
    ]


def test_a_cancelled_turn_whose_answers_are_out_is_settled_with_its_reason():
    recording = Recording().asked()(FirstAudio, 1)(CancelAsked, 0, "client_cancelled")
    (record,) = recover(left(recording, playback=entries([Played(1, 0, 300, 0)])), 300).settling
    assert (record.turn, record.utterance, record.outcome, record.reason, record.heard) == (
        1, 1, "cancelled", "client_cancelled", 300,
    )  # fmt: skip
    written = entries([TurnRecord(1, 1, "cancelled", "client_cancelled", 300, "[]")])
    assert recover(left(recording, records=written), 300).settling == ()


def test_a_session_that_was_being_ended_is_not_gone_on_with():
    recording = Recording().asked()
    recording.journal.closing(recording.now)
    with pytest.raises(Ended):
        recover(left(recording), 300)


@pytest.mark.parametrize("broken", ["decided", "unknown", "beheaded"])
def test_a_journal_of_another_version_gives_up_the_turn_and_nothing_else(broken):
    """Numbers go on above whatever was seen, the rules and the conversation stand, no turn or utterance is live."""
    recording = Recording(Duplex(barge_in_min=0.9)).asked()(FirstAudio, 1)
    journal = list(recording.entries)
    if broken == "decided":
        journal[-1] = Input(journal[-1].name, journal[-1].data, json.dumps([["Nonsense", {}]]))
    elif broken == "unknown":
        journal.append(Input("Telepathy", "{}"))
    else:
        del journal[0]
    said = [Said(utterance_item(SESSION, 1), "user", "hello"), Said(turn_item(SESSION, 3), "assistant", "Hi.", 3)]
    streams = {
        "history": entries(said),
        "reply": entries([Sentence(4, 1, 0, "Again.")]),
        "mic": entries([events.UtteranceStarted(2, 0), MicAudio(0, bytes(320))]),
    }
    found = recover(Left(session=SESSION, inputs=entries(journal), **streams), 300)
    assert not found.sound and found.state.live is None and not found.state.utterances
    assert found.state.turn.number > 4 and found.state.heard > 2
    assert [message.text for message in found.messages] == ["hello", "Hi."]
    assert found.state.rules.barge_in_min == (0.7 if broken == "beheaded" else 0.9)
    state, actions = policy(found.state, ResponseAsked(1.0))
    assert state.live.number == found.state.turn.number + 1 and actions
