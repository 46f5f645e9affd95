"""The steps that the turn logic is made of: each takes the state and gives the next one, and what is to be done."""

from __future__ import annotations

from dataclasses import replace

from gateway.floor import Conversation, Utterance
from gateway.inputs import (
    Action,
    CancelTurn,
    CloseTurn,
    Commit,
    Discard,
    Hold,
    OpenTurn,
    ReleaseTurn,
    ResponseAsked,
    Resume,
    SetTimer,
    StayedSilent,
    StopTimer,
)  # fmt: skip
from gateway.turns import Cause, Turn, TurnState

Result = tuple[Conversation, list[Action]]

SESSION_ENDED = "session_ended"
BARGE_IN, FINAL, REPLY, CANCEL, IDLE = "barge_in", "final", "reply", "cancel", "idle"
"""Timers: speech long enough to interrupt; an utterance's text, a turn's first sound, a cancel's answers overdue;
nobody spoke after a turn."""


def audible(state: Conversation) -> bool:
    return state.live is not None and state.live.audible


def interruptible(state: Conversation, turn: Turn, at: float) -> bool:
    """Whether speech may end the turn at time ``at``."""
    rules = state.rules
    if not (rules.may_interrupt and rules.interrupt and turn.interruptible) or turn.state is TurnState.SPECULATIVE:
        return False
    return turn.began is None or at >= turn.began + rules.protect


def enough(state: Conversation, at: float) -> float:
    """Seconds of speech that confirm an interruption without words."""
    settling = state.first_audio is not None and at < state.first_audio + state.rules.settle
    return state.rules.barge_in_min + (state.rules.settle_min if settling else 0.0)


def replaced(state: Conversation, utterance: Utterance) -> Conversation:
    changed = tuple(utterance if u.number == utterance.number else u for u in state.utterances)
    return replace(state, utterances=changed)


def has_words(state: Conversation, utterance: Utterance) -> bool:
    return bool(utterance.text.strip()) and not state.rules.is_backchannel(utterance.text)


def hold(state: Conversation, utterance: Utterance) -> Result:
    """Hold what is being heard; the length of speech that would confirm is counted from here."""
    turn, at = state.live, utterance.since
    if turn is None or not (state.rules.may_interrupt and state.rules.interrupt and turn.interruptible):
        return state, []
    due = at + max(0.0, enough(state, at) - utterance.spoken)
    if turn.began is not None:
        due = max(due, turn.began + state.rules.protect)
    timer = SetTimer(BARGE_IN, utterance.number, due)
    if turn.state is not TurnState.SPEAKING or not interruptible(state, turn, at):
        return state, [timer]
    state = replace(state, turn=turn.go(Cause.ONSET))
    return state, [Hold(turn.number, utterance.number), timer]


def take_back(state: Conversation) -> Result:
    """The caller said nothing that counts: play on."""
    turn = state.live
    if turn is None or turn.state is not TurnState.HELD or any(has_words(state, u) for u in state.utterances):
        return state, []
    return replace(state, turn=turn.go(Cause.TAKEN_BACK)), [Resume(turn.number)]


def interrupt(state: Conversation, at: float, utterance: int) -> Result:
    """The caller means it: cancel the turn they spoke over, if it began before they did."""
    turn = state.live
    if turn is None or turn.utterance >= utterance or not interruptible(state, turn, at):
        return state, []
    return cancel(state, turn, at, "turn_detected", utterance)


def speculate(state: Conversation, at: float, utterance: Utterance) -> Result:
    """At a pause whose text is known: begin the turn that will be due if the caller is done."""
    waiting = utterance.paused and not utterance.ended and utterance.known == utterance.revision
    free = state.live is None and state.asked is None and state.utterances == (utterance,)
    if not (state.rules.eager and state.rules.respond and waiting and free and utterance.text.strip()):
        return state, []
    number = state.next_turn
    state = replace(state, turn=Turn(number, utterance.number, TurnState.SPECULATIVE))
    timer = SetTimer(REPLY, number, at + state.rules.reply_limit)
    return state, [OpenTurn(number, utterance.number, "", "", utterance.text), timer]


def went_on(state: Conversation, at: float) -> Result:
    """The caller was not done: a turn that was begun on the guess is cancelled, and nobody knows of it."""
    turn = state.live
    if turn is None or turn.state is not TurnState.SPECULATIVE:
        return state, []
    return cancel(state, turn, at, "caller_went_on", 0, Cause.WENT_ON)


def release(state: Conversation, turn: Turn) -> Result:
    """The caller was done: the turn that was begun on the guess is the answer."""
    cause = Cause.RELEASED if turn.began is None else Cause.RELEASED_SPEAKING
    turn, actions = turn.go(cause), list[Action]([ReleaseTurn(turn.number)])
    if turn.complete and turn.state is TurnState.THINKING:
        turn = turn.go(Cause.TEXT_ONLY)
        actions.append(CloseTurn(turn.number, "done"))
    return replace(state, turn=turn), actions


def cancel(
    state: Conversation, turn: Turn, at: float, reason: str, utterance: int, cause: Cause = Cause.CONFIRMED
) -> Result:
    cancelling = turn.go(cause)
    state = replace(state, turn=cancelling, cancelling=(*state.cancelling, cancelling))
    timer = SetTimer(CANCEL, turn.number, at + state.rules.cancel_limit)
    return state, [CancelTurn(turn.number, reason, utterance), timer]


def begin(state: Conversation, at: float, utterance: int, asked: ResponseAsked | None = None) -> Result:
    number = state.next_turn
    turn = Turn(number, utterance, interruptible=asked is None or asked.interruptible)
    state = replace(state, turn=turn, asked=None, unanswered=0)
    text, tag = (asked.text, asked.tag) if asked is not None else ("", "")
    return state, [OpenTurn(number, utterance, text, tag), SetTimer(REPLY, number, at + state.rules.reply_limit)]


def await_caller(state: Conversation, at: float) -> list[Action]:
    """The turn was heard to its end: the caller is to speak now, and has so long to begin."""
    turn = state.turn
    if turn is None or turn.called or not state.rules.idle:
        return []
    return [SetTimer(IDLE, turn.number, at + state.rules.idle)]


def break_silence(state: Conversation, at: float, turn: int) -> Result:
    """Nobody spoke after ``turn``: the assistant does, unless something is going on or nothing is to happen now."""
    if state.turn is None or state.turn.number != turn or not state.rules.idle or state.asked is not None:
        return state, []
    if state.utterances:
        return state, [SetTimer(IDLE, turn, at + state.rules.idle)]
    number = state.heard + 1
    state, opened = begin(replace(state, heard=number), at, number)
    return state, [StayedSilent(number, state.rules.idle), *opened]


def answer_late(state: Conversation, at: float, actions: list[Action]) -> Result:
    """The turn has ended: answer what was said over it while it could not be interrupted."""
    if state.asked is not None or not state.unanswered or not state.rules.respond or state.utterances:
        return answer_asked(state, at, actions)
    state, opened = begin(state, at, state.unanswered)
    return state, [*actions, *opened]


def settle(state: Conversation, at: float, actions: list[Action]) -> Result:
    """Act upon every utterance, oldest first, that has ended and whose text is known."""
    while state.utterances and state.utterances[0].ended and state.utterances[0].known >= state.utterances[0].revision:
        utterance = state.utterances[0]
        state = replace(state, utterances=state.utterances[1:])
        actions.append(StopTimer(FINAL, utterance.number))
        state, more = act(state, at, utterance)
        actions.extend(more)
    return state, actions


def act(state: Conversation, at: float, utterance: Utterance) -> Result:
    live = state.live
    if live is not None and live.state is TurnState.SPECULATIVE:
        if live.utterance == utterance.number and utterance.text.strip():
            state, released = release(state, live)
            return state, [Commit(utterance.number, utterance.text), *released]
        state, gone = went_on(state, at)
        state, actions = act(state, at, utterance)
        return state, [*gone, *actions]
    over = live if live is not None and live.utterance < utterance.number else None
    if not utterance.text.strip():
        state, back = take_back(state)
        return answer_asked(state, at, [Discard(utterance.number), *back])
    if over is not None and state.rules.is_backchannel(utterance.text):
        state, back = take_back(state)
        said = Commit(utterance.number, utterance.text, backchannel=True, over=over.number)
        return answer_asked(state, at, [said, *back])
    state, cancelled = interrupt(state, at, utterance.number)
    still = state.live.number if state.live is not None else 0
    actions = [*cancelled, Commit(utterance.number, utterance.text, over=still)]
    if state.asked is not None:
        return answer_asked(state, at, actions)
    if still:
        return replace(state, unanswered=utterance.number), actions
    if state.rules.respond:
        state, opened = begin(state, at, utterance.number)
        actions.extend(opened)
    return state, actions


def answer_asked(state: Conversation, at: float, actions: list[Action]) -> Result:
    # Where the client itself ends utterances, one that goes on may go on for as long as it likes.
    heard = bool(state.utterances) and (state.rules.respond or all(each.ended for each in state.utterances))
    if state.asked is None or heard or state.live is not None:
        return state, actions
    state, opened = begin(state, at, 0, state.asked)
    return state, [*actions, *opened]
