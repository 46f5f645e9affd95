"""A phone call as Twilio's Media Streams carry it, at a caller who interrupts every reply.

Frames of 20 ms mu-law go out in real time. What comes back is played out in real time: marks return when they have been
played, ``clear`` empties the buffer. Times are monotonic seconds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.peers import coded
from benchmarks.peers.hearing import Hearing
from gateway.client_audio import PER_MS, load, sounding
from gateway.codecs import PCMU

FRAME_S = 0.02
NOISE = 16
"""Amplitude (standard deviation) of what a line sounds like when nobody speaks: -66 dBFS."""
PATIENCE = 10.0
"""Seconds from the end of what the caller says within which the reply must begin."""
LONGEST = 60.0
"""Seconds that a sentence may take."""
LISTENS = (0.6, 1.4)
"""Seconds of a reply that are heard before it is interrupted, from and to."""


def in_frames(codes: bytes) -> list[str]:
    """Mu-law in frames of 20 ms, as a message carries them."""
    padded = codes + b"\xff" * (-len(codes) % coded.FRAME)
    pieces = (padded[at : at + coded.FRAME] for at in range(0, len(padded), coded.FRAME))
    return [base64.b64encode(piece).decode() for piece in pieces]


def _quiet() -> list[str]:
    """A second of a line on which nobody speaks."""
    noise = np.random.default_rng(1).normal(0, NOISE, PCMU.rate)
    return in_frames(PCMU.encode(np.rint(noise).astype("<i2").tobytes()))


QUIET = _quiet()


@dataclass(frozen=True)
class Speech:
    """A sentence of the caller's: its frames, and the seconds of sound, from the first sample on."""

    frames: Sequence[str]
    seconds: float

    @classmethod
    def load(cls, file: Path) -> Speech:
        """A sound file, without the silence around what is said. Raises AudioError."""
        pcm = load(file)
        begin, end = (int(ms * PER_MS) for ms in sounding(pcm))
        codes = PCMU.encode(soxr.resample(pcm[begin:end], 1000 * PER_MS, PCMU.rate).astype("<i2").tobytes())
        return cls(in_frames(codes), len(codes) / PCMU.rate)

    @property
    def last(self) -> float:
        """Seconds of sound in the last frame."""
        return self.seconds - (len(self.frames) - 1) * FRAME_S


class Phone:
    """One call."""

    def __init__(self, url: str, sentences: Sequence[Speech], name: str, rng: random.Random) -> None:
        """``name`` is Twilio's for the stream; what is said is drawn from ``sentences``."""
        self.hearing = Hearing()
        self.late: list[float] = []
        """Seconds by which frames left after their time."""
        self.broken = ""
        """Why the call ended before its time."""
        self.first_reply = asyncio.Event()
        """Set when a reply began for the first time."""
        self.until = float("inf")
        """When nothing more is said."""
        self._url, self._sentences, self._name, self._rng = url, sentences, name, rng
        self._clock = time.monotonic
        self._sentence = sentences[0]
        self._saying: deque[str] = deque()
        self._news = asyncio.Event()
        self._number = 0

    async def run(self) -> None:
        """Call, and talk until ``until``; the reply to what was said last is still waited for."""
        try:
            async with connect(self._url, compression=None, ping_interval=None, proxy=None) as socket:
                await self._start(socket)
                talking = asyncio.create_task(self.talk())
                tasks = [asyncio.create_task(self._speak(socket)), asyncio.create_task(self._receive(socket)), talking]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    if talking.done():
                        talking.result()
                        await socket.send(json.dumps({"event": "stop", "streamSid": self._name, "stop": {}}))
                    else:
                        self.broken = "the server closed the call"
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, WebSocketException) as error:
            self.broken = str(error) or type(error).__name__

    async def talk(self) -> None:
        """What the caller does: says something, hears a while of the reply, and interrupts it."""
        while True:
            await self.say(self._rng.choice(self._sentences))
            if self._clock() >= self.until:
                return
            await asyncio.sleep(self._rng.uniform(*LISTENS))
            if self._clock() >= self.until:
                return

    async def say(self, sentence: Speech) -> None:
        """Say it, and wait for the reply's first sound, PATIENCE at most."""
        turn = self.hearing.say(self._clock())
        self._sentence, self._saying = sentence, deque(sentence.frames)
        await self.when(lambda: turn.end, LONGEST)
        await self.when(lambda: turn.answered, PATIENCE)

    async def when(self, condition: Callable[[], object], limit: float) -> None:
        """Return once the condition holds, or ``limit`` seconds later."""
        try:
            async with asyncio.timeout(limit):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    def heard(self, codes: bytes, now: float) -> None:
        """Audio has come."""
        if self.hearing.media(codes, now):
            self.first_reply.set()
            self._news.set()

    async def _start(self, socket: ClientConnection) -> None:
        await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        form = {"encoding": "audio/x-mulaw", "sampleRate": PCMU.rate, "channels": 1}
        names = {"accountSid": "AC1", "streamSid": self._name, "callSid": f"CA{self._name}"}
        start = {**names, "tracks": ["inbound"], "mediaFormat": form, "customParameters": {}}
        head = {"event": "start", "sequenceNumber": "1", "streamSid": self._name}
        await socket.send(json.dumps({**head, "start": start}))

    async def _speak(self, socket: ClientConnection) -> None:
        due = self._clock() + self._rng.random() * FRAME_S
        before = f'{{"event":"media","streamSid":"{self._name}","media":{{"track":"inbound","chunk":"'
        while True:
            due += FRAME_S
            await asyncio.sleep(due - self._clock())
            now = self._clock()
            self.late.append(now - due)
            self._number += 1
            payload = self._frame(now) if self._saying else QUIET[self._number % len(QUIET)]
            tail = f'"timestamp":"{self._number * 20}","payload":"{payload}"}},"sequenceNumber":"{self._number + 1}"}}'
            await socket.send(f'{before}{self._number}",{tail}')
            await self._back(socket, self.hearing.line.due(now))

    def _frame(self, now: float) -> str:
        """The next frame of what is said, whose last sample was spoken just now."""
        turn, frame = self.hearing.turns[-1], self._saying.popleft()
        if not turn.onset:
            turn.onset = now - FRAME_S
        if not self._saying:
            turn.end = now - FRAME_S + self._sentence.last
            self._news.set()
        return frame

    async def _receive(self, socket: ClientConnection) -> None:
        async for text in socket:
            message, now = json.loads(text), self._clock()
            if message["event"] == "media":
                self.heard(base64.b64decode(message["media"]["payload"]), now)
            elif message["event"] == "mark":
                self.hearing.line.mark(message["mark"]["name"])
            elif message["event"] == "clear":
                await self._back(socket, self.hearing.clear(now))

    async def _back(self, socket: ClientConnection, names: list[str]) -> None:
        for name in names:
            await socket.send(json.dumps({"event": "mark", "streamSid": self._name, "mark": {"name": name}}))
