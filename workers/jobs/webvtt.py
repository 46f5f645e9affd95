"""A transcript as WebVTT: subtitles for the recording, with the speaker of each cue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bus.events import MIC_RATE

SPEAKERS = {"user": "Caller", "assistant": "Assistant"}


def webvtt(messages: Iterable[dict[str, Any]]) -> str:
    """Messages with ``start`` and ``end`` (samples at 16 kHz) as cues in order of time; those without are left out."""
    timed = [each for each in messages if each["role"] in SPEAKERS and isinstance(each.get("start"), int)]
    cues = ["WEBVTT\n"]
    for message in sorted(timed, key=lambda each: int(each["start"])):
        start, end = int(message["start"]), max(int(message["end"]), int(message["start"]) + MIC_RATE // 100)
        text = " ".join(str(message["text"]).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cut = "" if message["complete"] else " <i>[interrupted]</i>"
        cues.append(f"{_clock(start)} --> {_clock(end)}\n<v {SPEAKERS[message['role']]}>{text}{cut}\n")
    return "\n".join(cues)


def _clock(samples: int) -> str:
    ms = samples * 1000 // MIC_RATE
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
