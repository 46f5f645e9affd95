"""A stand-in for the gateway, for the page's own test and for working on the page.

It serves the page, ``/ready`` and ``/v1/realtime``, and says over the socket exactly what it is told to. It knows
nothing of speech. ``python -m tests.end_to_end.page_stand_in 8099`` serves a scripted conversation in which the
assistant counts and is interrupted after the caller's first seconds, on http://127.0.0.1:8099.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

PAGE = Path(__file__).parents[2] / "gateway" / "page"
RATE = 24_000
CHUNK_MS = 40
LEAD_MS = 200
ALL_READY = {
    "stt": [{"worker": "stt-1", "engine": "pocketsphinx"}],
    "llm": [{"worker": "llm-1", "engine": "demo"}],
    "tts": [{"worker": "tts-1", "engine": "espeak"}],
}


def ms_of(samples: int) -> float:
    """Milliseconds of so many samples at 24 kHz."""
    return samples * 1000 / RATE


class StandInCall:
    """One connection of the page: what it sent, and the means to say something to it."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.received = bytearray()
        self.append_sizes: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self._changed = asyncio.Condition()
        self._ids = itertools.count(1)

    async def send(self, kind: str, **fields: Any) -> None:
        """One server event with an ``event_id``."""
        await self.socket.send_json({"type": kind, "event_id": f"event_{next(self._ids)}", **fields})

    async def greet(self, session: str = "s0-0123456789ab", **more: Any) -> None:
        """What every connection begins with; ``more``: further fields of bargein.session."""
        await self.send("session.created", session={"type": "realtime", "id": "sess_1"})
        await self.send("bargein.session", session_id=session, **more)

    async def read(self) -> None:
        """Take what the page sends until it goes away."""
        try:
            while True:
                event = await self.socket.receive_json()
                async with self._changed:
                    if event["type"] == "input_audio_buffer.append":
                        pcm = base64.b64decode(event["audio"], validate=True)
                        self.append_sizes.append(len(pcm))
                        self.received += pcm
                    else:
                        self.events.append(event)
                    self._changed.notify_all()
        except (WebSocketDisconnect, RuntimeError):
            self.ended.set()

    async def until(self, condition: Callable[[], Any], limit: float = 10.0) -> Any:
        """The condition's value once it is true; asked again whenever the page sent something. TimeoutError."""
        async with asyncio.timeout(limit), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))
            return condition()

    async def event(self, kind: str, limit: float = 10.0) -> dict[str, Any]:
        """The latest event of a type, waiting for the first one."""
        await self.until(lambda: any(event["type"] == kind for event in self.events), limit)
        return next(event for event in reversed(self.events) if event["type"] == kind)

    @property
    def received_ms(self) -> float:
        """How much audio came, in ms."""
        return ms_of(len(self.received) // 2)

    @property
    def audio(self) -> np.ndarray:
        """All audio that came, as floats -1..1 at 24 kHz."""
        return np.frombuffer(bytes(self.received), dtype="<i2").astype(np.float32) / 32768

    async def started(self, response: str) -> None:
        """The events that open a response."""
        item = f"item_{response}"
        await self.send("response.created", response={"id": response, "status": "in_progress", "output": []})
        await self.send(
            "response.output_item.added",
            response_id=response,
            output_index=0,
            item={"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []},
        )
        await self.send(
            "response.content_part.added",
            response_id=response,
            item_id=item,
            output_index=0,
            content_index=0,
            part={"type": "audio"},
        )

    async def deltas(
        self,
        response: str,
        audio: np.ndarray,
        words: Sequence[tuple[float, str]] = (),
        start: int = 0,
        lead_ms: float = LEAD_MS,
        first_ms: int = CHUNK_MS,
    ) -> None:
        """Audio from sample ``start`` on, paced at real time with a lead of ``lead_ms``, ``first_ms`` in one piece.

        ``words`` are (ms at which its sound is complete, text); those before ``start`` are taken as sent.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        size, first = RATE * CHUNK_MS // 1000, RATE * first_ms // 1000
        words = [word for word in words if word[0] * RATE / 1000 > start]
        for offset in [start, *range(start + first, len(audio), size)]:
            ahead = ms_of(offset - start) - (clock() - began) * 1000
            if ahead > lead_ms:
                await asyncio.sleep((ahead - lead_ms) / 1000)
            end = offset + (first if offset == start else size)
            await self.delta(response, audio[offset:end])
            while words and words[0][0] <= ms_of(end):
                await self.words(response, words.pop(0)[1])

    async def delta(self, response: str, audio: np.ndarray) -> None:
        """One piece of audio, floats -1..1 at 24 kHz."""
        pcm = np.round(audio * 32767).astype("<i2").tobytes()
        await self.send(
            "response.output_audio.delta",
            response_id=response,
            item_id=f"item_{response}",
            output_index=0,
            content_index=0,
            delta=base64.b64encode(pcm).decode(),
        )

    async def words(self, response: str, text: str) -> None:
        """Words of a response, as they are spoken."""
        await self.send(
            "response.output_audio_transcript.delta",
            response_id=response,
            item_id=f"item_{response}",
            output_index=0,
            content_index=0,
            delta=text,
        )

    async def done(self, response: str, status: str = "completed", **details: Any) -> None:
        """The events that close a response."""
        place = {"response_id": response, "item_id": f"item_{response}", "output_index": 0, "content_index": 0}
        await self.send("response.output_audio.done", **place)
        body: dict[str, Any] = {"id": response, "status": status, "output": []}
        if details:
            body["status_details"] = {"type": status, **details}
        await self.send("response.done", response=body)

    async def held(self, response: str, onset_ms: float) -> dict[str, Any]:
        """Hold a response; the page's answer."""
        before = sum(event["type"] == "bargein.output.played" for event in self.events)
        item = f"item_{response}"
        await self.send("bargein.output.held", response_id=response, item_id=item, onset_ms=onset_ms)
        await self.until(lambda: sum(e["type"] == "bargein.output.played" for e in self.events) > before)
        return await self.event("bargein.output.played")

    async def resumed(self, response: str, start_ms: float) -> None:
        """Take a hold back."""
        item = f"item_{response}"
        await self.send("bargein.output.resumed", response_id=response, item_id=item, audio_start_ms=start_ms)

    async def speech_started(self, item: str) -> None:
        """The caller began to speak."""
        await self.send("input_audio_buffer.speech_started", item_id=item, audio_start_ms=int(self.received_ms))

    async def speech_stopped(self, item: str) -> None:
        """The caller fell silent."""
        await self.send("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=int(self.received_ms))

    async def partial(self, item: str, text: str) -> None:
        """What is understood so far."""
        await self.send("bargein.transcript.partial", item_id=item, text=text)

    async def final(self, item: str, text: str) -> None:
        """What was understood."""
        await self.send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item,
            content_index=0,
            transcript=text,
        )

    async def step(self, turn: int, step: str, at_ms: float) -> None:
        """One moment of a turn."""
        await self.send("bargein.step", turn=turn, step=step, at_ms=at_ms, detail="")

    async def hang_up(self, code: int, reason: str = "") -> None:
        """End the connection from the server's side."""
        await self.socket.close(code, reason)


Script = Callable[[StandInCall], Coroutine[Any, Any, None]]


class StandIn:
    """The server. ``refuse`` answers a call with 503, ``complaint`` with an error event and close code 1013.

    ``stages`` is what ``/ready`` says.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script
        self.stages: dict[str, list[dict[str, str]]] = dict(ALL_READY)
        self.refuse = False
        self.refusals: asyncio.Queue[int] = asyncio.Queue()
        self.complaint: str | None = None
        self.resume_s = 0.0
        """Seconds for which sessions are kept; one that is come back to has no response that goes on."""
        self.calls: asyncio.Queue[StandInCall] = asyncio.Queue()
        self.port = 0
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/ready", self._ready),
                Mount("/page", StaticFiles(directory=PAGE)),
                WebSocketRoute("/v1/realtime", self._realtime),
            ]
        )

    async def _index(self, _request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def _ready(self, _request: Request) -> Response:
        ready = all(self.stages.values())
        return JSONResponse({"ready": ready, "stages": self.stages}, 200 if ready else 503)

    async def _realtime(self, socket: WebSocket) -> None:
        if self.refuse:
            self.refusals.put_nowait(503)
            await socket.send_denial_response(PlainTextResponse("not ready", 503))
            return
        await socket.accept()
        call = StandInCall(socket)
        if self.complaint is not None:
            await call.send("error", error={"type": "server_error", "code": "full", "message": self.complaint})
            await call.hang_up(1013)
            return
        reader = asyncio.create_task(call.read())
        resumed = (
            {"resumed": True, "audio_end_ms": 0, "response_id": None} if "session_id" in socket.query_params else {}
        )
        await call.greet(resume_s=self.resume_s, **resumed)
        self.calls.put_nowait(call)
        if self.script is not None:
            script = asyncio.create_task(self.script(call))
            await call.ended.wait()
            script.cancel()
        await reader

    async def call(self, limit: float = 15.0) -> StandInCall:
        """The next call that comes."""
        async with asyncio.timeout(limit):
            return await self.calls.get()

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[StandIn]:
        """Serve on a port (0: a free one) until the block ends."""
        config = uvicorn.Config(self.app, host, port, log_level="warning", ws_per_message_deflate=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                raise RuntimeError(f"the stand-in cannot listen on {host}:{port}")
            await asyncio.sleep(0.01)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.should_exit = True
            await task


def babble(seconds: float, seed: int = 1) -> np.ndarray:
    """Something with the envelope of speech: syllables of 120 to 280 ms on a falling tone, floats at 24 kHz."""
    random = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        length = int(RATE * random.uniform(0.12, 0.28))
        time = np.arange(length) / RATE
        pitch = random.uniform(110, 180) * (1 - 0.4 * time)
        voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
        shape = np.sin(np.pi * np.arange(length) / length) ** 1.3 * random.uniform(0.04, 0.35)
        parts += [voice * shape, np.zeros(int(RATE * random.choice([0.01, 0.03, 0.03, 0.22])))]
    return np.concatenate(parts)[: int(seconds * RATE)]


def spread(text: str, seconds: float) -> list[tuple[float, str]]:
    """A text's words over a duration, each at the ms at which its sound is complete."""
    words = text.split(" ")
    lengths = np.cumsum([len(word) + 2 for word in words])
    times = lengths / lengths[-1] * seconds * 1000
    return [(float(at), word if n == 0 else f" {word}") for n, (at, word) in enumerate(zip(times, words, strict=True))]


STORY = (
    "The Brooklyn Bridge opened on the twenty-fourth of May, 1883, after fourteen years of work. "
    "It was the first bridge hung on steel wire, and for twenty years nothing on earth spanned further."
)


async def demonstration(call: StandInCall) -> None:
    """A conversation with a taken-back and a confirmed interruption, whatever the caller says."""
    await call.until(lambda: call.received_ms > 800)
    await utterance(call, "user_1", "how old is the brooklyn bridge")
    for step, at in [("end_of_speech", 2400), ("final_text", 2520), ("first_sentence", 2760), ("first_audio", 2985)]:
        await call.step(1, step, at)
    audio, words = babble(13), spread(STORY, 13)
    await call.started("r1")
    playing = asyncio.create_task(call.deltas("r1", audio, words))
    await call.step(1, "first_out", 2991)
    await asyncio.sleep(3.2)
    playing.cancel()
    await call.speech_started("user_2")
    played = await call.held("r1", call.received_ms - 30)
    await call.partial("user_2", "mm-hmm")
    await asyncio.sleep(0.5)
    await call.speech_stopped("user_2")
    start = round(played["audio_end_ms"] * RATE / 1000)
    await call.resumed("r1", played["audio_end_ms"])
    playing = asyncio.create_task(call.deltas("r1", audio, words, start))
    await call.final("user_2", "mm-hmm")
    await asyncio.sleep(2.6)
    playing.cancel()
    await call.speech_started("user_3")
    await call.held("r1", call.received_ms - 35)
    await call.partial("user_3", "stop")
    await asyncio.sleep(0.4)
    await call.done("r1", "cancelled", reason="turn_detected")
    await utterance(call, "user_3", "stop and tell me who built it", begun=True)
    for step, at in [("end_of_speech", 9900), ("final_text", 9990), ("first_sentence", 10310), ("first_audio", 10520)]:
        await call.step(2, step, at)
    text = "John Roebling drew it; his son Washington and Emily Roebling saw it built."
    await call.started("r2")
    await call.step(2, "first_out", 10527)
    await call.deltas("r2", babble(6, seed=4), spread(text, 6))
    await call.done("r2")


async def utterance(call: StandInCall, item: str, text: str, begun: bool = False) -> None:
    """The caller says something, word by word."""
    if not begun:
        await call.speech_started(item)
    words = text.split(" ")
    for count in range(1, len(words) + 1):
        await call.partial(item, " ".join(words[:count]))
        await asyncio.sleep(0.25)
    await call.speech_stopped(item)
    await asyncio.sleep(0.12)
    await call.final(item, text)
    await asyncio.sleep(0.4)


async def _main(port: int) -> None:
    async with StandIn(demonstration).serve(port=port):
        print(f"http://127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 8099))
    except KeyboardInterrupt:
        pass
