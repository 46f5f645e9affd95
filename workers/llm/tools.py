"""Function calls: what a turn's model may call, what it called, and how both stand in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bus.events import Said
from bus.foreign import read_json

PENDING = '{"status": "in progress; its result will follow"}'
"""What the model is shown of a call whose output has not come yet, so that it does not call again."""


@dataclass(frozen=True, slots=True)
class Call:
    """One function call; ``arguments`` is JSON text of an object."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call's arguments, ahead of the Call: ``start`` characters came before.

    ``number`` counts the calls of one generation from 0, in the order in which they begin.
    """

    number: int
    name: str
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation: ``reason`` as the server names it (``length``: it was cut at its limit).

    The tokens are the server's own counts; 0 where it gives none.
    """

    reason: str = ""
    prompt_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a turn's model may do: ``tools`` and ``tool_choice`` as the Realtime protocol writes them."""

    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Any = "auto"
    max_tokens: int = 0
    """Of the reply; 0: as the engine is set."""
    parallel: bool | None = None
    """Whether several functions may be called at once; None: as the server has it."""


def read_request(text: str) -> tuple[Request, list[Said] | None]:
    """A TurnOffer's ``request``: what the model may do, and the conversation it brings, if any. Raises ValueError."""
    try:
        told: dict[str, Any] = read_json(text) if text else {}
        tools, most, given = tuple(told.get("tools", ())), int(told.get("max_tokens", 0)), told.get("conversation")
        request = Request(tools, told.get("tool_choice", "auto"), most, told.get("parallel"))
        if given is None:
            return request, None
        found = [Said(f"given {n}", **{"text": "", **message}) for n, message in enumerate(given)]
        if not all(isinstance(part, str) for each in found for part in (each.role, each.text, each.call_id, each.name)):
            raise TypeError("a message of other things than texts")
        return request, found
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the turn's request cannot be read: {error}") from None


def arranged(conversation: Sequence[Said]) -> list[Said]:
    """The conversation with each call's output right behind it, whenever it came, and a turn's words before its calls.

    A call without an output yet has PENDING; an output without its call is left out; a second output changes nothing.
    """
    outputs: dict[str, Said] = {}
    for said in conversation:
        if said.role == "tool":
            outputs.setdefault(said.call_id, said)
    called = {said.turn for said in conversation if said.role == "tool_call" and said.turn}
    words = {said.turn: said for said in conversation if said.role == "assistant" and said.turn in called}
    found: list[Said] = []
    waiting: list[Said] = []
    for said in conversation:
        if said.role == "tool" or (said.role == "assistant" and said.turn in called):
            continue
        if said.role != "tool_call" or (waiting and waiting[-1].turn != said.turn):
            found += _answered(waiting, outputs)
            waiting = []
        if said.role != "tool_call":
            found.append(said)
            continue
        if not waiting and said.turn in words:
            found.append(words.pop(said.turn))
        waiting.append(said)
    return found + _answered(waiting, outputs)


def _answered(calls: list[Said], outputs: dict[str, Said]) -> list[Said]:
    pending = [replace(call, item=f"{call.item} pending", role="tool", text=PENDING) for call in calls]
    return calls + [outputs.get(call.call_id, missing) for call, missing in zip(calls, pending, strict=True)]
