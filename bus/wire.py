"""How an event is written as the flat fields of a stream entry, and read again.

Integers (64 bits) and floats (finite) are written in decimal, booleans as 0 or 1, ``pcm`` as raw little-endian 16-bit
samples and always last; half of a surrogate pair in a text becomes ``?``. A field or a type that a newer version added
is ignored; a field that is missing or malformed raises BadEvent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from bus import events, offers
from bus.events import Event

VERSION = 1
LONGEST_CALL_S = 86_400
"""Seconds of a call that are laid out as sound, in a recording or a picture, wherever an entry says that it stands."""

TYPES: dict[str, type[Event]] = {
    kind.type: kind
    for module in (events, offers)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind.type
}
"""Every event of both files, by its type."""
STREAMS: dict[str, tuple[type[Event], ...]] = {
    "mic": (
        events.MicAudio, events.UtteranceStarted, events.UtterancePaused, events.UtteranceResumed,
        events.UtteranceEnded, events.HungUp,
    ),
    "transcript": (events.Partial, events.Final),
    "reply": (events.ReplyBegun, events.Sentence, events.ToolArguments, events.ToolCall, events.ReplyEnd),
    "speech": (events.SpeechAudio, events.SpeechEnd),
    "history": (events.Said, events.Amended),
    "playback": (events.Played,),
    "acks": (events.Stopped,),
    "records": (events.TurnRecord,),
    "inputs": (events.Input,),
    "control": (events.CancelRequested, events.EndRequested),
    "sessions": (offers.SessionOffer,),
    "turns": (offers.TurnOffer,),
    "speak": (offers.SpeakOffer,),
}  # fmt: skip
"""The events that stand on each stream, by the last part of its name; readers leave out what stands elsewhere."""
_STREAM_OF = {kind: name for name, kinds in STREAMS.items() for kind in kinds}


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
            fields[name] = str(value).encode("utf-8", "replace")
    if pcm is not None:
        fields["pcm"] = pcm
    return fields


_NAMES = {kind: tuple(spec.name for spec in dataclasses.fields(kind) if spec.name != "at") for kind in TYPES.values()}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8")


def _integer(low: int, high: int) -> Callable[[bytes], int]:
    def read(raw: bytes) -> int:
        number = int(raw)
        if not low <= number <= high:
            raise ValueError
        return number

    return read


def _float(raw: bytes) -> float:
    number = float(raw)
    if not math.isfinite(number):
        raise ValueError
    return number


_POSITION = (0, 2**40)
_RANGES = {"offset": _POSITION, "start": _POSITION, "end": _POSITION, "mic": _POSITION, "rate": (8000, 192_000)}
"""Field -> the least and the most it may be. 2**40 samples at 16 kHz are two years."""
_READERS: dict[str, Callable[[bytes], Any]] = {
    "int": _integer(-(2**63), 2**63 - 1),
    "float": _float,
    "bool": lambda raw: bool(int(raw)),
    "str": _text,
    "bytes": bytes,
}


def _expected(field: dataclasses.Field[Any]) -> str:
    if field.name not in _RANGES:
        return str(field.type)
    low, high = _RANGES[field.name]
    return f"int from {low} to {high}"


_SPECS = {
    name: [
        (
            s.name,
            _integer(*_RANGES[s.name]) if s.name in _RANGES else _READERS[str(s.type)],
            _expected(s),
            s.default is dataclasses.MISSING,
        )
        for s in dataclasses.fields(kind)
    ]
    for name, kind in TYPES.items()
}


def belongs(event: Event, key: str) -> bool:
    """Whether an event may stand on the stream ``key``, by STREAMS."""
    return key.endswith(f":{_STREAM_OF[type(event)]}") or key == _STREAM_OF[type(event)]


def decode(fields: Mapping[bytes, bytes]) -> Event | None:
    """The event in an entry's fields; None for a type this version does not know. Raises BadEvent."""
    name = fields.get(b"type", b"").decode("utf-8", "replace")
    kind = TYPES.get(name)
    if kind is None:
        if not name:
            raise BadEvent("an entry without a type field")
        return None
    values: dict[str, Any] = {}
    for key, read, expected, required in _SPECS[name]:
        raw = fields.get(key.encode())
        if raw is None:
            if required:
                raise BadEvent(f"{name}: field {key!r} is missing; expected {expected}")
            continue
        try:
            values[key] = read(raw)
        except ValueError:
            raise BadEvent(f"{name}: field {key!r} is {raw[:40]!r}; expected {expected}") from None
    if len(values.get("pcm", b"")) % 2:
        raise BadEvent(f"{name}: pcm has {len(values['pcm'])} bytes; expected whole 16-bit samples")
    return kind(**values)
