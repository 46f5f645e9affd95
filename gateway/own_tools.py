"""Functions that the gateway itself carries out: ending a call, handing it over, pressing keys.

They are offered to the model beside the client's own, where the session asks for them and its client's side can do
them. A client is never told of their calls. What ends a call waits until the words that go with it were heard; a caller
who interrupts those words keeps the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bus.events import Said, ToolCall
from gateway.outlet import Outlet

if TYPE_CHECKING:
    from gateway.session import Session

NAMES = ("end_call", "transfer", "send_dtmf")
KEYS = re.compile(r"[0-9*#A-Dw]{1,32}")
"""Keys of a phone; ``w`` is half a second of silence."""


def wanted(listed: str) -> list[str]:
    """Comma-separated names of own tools; others are left out."""
    return [name for name in NAMES if name in {each.strip() for each in listed.split(",")}]


def targets(listed: str) -> dict[str, str]:
    """``sales:+15550100,support:+15550101``: to whom a call may be handed over. Raises ValueError."""
    found = {}
    for each in filter(None, (each.strip() for each in listed.split(","))):
        name, _, number = each.partition(":")
        if not re.fullmatch(r"[\w -]{1,40}", name) or not re.fullmatch(r"\+?[0-9]{3,20}", number):
            raise ValueError("expected NAME:+NUMBER, comma-separated")
        found[name.strip()] = number
    return found


def specs(names: Iterable[str], to: Iterable[str]) -> list[dict[str, Any]]:
    """The tools as the Realtime protocol writes them; ``to``: who a call may be handed over to."""
    to, found = sorted(to), []
    for name in names:
        if name == "end_call":
            found.append(
                _spec(name, "End the call. Say goodbye in the same answer: the call ends once it was heard.", {})
            )
        elif name == "transfer" and to:
            where = {"to": {"type": "string", "enum": to, "description": "who the caller is handed over to"}}
            said = "Hand the call over. Say so in the same answer: it happens once that was heard."
            found.append(_spec(name, said, where))
        elif name == "send_dtmf":
            keys = {"keys": {"type": "string", "description": "0-9, *, #; w waits half a second"}}
            found.append(_spec(name, "Press keys of the phone, as an answering machine's menu asks for.", keys))
    return found


def _spec(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {"type": "function", "name": name, "description": description, "parameters": parameters}


class OwnTools:
    """One session's."""

    def __init__(self, session: Session, outlet: Outlet) -> None:
        self.goodbye: str | None = None
        """Once the model has ended the session: the number that the call is handed over to, or ""."""
        self._session = session
        self._outlet = outlet
        self._offered = frozenset(session.profile.own_tools)
        self._to = session.profile.transfer_to
        self._ending: dict[int, tuple[ToolCall, str]] = {}
        """Turn -> the call that ends the session with it, and whom it is handed over to."""

    def has(self, name: str) -> bool:
        """Whether a function of this name is the gateway's own here."""
        return name in self._offered

    def do(self, call: ToolCall) -> None:
        """Carry a call out, or once its turn was heard."""
        arguments = json.loads(call.arguments or "{}")
        if call.name == "send_dtmf":
            keys = str(arguments.get("keys", ""))
            if KEYS.fullmatch(keys):
                self._outlet.press(keys)
                self._answer(call, "the keys were pressed")
            else:
                self._answer(call, f"nothing was pressed: {keys[:40]!r} are no keys of a phone")
            self._session.respond(waits=True)
        elif call.name == "transfer" and arguments.get("to") not in self._to:
            self._answer(call, f"not handed over: there is nobody called {str(arguments.get('to'))[:40]!r}")
            self._session.respond(waits=True)
        else:
            self._ending[call.turn] = (call, self._to.get(str(arguments.get("to")), ""))

    def closed(self, turn: int, *, heard: bool) -> None:
        """A turn has ended; ``heard``: to its end."""
        ending = self._ending.pop(turn, None)
        if ending is None:
            return
        call, to = ending
        if heard:
            self._answer(call, "done")
            self.goodbye = to
            self._session.ended.set()
        else:
            self._answer(call, "not done: the caller went on speaking")

    def _answer(self, call: ToolCall, status: str) -> None:
        output = json.dumps({"status": status})
        self._session.say(Said(f"output of {call.call_id}", "tool", output, call_id=call.call_id))
