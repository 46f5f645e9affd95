"""A Realtime client for tests: every event that comes is checked against the ``openai`` package's own types."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import connect

SERVER_EVENT = TypeAdapter(RealtimeServerEvent)
RATE = 24_000


def voice(seconds: float) -> bytes:
    """Something loud, 24 kHz: what the stack's detector takes for speech."""
    time = np.arange(int(seconds * RATE)) / RATE
    return (12_000 * np.sin(2 * np.pi * 180 * time)).astype("<i2").tobytes()


class Client:
    """Sends events, collects what comes."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.events: list[dict] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(Exception):
            async for text in self.socket:
                event = json.loads(text)
                if not event["type"].startswith("bargein."):
                    SERVER_EVENT.validate_python(event)
                self.events.append(event)
                self._news.set()
        self._news.set()

    async def send(self, kind: str, **fields) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def audio(self, pcm: bytes, *, pace: float = 0.0) -> None:
        """Append audio in pieces of 20 ms, one every ``pace`` seconds."""
        for start in range(0, len(pcm), 960):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(pcm[start : start + 960]).decode())
            await asyncio.sleep(pace)

    async def speak(self, seconds: float = 0.8, silence: float = 0.8) -> None:
        """Say something and fall silent, at real-time pace."""
        await self.audio(voice(seconds) + bytes(int(silence * RATE) * 2), pace=0.019)

    async def get(self, kind: str, count: int = 1, limit: float = 8.0) -> dict:
        """The ``count``-th event of this type, waited for."""
        async with asyncio.timeout(limit):
            while True:
                found = self.all(kind)
                if len(found) >= count:
                    return found[count - 1]
                if self._reading.done():
                    raise AssertionError(f"the connection ended without {kind}; got {self.kinds()[-12:]}")
                self._news.clear()
                await self._news.wait()

    def all(self, kind: str) -> list[dict]:
        return [event for event in self.events if event["type"] == kind]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def audio_of(self, response_id: str) -> bytes:
        return b"".join(
            base64.b64decode(e["delta"])
            for e in self.all("response.output_audio.delta")
            if e["response_id"] == response_id
        )


@contextlib.asynccontextmanager
async def client(url: str, **options):
    """Connect; ``options`` go to websockets."""
    async with connect(url, max_size=None, compression=None, **options) as socket:
        talk = Client(socket)
        try:
            yield talk
        finally:
            talk._reading.cancel()
