"""The Realtime protocol's session object: its defaults, its partial updates, and what they mean to a session here.

``session.update`` is a deep partial merge: a missing field keeps its value, an explicit null clears it. Shapes are
checked against the ``openai`` package's own types.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from openai.types.realtime import RealtimeSessionCreateRequest
from pydantic import ValidationError

from gateway.settings import SPEEDS, Profile

RATE = 24_000
PCM = {"type": "audio/pcm", "rate": RATE}
SERVER_VAD: dict[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
SEMANTIC_VAD: dict[str, Any] = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
DEFAULT_VOICE = "default"
OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""What stock clients ask for without being asked to: the default voice here, unless some voice is called so."""
RANGES = {"threshold": (0.0, 1.0), "prefix_padding_ms": (0, 5_000), "silence_duration_ms": (100, 10_000)}


class ProtocolError(Exception):
    """What a client sent cannot be done: ``code``, ``message`` and ``param`` as the protocol names them."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class RealtimeConfig:
    """One connection's session object, and the profile that follows from it."""

    def __init__(self, profile: Profile, model: str, voices: frozenset[str]) -> None:
        """``profile`` is what the gateway gives every session; ``voices`` are those some TTS worker has.

        Without any the voices are not known here: every name is passed on to the engine.
        """
        self._base = profile
        self._voices = voices
        turn_detection = copy.deepcopy(SERVER_VAD)
        turn_detection["silence_duration_ms"] = profile.endpointing.silence_ms
        self._session: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "model": model,
            "output_modalities": ["audio"],
            "instructions": profile.instructions,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "audio": {
                "input": {
                    "format": dict(PCM),
                    "transcription": {"model": model, "language": profile.language.partition("-")[0]},
                    "noise_reduction": None,
                    "turn_detection": turn_detection,
                },
                "output": {"format": dict(PCM), "voice": profile.voice or DEFAULT_VOICE, "speed": profile.speed},
            },
        }

    def view(self, session_id: str) -> dict[str, Any]:
        """The whole session object, as ``session.created`` and ``session.updated`` carry it."""
        return {**copy.deepcopy(self._session), "id": f"sess_{session_id}"}

    def update(self, change: dict[str, Any]) -> Profile:
        """Merge a partial session object; the profile from now on. Raises ProtocolError and changes nothing then."""
        change = copy.deepcopy(change)
        if change.get("type", "realtime") != "realtime":
            raise ProtocolError(
                "invalid_value", f"session.type is {change['type']!r}; expected 'realtime'", "session.type"
            )
        if "modalities" in change:
            change.setdefault("output_modalities", change.pop("modalities"))
        merged = _merge(self._session, change)
        detection = merged["audio"]["input"].get("turn_detection")
        if detection is not None:
            wanted = ((change.get("audio") or {}).get("input") or {}).get("turn_detection") or {}
            merged["audio"]["input"]["turn_detection"] = _detection(detection, wanted)
        _check(merged)
        self._voice(merged["audio"]["output"].get("voice"))
        self._session = merged
        return self.profile()

    def profile(self) -> Profile:
        """What the session object means here."""
        session, base = self._session, self._base
        spoken, heard = session["audio"]["output"], session["audio"]["input"]
        detection = heard.get("turn_detection")
        language = (heard.get("transcription") or {}).get("language") or ""
        profile = replace(
            base,
            instructions=session.get("instructions") or "",
            voice=self._voice(spoken.get("voice")),
            speed=spoken.get("speed") or base.speed,
            text_only=session.get("output_modalities") == ["text"],
            language=base.language if base.language.partition("-")[0] == language or not language else language,
        )
        if detection is None:
            duplex = replace(base.duplex, respond=False, interrupt=False)
            return replace(profile, by_hand=True, duplex=duplex)
        eager = base.duplex.eager and not profile.text_only
        duplex = replace(
            base.duplex, respond=detection["create_response"], interrupt=detection["interrupt_response"], eager=eager
        )
        endpointing = base.endpointing
        if detection["type"] == "server_vad":
            silence = int(detection["silence_duration_ms"])
            pause = min(base.endpointing.pause_ms, silence)
            endpointing = replace(endpointing, threshold=detection["threshold"], pause_ms=pause, silence_ms=silence)
        pre_roll = int(detection.get("prefix_padding_ms", base.pre_roll_ms))
        return replace(profile, duplex=duplex, endpointing=endpointing, pre_roll_ms=pre_roll)

    def _voice(self, asked: Any) -> str:
        """The engine's name for the voice that was asked for, by name or as ``{"id": name}``. Raises ProtocolError."""
        name = str(asked.get("id", "") if isinstance(asked, dict) else asked or "")
        if name in ("", DEFAULT_VOICE, self._base.voice):
            return self._base.voice
        # A voice of espeak's may have a variant: en-US+f3.
        if not self._voices or name.partition("+")[0] in self._voices:
            return name
        if name in OPENAI_VOICES:
            return self._base.voice
        known = ", ".join([DEFAULT_VOICE, *sorted(self._voices)])
        where = "session.audio.output.voice"
        raise ProtocolError("invalid_value", f"{where} is {name[:60]!r}; expected one of: {known}", where)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        elif value is None and key in ("audio", "input", "output", "type", "format"):
            continue  # these have no cleared state
        else:
            merged[key] = value
    return merged


def _detection(merged: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Turn detection with its defaults filled in: a change of type starts from the new type's defaults."""
    kind = merged.get("type", "server_vad")
    defaults = {"server_vad": SERVER_VAD, "semantic_vad": SEMANTIC_VAD}.get(kind)
    if defaults is None:
        raise ProtocolError(
            "invalid_value",
            f"turn_detection.type is {kind!r}; expected 'server_vad', 'semantic_vad', or turn_detection null",
            "session.audio.input.turn_detection.type",
        )
    known = {key: value for key, value in merged.items() if key in defaults}
    detection = {**defaults, **known, **{key: wanted[key] for key in wanted if key in defaults}}
    for flag in ("create_response", "interrupt_response"):
        if detection[flag] is None:
            detection[flag] = True
    for name, (low, high) in RANGES.items():
        value = detection.get(name, low)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            where = f"session.audio.input.turn_detection.{name}"
            raise ProtocolError("invalid_value", f"{where} is {value!r}; expected a number from {low} to {high}", where)
    return detection


def _check(session: dict[str, Any]) -> None:
    """Raise ProtocolError when a session object has a wrong shape, or asks for what is not to be had here."""
    try:
        RealtimeSessionCreateRequest.model_validate({k: v for k, v in session.items() if k != "object"})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [part for part in first["loc"] if isinstance(part, str) and part[0].islower()]
        where = ".".join(["session", *path])
        raise ProtocolError("invalid_value", f"{where}: {first['msg']}", where) from None
    modalities = session.get("output_modalities")
    if modalities not in (["audio"], ["text"], ["text", "audio"], ["audio", "text"]):
        raise ProtocolError(
            "invalid_value",
            f"session.output_modalities is {modalities!r}; expected ['audio'] or ['text']",
            "session.output_modalities",
        )
    speed = session["audio"]["output"].get("speed")
    if speed is not None and not SPEEDS[0] <= speed <= SPEEDS[1]:
        where = "session.audio.output.speed"
        expected = f"a number from {SPEEDS[0]} to {SPEEDS[1]}"
        raise ProtocolError("invalid_value", f"{where} is {speed!r}; expected {expected}", where)
    for side in ("input", "output"):
        form = session["audio"][side].get("format") or PCM
        if form.get("type") != "audio/pcm" or form.get("rate", RATE) != RATE:
            where = f"session.audio.{side}.format"
            raise ProtocolError("invalid_value", f"{where} is {form!r}; expected audio/pcm at {RATE} Hz", where)
