"""The turn logic with function calls, requests that wait, and callers who stay silent."""

from gateway.duplex import Duplex
from gateway.inputs import (
    Called,
    CancelAsked,
    CancelTurn,
    CloseTurn,
    Commit,
    FirstAudio,
    OpenTurn,
    PlayedOut,
    Refuse,
    ResponseAsked,
    SetTimer,
    SpeechStarted,
    StayedSilent,
    TextComplete,
    TimerFired,
)  # fmt: skip
from tests.gateway.talk import Talk


def test_a_request_for_what_a_call_brought_waits_for_the_turns_end():
    """The turn that called still speaks: what is asked for follows it; a second request at a time is refused."""
    talk = Talk().speaking()
    talk(Called, 1)
    assert talk(ResponseAsked, "", "result") == []
    assert [type(action) for action in talk(ResponseAsked, "", "again")] == [Refuse]
    assert talk(PlayedOut, 1) == [CloseTurn(1, "done"), OpenTurn(2, 0, "", "result")]


def test_a_request_may_wait_for_a_turn_that_called_nothing():
    """The result came while another turn was speaking: asked with ``waits``, it follows, also after a cancel."""
    talk = Talk().speaking()
    assert talk(ResponseAsked, "", "result", True, True) == []
    assert talk(CancelAsked, 1, "client_cancelled") == [
        CancelTurn(1, "client_cancelled", 0),
        OpenTurn(2, 0, "", "result"),
    ]


def test_what_the_caller_says_meanwhile_is_answered_together_with_the_result():
    """An interruption while a request waits: one turn answers both, and it is the one that was asked for."""
    talk = Talk().speaking()
    talk(Called, 1)
    talk(ResponseAsked, "", "result")
    actions = talk.utterance("never mind", 2)
    assert CancelTurn(1, "turn_detected", 2) in actions
    assert actions[-2:] == [Commit(2, "never mind"), OpenTurn(2, 0, "", "result")]


def test_a_turn_that_only_called_is_done():
    """A function call ends its turn; nobody is expected to speak while it runs."""
    talk = Talk(Duplex(idle=5.0))
    talk.utterance("weather?", 1)
    talk(Called, 1)
    assert talk(TextComplete, 1, quiet=False) == [CloseTurn(1, "done")]


def test_a_silent_caller_is_spoken_to_once():
    """So long after the reply, as an utterance without words; the timer of an older turn does nothing."""
    talk = Talk(Duplex(idle=5.0)).speaking()
    assert SetTimer("idle", 1, talk.now + 5.0) in talk(PlayedOut, 1, quiet=False)
    assert talk(TimerFired, "idle", 1, after=5) == [StayedSilent(2, 5.0), OpenTurn(2, 2, "", "")]
    assert talk(TimerFired, "idle", 1) == []
    talk(FirstAudio, 2)
    assert talk(TimerFired, "idle", 2) == []


def test_a_caller_who_speaks_is_not_silent():
    """While an utterance goes on the wait begins anew."""
    talk = Talk(Duplex(idle=5.0)).speaking()
    talk(PlayedOut, 1)
    talk(SpeechStarted, 0, after=4.9)
    assert talk(TimerFired, "idle", 1, after=0.1, quiet=False) == [SetTimer("idle", 1, talk.now + 5.0)]


def test_an_utterance_that_only_the_client_ends_keeps_no_request_waiting():
    """turn_detection null: uncommitted audio goes on for ever; what is asked for is answered all the same."""
    talk = Talk(Duplex(respond=False, interrupt=False))
    assert talk(ResponseAsked, "", "first") == [OpenTurn(1, 0, "", "first")]
    talk(Called, 1)
    talk(SpeechStarted, 0)
    talk(ResponseAsked, "", "result")
    assert talk(TextComplete, 1) == [CloseTurn(1, "done"), OpenTurn(2, 0, "", "result")]


def test_a_request_that_waits_can_be_cancelled():
    """Nothing is live, yet others are refused: who cancels it is told that it began and ended, and others may ask."""
    talk = Talk().speaking()
    talk(ResponseAsked, "", "result", True, True)
    talk(SpeechStarted, 0)
    assert talk(CancelAsked, 0, "client_cancelled") == [CancelTurn(1, "client_cancelled", 0)]
    assert [type(action) for action in talk(ResponseAsked, "", "again")] == [Refuse]
    assert talk(CancelAsked, 0, "client_cancelled") == [
        OpenTurn(2, 0, "", "result"),
        CancelTurn(2, "client_cancelled", 0),
    ]
    assert talk(ResponseAsked, "", "again") == [OpenTurn(3, 0, "", "again")]
