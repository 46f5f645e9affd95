"""pipecat-ai: a pipeline with its OpenAI Realtime service. Is greeted, interrupts, and answers a function call.

Usage: python pipecat_client.py URL KEY. Prints what it saw as one line of JSON.
"""

import asyncio
import json
import math
import struct
import sys

from loguru import logger
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime.events import SessionProperties
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

RATE = 24_000
seen = {"samples": 0, "interrupted": 0, "tools": [], "errors": [], "transcripts": [], "after": 0}
logger.remove()
logger.add(sys.stderr, level="WARNING")


class Ear(FrameProcessor):
    """Counts what comes out of the service."""

    def __init__(self, say, finished):
        super().__init__()
        self.say, self.finished = say, finished

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            before = seen["samples"]
            seen["samples"] += len(frame.audio) // 2
            if seen["tools"]:
                seen["after"] += len(frame.audio) // 2
            if before < RATE <= seen["samples"]:
                self.say()
            if seen["after"] >= RATE:
                self.finished.set()
        elif isinstance(frame, InterruptionFrame):
            seen["interrupted"] += 1
        elif isinstance(frame, ErrorFrame):
            seen["errors"].append(str(frame.error))
        await self.push_frame(frame, direction)


class Words(FrameProcessor):
    """Notes what the service understood, which it tells those before it."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            seen["transcripts"].append(frame.text)
        await self.push_frame(frame, direction)


async def main():
    url, key = sys.argv[1:]
    pending, finished = [0], asyncio.Event()

    def say():
        pending[0] = int(0.8 * RATE)

    async def weather(params):
        seen["tools"].append(params.arguments.get("city"))
        await params.result_callback({"degrees": 22})

    schema = FunctionSchema("weather", "The weather in a city.", {"city": {"type": "string"}}, ["city"])
    service = OpenAIRealtimeLLMService(
        api_key=key, base_url=url, session_properties=SessionProperties(instructions="Be brief.")
    )
    service.register_function("weather", weather)
    context = LLMContext([{"role": "user", "content": "Greet me."}], ToolsSchema(standard_tools=[schema]))
    pair = LLMContextAggregatorPair(context)
    ear = Ear(say, finished)
    pipeline = Pipeline([pair.user(), Words(), service, ear, pair.assistant()])
    task = PipelineTask(
        pipeline,
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        cancel_on_idle_timeout=False,
    )

    async def microphone():
        due = asyncio.get_running_loop().time()
        while True:
            count = min(480, pending[0])
            pending[0] -= count
            wave = [int(12_000 * math.sin(2 * math.pi * 180 * n / RATE)) for n in range(count)] + [0] * (480 - count)
            frame = InputAudioRawFrame(audio=struct.pack("<480h", *wave), sample_rate=RATE, num_channels=1)
            await task.queue_frame(frame)
            due += 0.02
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    await task.queue_frame(LLMRunFrame())
    talking = asyncio.create_task(microphone())
    try:
        await asyncio.wait_for(finished.wait(), 40)
    except TimeoutError:
        seen["errors"].append("timeout")
    talking.cancel()
    print(json.dumps(seen), flush=True)
    await task.cancel()
    await asyncio.wait([running], timeout=5)


asyncio.run(main())
