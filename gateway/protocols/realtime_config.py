"""The Realtime protocol's session object: its defaults, its partial updates, and what they mean to a session here.

``session.update`` is a deep partial merge: a missing field keeps its value, an explicit null clears it, one that
the protocol does not know is left out. Shapes are checked against the ``openai`` package's own types.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

from openai.types import realtime as types
from pydantic import ValidationError

from gateway.codecs import CODECS, PCM, Codec
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_shapes import known
from gateway.protocols.realtime_voice import DEFAULT_VOICE, Voices, check_speed, voice_id
from gateway.settings import Profile
from gateway.speech import Endpointing

FORMATS: dict[str, dict[str, Any]] = {
    "audio/pcm": {"type": "audio/pcm", "rate": PCM.rate},
    "audio/pcmu": {"type": "audio/pcmu"},
    "audio/pcma": {"type": "audio/pcma"},
}
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
RANGES = {
    "threshold": (0.0, 1.0),
    "prefix_padding_ms": (0, 5_000),
    "silence_duration_ms": (100, 10_000),
    "idle_timeout_ms": (1_000, 600_000),
}
EAGERNESS = {"low": (2.0, 8_000), "medium": (1.0, 4_000), "high": (0.6, 2_000)}
"""Eagerness -> (by what the silence that ends a turn is multiplied, ms of silence after a pause that a model of the end
of turn does not take for the end); ``auto`` is as the gateway is set."""
MOST_TOKENS = 1 << 20
SHAPES: dict[str, Any] = {
    "realtime": types.RealtimeSessionCreateRequest,
    "transcription": types.RealtimeTranscriptionSessionCreateRequest,
}


class RealtimeConfig:
    """One connection's session object, and the profile that follows from it."""

    def __init__(self, profile: Profile, model: str, voices: frozenset[str], kind: str = "realtime") -> None:
        """``profile`` is what the gateway gives every session; ``voices`` are those some TTS worker has.

        Without any the voices are not known here: every name is passed on to the engine. ``kind`` is ``realtime``, or
        ``transcription`` for a session without replies.
        """
        self.kind = kind
        self._model = model
        self._base = profile
        self._voices = Voices(profile.voice, voices)
        turn_detection = copy.deepcopy(SERVER_VAD)
        turn_detection["silence_duration_ms"] = profile.endpointing.silence_ms
        heard = {
            "format": dict(FORMATS[PCM.name]),
            "transcription": {"model": model, "language": profile.language.partition("-")[0]},
            "noise_reduction": None,
            "turn_detection": turn_detection,
        }
        self._defaults: dict[str, Any] = {"type": kind, "object": "realtime.transcription_session"}
        if kind == "transcription":
            self._defaults["audio"] = {"input": heard}
        else:
            self._defaults |= {
                "object": "realtime.session",
                "model": model,
                "output_modalities": ["audio"],
                "instructions": profile.instructions,
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "audio": {
                    "input": heard,
                    "output": {
                        "format": dict(FORMATS[PCM.name]),
                        "voice": profile.voice or DEFAULT_VOICE,
                        "speed": profile.speed,
                    },
                },
            }
        self._session = copy.deepcopy(self._defaults)

    def view(self, session_id: str) -> dict[str, Any]:
        """The whole session object, as ``session.created`` and ``session.updated`` carry it."""
        return {**copy.deepcopy(self._session), "id": f"sess_{session_id}"}

    def snapshot(self) -> dict[str, Any]:
        """The session object as it is, for ``restore``."""
        return self._session

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Undo the updates since ``snapshot``."""
        self._session = snapshot

    def saved(self) -> str:
        """All of it as JSON, from which ``again`` makes it on any gateway."""
        base = self._base
        kept = {"language": base.language, "own_tools": base.own_tools, "record": base.record, "key": base.key}
        return json.dumps({"kind": self.kind, "model": self._model, "base": kept, "session": self._session})

    @classmethod
    def again(cls, profile: Profile, voices: frozenset[str], saved: str) -> RealtimeConfig:
        """What was ``saved``; ``profile`` and ``voices`` are this gateway's."""
        told = json.loads(saved)
        base = replace(profile, **{**told["base"], "own_tools": tuple(told["base"]["own_tools"])}, greeting="")
        config = cls(base, told["model"], voices, told["kind"])
        config._session = told["session"]
        try:
            config.profile()
        except ProtocolError:  # its voice is not to be had any more
            config._session["audio"]["output"]["voice"] = profile.voice or DEFAULT_VOICE
        return config

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The functions that the session's model may call."""
        tools: list[dict[str, Any]] = self._session.get("tools", [])
        return tools

    @property
    def most(self) -> Any:
        """The session's ``max_output_tokens``."""
        return self._session.get("max_output_tokens", "inf")

    @property
    def spoken(self) -> dict[str, Any]:
        """How the session's responses sound, as each of them tells it; empty where there are none."""
        spoken = self._session["audio"].get("output")
        return {"format": dict(spoken["format"]), "voice": voice_id(spoken.get("voice"))} if spoken else {}

    def voice_of(self, asked: dict[str, Any]) -> str | None:
        """The voice that a response.create asks for, None for the session's. Raises ProtocolError, also for a format
        other than the session's: a response has that."""
        output, where = _dict(_dict(asked.get("audio")).get("output")), "response.audio.output"
        form = output.get("format")
        if form is not None and (wanted := _format(form, f"{where}.format")) != (ours := self.spoken["format"]):
            message = f"{where}.format is {wanted['type']}; expected the session's, {ours['type']}: session.update it"
            raise ProtocolError("invalid_value", message, f"{where}.format")
        return None if output.get("voice") is None else self._voices.name(output["voice"], f"{where}.voice")

    @property
    def manual(self) -> bool:
        """Whether the client itself says when an utterance ends."""
        return self._session["audio"]["input"].get("turn_detection") is None

    def codec(self, side: str) -> Codec:
        """How audio is written on the way ``input`` or ``output``."""
        form = self._session["audio"].get(side, {}).get("format") or {}
        return CODECS[form.get("type", PCM.name)]

    def update(self, change: dict[str, Any]) -> Profile:
        """Merge a partial session object; the profile from now on. Raises ProtocolError and changes nothing then."""
        change = copy.deepcopy(change)
        kind = change.get("type", self.kind)
        if kind != self.kind:
            hint = "connect with ?intent=transcription for a transcription session"
            message = f"session.type is {str(kind)[:40]!r}; expected {self.kind!r} ({hint})"
            raise ProtocolError("invalid_value", message, "session.type")
        if "modalities" in change:
            change.setdefault("output_modalities", change.pop("modalities"))
        merged = _merge(self._session, _known(change, SHAPES[self.kind]))
        for name, value in self._defaults.items():
            if merged.get(name) is None:
                merged[name] = copy.deepcopy(value)
        merged = {name: value for name, value in merged.items() if value is not None}
        self._check(merged, change)
        self._session = merged
        return self.profile()

    def profile(self) -> Profile:
        """What the session object means here."""
        session, base = self._session, replace(self._base, client=self.saved())
        heard = session["audio"]["input"]
        detection = heard.get("turn_detection")
        language = (heard.get("transcription") or {}).get("language") or ""
        language = base.language if base.language.partition("-")[0] == language or not language else language
        if self.kind == "transcription":
            profile = replace(base, language=language, greeting="")
        else:
            spoken = session["audio"]["output"]
            most = session["max_output_tokens"]
            profile = replace(
                base,
                instructions=session["instructions"],
                voice=self._voices.name(spoken.get("voice")),
                speed=spoken.get("speed") or base.speed,
                text_only=session["output_modalities"] == ["text"],
                language=language,
                tools=json.dumps(session["tools"]) if session["tools"] else "",
                tool_choice=json.dumps(session["tool_choice"]),
                parallel=session.get("parallel_tool_calls"),
                max_tokens=most if isinstance(most, int) else 0,
            )
        if detection is None:
            duplex = replace(base.duplex, respond=False, interrupt=False)
            return replace(profile, by_hand=True, duplex=duplex)
        replies = self.kind == "realtime"
        duplex = replace(
            base.duplex,
            respond=replies and detection["create_response"],
            interrupt=replies and detection["interrupt_response"],
            eager=base.duplex.eager and not profile.text_only,
            idle=(detection.get("idle_timeout_ms") or 0) / 1000,
        )
        pre_roll = int(detection.get("prefix_padding_ms", base.pre_roll_ms))
        endpointing = _endpointing(base.endpointing, detection)
        return replace(profile, duplex=duplex, endpointing=endpointing, pre_roll_ms=pre_roll)

    def _check(self, merged: dict[str, Any], change: dict[str, Any]) -> None:
        """Fill in turn detection and formats; raise ProtocolError for a wrong shape or what is not to be had here."""
        wanted_input = _dict(_dict(change.get("audio")).get("input"))
        detection = merged["audio"]["input"].get("turn_detection")
        if detection is not None:
            wanted = _dict(wanted_input.get("turn_detection"))
            merged["audio"]["input"]["turn_detection"] = _detection(detection, wanted)
        for side, audio in merged["audio"].items():
            audio["format"] = _format(audio.get("format"), f"session.audio.{side}.format")
        try:
            shape = SHAPES[self.kind].model_validate({k: v for k, v in merged.items() if k != "object"}, strict=True)
        except (ValidationError, RecursionError) as error:
            raise _wrong(error) from None
        merged |= known(shape, {k: v for k, v in merged.items() if k != "object"})
        if self.kind == "realtime":
            check_modalities(merged["output_modalities"], "session.output_modalities")
            check_tools(merged["tools"], merged["tool_choice"], "session.")
            check_tokens(merged["max_output_tokens"], "session.max_output_tokens")
            check_speed(merged["audio"]["output"].get("speed"))
            self._voices.name(merged["audio"]["output"].get("voice"))


def check_modalities(modalities: Any, where: str) -> None:
    """Raise ProtocolError unless it is audio (which comes with its text) or text."""
    if modalities not in (["audio"], ["text"], ["text", "audio"], ["audio", "text"]):
        message = f"{where} is {str(modalities)[:80]}; expected ['audio'] or ['text']"
        raise ProtocolError("invalid_value", message, where)


def check_tools(tools: Any, choice: Any, where: str) -> None:
    """Raise ProtocolError for a tool that is no function with a name of its own, or a choice of none of them."""
    names: set[str] = set()
    for number, tool in enumerate(tools):
        place, name = f"{where}tools[{number}]", tool.get("name")
        if tool.get("type", "function") != "function":
            message = f"{place}.type is {str(tool['type'])[:40]!r}; only 'function' is supported here"
            raise ProtocolError("invalid_value", message, f"{place}.type")
        if not isinstance(name, str) or not name or name in names:
            raise ProtocolError("invalid_value", f"{place}.name: expected a name of its own", f"{place}.name")
        names.add(name)
    if isinstance(choice, dict) and (choice.get("type") != "function" or choice.get("name") not in names):
        message = f"{where}tool_choice names no function of {where}tools"
        raise ProtocolError("invalid_value", message, f"{where}tool_choice")


def check_tokens(most: Any, where: str) -> None:
    """Raise ProtocolError unless it is 'inf' or a whole number that a model can keep to."""
    if most != "inf" and not (isinstance(most, int) and not isinstance(most, bool) and 1 <= most <= MOST_TOKENS):
        raise ProtocolError("invalid_value", f"{where}: expected 'inf' or 1 to {MOST_TOKENS}", where)


def _object(value: Any, where: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise ProtocolError("invalid_value", f"{where}: expected an object", where)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _known(change: dict[str, Any], shape: Any) -> dict[str, Any]:
    """The fields that the protocol has, at the top and in ``audio``."""
    found = {name: value for name, value in change.items() if name in shape.model_fields}
    _object(found.get("audio"), "session.audio")
    for side in ("input", "output"):
        _object(_dict(found.get("audio")).get(side), f"session.audio.{side}")
    if isinstance(found.get("audio"), dict):
        sides: dict[str, Any] = {"input": types.RealtimeAudioConfigInput, "output": types.RealtimeAudioConfigOutput}
        if shape is not SHAPES["realtime"]:
            del sides["output"]
        found["audio"] = {
            side: {name: value for name, value in audio.items() if name in sides[side].model_fields}
            for side, audio in found["audio"].items()
            if side in sides and isinstance(audio, dict)
        }
    return found


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in ("format", "tool_choice"):
            merged[key] = _merge(merged[key], value)
        elif value is None and key in ("audio", "input", "output", "type", "format"):
            continue  # these have no cleared state
        else:
            merged[key] = value
    return merged


def _format(form: Any, where: str) -> dict[str, Any]:
    """A format with its rate. Raises ProtocolError for one that is not to be had."""
    name = form.get("type", PCM.name) if isinstance(form, dict) else None
    found = FORMATS.get(name) if isinstance(name, str) else None
    if found is None or form.get("rate") not in (None, found.get("rate"), CODECS[found["type"]].rate):
        message = f"{where} is {str(form)[:80]}; expected audio/pcm at {PCM.rate} Hz, audio/pcmu or audio/pcma"
        raise ProtocolError("invalid_value", message, where)
    return dict(found)


def _detection(merged: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Turn detection with its defaults filled in: a change of type starts from the new type's defaults."""
    where = "session.audio.input.turn_detection"
    kind = merged.get("type", "server_vad") if isinstance(merged, dict) else merged
    defaults = {"server_vad": SERVER_VAD, "semantic_vad": SEMANTIC_VAD}.get(kind if isinstance(kind, str) else "")
    if defaults is None:
        message = f"turn_detection.type is {str(kind)[:40]!r}; expected 'server_vad', 'semantic_vad', or null"
        raise ProtocolError("invalid_value", message, f"{where}.type")
    kept = {key: value for key, value in merged.items() if key in defaults}
    detection = {**defaults, **kept, **{key: wanted[key] for key in wanted if key in defaults}}
    for name, default in defaults.items():
        if detection[name] is None:
            detection[name] = default
        value = detection[name]
        if name not in RANGES or value is None:
            continue
        low, high = RANGES[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            message = f"{where}.{name} is {str(value)[:40]!r}; expected a number from {low} to {high}"
            raise ProtocolError("invalid_value", message, f"{where}.{name}")
    return detection


def _endpointing(base: Endpointing, detection: dict[str, Any]) -> Endpointing:
    """When speech begins and ends, as a client's turn detection has it."""
    if detection["type"] == "server_vad":
        silence = int(detection["silence_duration_ms"])
        pause = min(base.pause_ms, silence)
        return replace(base, threshold=detection["threshold"], pause_ms=pause, silence_ms=silence)
    if detection["eagerness"] not in EAGERNESS:
        return base
    factor, longest = EAGERNESS[detection["eagerness"]]
    silence = max(base.pause_ms, int(base.silence_ms * factor))
    return replace(base, silence_ms=silence, incomplete_ms=longest)


def _wrong(error: Exception) -> ProtocolError:
    if not isinstance(error, ValidationError):
        return ProtocolError("invalid_value", "session: nested too deeply.", "session")
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if isinstance(part, int) or str(part)[:1].islower()]
    where = ".".join(["session", *path])[:200]
    return ProtocolError("invalid_value", f"{where}: {first['msg'][:200]}", where)
