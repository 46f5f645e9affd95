"""When a reply may be interrupted, and when one begins ahead of the end."""

import pytest

from gateway.duplex import Duplex
from gateway.inputs import (
    CancelAsked,
    CancelTurn,
    CloseTurn,
    Commit,
    EndUtterance,
    FirstAudio,
    OpenTurn,
    PauseUtterance,
    PlayedOut,
    ReleaseTurn,
    ResponseAsked,
    Resume,
    ResumeUtterance,
    SetTimer,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    StageFailed,
    StartUtterance,
    Words,
)  # fmt: skip
from gateway.moves import BARGE_IN, SESSION_ENDED
from gateway.turns import TurnState
from tests.gateway.talk import Talk


def test_while_an_echo_canceller_converges_wordless_speech_must_be_longer():
    """In the first three seconds of the session's playback 1.1 s of speech confirm, afterwards 0.7 s; words at once."""
    talk = Talk().speaking()
    assert SetTimer(BARGE_IN, 2, pytest.approx(talk.now + 2 + 1.1)) in talk(SpeechStarted, 500, after=2, quiet=False)
    talk = Talk().speaking()
    assert SetTimer(BARGE_IN, 2, pytest.approx(talk.now + 4 + 0.7)) in talk(SpeechStarted, 500, after=4, quiet=False)
    talk = Talk().speaking()
    talk(SpeechStarted, 500, after=1)
    assert talk(Words, 2, 0, "stop", False, after=0.1) == [CancelTurn(1, "turn_detected", 2)]


def test_the_first_moments_of_a_reply_can_be_protected():
    """Within ``protect`` nothing holds or cancels; speech that lasts beyond it, or words after it, do."""
    talk = Talk(Duplex(protect=2.0)).speaking()
    began = talk.now
    actions = talk(SpeechStarted, 500, after=0.5, quiet=False)
    assert actions == [SetTimer(BARGE_IN, 2, pytest.approx(began + 2.0)), StartUtterance(2, 500, 1)]
    assert talk(Words, 2, 0, "stop", False, after=0.5) == []
    assert talk(Words, 2, 0, "stop it", False, after=1.2) == [CancelTurn(1, "turn_detected", 2)]


def test_a_reply_that_must_not_be_interrupted_is_heard_out_and_what_was_said_over_it_answered():
    """Forbidden for one reply: the caller's words join the conversation and are answered after its end."""
    talk = Talk()
    talk(ResponseAsked, "", "terms", False)
    talk(FirstAudio, 1)
    assert talk.utterance("what does that mean", 1) == [
        StartUtterance(1, 0, 1),
        PauseUtterance(1, 1, 16_000),
        EndUtterance(1, 1, 20_000),
        Commit(1, "what does that mean", over=1),
    ]
    assert talk(PlayedOut, 1) == [CloseTurn(1, "done"), OpenTurn(2, 1, "", "")]
    assert talk.state.turn.interruptible


def eager(text="what time is it"):
    """A conversation at the pause of an utterance whose text is known, with a turn begun on the guess."""
    talk = Talk(Duplex(eager=True))
    talk(SpeechStarted, 0)
    talk(SpeechPaused, 500, after=1)
    assert talk(Words, 1, 1, text, True, after=0.1) == [OpenTurn(1, 1, "", "", text)]
    assert talk.state.turn.state is TurnState.SPECULATIVE
    return talk


def test_an_eager_reply_is_released_when_the_callers_turn_is_over():
    """Begun at the pause, told to the client at the end: the wait for the end costs nothing."""
    talk = eager()
    assert talk(SpeechEnded, 900, after=0.3) == [EndUtterance(1, 1, 900), Commit(1, "what time is it"), ReleaseTurn(1)]
    assert talk.state.turn.state is TurnState.THINKING
    assert talk(FirstAudio, 1) == []
    assert talk.state.turn.state is TurnState.SPEAKING


def test_an_eager_reply_whose_audio_is_here_speaks_at_once():
    """Audio that came before the end is heard with it, not before."""
    talk = eager()
    assert talk(FirstAudio, 1) == []
    assert talk.state.turn.state is TurnState.SPECULATIVE
    talk(SpeechEnded, 900)
    assert talk.state.turn.state is TurnState.SPEAKING


def test_an_eager_reply_is_cancelled_when_the_caller_goes_on():
    """Nobody hears of it, and the whole utterance is answered by the next turn."""
    talk = eager()
    assert talk(SpeechResumed, 800, after=0.1) == [CancelTurn(1, "caller_went_on", 0), ResumeUtterance(1, 1)]
    talk(SpeechPaused, 1500, after=1)
    assert talk(Words, 1, 2, "what time is it in tokyo", True) == [OpenTurn(2, 1, "", "", "what time is it in tokyo")]
    assert talk(SpeechEnded, 2000)[-1] == ReleaseTurn(2)


def test_nothing_is_begun_eagerly_while_the_assistant_speaks():
    """At a pause over a reply that is heard or held no turn is begun: the watermark is a prefix."""
    talk = Talk(Duplex(eager=True)).speaking()
    talk(SpeechStarted, 500)
    talk(SpeechPaused, 900)
    assert talk(Words, 2, 1, "mm-hmm", True) == [Resume(1)]
    talk(SpeechEnded, 1200)
    assert talk.state.turn.number == 1


def test_an_eager_reply_that_fails_is_begun_again_at_the_end():
    """A failure nobody knew of is no failure of the conversation."""
    talk = eager()
    assert talk(StageFailed, 1, "llm", "down") == [CloseTurn(1, "failed", "llm: down")]
    assert talk(SpeechEnded, 900) == [EndUtterance(1, 1, 900), Commit(1, "what time is it"), OpenTurn(2, 1, "", "")]


def test_an_eager_reply_cannot_be_cancelled_by_those_who_do_not_know_of_it():
    """The client's cancel is for what it was told of; the session's end stops all."""
    talk = eager()
    assert talk(CancelAsked, 0, "client_cancelled") == []
    assert talk(CancelAsked, 0, SESSION_ENDED) == [CancelTurn(1, "caller_went_on", 0)]
