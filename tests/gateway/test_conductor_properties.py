"""The promises of the turn logic, under inputs in any order, doubled, lost and delayed."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.conductor import policy
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.inputs import (
    AllStopped,
    Called,
    CancelAsked,
    CancelTurn,
    CloseTurn,
    Commit,
    Discard,
    FirstAudio,
    Hold,
    OpenTurn,
    PlayedOut,
    ReleaseTurn,
    ResponseAsked,
    Resume,
    SetTimer,
    Settle,
    SpeechCleared,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    StageFailed,
    StartUtterance,
    StayedSilent,
    StopTimer,
    TextComplete,
    TimerFired,
    Words,
)  # fmt: skip
from gateway.turns import TurnState

NUMBERS = st.integers(0, 6)
TEXTS = st.sampled_from(["", "mm-hmm", "stop", "tell me more"])
KINDS = st.one_of(
    st.tuples(st.just(SpeechStarted), st.just(0)),
    st.tuples(st.just(SpeechPaused), st.just(0)),
    st.tuples(st.just(SpeechResumed), st.just(0)),
    st.tuples(st.just(SpeechEnded), st.just(0)),
    st.tuples(st.just(SpeechCleared), st.just(0)),
    st.tuples(st.just(Words), NUMBERS, st.integers(0, 3), TEXTS, st.booleans()),
    st.tuples(st.just(FirstAudio), NUMBERS),
    st.tuples(st.just(PlayedOut), NUMBERS),
    st.tuples(st.just(TextComplete), NUMBERS),
    st.tuples(st.just(StageFailed), NUMBERS, st.just("tts"), st.just("x")),
    st.tuples(st.just(AllStopped), NUMBERS),
    st.tuples(st.just(CancelAsked), NUMBERS, st.just("client_cancelled")),
    st.tuples(st.just(Called), NUMBERS),
    st.tuples(st.just(ResponseAsked), st.just(""), st.just("tag"), st.booleans(), st.booleans()),
    st.tuples(st.just(TimerFired), st.sampled_from(["barge_in", "final", "reply", "cancel", "idle"]), NUMBERS),
)
RULES = st.builds(
    Duplex,
    may_interrupt=st.booleans(),
    respond=st.booleans(),
    interrupt=st.booleans(),
    eager=st.booleans(),
    protect=st.sampled_from([0.0, 1.0]),
    idle=st.sampled_from([0.0, 1.0]),
)


class World:
    """Carries out actions as a session would, and watches for broken promises."""

    def __init__(self, rules):
        self.state = Conversation(rules=rules)
        self.now = 0.0
        self.live = None
        self.held = self.untold = False
        self.cancelled, self.closed, self.settled = set(), set(), set()
        self.open, self.acted = set(), set()
        self.timers = {}

    def feed(self, kind, *fields):
        self.state, actions = policy(self.state, kind(self.now, *fields))
        for action in actions:
            self.check(action)
        ended = self.state.turn is None or not self.state.turn.live
        assert (self.live is None) == ended
        assert self.held == (self.state.turn is not None and self.state.turn.state is TurnState.HELD)
        assert self.untold == (self.state.turn is not None and self.state.turn.state is TurnState.SPECULATIVE)

    def check(self, action):
        match action:
            case OpenTurn(turn=number, said=said):
                assert self.live is None, "two turns live"
                assert number == max(self.cancelled | self.closed, default=0) + 1, "turns count up by one"
                self.live, self.untold = number, bool(said)
            case ReleaseTurn(turn=number):
                assert number == self.live and self.untold
                self.untold = False
            case Hold(turn=number):
                assert number == self.live and not self.held and not self.untold
                self.held = True
            case Resume(turn=number):
                assert number == self.live and self.held
                self.held = False
            case CancelTurn(turn=number):
                assert number == self.live, "a cancel touches the live turn only"
                self.cancelled.add(number)
                self.live, self.held, self.untold = None, False, False
            case CloseTurn(turn=number):
                assert number == self.live
                self.closed.add(number)
                self.live, self.held, self.untold = None, False, False
            case Settle(turn=number):
                assert number in self.cancelled and number not in self.settled
                self.settled.add(number)
            case StartUtterance(utterance=number):
                assert number not in self.open | self.acted
                self.open.add(number)
            case StayedSilent(utterance=number):
                assert number not in self.open | self.acted and self.live is None
                self.acted.add(number)
            case Commit(utterance=number) | Discard(utterance=number):
                assert number in self.open, "an utterance is acted upon once"
                self.open.discard(number)
                self.acted.add(number)
            case SetTimer(timer=name, number=number, at=at):
                assert at >= self.now
                self.timers[name, number] = at
            case StopTimer(timer=name, number=number):
                self.timers.pop((name, number), None)

    def wait(self):
        """Let every timer that is set come due, with nothing else happening."""
        for _ in range(100):
            if not self.timers:
                return
            (name, number), at = min(self.timers.items(), key=lambda item: item[1])
            del self.timers[name, number]
            self.now = max(self.now, at)
            self.feed(TimerFired, name, number)
        raise AssertionError("timers for ever")


@settings(max_examples=1500, deadline=None)
@given(RULES, st.lists(st.tuples(KINDS, st.floats(0, 2)), max_size=60))
def test_the_promises_hold_in_any_order(rules, script):
    """One live turn, cancels that touch only it, each utterance acted upon once, whatever comes in any order."""
    world = World(rules)
    for event, delay in script:
        world.now += delay
        world.feed(*event)


@settings(max_examples=800, deadline=None)
@given(RULES, st.lists(st.tuples(KINDS, st.floats(0, 2)), max_size=60))
def test_nothing_waits_for_ever(rules, script):
    """When the caller falls silent and no stage ever answers, every utterance is acted upon and every turn ends.

    A turn whose audio is being heard ends by being heard.
    """
    world = World(rules)
    for event, delay in script:
        world.now += delay
        world.feed(*event)
    world.feed(SpeechEnded, 0)
    world.wait()
    world.state = replace(world.state, rules=replace(rules, idle=0.0))
    for _ in range(4):
        if world.live is not None:
            assert world.state.turn.state is TurnState.SPEAKING, "held with nobody speaking"
            world.feed(PlayedOut, world.live)
        world.wait()
    assert world.live is None
    assert not world.open
    assert world.settled == world.cancelled
    assert world.state.cancelling == ()
    assert world.state.asked is None, "a request that waits is answered"
