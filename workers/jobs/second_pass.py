"""The job that hears a recorded call again, with an engine that may take its time, for a better transcript.

It writes ``<session>.second.json`` beside the recording: ``{"session", "engine", "messages": [{"start", "end", "text",
"live"}]}``, ``live`` being what was understood in the call. The language model answered that, so it stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import logging

import numpy as np
import soundfile
from pydantic import Field

from bus.events import MIC_RATE
from bus.keys import is_session
from bus.settings import load
from workers import engines
from workers.jobs.recording import RecordingSettings, audio_file, write_whole
from workers.stt.engine import SttEngine

log = logging.getLogger("workers.jobs")

PIECE = MIC_RATE // 10
"""Samples fed at once."""
LEAD, TAIL = MIC_RATE * 3 // 10, MIC_RATE // 2
"""Samples before and after what the recogniser marked as the utterance: it may have marked it too tightly."""


class SecondPassSettings(RecordingSettings):
    """Which engine hears it again."""

    second_pass_engine: str = Field(default="")
    """The STT engine that hears each recorded call again; empty: none. It reads its other settings as in the STT
    worker."""
    second_pass_language: str = "en-US"
    """The language it listens for."""


def transcribe(session: str) -> str:
    """Hear a call again; the path of what was written. Raises ValueError, EngineError and FileNotFoundError."""
    settings = load(SecondPassSettings)
    if not is_session(session):
        raise ValueError(f"not a session id: {session[:40]!r}; expected s<shard>-<hex>")
    recorded = json.loads((settings.recordings_dir / f"{session}.json").read_text())
    audio, _ = soundfile.read(audio_file(settings, session), dtype="int16", always_2d=True)
    said = [each for each in recorded["messages"] if each["role"] == "user" and isinstance(each.get("start"), int)]
    engine = engines.find("stt", settings.second_pass_engine)
    texts = asyncio.run(_hear(engine, settings.second_pass_language, audio[:, 0], said))
    messages = [
        {"start": each["start"], "end": each["end"], "text": text, "live": each["text"]}
        for each, text in zip(said, texts, strict=True)
    ]
    body = {"session": session, "engine": settings.second_pass_engine, "messages": messages}
    path = settings.recordings_dir / f"{session}.second.json"
    text = json.dumps(body, ensure_ascii=False, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
    log.info("%s: %d utterances heard again by %s", session, len(messages), settings.second_pass_engine)
    return str(path)


async def _hear(engine: SttEngine, language: str, caller: np.ndarray, said: list[dict[str, int]]) -> list[str]:
    await engine.load()
    recognizer = await engine.open(language)
    texts = []
    try:
        for number, each in enumerate(said):
            before = said[number - 1]["end"] if number else 0
            start, end = max(before, each["start"] - LEAD, 0), each["end"] + TAIL
            await recognizer.begin()
            for at in range(start, end, PIECE):
                await recognizer.feed(caller[at : min(at + PIECE, end)].tobytes())
            texts.append((await recognizer.flush()).strip())
    finally:
        await recognizer.close()
    return texts
