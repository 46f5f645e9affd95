"""LiveKit Agents without a LiveKit server: an AgentSession for each Twilio stream, with its defaults and VAD turns.

Usage: python livekit_server.py PORT MODELS. MODELS is the address of the scripted models. What is this file's own is
the line: the caller's audio as an AudioInput, and Twilio's buffer as an AudioOutput, which is sent everything at once,
says by a mark when a reply has been played, and is emptied by ``clear``.
"""

import asyncio
import base64
import json
import sys
import time

import numpy as np
from aiohttp import WSMsgType, web
from livekit import rtc
from livekit.agents import Agent, AgentSession, utils
from livekit.agents.voice import io
from livekit.plugins import openai

RATE = 8000
port, models = int(sys.argv[1]), sys.argv[2]


def _decoded() -> np.ndarray:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype("<i2")


def _encoded() -> np.ndarray:
    sample = np.arange(65536).astype("<u2").view("<i2").astype(np.int32) >> 2
    magnitude = np.minimum(np.abs(sample), 8159) + 33
    segment = np.searchsorted(np.array([0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF]), magnitude)
    code = np.where(segment >= 8, 0x7F, (segment << 4) | ((magnitude >> (segment + 1)) & 0x0F))
    return (code ^ np.where(sample < 0, 0x7F, 0xFF)).astype(np.uint8)


SAMPLE, CODE = _decoded(), _encoded()


class Microphone(io.AudioInput):
    """What the caller says."""

    def __init__(self) -> None:
        super().__init__(label="twilio")
        self._frames: utils.aio.Chan[rtc.AudioFrame] = utils.aio.Chan()

    def hear(self, codes: bytes) -> None:
        pcm = SAMPLE[np.frombuffer(codes, np.uint8)].tobytes()
        self._frames.send_nowait(rtc.AudioFrame(pcm, RATE, 1, len(codes)))

    def end(self) -> None:
        self._frames.close()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.__anext__()


class Buffer(io.AudioOutput):
    """Twilio's buffer."""

    def __init__(self, send) -> None:
        super().__init__(label="twilio", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self._send = send
        self._began = self._sent = 0.0
        self._marks = 0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._sent:
            self._began = time.time()
            self.on_playback_started(created_at=self._began)
        self._sent += frame.duration
        payload = base64.b64encode(CODE[np.frombuffer(frame.data, "<u2")].tobytes()).decode()
        self._send("media", {"payload": payload})

    def flush(self) -> None:
        super().flush()
        if self._sent:
            self._marks += 1
            self._send("mark", {"name": str(self._marks)})

    def clear_buffer(self) -> None:
        self._send("clear", None)
        self._marks += 1  # those that are out were not played
        self._end(interrupted=True)

    def marked(self, name: str) -> None:
        if name == str(self._marks):
            self._end(interrupted=False)

    def _end(self, interrupted: bool) -> None:
        if self._sent:
            played = min(self._sent, time.time() - self._began) if interrupted else self._sent
            self._sent = 0.0
            self.on_playback_finished(playback_position=played, interrupted=interrupted)


async def call(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    stream, session = "", None
    microphone = Microphone()

    waiting: utils.aio.Chan[str] = utils.aio.Chan()

    def send(event: str, value: dict[str, str] | None) -> None:
        waiting.send_nowait(json.dumps({"event": event, "streamSid": stream, **({event: value} if value else {})}))

    async def forward() -> None:
        async for text in waiting:
            await socket.send_str(text)

    forwarding = asyncio.create_task(forward())
    buffer = Buffer(send)
    try:
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                break
            told = json.loads(message.data)
            if told["event"] == "media":
                microphone.hear(base64.b64decode(told["media"]["payload"]))
            elif told["event"] == "mark":
                buffer.marked(told["mark"]["name"])
            elif told["event"] == "start":
                stream = told["start"]["streamSid"]
                session = AgentSession(
                    stt=openai.STT(api_key="none", base_url=models, model="whisper-1"),
                    llm=openai.LLM(api_key="none", base_url=models, model="default"),
                    tts=openai.TTS(api_key="none", base_url=models, response_format="pcm"),
                    turn_handling={"turn_detection": "vad"},
                    aec_warmup_duration=None,  # a phone line has no echo to be waited for
                )
                session.input.audio, session.output.audio = microphone, buffer
                await session.start(Agent(instructions="You are a friendly voice assistant on the phone."))
            elif told["event"] == "stop":
                break
    finally:
        microphone.end()
        forwarding.cancel()
        if session is not None:
            await session.aclose()
    return socket


async def ready(request: web.Request) -> web.Response:
    return web.json_response({"ready": True})


app = web.Application()
app.add_routes([web.get("/", call), web.get("/ready", ready)])
web.run_app(app, host="127.0.0.1", port=port, print=None)
