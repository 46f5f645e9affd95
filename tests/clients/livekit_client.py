"""livekit-plugins-openai: an AgentSession with a RealtimeModel. Talks, interrupts, and answers a function call.

Usage: python livekit_client.py URL KEY. Prints what it saw as one line of JSON.
"""

import asyncio
import json
import math
import struct
import sys
import time

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai

RATE = 24_000
seen = {"samples": 0, "interrupted": 0, "tools": [], "errors": [], "transcripts": [], "after": 0, "items": []}


class Microphone(io.AudioInput):
    """20 ms frames at their pace; silent but for what ``say`` asks for."""

    def __init__(self):
        super().__init__(label="tone")
        self.pending = 0
        self.due = time.monotonic()

    def say(self, seconds=0.8):
        self.pending = int(seconds * RATE)

    async def __anext__(self):
        self.due += 0.02
        await asyncio.sleep(max(0.0, self.due - time.monotonic()))
        count = min(480, self.pending)
        self.pending -= count
        wave = [int(12_000 * math.sin(2 * math.pi * 180 * n / RATE)) for n in range(count)] + [0] * (480 - count)
        return rtc.AudioFrame(struct.pack("<480h", *wave), RATE, 1, 480)


class Loudspeaker(io.AudioOutput):
    """Plays in real time, and says how much was played when it is interrupted."""

    def __init__(self):
        super().__init__(label="ear", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.captured = 0.0
        self.began = 0.0
        self.ending = None

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if not self.captured:
            self.began = time.time()
            self.on_playback_started(created_at=self.began)
        self.captured += frame.duration
        before = seen["samples"]
        seen["samples"] += frame.samples_per_channel
        if seen["tools"]:
            seen["after"] += frame.samples_per_channel
        if before < RATE <= seen["samples"]:
            microphone.say()
        if seen["after"] >= RATE:
            finished.set()

    def flush(self):
        super().flush()
        if self.captured:
            left = max(0.0, self.began + self.captured - time.time())
            self.ending = asyncio.get_running_loop().call_later(left, self.end, False)

    def clear_buffer(self):
        if self.ending is not None:
            self.ending.cancel()
        if self.captured:
            self.end(True)

    def end(self, interrupted):
        position = min(self.captured, time.time() - self.began) if interrupted else self.captured
        seen["interrupted"] += interrupted
        self.captured, self.ending = 0.0, None
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


@function_tool
async def weather(city: str) -> str:
    """The weather in a city."""
    seen["tools"].append(city)
    return "22 degrees"


async def main():
    global microphone, finished
    url, key = sys.argv[1:]
    finished, microphone = asyncio.Event(), Microphone()
    model = openai.realtime.RealtimeModel(base_url=url, api_key=key, model="any")
    session = AgentSession(llm=model, aec_warmup_duration=None)
    session.input.audio, session.output.audio = microphone, Loudspeaker()

    @session.on("user_input_transcribed")
    def _(event):
        if event.is_final:
            seen["transcripts"].append(event.transcript)

    @session.on("error")
    def _(event):
        seen["errors"].append(str(event.error))

    await session.start(Agent(instructions="Be brief.", tools=[weather]))
    microphone.say()
    try:
        await asyncio.wait_for(finished.wait(), 30)
    except TimeoutError:
        seen["errors"].append("timeout")
    seen["items"] = [
        [item.type, getattr(item, "role", ""), getattr(item, "interrupted", None)] for item in session.history.items
    ]
    print(json.dumps(seen), flush=True)
    await asyncio.wait_for(session.aclose(), 5)


asyncio.run(main())
