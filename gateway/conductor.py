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

from gateway.floor import Conversation, Utterance
from gateway.inputs import (
    Action,
    AllStopped,
    CancelAsked,
    CancelTurn,
    CloseTurn,
    Commit,
    Discard,
    EndUtterance,
    FirstAudio,
    Hold,
    Input,
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
from gateway.turns import Cause, Turn, TurnState

BARGE_IN, FINAL, REPLY, CANCEL = "barge_in", "final", "reply", "cancel"
"""Timers: speech long enough to interrupt; an utterance's text, a turn's first sound, a cancel's answers overdue."""


Result = tuple[Conversation, list[Action]]


def policy(state: Conversation, event: Input) -> Result:
    """The state after ``event``, and what is to be done, in order."""
    return _on(event, state)


@singledispatch
def _on(event: Input, state: Conversation) -> Result:
    raise TypeError(f"not an input of the turn logic: {type(event).__name__}")


# -- the caller's speech ----------------------------------------------------------------------------------------


@_on.register
def _(event: SpeechStarted, state: Conversation) -> Result:
    if state.speaking is not None or not state.rules.hears(_audible(state)):
        return state, []
    utterance = Utterance(state.heard + 1, since=event.at)
    over = state.live.number if state.live else 0
    state = replace(state, heard=utterance.number, utterances=(*state.utterances, utterance))
    state, actions = _hold(state, utterance)
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
    state = _with(state, utterance)
    pause = PauseUtterance(utterance.number, utterance.revision, event.offset)
    return state, [StopTimer(BARGE_IN, utterance.number), pause]


@_on.register
def _(event: SpeechResumed, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None or not utterance.paused:
        return state, []
    utterance = replace(utterance, paused=False, since=event.at)
    state, actions = _hold(_with(state, utterance), utterance)
    return state, [*actions, ResumeUtterance(utterance.number, utterance.revision)]


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
    return _settle(_with(state, utterance), event.at, actions)


@_on.register
def _(event: SpeechCleared, state: Conversation) -> Result:
    utterance = state.speaking
    if utterance is None:
        return state, []
    state = replace(state, utterances=state.utterances[:-1])
    end = EndUtterance(utterance.number, utterance.revision, event.offset)
    state, back = _take_back(state)
    return _answer_asked(
        state, event.at, [StopTimer(BARGE_IN, utterance.number), end, Discard(utterance.number), *back]
    )


@_on.register
def _(event: Words, state: Conversation) -> Result:
    utterance = next((u for u in state.utterances if u.number == event.utterance), None)
    if utterance is None or event.revision < utterance.known or (event.final and event.revision > utterance.revision):
        return state, []
    known = event.revision if event.final else utterance.known
    utterance = replace(utterance, text=event.text, known=known)
    state = _with(state, utterance)
    actions: list[Action] = []
    if _has_words(state, utterance):
        state, actions = _interrupt(state, event.at, utterance.number)
    elif event.final and utterance.paused and event.revision == utterance.revision:
        state, actions = _take_back(state)
    return _settle(state, event.at, actions)


# -- the assistant's turn ---------------------------------------------------------------------------------------


@_on.register
def _(event: FirstAudio, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.state is not TurnState.THINKING:
        return state, []
    undecided = next((u for u in state.utterances if u.number > turn.utterance and not u.overdue), None)
    if undecided is None or not (state.rules.may_interrupt and state.rules.interrupt):
        return replace(state, turn=turn.go(Cause.FIRST_AUDIO)), []
    state = replace(state, turn=turn.go(Cause.FIRST_AUDIO_HELD))
    actions: list[Action] = [Hold(turn.number, undecided.number)]
    if not undecided.paused:
        actions.append(SetTimer(BARGE_IN, undecided.number, event.at + state.rules.barge_in_min))
    return state, actions


@_on.register
def _(event: PlayedOut, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.state is not TurnState.SPEAKING:
        return state, []
    return replace(state, turn=turn.go(Cause.PLAYED)), [CloseTurn(turn.number, "done")]


@_on.register
def _(event: TextComplete, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn or turn.state is not TurnState.THINKING:
        return state, []
    return replace(state, turn=turn.go(Cause.TEXT_ONLY)), [CloseTurn(turn.number, "done")]


@_on.register
def _(event: StageFailed, state: Conversation) -> Result:
    turn = state.live
    if turn is None or turn.number != event.turn:
        return state, []
    failed = turn.go(Cause.FAILED)
    return replace(state, turn=failed), [CloseTurn(turn.number, "failed", f"{event.stage}: {event.error}")]


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
    turn = state.live
    if turn is None or event.turn not in (0, turn.number):
        return state, []
    return _cancel(state, turn, event.at, event.reason, 0)


@_on.register
def _(event: ResponseAsked, state: Conversation) -> Result:
    if state.live is not None:
        refusal = "Conversation already has an active response in progress. Wait until it is finished."
        return state, [Refuse("conversation_already_has_active_response", refusal, event.tag)]
    if state.utterances and all(utterance.ended for utterance in state.utterances):
        return replace(state, asked=event), []
    return _open(state, event.at, 0, event.text, event.tag)


@_on.register
def _(event: TimerFired, state: Conversation) -> Result:
    if event.timer == BARGE_IN:
        utterance = state.speaking
        if utterance is None or utterance.number != event.number or utterance.paused:
            return state, []
        return _interrupt(state, event.at, utterance.number)
    if event.timer == FINAL:
        overdue = next((u for u in state.utterances if u.number == event.number and u.ended), None)
        if overdue is None:
            return state, []
        if overdue.overdue:
            return _settle(_with(state, replace(overdue, known=overdue.revision)), event.at, [])
        state, back = _take_back(_with(state, replace(overdue, overdue=True)))
        return state, [*back, SetTimer(FINAL, overdue.number, event.at + state.rules.text_limit)]
    if event.timer == REPLY:
        turn = state.live
        if turn is None or turn.number != event.number or turn.state is not TurnState.THINKING:
            return state, []
        return policy(state, StageFailed(event.at, turn.number, "llm", f"no answer in {state.rules.reply_limit:g} s"))
    return policy(state, AllStopped(event.at, event.number))


# -- steps they share -------------------------------------------------------------------------------------------


def _audible(state: Conversation) -> bool:
    return state.live is not None and state.live.state is not TurnState.THINKING


def _with(state: Conversation, utterance: Utterance) -> Conversation:
    changed = tuple(utterance if u.number == utterance.number else u for u in state.utterances)
    return replace(state, utterances=changed)


def _has_words(state: Conversation, utterance: Utterance) -> bool:
    return bool(utterance.text.strip()) and not state.rules.is_backchannel(utterance.text)


def _hold(state: Conversation, utterance: Utterance) -> Result:
    """Hold what is being heard; the length of speech that would confirm is counted from here."""
    turn = state.live
    if turn is None or not (state.rules.may_interrupt and state.rules.interrupt):
        return state, []
    timer = SetTimer(
        BARGE_IN, utterance.number, utterance.since + max(0.0, state.rules.barge_in_min - utterance.spoken)
    )
    if turn.state is not TurnState.SPEAKING:
        return state, [timer]
    state = replace(state, turn=turn.go(Cause.ONSET))
    return state, [Hold(turn.number, utterance.number), timer]


def _take_back(state: Conversation) -> Result:
    """The caller said nothing that counts: play on."""
    turn = state.live
    if turn is None or turn.state is not TurnState.HELD or any(_has_words(state, u) for u in state.utterances):
        return state, []
    return replace(state, turn=turn.go(Cause.TAKEN_BACK)), [Resume(turn.number)]


def _interrupt(state: Conversation, at: float, utterance: int) -> Result:
    """The caller means it: cancel the turn they spoke over, if it began before they did."""
    turn = state.live
    if turn is None or turn.utterance >= utterance or not (state.rules.may_interrupt and state.rules.interrupt):
        return state, []
    return _cancel(state, turn, at, "turn_detected", utterance)


def _cancel(state: Conversation, turn: Turn, at: float, reason: str, utterance: int) -> Result:
    cancelling = turn.go(Cause.CONFIRMED)
    state = replace(state, turn=cancelling, cancelling=(*state.cancelling, cancelling))
    timer = SetTimer(CANCEL, turn.number, at + state.rules.cancel_limit)
    return state, [CancelTurn(turn.number, reason, utterance), timer]


def _open(state: Conversation, at: float, utterance: int, text: str, tag: str) -> Result:
    number = state.turn.number + 1 if state.turn else 1
    state = replace(state, turn=Turn(number, utterance), asked=None)
    return state, [OpenTurn(number, utterance, text, tag), SetTimer(REPLY, number, at + state.rules.reply_limit)]


def _settle(state: Conversation, at: float, actions: list[Action]) -> Result:
    """Act upon every utterance, oldest first, that has ended and whose text is known."""
    while state.utterances and state.utterances[0].ended and state.utterances[0].known >= state.utterances[0].revision:
        utterance = state.utterances[0]
        state = replace(state, utterances=state.utterances[1:])
        actions.append(StopTimer(FINAL, utterance.number))
        state, more = _act(state, at, utterance)
        actions.extend(more)
    return state, actions


def _act(state: Conversation, at: float, utterance: Utterance) -> Result:
    over = state.live if state.live is not None and state.live.utterance < utterance.number else None
    if not utterance.text.strip():
        state, back = _take_back(state)
        return _answer_asked(state, at, [Discard(utterance.number), *back])
    backchannel = over is not None and state.rules.is_backchannel(utterance.text)
    actions: list[Action] = [Commit(utterance.number, utterance.text, backchannel)]
    if backchannel:
        state, back = _take_back(state)
        return _answer_asked(state, at, [*actions, *back])
    if over is not None and state.rules.interrupt:
        state, cancelled = _interrupt(state, at, utterance.number)
        actions = [*cancelled, *actions]
    if state.asked is not None:
        return _answer_asked(state, at, actions)
    if state.rules.respond and state.live is None:
        state, opened = _open(state, at, utterance.number, "", "")
        actions.extend(opened)
    return state, actions


def _answer_asked(state: Conversation, at: float, actions: list[Action]) -> Result:
    if state.asked is None or state.utterances or state.live is not None:
        return state, actions
    state, opened = _open(state, at, 0, state.asked.text, state.asked.tag)
    return state, [*actions, *opened]
