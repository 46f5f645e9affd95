"""A whole call by a client whose loudspeaker comes back through its microphone, at real time."""

import asyncio
import base64
import contextlib

import numpy as np
import pytest

from gateway import echo
from tests.gateway import echo_room
from tests.gateway.realtime_client import RATE, client
from tests.stack import running_stack
from workers.tts.engine import Chunk

pytestmark = pytest.mark.skipif(not echo.available(), reason="the extra is not installed: pip install bargein[echo]")

DELAY_S = 0.25
GAIN = 0.3


class Speaking:
    """A voice that says everything as the same recordings."""

    name = "speaking"
    capacity = 8
    rate = RATE
    voices = ()

    def __init__(self):
        self.samples = echo_room.spoken(["austen_0870"], ["thanks", "brooklyn", "story"], RATE)

    async def load(self):
        pass

    async def speak(self, text, voice, language, cancel):
        size = RATE // 20
        for start in range(0, len(self.samples), size):
            await asyncio.sleep(0)
            cancel.check()
            last = start + size >= len(self.samples)
            yield Chunk(self.samples[start : start + size].tobytes(), text if last else "", True)


async def loop_back(talk, began):
    """Play what comes as it comes, and send what the microphone hears of it, 20 ms at a time, for ever."""
    clock = asyncio.get_running_loop().time
    room = np.zeros(60 * RATE)
    rng, taken, end, sent = np.random.default_rng(1), 0, 0, 0
    while True:
        deltas = talk.all("response.output_audio.delta")
        for event in deltas[taken:]:
            pcm = np.frombuffer(base64.b64decode(event["delta"]), "<i2")
            start = max(end, int((clock() - began) * RATE))
            room[start : start + len(pcm)] = pcm
            end = start + len(pcm)
        taken = len(deltas)
        while sent + RATE // 50 <= int((clock() - began) * RATE):
            heard = rng.normal(size=RATE // 50) * 10
            past = sent - int(DELAY_S * RATE)
            if past >= 0:
                heard += GAIN * room[past : past + RATE // 50]
            sent += RATE // 50
            data = base64.b64encode(heard.astype("<i2").tobytes()).decode()
            await talk.send("input_audio_buffer.append", audio=data)
        await asyncio.sleep(0.01)


async def call(query):
    """How the greeting of a call ended, and whether the caller was heard to speak."""
    async with (
        running_stack(tts=Speaking(), greeting="Welcome.", record_calls=False) as stack,
        client(stack.ws + query) as talk,
    ):
        looping = asyncio.create_task(loop_back(talk, asyncio.get_running_loop().time()))
        try:
            done = await talk.get("response.done", limit=20)
            return done["response"]["status"], bool(talk.all("input_audio_buffer.speech_started"))
        finally:
            looping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looping


async def test_an_assistant_does_not_interrupt_itself():
    """A client that asks for ``echo=cancel`` hears the reply to its end, though it comes back a quarter of a second
    later; one that does not ask has it interrupted by itself."""
    assert await call("&echo=cancel") == ("completed", False)
    assert await call("") == ("cancelled", True)
