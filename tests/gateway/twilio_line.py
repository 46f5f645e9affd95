"""A phone line as Twilio's Media Streams have it, or Telnyx: plays out in real time, honours marks and clear."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import deque

import numpy as np
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.codecs import PCMA, PCMU
from tests.gateway.realtime_client import voice

RATE = 8000
FRAME = 160


class Playout:
    """What Twilio has buffered, and what the caller has heard. Pure: time is passed in (seconds)."""

    def __init__(self) -> None:
        self.played = bytearray()
        """Mu-law codes heard, without the silences between."""
        self.pieces: list[tuple[float, bytes]] = []
        """The same, each piece with when it was heard first."""
        self.buffered = 0
        """Codes waiting."""
        self._queue: deque[bytes | str] = deque()
        self._at = 0.0

    def media(self, codes: bytes, now: float) -> list[str]:
        """Audio to play after what waits; the marks that have come due until ``now``."""
        due = self.advance(now)
        if not self.buffered:
            self._at = now
        self._queue.append(codes)
        self.buffered += len(codes)
        return due

    def mark(self, name: str, now: float) -> list[str]:
        """A mark to send back when all before it was played."""
        self._queue.append(name)
        return self.advance(now)

    def clear(self, now: float) -> list[str]:
        """Empty the buffer; every mark in it is sent back."""
        due = self.advance(now)
        due += [each for each in self._queue if isinstance(each, str)]
        self._queue.clear()
        self.buffered = 0
        return due

    def advance(self, now: float) -> list[str]:
        """Play until ``now``; the marks that have come due."""
        due = []
        while self._queue:
            first = self._queue[0]
            if isinstance(first, str):
                due.append(first)
                self._queue.popleft()
                continue
            ready = min(len(first), int((now - self._at) * RATE + 1e-6))
            if ready <= 0:
                break
            self.played += first[:ready]
            self.pieces.append((self._at, first[:ready]))
            self.buffered -= ready
            self._at += ready / RATE
            if ready < len(first):
                self._queue[0] = first[ready:]
                break
            self._queue.popleft()
        return due


class Line:
    """One call, as Twilio's."""

    stream = "MZ1"
    call = "CA1"

    def __init__(self, socket) -> None:
        self.playout = Playout()
        self.messages: list[tuple[float, dict]] = []
        """(time, message) from the gateway."""
        self.at_clear: list[int] = []
        """Codes that were still buffered at each clear."""
        self._socket = socket
        self._clock = asyncio.get_running_loop().time
        self._number = 0
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._play())]

    async def send(self, event: str, **fields) -> None:
        self._number += 1
        await self._socket.send(json.dumps({"event": event, **self.names(self._number), **fields}))

    def names(self, number: int) -> dict:
        """What every message has."""
        return {"sequenceNumber": str(number), "streamSid": self.stream}

    def check(self, message: dict) -> None:
        """Raise unless the gateway's message is one that this line takes."""
        assert message["streamSid"] == self.stream

    async def start(self, **parameters) -> None:
        await self._socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        start = {"accountSid": "AC1", "callSid": self.call, "tracks": ["inbound"], "mediaFormat": form}
        await self.send("start", start={**start, "streamSid": self.stream, "customParameters": parameters})

    def encode(self, pcm: bytes) -> bytes:
        """The caller's audio as the line carries it."""
        return PCMU.encode(pcm)

    async def say(self, seconds: float = 0.8, silence: float = 0.8) -> None:
        """The caller speaks and falls silent, in frames of 20 ms at their pace."""
        pcm = np.frombuffer(voice(seconds) + bytes(int(silence * 24_000) * 2), "<i2")
        codes = self.encode(soxr.resample(pcm, 24_000, RATE).astype("<i2").tobytes())
        due = self._clock()
        for number, start in enumerate(range(0, len(codes), FRAME)):
            payload = base64.b64encode(codes[start : start + FRAME]).decode()
            media = {"track": "inbound", "chunk": str(number + 1), "timestamp": str(number * 20), "payload": payload}
            await self.send("media", media=media)
            due += 0.02
            await asyncio.sleep(max(0.0, due - self._clock()))

    async def until(self, condition, limit: float = 8.0) -> None:
        """Return once ``condition()`` holds; looked at whenever something has happened."""
        async with asyncio.timeout(limit):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def sent(self, event: str) -> list[dict]:
        return [message for _, message in self.messages if message["event"] == event]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _receive(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._socket:
                message, now = json.loads(text), self._clock()
                self.messages.append((now, message))
                self.check(message)
                if message["event"] == "media":
                    due = self.playout.media(base64.b64decode(message["media"]["payload"], validate=True), now)
                elif message["event"] == "mark":
                    due = self.playout.mark(message["mark"]["name"], now)
                else:
                    due = self.playout.advance(now)
                    self.at_clear.append(self.playout.buffered)
                    due += self.playout.clear(now)
                await self._back(due)

    async def _play(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            await self._back(self.playout.advance(self._clock()))

    async def _back(self, names: list[str]) -> None:
        for name in names:
            await self.send("mark", mark={"name": name})
        self._news.set()


class TelnyxLine(Line):
    """The same as Telnyx has it, by its documentation, in the bidirectional mode ``rtp`` with PCMU; it was never tried
    against Telnyx itself."""

    stream = "32DE0DEA-53CB-4B21-89A4-9E1819C043BC"
    call = "v3:9X2vxPDFY2RHSJ1EdMS0RHRksMTg7ldNxdjWbVr9zBjbGjGsSe-aiQ"
    encoding = "PCMU"

    def names(self, number: int) -> dict:
        return {"sequence_number": str(number), "stream_id": self.stream}

    def check(self, message: dict) -> None:
        assert not {"streamSid", "stream_id"} & message.keys()
        if message["event"] == "media":
            codes = base64.b64decode(message["media"]["payload"], validate=True)
            assert 160 <= len(codes) <= 30 * RATE, "20 ms to 30 s"

    def encode(self, pcm: bytes) -> bytes:
        return {"PCMU": PCMU, "PCMA": PCMA}[self.encoding].encode(pcm)

    async def start(self, **parameters) -> None:
        await self._socket.send(json.dumps({"event": "connected", "version": "1.0.0"}))
        form = {"encoding": self.encoding, "sample_rate": 8000, "channels": 1}
        start = {"user_id": "3E6F995F", "call_control_id": self.call, "from": "+15550100", "to": "+15550199"}
        start |= {"call_session_id": "ff55a038", "media_format": form, "custom_parameters": parameters}
        await self.send("start", start=start)


@contextlib.asynccontextmanager
async def line(url: str, *, kind: type[Line] = Line, **parameters):
    """A call that has started; ``parameters`` are its custom ones."""
    async with connect(url, max_size=None) as socket:
        call = kind(socket)
        try:
            await call.start(**parameters)
            yield call
        finally:
            call.close()
