"""The conversation's items as a Realtime client knows them, and what they mean to the conversation here."""

from __future__ import annotations

from typing import Any

from bus.events import Said
from gateway.protocols.realtime_error import ProtocolError

ROOT = "root"
"""The ``previous_item_id`` that means: in front of everything."""
COMMON = ("id", "type", "status")
FIELDS = {
    "message": (*COMMON, "role", "content"),
    "function_call": (*COMMON, "call_id", "name", "arguments"),
    "function_call_output": (*COMMON, "call_id", "output"),
}
PART_FIELDS = ("type", "text", "transcript", "image_url", "detail")


class Items:
    """One conversation's items, in the client's order."""

    def __init__(self) -> None:
        self.by_id: dict[str, dict[str, Any]] = {}
        self._order: list[str] = []

    @property
    def last(self) -> str | None:
        return self._order[-1] if self._order else None

    def add(self, item: dict[str, Any], after: str | None = None) -> None:
        """Put an item behind ``after`` (None: at the end).

        Raises ProtocolError when its id is taken or ``after`` is not known.
        """
        name = item["id"]
        if name in self.by_id:
            message = f"Item '{name}' exists already."
            raise ProtocolError("item_create_duplicate_item_id", message, "item.id")
        if after is not None and after != ROOT and after not in self.by_id:
            message = f"previous_item_id is {after[:80]!r}; expected 'root' or the id of an item that exists."
            raise ProtocolError("invalid_value", message, "previous_item_id")
        place = len(self._order) if after is None else 0 if after == ROOT else self._order.index(after) + 1
        self._order.insert(place, name)
        self.by_id[name] = item

    def before(self, item_id: str) -> str | None:
        """The item that one follows; None for the first."""
        place = self._order.index(item_id)
        return self._order[place - 1] if place else None

    def remove(self, item_id: str) -> None:
        """Forget an item. Raises ProtocolError when there is none."""
        if item_id not in self.by_id:
            message = f"Item with item_id not found: {item_id[:80]}"
            raise ProtocolError("item_retrieve_invalid_item_id", message, "item_id")
        del self.by_id[item_id]
        self._order.remove(item_id)

    def get(self, item_id: str) -> dict[str, Any]:
        """An item. Raises ProtocolError when there is none."""
        item = self.by_id.get(item_id)
        if item is None:
            message = f"Item with item_id not found: {item_id[:80]}"
            raise ProtocolError("item_retrieve_invalid_item_id", message, "item_id")
        return item


def whole(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    """A client's item with what it may leave out; without nulls, and what the protocol does not know."""
    known = FIELDS.get(item["type"], COMMON)
    whole = {key: value for key, value in item.items() if value is not None and key in known}
    if "content" in whole:
        whole["content"] = [
            {key: value for key, value in part.items() if value is not None and key in PART_FIELDS}
            for part in whole["content"]
        ]
    whole["id"] = whole.get("id") or item_id
    return {**whole, "object": "realtime.item", "status": whole.get("status", "completed")}


def item_of(said: Said, *, spoken: bool) -> dict[str, Any]:
    """A message of the conversation as an item; ``spoken``: it was heard, not written."""
    item: dict[str, Any] = {"id": said.item, "object": "realtime.item", "status": "completed"}
    if said.role == "tool_call":
        return item | {"type": "function_call", "call_id": said.call_id, "name": said.name, "arguments": said.text}
    if said.role == "tool":
        return item | {"type": "function_call_output", "call_id": said.call_id, "output": said.text}
    kind = {"user": "input_audio" if spoken else "input_text", "assistant": "output_audio" if spoken else "output_text"}
    part = {"type": kind.get(said.role, "input_text"), "transcript" if spoken else "text": said.text}
    status = "completed" if said.complete else "incomplete"
    return item | {"type": "message", "role": said.role, "status": status, "content": [part]}


def said(item: dict[str, Any], where: str = "item") -> Said:
    """What an item says. Raises ProtocolError for what the conversation here cannot hold."""
    kind = item["type"]
    if kind == "message":
        parts = item.get("content") or []
        for number, part in enumerate(parts):
            if part.get("type") == "input_image" or (part.get("type") == "input_audio" and not part.get("transcript")):
                message = (
                    f"{where}.content[{number}] is {part['type']}, which is not supported here; expected text, "
                    "or audio with its transcript. Speech goes through input_audio_buffer.append."
                )
                raise ProtocolError("invalid_value", message, f"{where}.content[{number}].type")
        text = " ".join(part.get("text") or part.get("transcript") or "" for part in parts).strip()
        return Said(item["id"], item["role"], text)
    if kind == "function_call_output":
        return Said(item["id"], "tool", item["output"], call_id=item["call_id"])
    if kind == "function_call":
        return Said(
            item["id"], "tool_call", item["arguments"], call_id=item.get("call_id") or item["id"], name=item["name"]
        )
    raise ProtocolError("invalid_value", f"{where}.type '{kind}' is not supported here.", f"{where}.type")
