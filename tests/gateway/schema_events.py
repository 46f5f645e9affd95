"""A Realtime client's events made from the ``openai`` package's own types: every field that they know."""

from __future__ import annotations

import random
from functools import cache

from openai.types.realtime import RealtimeSessionCreateRequest, RealtimeTranscriptionSessionCreateRequest
from pydantic import TypeAdapter

from gateway.protocols.realtime_events import EVENTS

DEEPEST = 12
"""Levels below which what may be left out is."""


@cache
def _schema(kind: str):
    model = EVENTS[kind]
    if kind == "session.update":
        model = RealtimeSessionCreateRequest | RealtimeTranscriptionSessionCreateRequest
    return TypeAdapter(model).json_schema() if model is not None else {"type": "object"}


def schema_event(rng: random.Random) -> dict:
    """An event of a type drawn at random that has the shape of its type."""
    kind = rng.choice([name for name, model in EVENTS.items() if model is not None or name == "session.update"])
    schema = _schema(kind)
    made = _value(schema, schema.get("$defs", {}), rng, 0)
    return {"type": kind, "session": made} if kind == "session.update" else made


def _value(schema: dict, defs: dict, rng: random.Random, depth: int):
    if "$ref" in schema:
        return _value(defs[schema["$ref"].rpartition("/")[2]], defs, rng, depth)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            choices = [each for each in schema[several] if depth < DEEPEST or each.get("type") == "null"]
            return _value(rng.choice(choices or schema[several]), defs, rng, depth + 1)
    if "allOf" in schema:
        return _value(schema["allOf"][0], defs, rng, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        fields, needed = schema.get("properties", {}), schema.get("required", ())
        kept = [name for name in fields if name in needed or (depth < DEEPEST and rng.random() < 0.5)]
        made = {name: _value(fields[name], defs, rng, depth + 1) for name in kept}
        if isinstance(more := schema.get("additionalProperties"), dict) and not fields:
            made |= {f"k{n}": _value(more, defs, rng, depth + 1) for n in range(rng.randrange(3))}
        return made
    if kind == "array":
        return [_value(schema.get("items", {}), defs, rng, depth + 1) for _ in range(rng.randrange(3))]
    plain = {
        "null": None,
        "boolean": rng.random() < 0.5,
        "integer": rng.choice((0, 1, 5, 500, 4096, -1, 10**12)),
        "number": rng.choice((0.0, 0.5, 1.0, 1.5, -1.0, 1e9)),
        "string": rng.choice(("", "x", "default", "en", "AAAA", "item_1", "\u00e4" * 40)),
    }
    return plain.get(kind, rng.choice(list(plain.values())))
