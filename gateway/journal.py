"""What the turn logic was told and what it decided, as entries of ``<session>:inputs``: enough to run it again.

The first entry holds the session's rules, a later one their change; every other is an input with the actions that
answered it. Floats are written so that they are read back to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, get_args

from bus import events
from bus.foreign import read_json
from gateway import inputs
from gateway.conductor import policy
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.moves import Result

RULES, CLOSING, RESUMED = "Rules", "Closing", "Resumed"
"""Entries that are no inputs: the rules from now on; the session's end, after which nobody is answered; another gateway
or connection, from which on the clock goes on that had stood still."""

_INPUTS = {kind.__name__: kind for kind in get_args(inputs.Input)}


class BadJournal(ValueError):
    """An entry of the journal cannot be understood: which, and why."""


def closing(state: Conversation) -> Conversation:
    """The state of a session that ends: a text that is still on its way is kept, and answered by nobody."""
    return replace(state, asked=None, rules=replace(state.rules, respond=False))


class Journal:
    """Writes one session's entries."""

    def __init__(self, write: Callable[[events.Input], object]) -> None:
        self._write = write

    def rules(self, at: float, rules: Duplex) -> None:
        """The rules from ``at`` on, in seconds of the session."""
        self._write(events.Input(RULES, _json({"at": at, **asdict(rules), "backchannels": sorted(rules.backchannels)})))

    def closing(self, at: float) -> None:
        """The session ends."""
        self._write(events.Input(CLOSING, _json({"at": at})))

    def resumed(self, at: float) -> None:
        """The session is served again, from what its streams hold."""
        self._write(events.Input(RESUMED, _json({"at": at})))

    def decide(self, state: Conversation, event: inputs.Input) -> Result:
        """What the turn logic answers to ``event``, written down, also when that is an error, which is raised."""
        try:
            after, actions = policy(state, event)
        except Exception as error:
            self._saw(event, failed(error))
            raise
        self._saw(event, written(actions))
        return after, actions

    def _saw(self, event: inputs.Input, decided: str) -> None:
        self._write(events.Input(type(event).__name__, _json(asdict(event)), decided))


def failed(error: Exception) -> str:
    """An error of the turn logic, as it stands where its actions would."""
    return f"{type(error).__name__}: {error}"


def written(actions: Sequence[inputs.Action]) -> str:
    """Actions as JSON: ``[[name, {field: value}], ...]``, empty for none. Equal texts: equal actions, to the bit."""
    return _json([[type(action).__name__, asdict(action)] for action in actions]) if actions else ""


def read_input(entry: events.Input) -> inputs.Input:
    """The input in an entry. Raises BadJournal."""
    kind = _INPUTS.get(entry.name)
    if kind is None:
        raise BadJournal(f"{entry.name!r} is not an input of this version's turn logic")
    try:
        made: inputs.Input = kind(**read_json(entry.data))
    except (TypeError, ValueError) as error:
        raise BadJournal(f"{entry.name} cannot be read: {error}") from None
    return made


def read_rules(entry: events.Input) -> Duplex:
    """The rules in an entry; what a newer version added is left out. Raises BadJournal."""
    try:
        data = read_json(entry.data)
        known = {field.name: data[field.name] for field in fields(Duplex) if field.name in data}
        return Duplex(**{**known, "backchannels": frozenset(known.get("backchannels", ()))})
    except (AttributeError, TypeError, ValueError) as error:
        raise BadJournal(f"the rules cannot be read: {error}") from None


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
