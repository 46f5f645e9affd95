"""Function calls as ``/chat/completions`` has them: in the request, and piece by piece in the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.tools import Call, CallPiece, Request


def wire(message: Message) -> dict[str, Any]:
    """A message of the prompt as the server takes it."""
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    if not message.calls:
        return {"role": message.role, "content": message.text}
    calls = [
        {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
    ]
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def options(request: Request) -> dict[str, Any]:
    """The parameters of the server's that a request's wishes are."""
    wanted: dict[str, Any] = {"max_tokens": request.max_tokens} if request.max_tokens else {}
    if not request.tools:
        return wanted
    known = ("name", "description", "parameters")
    functions = [{key: tool[key] for key in known if tool.get(key) is not None} for tool in request.tools]
    wanted["tools"] = [{"type": "function", "function": function} for function in functions]
    choice = request.tool_choice
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if request.parallel is not None:
        wanted["parallel_tool_calls"] = request.parallel
    return {**wanted, "tool_choice": choice}


class PartialCalls:
    """The calls of one answer, as their pieces come."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arguments: dict[int, str] = {}
        self._told: dict[int, int] = {}
        """Characters of them that were told."""

    def add(self, pieces: Iterable[Any] | None) -> tuple[bool, list[CallPiece]]:
        """Take the pieces of one chunk: (whether there were any, those that can be told).

        What may yet turn out to be no object is not told, nor is a call without a name.
        """
        came, told = False, []
        for number, piece in enumerate(pieces or ()):
            came = True
            index = piece.index if piece.index is not None else number
            function = piece.function
            self._names.setdefault(index, "")
            self._arguments.setdefault(index, "")
            if function is not None:
                self._names[index] += function.name or ""
                self._arguments[index] += function.arguments or ""
            text, start = self._arguments[index], self._told.get(index, 0)
            if len(text) > start and text.lstrip().startswith("{") and self._names[index]:
                place = list(self._names).index(index)
                told.append(CallPiece(place, self._names[index], start, text[start:]))
                self._told[index] = len(text)
        return came, told

    def whole(self) -> Sequence[Call]:
        """All of them, once the answer has ended. Raises EngineError when one cannot be made."""
        calls = []
        for index, name in self._names.items():
            arguments = self._arguments[index] if self._arguments[index].strip() else "{}"
            try:
                usable = isinstance(json.loads(arguments), dict) and bool(name)
            except (ValueError, RecursionError):
                usable = False
            if not usable:
                raise EngineError(f"the model called {name[:60]!r} with arguments that are no JSON object")
            calls.append(Call("", name, arguments))
        return calls
