"""A session's function calls: told to the client once each, and what came of them once each.

A call is named by its ``call_id``. It belongs to the conversation from the moment at which the client is told of it, so
an interruption of its turn does not undo it. Calls of a turn that nobody knows of yet are kept back with the turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from bus.events import Said, ToolArguments, ToolCall
from bus.history import HistoryWriter
from gateway.names import call_item
from gateway.outlet import Outlet
from gateway.own_tools import OwnTools


class Calls:
    """Belongs to one session."""

    def __init__(self, session: str, history: HistoryWriter, outlet: Outlet, own: OwnTools) -> None:
        """``own`` carries out the gateway's own functions."""
        self.unseen = False
        """Whether a call's output came that no turn has been begun from."""
        self._session = session
        self._history = history
        self._outlet = outlet
        self._own = own
        self._kept: list[ToolCall] = []
        self._known: set[str] = set()
        self._answered: set[str] = set()
        self._begun: dict[str, str] = {}
        """Call of the turn that goes on -> its arguments so far."""

    def take_up(self, messages: Sequence[Said]) -> None:
        """Know the calls of a conversation that is gone on with, and what came of them."""
        self._known.update(said.call_id for said in messages if said.role == "tool_call")
        self._answered.update(said.call_id for said in messages if said.role == "tool")
        self.unseen = bool(messages) and messages[-1].role == "tool"

    def begin(self, piece: ToolArguments, *, kept_back: bool) -> None:
        """The model is calling a function; the client sees it do so, and is told of no call by it."""
        text = self._begun.get(piece.call_id, "")
        if piece.call_id in self._known or piece.start != len(text):
            return  # a piece is missing, or came twice: the whole call has all of them
        text = self._begun[piece.call_id] = text + piece.text
        if not kept_back and not self._own.has(piece.name):
            item = call_item(self._session, piece.turn, piece.index)
            self._outlet.calling(piece.turn, item, piece.call_id, piece.name, text)

    def take(self, call: ToolCall, *, kept_back: bool) -> bool:
        """The model calls a function; false when that is known already."""
        if call.call_id in self._known:
            return False
        self._known.add(call.call_id)
        if kept_back:
            self._kept.append(call)
        else:
            self._tell(call)
        return True

    def knows(self, call_id: str) -> bool:
        """Whether there was such a call."""
        return call_id in self._known

    def add(self, said: Said) -> bool:
        """The client adds a call or the output of one; false when it had that already: the first one stands."""
        known = self._answered if said.role == "tool" else self._known
        if said.call_id in known:
            return False
        known.add(said.call_id)
        self.unseen = self.unseen or said.role == "tool"
        self._history.say(said)
        return True

    def release(self) -> None:
        """The turn that was kept back is the answer: its calls are made."""
        for call in self._kept:
            self._tell(call)
        self._kept.clear()

    def closed(self, turn: int, *, heard: bool) -> None:
        """A turn has ended, ``heard`` to its end or not; one that was kept back never was."""
        self._own.closed(turn, heard=heard)
        self._known.difference_update(call.call_id for call in self._kept)
        self._kept.clear()
        self._begun.clear()

    def _tell(self, call: ToolCall) -> None:
        item = call_item(self._session, call.turn, call.index)
        self._history.say(Said(item, "tool_call", call.arguments, call.turn, call_id=call.call_id, name=call.name))
        if self._own.has(call.name):
            self._own.do(call)
            return
        self._outlet.called(call.turn, item, call.call_id, call.name, call.arguments)
