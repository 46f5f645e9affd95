"""The sounds of a phone's keys (DTMF, ITU-T Q.23)."""

from __future__ import annotations

import numpy as np

LOW = {key: low for keys, low in (("123A", 697), ("456B", 770), ("789C", 852), ("*0#D", 941)) for key in keys}
HIGH = {key: high for keys, high in (("147*", 1209), ("2580", 1336), ("369#", 1477), ("ABCD", 1633)) for key in keys}
TONE_MS, GAP_MS, WAIT_MS = 100, 100, 500
PEAK = 8000
"""Of each of the two tones, of 32,767."""


def keys(pressed: str, rate: int) -> bytes:
    """16-bit mono samples at ``rate`` Hz; ``w`` is a wait. Raises KeyError for what is no key."""
    parts: list[np.ndarray] = []
    for key in pressed:
        if key == "w":
            parts.append(np.zeros(rate * WAIT_MS // 1000))
            continue
        time = np.arange(rate * TONE_MS // 1000) / rate
        tone = PEAK * (np.sin(2 * np.pi * LOW[key] * time) + np.sin(2 * np.pi * HIGH[key] * time))
        parts += [tone, np.zeros(rate * GAP_MS // 1000)]
    return np.concatenate(parts).astype("<i2").tobytes() if parts else b""
