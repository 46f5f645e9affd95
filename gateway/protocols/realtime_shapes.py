"""What the ``openai`` package's types know of a value that a client sent."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def known(shape: Any, value: Any) -> Any:
    """``value`` without the fields that ``shape``, which it was validated as, does not have, at any depth."""
    if isinstance(shape, BaseModel) and isinstance(value, dict):
        fields = type(shape).model_fields
        return {name: known(getattr(shape, name), each) for name, each in value.items() if name in fields}
    if isinstance(shape, list) and isinstance(value, list):
        return [known(*pair) for pair in zip(shape, value, strict=True)]
    return value
