"""The job that writes a call down: its audio, and its transcript as JSON, text and WebVTT.

``record(session)`` reads the session's streams and writes into ``RECORDINGS_DIR``:

- ``<session>.wav``, or ``.flac``: stereo, 16 kHz, 16-bit. Left is the caller, by sample offset, gaps as silence; right
  is what the caller heard, where it was heard.
- ``<session>.json``: ``{"session", "seconds", "messages": [{"role", "text", "turn", "complete", "at", ...}]}``. A
  message has ``start`` and ``end``, samples at 16 kHz, where it is known when it was said or heard.
- ``<session>.txt``: the same to read; ``<session>.vtt``: the same as subtitles.

Done twice it writes the same bytes. Needs the mic and speech streams whole, so it must run before they expire, and
sets them to expire itself when it is done.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
import soundfile
from pydantic import Field
from redis import Redis

from bus.connect import connector
from bus.events import MIC_RATE, Amended, Event, Final, MicAudio, Played, Said, SpeechAudio
from bus.keys import is_session, session_key
from bus.settings import BusSettings, load
from bus.wire import LONGEST_CALL_S, decode
from workers.jobs.heard import Int16, moments, place
from workers.jobs.queue import follow_up
from workers.jobs.webvtt import webvtt

log = logging.getLogger("workers.jobs")

KEEP_AUDIO_S = 60
"""Seconds the audio streams live on after they were written down."""
REDIS_TIMEOUT = 30.0
PAGE = 500
"""Entries read at once: at most a few MB of audio."""

E = TypeVar("E", bound=Event)


class NoAudio(Exception):
    """The session left no audio to write down."""


class RecordingSettings(BusSettings):
    """Where recordings go."""

    recordings_dir: Path = Field(default=Path("recordings"))
    """Where recordings go: made when absent, readable by its owner only."""
    recording_format: Literal["wav", "flac"] = "wav"
    """How they are written."""


def audio_file(settings: RecordingSettings, session: str) -> Path:
    """Where a call's audio lies, or will lie."""
    return settings.recordings_dir / f"{session}.{settings.recording_format}"


def record(session: str) -> str:
    """Write a call down; the path of its audio. Raises ValueError for a malformed id and NoAudio for an empty call."""
    settings = load(RecordingSettings)
    if not is_session(session):
        raise ValueError(f"not a session id: {session[:40]!r}; expected s<shard>-<hex>")
    client = connector(settings.address()).sync(REDIS_TIMEOUT)
    try:
        audio = stereo(client, session)
        messages = transcript(client, session)
        folder = settings.recordings_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        body = {"session": session, "seconds": round(len(audio) / MIC_RATE, 3), "messages": messages}
        text = json.dumps(body, ensure_ascii=False, indent=2) + "\n"
        path, kind = audio_file(settings, session), settings.recording_format.upper()
        write_whole(path, lambda file: soundfile.write(file, audio, MIC_RATE, subtype="PCM_16", format=kind))
        write_whole(folder / f"{session}.txt", lambda file: file.write(readable(messages).encode()))
        write_whole(folder / f"{session}.vtt", lambda file: file.write(webvtt(messages).encode()))
        write_whole(folder / f"{session}.json", lambda file: file.write(text.encode()))
        for stream in ("mic", "speech"):
            client.expire(session_key(session, stream), KEEP_AUDIO_S, lt=True)
    finally:
        client.close()
    log.info("recorded %s: %.1f s, %d messages", session, len(audio) / MIC_RATE, len(messages))
    follow_up(session)
    return str(path)


def stereo(client: Redis, session: str) -> Int16:
    """The call as samples ``[n, 2]`` at 16 kHz: the caller, and what the caller heard. Raises NoAudio."""
    left = caller(read(client, session, "mic", MicAudio))
    right = place(read(client, session, "speech", SpeechAudio), read(client, session, "playback", Played))
    if not len(left) and not len(right):
        raise NoAudio(f"{session}: its mic and speech streams hold no audio; it expired, or none was ever there")
    both = np.zeros((max(len(left), len(right)), 2), np.int16)
    both[: len(left), 0] = left
    both[: len(right), 1] = right
    return both


def caller(audio: Iterator[MicAudio]) -> Int16:
    """The caller's samples from the beginning of the session; what is missing is silence."""
    longest = LONGEST_CALL_S * MIC_RATE
    chunks = [(event.offset, np.frombuffer(event.pcm, "<i2")) for event in audio if event.offset < longest]
    samples = np.zeros(max((offset + len(chunk) for offset, chunk in chunks), default=0), np.int16)
    for offset, chunk in chunks:
        samples[offset : offset + len(chunk)] = chunk
    return samples


def transcript(client: Redis, session: str) -> list[dict[str, object]]:
    """The conversation as heard, amendments applied, in order."""
    finals = {event.utterance: event for event in read(client, session, "transcript", Final)}
    unmatched = [finals[utterance] for utterance in sorted(finals)]
    messages: dict[str, dict[str, object]] = {}
    heard = moments(read(client, session, "playback", Played))
    for event in read(client, session, "history", (Said, Amended)):
        if isinstance(event, Said):
            message: dict[str, object] = {
                "role": event.role, "text": event.text, "turn": event.turn, "complete": event.complete, "at": event.at,
            }  # fmt: skip
            final = next((f for f in unmatched if event.role == "user" and f.text.strip() == event.text.strip()), None)
            if final is not None:
                unmatched.remove(final)
                message |= {"start": final.start, "end": final.end}
            if event.role == "assistant" and event.turn in heard:
                message["start"], message["end"] = heard[event.turn]
            if event.name:
                message["name"] = event.name
            messages[event.item] = message
        elif isinstance(event, Amended) and not event.text:
            messages.pop(event.item, None)
        elif isinstance(event, Amended) and event.item in messages:
            message = messages[event.item]
            shorter = len(event.text) < len(str(message["text"]))
            message |= {"text": event.text, "complete": bool(message["complete"]) and not shorter}
    return list(messages.values())


def readable(messages: list[dict[str, object]]) -> str:
    """What was said, a line each: the caller's with the minute and second it began, where that is known."""
    lines = []
    for message in messages:
        if message["role"] not in ("user", "assistant"):
            continue
        who = "caller" if message["role"] == "user" else "assistant"
        start = message.get("start")
        when = f"[{start // MIC_RATE // 60:02d}:{start // MIC_RATE % 60:02d}] " if isinstance(start, int) else ""
        cut = "" if message["complete"] else " [interrupted]"
        lines.append(f"{when}{who}: {message['text']}{cut}\n")
    return "".join(lines)


def read(client: Redis, session: str, stream: str, kind: type[E] | tuple[type[E], ...]) -> Iterator[E]:
    """The events of a kind on one of a session's streams, from the first to the last, read in pages."""
    key, after = session_key(session, stream), "-"
    while True:
        page: Any = client.xrange(key, min=after, count=PAGE)
        for _, fields in page:
            event = decode(fields)
            if isinstance(event, kind):
                yield event
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
