"""JSON that somebody else wrote."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_HALF_PAIR = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def read_json(text: str | bytes) -> Any:
    """The value in a JSON text: its numbers are finite, its texts are Unicode. Raises ValueError for anything else.

    Python's own reader takes NaN and Infinity, makes an infinity of 1e999, and raises RecursionError for what is nested
    too deep. An escaped half of a surrogate pair, which no text that leaves here may hold, is read as ``?``.
    """
    text = text if isinstance(text, str) else text.decode()
    try:
        found = _read(text)
        if _HALF_PAIR.search(text):
            found = _read(json.dumps(found, ensure_ascii=False).encode(errors="replace").decode())
        return found
    except RecursionError:
        raise ValueError("nested too deep") from None


def _read(text: str) -> Any:
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is no number that JSON has")
    return number
