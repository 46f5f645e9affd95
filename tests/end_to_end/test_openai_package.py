"""The ``openai`` package, unchanged, with its base URL pointed here."""

import asyncio
import base64
import json
from contextlib import ExitStack

import numpy as np
import pytest
from openai import AsyncOpenAI

from gateway.client_audio import load
from tests.product import running_product
from tests.speech import path as speech
from tests.workers.llm.llm_stand_in import DONE, Scripted, chunk, says

pytestmark = pytest.mark.end_to_end

FRAME = 480
"""20 ms."""


class Microphone:
    """Sends what is said, and silence in between, in real time."""

    def __init__(self, connection):
        self._connection = connection
        self._pending = np.zeros(0, np.int16)
        self._task = asyncio.create_task(self._send())

    def say(self, name):
        self._pending = load(speech(name))

    def close(self):
        self._task.cancel()

    async def _send(self):
        due = asyncio.get_running_loop().time()
        while True:
            frame, self._pending = self._pending[:FRAME], self._pending[FRAME:]
            pcm = np.concatenate([frame, np.zeros(FRAME - len(frame), np.int16)]).tobytes()
            await self._connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
            due += 0.02
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))


async def test_the_sdk_holds_a_spoken_conversation_with_barge_in(product):
    """client.realtime.connect: server VAD, a reply, an interruption, the next reply; no audio after a cancel."""
    client = AsyncOpenAI(api_key="any", base_url=f"{product.http}/v1")
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(
            session={
                "type": "realtime",
                "instructions": "Be brief.",
                "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 400}}},
            }
        )
        microphone = Microphone(connection)
        microphone.say("story")
        statuses, transcripts, audio_after, interrupted = {}, [], 0, False
        deltas: dict[str, int] = {}
        async with asyncio.timeout(60):
            async for event in connection:
                if event.type == "conversation.item.input_audio_transcription.completed":
                    transcripts.append(event.transcript)
                elif event.type == "response.output_audio.delta":
                    audio_after += event.response_id in statuses
                    samples = len(base64.b64decode(event.delta)) // 2
                    deltas[event.response_id] = deltas.get(event.response_id, 0) + samples
                    if not interrupted and deltas[event.response_id] > 24_000:
                        interrupted = True
                        microphone.say("time")
                elif event.type == "response.done":
                    statuses[event.response.id] = (event.response.status, event.response.status_details)
                    if len(statuses) == 2:
                        break
                elif event.type == "error":
                    raise AssertionError(event.error)
        microphone.close()
    (first, details), (second, _) = statuses.values()
    assert (first, details.reason, second) == ("cancelled", "turn_detected", "completed")
    assert audio_after == 0
    assert len(transcripts) == 2 and "story" in transcripts[0] and "time" in transcripts[1]


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "How the weather is in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def weather(city):
    return f"22 degrees and sunny in {city}"


def call_in_pieces(*arguments):
    """What a model server streams when its model calls the function."""
    begun = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in arguments]
    return says(*(chunk({"tool_calls": [piece]}) for piece in (begun, *pieces)), chunk(finish="tool_calls"))


async def test_the_sdk_calls_a_function_after_a_turn_and_a_barge_in(tmp_path):
    """A user's program against the product and a model server: a story, interrupted; the question that interrupted it
    is answered by a function of the program's, whose arguments come in pieces, and the model speaks of the result.
    """
    story = says(*(chunk(f"{word} ") for word in ("There was a lighthouse on a small island. " * 20).split()), DONE)
    model = Scripted(
        story, call_in_pieces('{"ci', 'ty": "Pa', 'ris"}'), says(chunk("It is 22 degrees and sunny in Paris."), DONE)
    )
    events, calls, spoken = [], [], ""
    with ExitStack() as cleanup:
        async with model:
            settings = {"LLM_ENGINE": "openai", "LLM_URL": model.url}
            product = await asyncio.to_thread(cleanup.enter_context, running_product(tmp_path, **settings))
            client = AsyncOpenAI(api_key="any", base_url=f"{product.http}/v1")
            async with asyncio.timeout(60), client.realtime.connect(model="any") as connection:
                await connection.session.update(session={"type": "realtime", "tools": [WEATHER]})
                microphone = Microphone(connection)
                microphone.say("story")
                async for event in connection:
                    events.append(event)
                    kinds = [each.type for each in events]
                    if event.type == "response.output_audio.delta" and kinds.count(event.type) == 50:
                        microphone.say("time")
                    elif event.type == "response.function_call_arguments.done":
                        calls.append(event)
                        output = weather(**json.loads(event.arguments))
                        item = {"type": "function_call_output", "call_id": event.call_id, "output": output}
                        await connection.conversation.item.create(item=item)
                        await connection.response.create()
                    elif event.type == "response.output_audio_transcript.done":
                        spoken = event.transcript
                    elif event.type == "response.done" and kinds.count(event.type) == 3:
                        break
                microphone.close()
            await asyncio.to_thread(cleanup.close)
            asked = [request.body["messages"] for request in model.requests if request.path == "/v1/chat/completions"]
    done = [event.response for event in events if event.type == "response.done"]
    assert [each.status for each in done] == ["cancelled", "completed", "completed"]
    assert done[0].status_details.reason == "turn_detected"
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert deltas == ['{"ci', 'ty": "Pa', 'ris"}'] and [call.arguments for call in calls] == ["".join(deltas)]
    assert spoken == "It is 22 degrees and sunny in Paris." and not [e for e in events if e.type == "error"]
    heard = next(message["content"] for message in asked[1] if message["role"] == "assistant")
    assert 0 < len(heard) < 400, "the model is shown what was heard of the story, and no more"
    assert asked[2][-1] == {"role": "tool", "tool_call_id": calls[0].call_id, "content": weather("Paris")}
