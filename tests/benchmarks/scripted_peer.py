"""A trivial voice server behind a Twilio stream: energy instead of speech, one sentence instead of a reply.

It hears the caller's sound, says ``clear`` when a reply is talked over, asks the scripted models when the caller has
fallen silent, and drops both requests when it is interrupted. What it is told to do wrong, it does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
import soxr
from websockets.asyncio.server import ServerConnection, serve

from gateway.codecs import PCMU

LOUD, SILENT_FRAMES = 300, 10


@dataclass
class Faults:
    """What goes wrong: audio of the old reply after ``clear``; how long a reply pauses in its middle; its silence."""

    stale_frames: int = 0
    pause: float = 0.0
    mute: bool = False


@dataclass
class Seen:
    """What happened, in monotonic seconds."""

    first_sound: list[float] = field(default_factory=list)
    cleared: list[float] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)


class ScriptedPeer:
    """Serves on ``url`` within ``running``."""

    def __init__(self, models: str, faults: Faults) -> None:
        self.models, self.faults, self.seen, self.url = models, faults, Seen(), ""
        self._last = b""

    @contextlib.asynccontextmanager
    async def running(self):
        async with serve(self._call, "127.0.0.1", 0) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            yield self

    async def _call(self, socket: ServerConnection) -> None:
        clock = time.monotonic
        speaking, silent, reply = False, 0, None
        async for text in socket:
            message = json.loads(text)
            if message["event"] == "mark":
                self.seen.marks.append(message["mark"]["name"])
            if message["event"] == "stop":
                break
            if message["event"] != "media":
                continue
            pcm = np.frombuffer(PCMU.decode(base64.b64decode(message["media"]["payload"])), "<i2")
            silent = 0 if np.abs(pcm.astype(int)).max() > LOUD else silent + 1
            if not speaking and silent == 0:
                speaking = True
                self.seen.first_sound.append(clock())
                if reply is not None:
                    reply.cancel()
                    self.seen.cleared.append(clock())
                    await socket.send('{"event": "clear", "streamSid": "x"}')
                    for _ in range(self.faults.stale_frames):
                        await self._media(socket, self._last)
            elif speaking and silent == SILENT_FRAMES:
                speaking = False
                if not self.faults.mute:
                    reply = asyncio.create_task(self._reply(socket))
        if reply is not None:
            reply.cancel()

    async def _reply(self, socket: ServerConnection) -> None:
        async with httpx.AsyncClient(base_url=self.models, timeout=None) as http:
            body = {"messages": [{"role": "user", "content": "?"}]}
            async with http.stream("POST", "/chat/completions", json=body) as writing:
                said, lines = "", writing.aiter_lines()
                async for line in lines:
                    if line.startswith("data: {"):
                        said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    if said.endswith("."):
                        break
                async with http.stream("POST", "/audio/speech", json={"input": said}) as speaking:
                    pieces = b""
                    async for piece in speaking.aiter_bytes():
                        pieces += piece
                        while len(pieces) >= 960 * 2:
                            await self._play(socket, pieces[: 960 * 2])
                            pieces = pieces[960 * 2 :]
                await socket.send(json.dumps({"event": "mark", "streamSid": "x", "mark": {"name": said}}))
                await asyncio.sleep(60)

    async def _play(self, socket: ServerConnection, pcm: bytes) -> None:
        """40 ms of 24 kHz."""
        samples = soxr.resample(np.frombuffer(pcm, "<i2"), 24_000, 8000)
        self._last = PCMU.encode(samples.astype("<i2").tobytes())
        await self._media(socket, self._last)
        await asyncio.sleep(0.02)
        if self.faults.pause:
            await asyncio.sleep(self.faults.pause)

    async def _media(self, socket: ServerConnection, codes: bytes) -> None:
        payload = base64.b64encode(codes).decode()
        await socket.send(json.dumps({"event": "media", "streamSid": "x", "media": {"payload": payload}}))
