"""A caller on the phone, as Twilio connects one: TwiML says where its audio goes, and again when a stream has broken.

Twilio sends nothing twice, and what it has buffered when a stream breaks is not heard.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import Any
from xml.etree import ElementTree

import httpx2
import numpy as np
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from benchmarks import numbered
from gateway.codecs import PCMU
from tests.chaos.caller import Story
from tests.chaos.recorded import RATE, RecordedCaller, Words
from tests.gateway.twilio_line import FRAME, Playout
from tests.gateway.twilio_line import RATE as LINE

FRAME_S = FRAME / LINE


class PhoneCaller(RecordedCaller):
    """One call."""

    async def run(self) -> Story:
        self.story.call = f"CA{secrets.token_hex(16)}"
        self._codes = PCMU.encode(soxr.resample(self.script(), RATE, LINE).astype("<i2").tobytes())
        self._heard: list[tuple[float, bytes]] = []
        streams = 0
        try:
            twiml = await self._ask("voice")
            self._began = self._clock()
            while (stream := twiml.find("Connect/Stream")) is not None and not self._over:
                streams += 1
                await self._stream(stream, f"MZ{streams}")
                if not self._over:
                    twiml = await self._ask("after")
            if not self._over:
                self.story.ended = f"Twilio is told: {ElementTree.tostring(twiml).decode()}"
        except (OSError, InvalidHandshake, httpx2.HTTPError, ElementTree.ParseError) as error:
            self.story.ended = f"{type(error).__name__}: {error}"
        finally:
            self.begun.set()
        # What is said is understood by nobody while the stream is broken; its clock goes on.
        self.judge(_words([(0.0, self._codes)]), _words(self._heard), streams - 1)
        return self.story

    @property
    def _at(self) -> float:
        """Seconds of the call."""
        return self._clock() - self._began

    @property
    def _over(self) -> bool:
        return self._at * LINE >= len(self._codes)

    async def _ask(self, what: str) -> ElementTree.Element:
        """The TwiML that the gateway answers with."""
        address = self.url.replace("ws://", "http://").partition("/v1")[0]
        async with httpx2.AsyncClient(timeout=15) as http:
            answer = await http.post(f"{address}/twilio/{what}", data={"CallSid": self.story.call})
        return ElementTree.fromstring(answer.text)

    async def _stream(self, told: ElementTree.Element, name: str) -> None:
        """One stream, to its end or the call's."""
        parameters = {each.attrib["name"]: each.attrib["value"] for each in told.iter("Parameter")}
        playout = Playout()
        try:
            async with connect(told.attrib["url"], max_size=None, compression=None) as socket:

                async def send(event: str, **fields: Any) -> None:
                    await socket.send(json.dumps({"event": event, "streamSid": name, **fields}))

                async def play() -> None:
                    while True:
                        await asyncio.sleep(0.01)
                        for mark in playout.advance(self._at):
                            await send("mark", mark={"name": mark})

                async def receive() -> None:
                    async for text in socket:
                        message = json.loads(text)
                        if message["event"] == "media":
                            due = playout.media(base64.b64decode(message["media"]["payload"]), self._at)
                        elif message["event"] == "mark":
                            due = playout.mark(message["mark"]["name"], self._at)
                        else:
                            due = playout.clear(self._at)
                        for mark in due:
                            await send("mark", mark={"name": mark})

                await send("start", start={"callSid": self.story.call, "customParameters": parameters})
                self.begun.set()
                tasks = [asyncio.create_task(play()), asyncio.create_task(receive())]
                try:
                    await self._speak(send)
                    await send("stop")
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        except ConnectionClosed:
            pass
        finally:
            self._heard += playout.pieces

    async def _speak(self, send: Any) -> None:
        """Send the microphone's frames, each when it is due. Raises ConnectionClosed."""
        while not self._over:
            place = int(self._at / FRAME_S)
            payload = self._codes[place * FRAME : (place + 1) * FRAME]
            await send("media", media={"track": "inbound", "payload": base64.b64encode(payload).decode()})
            await asyncio.sleep(max(0.0, (place + 1) * FRAME_S - self._at))


def _words(pieces: list[tuple[float, bytes]]) -> Words:
    """What sounded in pieces of mu-law, each with when it began (s)."""
    if not pieces:
        return []
    end = max(round(at * LINE) + len(codes) for at, codes in pieces)
    pcm = np.zeros(end, np.int16)
    for at, codes in pieces:
        begin = round(at * LINE)
        pcm[begin : begin + len(codes)] = np.frombuffer(PCMU.decode(codes), "<i2")
    return [(number, float(at)) for number, at in numbered.placed(pcm, LINE)]
