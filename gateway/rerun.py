"""The turn logic run again over a recorded session: whether it decides the same, and what other rules would have done.

Pure: it takes the entries of ``<session>:inputs`` and the times that stand in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from bus import events
from bus.foreign import read_json
from gateway import inputs
from gateway.conductor import policy
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.journal import CLOSING, RESUMED, RULES, BadJournal, closing, failed, read_input, read_rules, written

Timers = dict[tuple[str, int], float]
Change = Callable[[Duplex], Duplex]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first decision that is not the recorded one."""

    index: int
    """Which entry, from 0."""
    entry: events.Input
    decided: str
    """What the turn logic decides now: JSON as in ``Input.actions``, or the name of its error."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One entry of the journal and what the turn logic made of it."""

    at: float
    event: inputs.Input | None
    """None: the rules, a resumption, or the session's end."""
    actions: tuple[inputs.Action, ...]
    before: Conversation
    after: Conversation
    timers: Timers
    """The timers that run after it: (name, number) -> when each is due."""
    resumed: bool = False


@dataclass(slots=True)
class Rerun:
    """What came of running a journal again."""

    moments: list[Moment] = field(default_factory=list)
    decisions: int = 0
    difference: Difference | None = None

    @property
    def turns(self) -> list[int]:
        """The turns that were opened, in order."""
        actions = (action for moment in self.moments for action in moment.actions)
        return [action.turn for action in actions if isinstance(action, inputs.OpenTurn)]


@dataclass(slots=True)
class Fate:
    """What became of a turn. ``at`` in seconds of the session."""

    turn: int
    outcome: str = ""
    """``done``, ``cancelled`` or ``failed``; empty: it was still going on when the next one, or the end, came."""
    reason: str = ""
    at: float = 0.0
    holds: int = 0
    resumes: int = 0

    def __str__(self) -> str:
        held = f", held {self.holds}x, taken back {self.resumes}x" if self.holds else ""
        if not self.outcome:
            return f"still going on at {self.at:.3f} s{held}"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.outcome}{reason} at {self.at:.3f} s{held}"


def rerun(journal: Sequence[events.Input]) -> Rerun:
    """Run a whole session again, up to the first decision that differs. Raises BadJournal."""
    if not journal or journal[0].name != RULES:
        raise BadJournal("it does not begin with the session's rules: an older version wrote it, or its start is gone")
    found, state, timers = Rerun(), Conversation(), Timers()
    for index, entry in enumerate(journal):
        before = state
        if entry.name in (RULES, CLOSING, RESUMED):
            if entry.name != RESUMED:
                state = closing(state) if entry.name == CLOSING else replace(state, rules=read_rules(entry))
            found.moments.append(Moment(_at(entry), None, (), before, state, timers, entry.name == RESUMED))
            continue
        event = read_input(entry)
        try:
            state, actions = policy(state, event)
            decided = written(actions)
        except Exception as error:
            actions, decided = [], failed(error)
        found.decisions += 1
        if decided != entry.actions:
            found.difference = Difference(index, entry, decided)
            return found
        timers = _set(timers, event, actions)
        found.moments.append(Moment(event.at, event, tuple(actions), before, state, timers))
    return found


def fates(done: Rerun, change: Change = lambda rules: rules) -> list[Fate]:
    """What would have become of each turn had the rules been ``change(rules)`` from its beginning.

    Each turn begins as it did in the call and sees what the call saw; only its timers are its own. What the caller
    would have said to another decision nobody knows, so a turn is followed to its end, or to where the next one began.
    """
    return [_fate(done.moments, turn, change) for turn in done.turns]


def _fate(moments: Sequence[Moment], turn: int, change: Change) -> Fate:
    opened = next(n for n, moment in enumerate(moments) if any(_opens(a, turn) for a in moment.actions))
    fate, first = Fate(turn, at=moments[opened].at), moments[opened]
    state, timers = replace(first.after, rules=change(first.after.rules)), first.timers
    # A turn may open and end within one step, and whatever ends it is an action that follows its opening.
    if _tell(fate, first.at, first.actions[[_opens(a, turn) for a in first.actions].index(True) :]):
        return fate
    for n, moment in enumerate(moments[opened + 1 :], opened + 1):
        if moment.resumed:
            timers = _late(timers, moments[n:])
        while due := min(((at, key) for key, at in timers.items() if at <= moment.at), default=None):
            at, (timer, number) = due
            state, timers, ended = _step(state, timers, inputs.TimerFired(at, timer, number), fate)
            if ended:
                return fate
        fate.at = moment.at
        if moment.event is None:
            changed = moment.before.rules != moment.after.rules
            state = replace(state, rules=change(moment.after.rules) if changed else state.rules)
            state = replace(state, asked=None) if moment.after.asked is None else state
        elif not isinstance(moment.event, inputs.TimerFired):
            state, timers, ended = _step(state, timers, moment.event, fate)
            if ended:
                return fate
        if any(_opens(action) for action in moment.actions):
            return fate
    return fate


def _step(state: Conversation, timers: Timers, event: inputs.Input, fate: Fate) -> tuple[Conversation, Timers, bool]:
    state, actions = policy(state, event)
    return state, _set(timers, event, actions), _tell(fate, event.at, actions)


def _late(timers: Timers, rest: Sequence[Moment]) -> Timers:
    """The timers after a resumption. One that was overdue in the call too fires when it did there, if it did: whoever
    resumes a session first takes in what had come meanwhile."""
    began = next((moment.at for moment in rest if moment.event is not None), inf)
    fired: Timers = {}
    for moment in rest:
        if isinstance(moment.event, inputs.TimerFired):
            fired.setdefault((moment.event.timer, moment.event.number), moment.at)
    overdue = {key for key, at in rest[0].timers.items() if at <= began}
    return {key: fired.get(key, inf) if key in overdue and at <= began else at for key, at in timers.items()}


def _tell(fate: Fate, at: float, actions: Sequence[inputs.Action]) -> bool:
    """Note what the actions mean for the turn; whether it has ended."""
    for action in actions:
        if getattr(action, "turn", 0) != fate.turn:
            continue
        fate.at = at
        fate.holds += isinstance(action, inputs.Hold)
        fate.resumes += isinstance(action, inputs.Resume)
        if isinstance(action, inputs.CancelTurn):
            fate.outcome, fate.reason = "cancelled", action.reason
            return True
        if isinstance(action, inputs.CloseTurn):
            fate.outcome, fate.reason = action.outcome, action.error
            return True
    return False


def _set(timers: Timers, event: inputs.Input, actions: Sequence[inputs.Action]) -> Timers:
    """The timers that run after an input and its actions."""
    changed = dict(timers)
    if isinstance(event, inputs.TimerFired):
        changed.pop((event.timer, event.number), None)
    for action in actions:
        if isinstance(action, inputs.SetTimer):
            changed[action.timer, action.number] = action.at
        elif isinstance(action, inputs.StopTimer):
            changed.pop((action.timer, action.number), None)
    return changed


def _opens(action: inputs.Action, turn: int = 0) -> bool:
    return isinstance(action, inputs.OpenTurn) and turn in (0, action.turn)


def _at(entry: events.Input) -> float:
    try:
        data: Any = read_json(entry.data)
        return float(data["at"])
    except (KeyError, TypeError, ValueError):
        raise BadJournal(f"{entry.name} has no time") from None
