"""The voice and the speed that a client asks for, as the engine takes them."""

from __future__ import annotations

from typing import Any

from gateway.protocols.realtime_error import ProtocolError
from gateway.settings import SPEEDS

DEFAULT_VOICE = "default"
OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""What stock clients ask for without being asked to: the default voice here, unless some voice is called so."""


def voice_id(asked: Any) -> str:
    """The name of a voice that is asked for by name or as ``{"id": name}``."""
    return str(asked.get("id", "") if isinstance(asked, dict) else asked or "")


class Voices:
    """The voices that there are, and which of them a session speaks with unless it is told otherwise."""

    def __init__(self, default: str, known: frozenset[str]) -> None:
        """``default`` is the engine's name for it, "" for the engine's own; without ``known`` any name is passed on."""
        self._default = default
        self._known = known

    def name(self, asked: Any, where: str = "session.audio.output.voice") -> str:
        """The engine's name for the voice that was asked for. Raises ProtocolError."""
        name = voice_id(asked)
        if name in ("", DEFAULT_VOICE, self._default):
            return self._default
        # A voice of espeak's may have a variant: en-US+f3.
        if not self._known or name.partition("+")[0] in self._known:
            return name
        if name in OPENAI_VOICES:
            return self._default
        known = ", ".join([DEFAULT_VOICE, *sorted(self._known)])
        raise ProtocolError("invalid_value", f"{where} is {name[:60]!r}; expected one of: {known}", where)


def check_speed(speed: Any) -> None:
    """Raise ProtocolError unless it is null or a number that a voice can keep to."""
    if speed is not None and not SPEEDS[0] <= speed <= SPEEDS[1]:
        where = "session.audio.output.speed"
        expected = f"a number from {SPEEDS[0]} to {SPEEDS[1]}"
        raise ProtocolError("invalid_value", f"{where} is {speed!r}; expected {expected}", where)
