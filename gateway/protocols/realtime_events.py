"""A Realtime client's events: which there are, and whether one has the shape of its type.

Shapes are those of the ``openai`` package's own types. Whatever does not fit is a ProtocolError that names the place.
"""

from __future__ import annotations

from typing import Any

from openai.types import realtime as types
from pydantic import ValidationError

from bus.foreign import read_json
from gateway.protocols.realtime_error import ProtocolError

EVENTS: dict[str, Any] = {
    "session.update": None,
    "input_audio_buffer.append": types.InputAudioBufferAppendEvent,
    "input_audio_buffer.commit": types.InputAudioBufferCommitEvent,
    "input_audio_buffer.clear": types.InputAudioBufferClearEvent,
    "conversation.item.create": types.ConversationItemCreateEvent,
    "conversation.item.retrieve": types.ConversationItemRetrieveEvent,
    "conversation.item.truncate": types.ConversationItemTruncateEvent,
    "conversation.item.delete": types.ConversationItemDeleteEvent,
    "response.create": types.ResponseCreateEvent,
    "response.cancel": types.ResponseCancelEvent,
    "output_audio_buffer.clear": types.OutputAudioBufferClearEvent,
    "bargein.output.played": None,
    "bargein.input.resumed": None,
}
"""Type -> the model that checks it; None: whoever handles it does."""
LONGEST_NAME = 512
"""Characters of an id or event_id that a client may give."""


def parse(raw: str | bytes) -> dict[str, Any]:
    """A client's event. Raises ProtocolError; its ``event_id`` is that of the event where one could be read."""
    try:
        event = read_json(raw)
    except ValueError as error:
        raise ProtocolError("invalid_json", f"The event is not JSON: {str(error)[:120]}.") from None
    if not isinstance(event, dict):
        raise ProtocolError("invalid_value", f"The event is a JSON {type(event).__name__}; expected an object.")
    try:
        _check(event)
    except ProtocolError as error:
        error.event_id = event_id(event)
        raise
    return event


def event_id(event: dict[str, Any]) -> str | None:
    """The id that the client gave its event, if it is one."""
    given = event.get("event_id")
    return given if isinstance(given, str) and len(given) <= LONGEST_NAME else None


def _check(event: dict[str, Any]) -> None:
    kind = event.get("type")
    if kind is None:
        raise ProtocolError("missing_required_parameter", "Missing required parameter: 'type'.", "type")
    if not isinstance(kind, str) or kind not in EVENTS:
        known = ", ".join(f"'{name}'" for name in EVENTS)
        message = f"Invalid value: '{str(kind)[:80]}'. Supported values are: {known}."
        raise ProtocolError("invalid_value", message, "type")
    for name in ("event_id", "item_id", "response_id", "previous_item_id"):
        given = event.get(name)
        if given is not None and not (isinstance(given, str) and len(given) <= LONGEST_NAME):
            message = f"{name} is not an id; expected text of at most {LONGEST_NAME} characters"
            raise ProtocolError("invalid_value", message, name)
    model = EVENTS[kind]
    if model is None or (kind == "input_audio_buffer.append" and isinstance(event.get("audio"), str)):
        return  # fifty of these come in a second: that is all that their type says
    checked = event
    if kind == "response.create" and isinstance(event.get("response"), dict):
        _beta_names(event["response"])
        checked = {**event, "response": _without_references(event["response"])}
    try:
        model.model_validate(checked)
    except (ValidationError, RecursionError) as error:
        raise wrong_shape(kind, error) from None


def _beta_names(response: dict[str, Any]) -> None:
    """Clients still say ``modalities``."""
    if "modalities" in response:
        response.setdefault("output_modalities", response.pop("modalities"))


def _without_references(response: dict[str, Any]) -> dict[str, Any]:
    """The SDK's types do not have ``item_reference``, which its server takes."""
    given = response.get("input")
    if not isinstance(given, list):
        return response
    rest = [item for item in given if not (isinstance(item, dict) and item.get("type") == "item_reference")]
    return {**response, "input": rest}


def wrong_shape(kind: str, error: Exception) -> ProtocolError:
    """The first thing that a model found wrong with an event of type ``kind``."""
    if not isinstance(error, ValidationError):
        return ProtocolError("invalid_value", f"{kind}: nested too deeply.")
    first = error.errors(include_url=False, include_input=False)[0]
    parts = [str(part) for part in first["loc"] if isinstance(part, int) or str(part)[:1].islower()]
    where = ".".join(parts)[:200]
    if first["type"] == "missing":
        return ProtocolError("missing_required_parameter", f"Missing required parameter: '{where}'.", where)
    return ProtocolError("invalid_value", f"{kind}: {where}: {first['msg'][:200]}", where)
