"""How an event is written as the flat fields of a stream entry, and read again.

Integers and floats are written in decimal, booleans as 0 or 1, ``pcm`` as raw little-endian 16-bit samples and always
last. A field or a type that a newer version added is ignored; a field that is missing or malformed raises BadEvent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bus import events, offers
from bus.events import Event

VERSION = 1

TYPES: dict[str, type[Event]] = {
    kind.type: kind
    for module in (events, offers)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind.type
}
"""Every event of both files, by its type."""


class BadEvent(ValueError):
    """An entry that cannot be read: which field, what it held, what was expected."""


Fields = dict[str, bytes]


def encode(event: Event, at: int) -> Fields:
    """The flat fields of an event, ``v`` and ``type`` first and ``pcm`` last; ``at`` (ms) if it has none itself."""
    fields: Fields = {"v": b"%d" % VERSION, "type": event.type.encode(), "at": b"%d" % (event.at or at)}
    pcm = None
    for name in _NAMES[type(event)]:
        value = getattr(event, name)
        if isinstance(value, bytes):
            pcm = value
        elif isinstance(value, bool):
            fields[name] = b"1" if value else b"0"
        else:
            fields[name] = str(value).encode()
    if pcm is not None:
        fields["pcm"] = pcm
    return fields


_NAMES = {kind: tuple(spec.name for spec in dataclasses.fields(kind) if spec.name != "at") for kind in TYPES.values()}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8")


_READERS: dict[str, Callable[[bytes], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda raw: bool(int(raw)),
    "str": _text,
    "bytes": bytes,
}
_SPECS = {
    name: [(s.name, str(s.type), s.default is dataclasses.MISSING) for s in dataclasses.fields(kind)]
    for name, kind in TYPES.items()
}


def decode(fields: Mapping[bytes, bytes]) -> Event | None:
    """The event in an entry's fields; None for a type this version does not know. Raises BadEvent."""
    name = fields.get(b"type", b"").decode("utf-8", "replace")
    kind = TYPES.get(name)
    if kind is None:
        if not name:
            raise BadEvent("an entry without a type field")
        return None
    values = {}
    for key, annotation, required in _SPECS[name]:
        raw = fields.get(key.encode())
        if raw is None:
            if required:
                raise BadEvent(f"{name}: field {key!r} is missing; expected {annotation}")
            continue
        try:
            values[key] = _READERS[annotation](raw)
        except ValueError:
            raise BadEvent(f"{name}: field {key!r} is {raw[:40]!r}; expected {annotation}") from None
    if len(values.get("pcm", b"")) % 2:
        raise BadEvent(f"{name}: pcm has {len(values['pcm'])} bytes; expected whole 16-bit samples")
    return kind(**values)
