"""The turn logic: ``policy(state, input) -> (state, actions)``. Pure: no I/O, no clock of its own.

What it promises, in the words of the design:

* output is held at the caller's first sound and played on, from the exact position, when that was nothing or only a
  backchannel; recognised words confirm an interruption as soon as they are known, also after playback was resumed,
  and so does speech of ``barge_in_min`` seconds without any word;
* a cancelling turn never delays the next one, and an input about a turn that has ended changes nothing;
* at most one turn is live; utterances are answered in order, each once;
* nothing waits for ever: a text that does not come and a stage that does not answer have their limits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

from gateway import moves
from gateway.floor import Conversation, Utterance
from gateway.inputs import (
    Action,
    AllStopped,
    Called,
    CancelAsked,
    CloseTurn,
    Discard,
    EndUtterance,
    FirstAudio,
    Hold,
    Input,
    PauseUtterance,
    PlayedOut,
    Refuse,
    ResponseAsked,
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
from gateway.moves import BARGE_IN, CANCEL, FINAL, IDLE, REPLY, SESSION_ENDED, Result
from gateway.turns import Cause, TurnState


def policy(state: Conversation, event: Input) -> Result:
    """The state after ``event``, and what is to be done, in order."""
    return _on(event, state)


@singledispatch
def _on(event: Input, state: Conversation) -> Result:
    raise TypeError(f"not an input of the turn logic: {type(event).__name__}")


# -- the caller's speech ----------------------------------------------------------------------------------------


@_on.register
def _(event: SpeechStarted, state: Conversation) -> Result:
    if state.speaking is not None or not state.rules.hears(moves.audible(state)):
        return state, []
    utterance = Utterance(state.heard + 1, since=event.at)
    over = state.live.number if state.live else 0
    state = replace(state, heard=utterance.number, utterances=(*state.utterances, utterance))
    state, actions = moves.hold(state, utterance)
    return state, [*actions, StartUtterance(utterance.number, event.offset, over)]


@_on.register
def _(event: SpeechPaused, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None or utterance.paused:
        return state, []
    utterance = replace(
        utterance,
        paused=True,
        revision=utterance.revision + 1,
        spoken=utterance.spoken + max(0.0, event.at - utterance.since),
    )
    state = moves.replaced(state, utterance)
    pause = PauseUtterance(utterance.number, utterance.revision, event.offset)
    return state, [StopTimer(BARGE_IN, utterance.number), pause]


@_on.register
def _(event: SpeechResumed, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None or not utterance.paused:
        return state, []
    utterance = replace(utterance, paused=False, since=event.at)
    state, actions = moves.went_on(moves.replaced(state, utterance), event.at)
    state, held = moves.hold(state, utterance)
    return state, [*actions, *held, ResumeUtterance(utterance.number, utterance.revision)]


@_on.register
def _(event: SpeechEnded, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None:
        return state, []
    before: list[Action] = []
    if not utterance.paused:
        state, before = policy(state, SpeechPaused(event.at, event.offset))
        utterance = state.utterances[-1]
    utterance = replace(utterance, ended=True)
    actions: list[Action] = [
        *before,
        EndUtterance(utterance.number, utterance.revision, event.offset),
        SetTimer(FINAL, utterance.number, event.at + state.rules.final_limit),
    ]
    return moves.settle(moves.replaced(state, utterance), event.at, actions)


@_on.register
def _(event: SpeechCleared, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None:
        return state, []
    state = replace(state, utterances=state.utterances[:-1])
    end = EndUtterance(utterance.number, utterance.revision, event.offset)
    state, back = moves.take_back(state)
    return moves.answer_asked(
        state, event.at, [StopTimer(BARGE_IN, utterance.number), end, Discard(utterance.number), *back]
    )


@_on.register
def _(event: Words, state: Conversation) -> Result:
    utterance = next((u for u in state.utterances if u.number == event.utterance), None)
    if utterance is None or event.revision < utterance.known or (event.final and event.revision > utterance.revision):
        return state, []
    known = event.revision if event.final else utterance.known
    utterance = replace(utterance, text=event.text, known=known)
    state = moves.replaced(state, utterance)
    actions: list[Action] = []
    if moves.has_words(state, utterance):
        state, actions = moves.interrupt(state, event.at, utterance.number)
    elif event.final and utterance.paused and event.revision == utterance.revision:
        state, actions = moves.take_back(state)
    state, eager = moves.speculate(state, event.at, utterance)
    return moves.settle(state, event.at, [*actions, *eager])


# -- the assistant's turn ---------------------------------------------------------------------------------------


@_on.register
def _(event: FirstAudio, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.began is not None:
        return state, []
    turn = replace(turn, began=event.at)
    first = state.first_audio if state.first_audio is not None else event.at
    state = replace(state, turn=turn, first_audio=first)
    if turn.state is not TurnState.THINKING:
        return state, []
    undecided = next((u for u in state.utterances if u.number > turn.utterance and not u.overdue), None)
    if undecided is None or not moves.interruptible(state, turn, event.at):
        return replace(state, turn=turn.go(Cause.FIRST_AUDIO)), []
    state = replace(state, turn=turn.go(Cause.FIRST_AUDIO_HELD))
    actions: list[Action] = [Hold(turn.number, undecided.number)]
    if not undecided.paused:
        actions.append(SetTimer(BARGE_IN, undecided.number, event.at + moves.enough(state, event.at)))
    return state, actions


@_on.register
def _(event: PlayedOut, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.state is not TurnState.SPEAKING:
        return state, []
    state = replace(state, turn=turn.go(Cause.PLAYED))
    return moves.answer_late(state, event.at, [CloseTurn(turn.number, "done"), *moves.await_caller(state, event.at)])


@_on.register
def _(event: TextComplete, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.state not in (TurnState.THINKING, TurnState.SPECULATIVE):
        return state, []
    if turn.state is TurnState.SPECULATIVE:
        return replace(state, turn=replace(turn, complete=True)), []
    state = replace(state, turn=turn.go(Cause.TEXT_ONLY))
    return moves.answer_late(state, event.at, [CloseTurn(turn.number, "done"), *moves.await_caller(state, event.at)])


@_on.register
def _(event: Called, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn:
        return state, []
    return replace(state, turn=replace(turn, called=True)), []


@_on.register
def _(event: StageFailed, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn:
        return state, []
    state = replace(state, turn=turn.go(Cause.FAILED))
    return moves.answer_late(state, event.at, [CloseTurn(turn.number, "failed", f"{event.stage}: {event.error}")])


@_on.register
def _(event: AllStopped, state: Conversation) -> Result:
    if all(turn.number != event.turn for turn in state.cancelling):
        return state, []
    remaining = tuple(turn for turn in state.cancelling if turn.number != event.turn)
    state = replace(state, cancelling=remaining)
    if state.turn is not None and state.turn.number == event.turn:
        state = replace(state, turn=state.turn.go(Cause.STOPPED))
    return state, [StopTimer(CANCEL, event.turn), Settle(event.turn)]


@_on.register
def _(event: CancelAsked, state: Conversation) -> Result:
    if state.live is None and state.asked is not None and event.turn in (0, state.next_turn):
        # It waits for the caller to finish. Whoever asked for it is told of its beginning and of its end.
        state, opened = moves.begin(state, event.at, 0, state.asked)
        state, cancelled = policy(state, event)
        return state, [*opened, *cancelled]
    turn = state.live
    if turn is None or event.turn not in (0, turn.number):
        return state, []
    if turn.state is TurnState.SPECULATIVE:
        # Nobody outside knows of it; only the session's end may stop it.
        return moves.went_on(state, event.at) if event.reason == SESSION_ENDED else (state, [])
    state, cancelled = moves.cancel(state, turn, event.at, event.reason, 0)
    return moves.answer_asked(state, event.at, cancelled)


@_on.register
def _(event: ResponseAsked, state: Conversation) -> Result:
    state, gone = moves.went_on(state, event.at)
    if state.asked is None and state.live is not None and (event.waits or state.live.called):
        return replace(state, asked=event), gone
    if state.asked is not None or state.live is not None:
        refusal = "Conversation already has an active response in progress. Wait until it is finished."
        return state, [*gone, Refuse("conversation_already_has_active_response", refusal, event.tag)]
    if state.utterances and all(utterance.ended for utterance in state.utterances):
        return replace(state, asked=event), gone
    state, opened = moves.begin(state, event.at, 0, event)
    return state, [*gone, *opened]


@_on.register
def _(event: TimerFired, state: Conversation) -> Result:
    if event.timer == BARGE_IN:
        utterance = state.speaking
        if utterance is None or utterance.number != event.number or utterance.paused:
            return state, []
        return moves.interrupt(state, event.at, utterance.number)
    if event.timer == FINAL:
        overdue = next((u for u in state.utterances if u.number == event.number and u.ended), None)
        if overdue is None:
            return state, []
        if overdue.overdue:
            return moves.settle(moves.replaced(state, replace(overdue, known=overdue.revision)), event.at, [])
        state, back = moves.take_back(moves.replaced(state, replace(overdue, overdue=True)))
        return state, [*back, SetTimer(FINAL, overdue.number, event.at + state.rules.text_limit)]
    if event.timer == REPLY:
        turn = state.live
        if turn is None or turn.number != event.number or turn.audible:
            return state, []
        return policy(state, StageFailed(event.at, turn.number, "llm", f"no answer in {state.rules.reply_limit:g} s"))
    if event.timer == IDLE:
        return (state, []) if state.live is not None else moves.break_silence(state, event.at, event.number)
    return policy(state, AllStopped(event.at, event.number))
