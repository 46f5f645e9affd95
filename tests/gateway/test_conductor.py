import pytest

from gateway.duplex import Duplex
from gateway.floor import Floor
from gateway.inputs import (
    AllStopped,
    CancelAsked,
    CancelTurn,
    CloseTurn,
    Commit,
    Discard,
    EndUtterance,
    FirstAudio,
    Hold,
    OpenTurn,
    PauseUtterance,
    PlayedOut,
    Refuse,
    ResponseAsked,
    Resume,
    ResumeUtterance,
    SetTimer,
    Settle,
    SpeechCleared,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    StageFailed,
    StartUtterance,
    StopTimer,
    TextComplete,
    TimerFired,
    Words,
)  # fmt: skip
from gateway.moves import BARGE_IN, CANCEL, FINAL, REPLY
from gateway.turns import Turn, TurnState
from tests.gateway.talk import Talk


def test_an_utterance_opens_a_turn_that_is_heard_to_its_end():
    """The plain course: speech, text, turn, audio, done."""
    talk = Talk()
    assert talk.state.floor is Floor.NOBODY
    assert talk(SpeechStarted, 160) == [StartUtterance(1, 160, 0)]
    assert talk.state.floor is Floor.CALLER
    assert talk(SpeechPaused, 900) == [PauseUtterance(1, 1, 900)]
    assert talk(Words, 1, 1, "what time is it", True) == []
    assert talk(SpeechEnded, 1000) == [EndUtterance(1, 1, 1000), Commit(1, "what time is it"), OpenTurn(1, 1, "", "")]
    assert talk.state.floor is Floor.ASSISTANT
    assert talk(FirstAudio, 1) == []
    assert talk(PlayedOut, 1) == [CloseTurn(1, "done")]
    assert talk.state.turn.state is TurnState.DONE
    assert talk.state.floor is Floor.NOBODY


def test_a_text_that_comes_after_the_end_opens_the_turn_then():
    """The end of an utterance waits for its text, and no longer than that."""
    talk = Talk()
    talk(SpeechStarted, 0)
    talk(SpeechPaused, 100)
    assert talk(SpeechEnded, 200) == [EndUtterance(1, 1, 200)]
    assert talk(Words, 1, 1, "hello", True) == [Commit(1, "hello"), OpenTurn(1, 1, "", "")]


def test_a_text_that_never_comes_is_given_up():
    """Nothing waits for ever: after the limit the last partial text counts, or nothing."""
    for partial, expected in (("hello", [Commit(1, "hello"), OpenTurn(1, 1, "", "")]), ("", [Discard(1)])):
        talk = Talk()
        talk(SpeechStarted, 0)
        talk(Words, 1, 0, partial, False)
        assert SetTimer(FINAL, 1, 3.0) in talk(SpeechEnded, 200, quiet=False)
        assert talk(TimerFired, FINAL, 1, after=3, quiet=False) == [SetTimer(FINAL, 1, 18.0)]
        assert talk(TimerFired, FINAL, 1, after=15) == expected


def test_a_held_turn_does_not_wait_long_for_a_text_but_late_words_still_count():
    """A recogniser that is slow or dead costs a held reply three seconds, not its caller's words."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    talk(SpeechEnded, 900, after=0.3)
    assert talk(TimerFired, FINAL, 2, after=3) == [Resume(1)]
    late = talk(Words, 2, 1, "no stop", True, after=2)
    assert late == [CancelTurn(1, "turn_detected", 2), Commit(2, "no stop"), OpenTurn(2, 2, "", "")]


def test_output_is_held_at_the_first_sound():
    """Onset while the assistant speaks silences it at once, before anything is known."""
    talk = Talk().speaking()
    actions = talk(SpeechStarted, 500, quiet=False)
    assert actions == [Hold(1, 2), SetTimer(BARGE_IN, 2, talk.now + 1.1), StartUtterance(2, 500, 1)]
    assert talk.state.turn.state is TurnState.HELD


@pytest.mark.parametrize("text", ["", "mm-hmm", "Yeah.", "uh-huh, okay"])
def test_nothing_and_backchannels_are_taken_back(text):
    """A cough or a "mm-hmm" plays on from where it was held, and opens no turn."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    talk(SpeechPaused, 900, after=0.15)
    assert talk(Words, 2, 1, text, True, after=0.1) == [Resume(1)]
    assert talk.state.turn.state is TurnState.SPEAKING
    ended = talk(SpeechEnded, 1200, after=0.3)
    assert ended == [EndUtterance(2, 1, 1200), Commit(2, text, True, over=1) if text else Discard(2)]
    assert talk(PlayedOut, 1) == [CloseTurn(1, "done")]


def test_words_confirm_as_soon_as_they_are_known():
    """A partial "stop" cancels before the caller has finished speaking."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    assert talk(Words, 2, 0, "stop", False, after=0.3) == [CancelTurn(1, "turn_detected", 2)]
    assert talk.state.turn.state is TurnState.CANCELLING
    talk(SpeechPaused, 900)
    talk(Words, 2, 1, "stop please", True)
    assert talk(SpeechEnded, 1200) == [EndUtterance(2, 1, 1200), Commit(2, "stop please"), OpenTurn(2, 2, "", "")]


def test_long_speech_confirms_without_words():
    """700 ms of speech is an interruption, whatever the recogniser makes of it."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    assert talk(TimerFired, BARGE_IN, 2, after=0.7) == [CancelTurn(1, "turn_detected", 2)]


def test_a_pause_stops_the_clock_of_long_speech_and_more_speech_adds_to_it():
    """Two coughs do not add up while silent, but 0.5 s and 0.2 s of speech do."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    assert StopTimer(BARGE_IN, 2) in talk(SpeechPaused, 900, after=0.5, quiet=False)
    assert talk(TimerFired, BARGE_IN, 2, after=0.3) == []
    resumed = talk(SpeechResumed, 1500, after=3, quiet=False)
    assert SetTimer(BARGE_IN, 2, pytest.approx(talk.now + 0.2)) in resumed


def test_speech_that_goes_on_after_a_resume_holds_again():
    """Taken back and spoken over again: held again, within the same utterance."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    talk(SpeechPaused, 900, after=0.2)
    talk(Words, 2, 1, "", True)
    assert talk(SpeechResumed, 1500) == [Hold(1, 2), ResumeUtterance(2, 1)]
    assert talk.state.turn.state is TurnState.HELD


def test_late_words_cancel_after_a_resume():
    """Real words that arrive after playback went on still stop it."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    talk(SpeechPaused, 900, after=0.2)
    talk(Words, 2, 1, "", True)
    assert talk.state.turn.state is TurnState.SPEAKING
    assert talk(Words, 2, 1, "no wait", True) == [CancelTurn(1, "turn_detected", 2)]


def test_the_resume_follows_the_text_never_the_pause():
    """A pause alone does not play on: what was said may be "stop"."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    assert talk(SpeechPaused, 900, after=0.2) == [PauseUtterance(2, 1, 900)]
    assert talk.state.turn.state is TurnState.HELD


def test_a_caller_who_speaks_while_the_assistant_thinks_is_not_talked_over():
    """First audio that comes while the caller speaks is held, and heard only if they said nothing."""
    talk = Talk()
    talk.utterance("hello", 1)
    assert talk(SpeechStarted, 500) == [StartUtterance(2, 500, 1)]
    assert talk(FirstAudio, 1) == [Hold(1, 2)]
    talk(SpeechPaused, 900)
    assert talk(Words, 2, 1, "", True) == [Resume(1)]


def test_a_caller_who_goes_on_cancels_the_turn_being_thought_of():
    """ "What time is it ... in Tokyo": the first half's answer is never heard."""
    talk = Talk()
    talk.utterance("what time is it", 1)
    talk(SpeechStarted, 500)
    assert talk(Words, 2, 0, "in tokyo", False) == [CancelTurn(1, "turn_detected", 2)]
    talk(SpeechPaused, 900)
    talk(Words, 2, 1, "in tokyo", True)
    assert talk(SpeechEnded, 1200)[-1] == OpenTurn(2, 2, "", "")


def test_a_cancelling_turn_does_not_delay_the_next():
    """The next turn opens, speaks and ends while stages of the last have not answered."""
    talk = Talk().speaking()
    talk(CancelAsked, 0, "client_cancelled")
    talk.utterance("next question", 2)
    assert talk.state.turn == Turn(2, 2, TurnState.THINKING)
    assert [turn.number for turn in talk.state.cancelling] == [1]
    talk(FirstAudio, 2)
    assert talk(AllStopped, 1) == [Settle(1)]
    assert talk.state.cancelling == ()
    assert talk.state.turn.state is TurnState.SPEAKING


def test_stages_that_do_not_answer_are_settled_at_the_limit():
    """A cancelled turn ends as CANCELLED though a stage never answered."""
    talk = Talk().speaking()
    assert SetTimer(CANCEL, 1, talk.now + 2.0) in talk(CancelAsked, 0, "client_cancelled", quiet=False)
    assert talk(TimerFired, CANCEL, 1, after=2) == [Settle(1)]
    assert talk.state.turn.state is TurnState.CANCELLED
    assert talk(AllStopped, 1) == []


def test_a_cancel_for_another_turn_changes_nothing():
    """A cancel that comes late names an old turn and cannot touch the live one."""
    talk = Talk().speaking()
    talk(CancelAsked, 0, "client_cancelled")
    talk.utterance("next", 2)
    before = talk.state
    for event in ((CancelAsked, 1, "late"), (PlayedOut, 1), (FirstAudio, 1), (StageFailed, 1, "tts", "late")):
        assert talk(*event) == []
    assert talk.state == before


def test_a_stage_that_fails_ends_the_turn():
    """FAILED is said with the stage and its error."""
    talk = Talk().speaking()
    assert talk(StageFailed, 1, "tts", "no voice") == [CloseTurn(1, "failed", "tts: no voice")]
    assert talk.state.turn.state is TurnState.FAILED


def test_a_turn_that_never_speaks_fails_at_its_limit():
    """Nothing waits for ever: no first sound within the limit is a failure."""
    talk = Talk()
    talk.utterance("hello", 1)
    assert talk(TimerFired, REPLY, 1, after=30) == [CloseTurn(1, "failed", "llm: no answer in 30 s")]
    talk = Talk().speaking()
    assert talk(TimerFired, REPLY, 1, after=30) == []


def test_a_turn_without_audio_is_done_when_its_text_is():
    talk = Talk()
    talk.utterance("hello", 1)
    assert talk(TextComplete, 1) == [CloseTurn(1, "done")]


def test_a_response_may_be_asked_for_once_at_a_time():
    """While one is live another is refused with the protocol's code."""
    talk = Talk()
    assert talk(ResponseAsked, "", "a") == [OpenTurn(1, 0, "", "a")]
    (refusal,) = talk(ResponseAsked, "", "b")
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.tag) == ("conversation_already_has_active_response", "b")


def test_a_response_asked_for_before_the_text_is_known_waits_for_it():
    """Manual turns: commit, then response.create, before the recogniser has answered."""
    talk = Talk(Duplex(respond=False, interrupt=False))
    talk(SpeechStarted, 0)
    talk(SpeechEnded, 100)
    assert talk(ResponseAsked, "", "a") == []
    assert talk(Words, 1, 1, "hello", True) == [Commit(1, "hello"), OpenTurn(1, 0, "", "a")]


def test_utterances_are_answered_in_order_though_their_texts_are_not():
    """A later utterance's text waits for the earlier one's."""
    talk = Talk()
    for offset in (0, 1000):
        talk(SpeechStarted, offset)
        talk(SpeechEnded, offset + 500)
    assert talk(Words, 2, 1, "second", True) == []
    actions = talk(Words, 1, 1, "first", True)
    assert [action for action in actions if isinstance(action, Commit)] == [Commit(1, "first"), Commit(2, "second")]
    assert actions[-1] == OpenTurn(2, 2, "", "")


def test_the_text_of_an_earlier_revision_does_not_end_an_utterance():
    """A pause's text that the caller went on after is not the last word."""
    talk = Talk()
    talk(SpeechStarted, 0)
    talk(SpeechPaused, 500)
    talk(SpeechResumed, 900)
    talk(SpeechEnded, 2000)
    assert talk(Words, 1, 1, "what time", True) == []
    assert talk(Words, 1, 2, "what time is it", True)[0] == Commit(1, "what time is it")
    assert talk(Words, 1, 2, "again", True) == []


def test_cleared_speech_is_forgotten_and_what_it_held_plays_on():
    """The client takes its audio back: no text of it counts."""
    talk = Talk().speaking()
    talk(SpeechStarted, 500)
    assert talk(SpeechCleared, 900) == [EndUtterance(2, 0, 900), Discard(2), Resume(1)]
    assert talk(Words, 2, 0, "stop", False) == []


def test_half_duplex_ignores_the_microphone_while_the_assistant_speaks():
    """With barge-in off, speech during playback is no utterance; before and after it is."""
    talk = Talk(Duplex(may_interrupt=False)).speaking()
    assert talk(SpeechStarted, 500) == []
    assert talk(SpeechPaused, 600) == talk(SpeechEnded, 700) == []
    talk(PlayedOut, 1)
    assert talk(SpeechStarted, 900) == [StartUtterance(2, 900, 0)]


def test_a_client_may_forbid_interruption_by_speech():
    """interrupt_response false: speech neither holds nor cancels, but the client's own cancel does."""
    talk = Talk(Duplex(interrupt=False)).speaking()
    assert talk(SpeechStarted, 500) == [StartUtterance(2, 500, 1)]
    assert talk(Words, 2, 0, "stop", False) == []
    assert talk(CancelAsked, 0, "client_cancelled") == [CancelTurn(1, "client_cancelled", 0)]


def test_a_client_may_forbid_replies():
    """create_response false: an utterance joins the conversation and nothing more."""
    talk = Talk(Duplex(respond=False))
    assert talk.utterance("hello", 1)[-1] == Commit(1, "hello")
    assert talk.state.turn is None
