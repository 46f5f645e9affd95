"""A Realtime client for tests: every event that comes is checked against the ``openai`` package's own types."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import typing

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel
from websockets.asyncio.client import connect

KINDS = {
    typing.get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in typing.get_args(typing.get_args(RealtimeServerEvent)[0])
}
"""Type of a server event -> the SDK's class for it."""
RATE = 24_000


def check(event: dict) -> None:
    """Raise unless a server event is exactly of the SDK's type: every field there, of its type, and no other."""
    unknown = set(_extras(KINDS[event["type"]].model_validate(event, strict=True)))
    if event["type"].startswith("session."):
        unknown -= {"id", "object"}  # the real server's sessions have them, the SDK's type for what it is sent does not
    assert not unknown, f"{event['type']} has fields that the SDK does not know: {unknown}"


def _extras(value):
    if isinstance(value, BaseModel):
        yield from (value.model_extra or {})
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            yield from _extras(each)


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
        self._wrong: BaseException | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(Exception):
            async for text in self.socket:
                event = json.loads(text)
                try:
                    if not event["type"].startswith("bargein."):
                        check(event)
                except Exception as error:
                    self._wrong = error
                    break
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
                if self._wrong is not None:
                    raise self._wrong
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
