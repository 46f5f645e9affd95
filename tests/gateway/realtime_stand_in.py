"""A Realtime server that follows a script, for tests of clients.

Its clock is the caller's audio: for every 20 ms that arrive it takes one step, so it behaves the same at any speed.
Speech is any frame that is not silent. Replies are sent 200 ms ahead of real time, as the gateway does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

RATE = 24_000
STEP = 480
"""Samples of one step: 20 ms."""
LEAD = 10
"""Steps of audio sent ahead."""
ONSET = 2
"""Steps of speech after which it counts."""
END = 10
"""Steps of silence after which an utterance is over."""


SPEED = 8.0
"""How many times as fast as real calls those of the tests run."""


def tone(seconds: float, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    """What a caller says in a test: never silent."""
    return (np.sin(np.arange(round(seconds * rate)) * 0.1) * level * 32_767).astype("<i2") | 1


def ramp(seconds: float, start: int = 1) -> np.ndarray:
    """Audio in which every sample says where it belongs; never silent."""
    return ((np.arange(round(seconds * RATE)) + start) % 30_000 + 1).astype("<i2")


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{probe.getsockname()[1]}/v1/realtime"


@dataclass
class Scripted:
    """One reply, and what happens when the caller speaks over it."""

    pcm: np.ndarray
    text: str = "A scripted reply."
    verdict: str = "confirm"
    """confirm: cancelled 5 steps after the onset; resume: taken up again 5 steps after the onset."""
    stale: int = 0
    """Samples wrongly sent after the cancellation."""
    stale_while_held: int = 0
    status: str = "completed"
    lead: int = LEAD


class StandIn:
    """``async with StandIn(Scripted(...)) as server`` serves at ``server.url``."""

    def __init__(self, *script: Scripted, refuse: str = "", greet: list | None = None, hang_up_after: int = -1) -> None:
        self.script = script
        self.refuse = refuse
        """When set, every connection is answered 503 with this text."""
        self.greet = [{"type": "session.created", "session": {}}] if greet is None else greet
        """What is sent first: events, or text as it is."""
        self.hang_up_after = hang_up_after
        """Steps after which the server closes the connection."""
        self.received: list[dict] = []
        """Client events other than audio."""
        self.audio = bytearray()
        """The caller's audio."""

    async def __aenter__(self) -> StandIn:
        self._server = await serve(self._handle, "127.0.0.1", 0, process_request=self._door, compression=None)
        return self

    async def __aexit__(self, *exc_info) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/realtime?model=bargein"

    @property
    def extended_url(self) -> str:
        return self.url + "&extensions=bargein"

    def events(self, kind: str) -> list[dict]:
        """The client's events of a type."""
        return [event for event in self.received if event["type"] == kind]

    def _door(self, connection: ServerConnection, request):
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, self.refuse) if self.refuse else None

    async def _handle(self, socket: ServerConnection) -> None:
        extended = "bargein" in parse_qs(urlsplit(socket.request.path).query).get("extensions", [])
        line = Line(self, socket, extended)
        try:
            for event in self.greet:
                await socket.send(json.dumps(event) if isinstance(event, dict) else event)
            async for message in socket:
                event = json.loads(message)
                if event["type"] != "input_audio_buffer.append":
                    self.received.append(event)
                    await line.told(event)
                    continue
                pcm = base64.b64decode(event["audio"])
                self.audio += pcm
                for begin in range(0, len(pcm), STEP * 2):
                    await line.step(any(pcm[begin : begin + STEP * 2]))
        except ConnectionClosed:
            pass


class Line:
    """One connection: the turn taking of a server with voice activity detection, in the fewest states that do."""

    def __init__(self, server: StandIn, socket: ServerConnection, extended: bool) -> None:
        self._server = server
        self._socket = socket
        self._extended = extended
        self._script = iter(server.script)
        self._count = 0
        self._steps = self._loud = self._quiet = 0
        self._speaking = False
        self._reply: Scripted | None = None
        self._sent = 0
        self._held_at = -1
        self._played_ms: float | None = None
        self._resumed = False

    async def told(self, event: dict) -> None:
        if event["type"] == "bargein.output.played":
            self._played_ms = event["audio_end_ms"]

    async def step(self, loud: bool) -> None:
        self._steps += 1
        if self._steps == self._server.hang_up_after:
            # The closing handshake needs somebody to go on reading.
            self._closing = asyncio.create_task(self._socket.close(1011, "scripted end"))
        self._loud = self._loud + 1 if loud else 0
        self._quiet = 0 if loud else self._quiet + 1
        if not self._speaking and self._loud == ONSET:
            await self._onset()
        elif self._speaking and self._quiet == END:
            await self._end_of_speech()
        if self._held_at >= 0 and self._steps >= self._held_at + 5 and self._played_ms is not None:
            await self._decide()
        elif self._reply is not None and self._held_at < 0:
            await self._speak(STEP)

    async def send(self, kind: str, **fields) -> None:
        await self._socket.send(json.dumps({"event_id": "e", "type": kind, **fields}))

    @property
    def _names(self) -> dict:
        return {"response_id": f"resp_{self._count}", "item_id": f"item_{self._count}"}

    async def _onset(self) -> None:
        self._speaking = True
        await self.send("input_audio_buffer.speech_started", item_id=f"user_{self._count}", audio_start_ms=0)
        for text in ("how", "how", "how old"):
            if self._extended:
                await self.send("bargein.transcript.partial", item_id=f"user_{self._count}", text=text)
        if self._reply is None:
            return
        if self._extended:
            self._held_at, self._played_ms = self._steps, None
            await self.send("bargein.output.held", **self._names, onset_ms=self._sent * 1000 // RATE)
            await self._audio(self._reply.pcm[: self._reply.stale_while_held])
        else:
            await self._finish("cancelled")

    async def _decide(self) -> None:
        self._held_at = -1
        if self._reply.verdict == "resume":
            self._sent = round(self._played_ms * RATE / 1000)
            self._resumed = True
            await self.send("bargein.output.resumed", **self._names, audio_start_ms=self._played_ms)
            await self._speak(STEP * self._reply.lead)
        else:
            await self._finish("cancelled")

    async def _end_of_speech(self) -> None:
        self._speaking = False
        user = f"user_{self._count}"
        await self.send("input_audio_buffer.speech_stopped", item_id=user, audio_end_ms=0)
        if self._resumed:
            self._resumed = False
            return
        await self.send("conversation.item.input_audio_transcription.completed", item_id=user, transcript=" how old ")
        self._reply = next(self._script, None)
        if self._reply is None:
            return
        self._count += 1
        self._sent = 0
        name = self._names["response_id"]
        await self.send("response.created", response={"id": name, "status": "in_progress"})
        item = {"id": self._names["item_id"], "type": "message"}
        await self.send("response.output_item.added", response_id=name, item=item)
        await self.send("bargein.step", turn=self._count, step="first_out", at_ms=1, detail="")
        for word in self._reply.text.split(" "):
            await self.send("response.output_audio_transcript.delta", **self._names, delta=f"{word} ")
        await self._speak(STEP * self._reply.lead)

    async def _speak(self, samples: int) -> None:
        piece = self._reply.pcm[self._sent : self._sent + samples]
        self._sent += len(piece)
        await self._audio(piece)
        if self._sent == len(self._reply.pcm):
            await self._finish(self._reply.status)

    async def _audio(self, pcm: np.ndarray) -> None:
        if len(pcm):
            delta = base64.b64encode(pcm.tobytes()).decode()
            await self.send("response.output_audio.delta", **self._names, delta=delta)

    async def _finish(self, status: str) -> None:
        reply, self._reply = self._reply, None
        details = {"type": status, "reason": "turn_detected"} if status == "cancelled" else None
        await self.send("response.output_audio_transcript.done", **self._names, transcript=reply.text)
        response = {"id": self._names["response_id"], "status": status, "status_details": details}
        await self.send("response.done", response=response)
        if status == "cancelled":
            await self._audio(reply.pcm[: reply.stale])
