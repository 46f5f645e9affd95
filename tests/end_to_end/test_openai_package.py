"""The ``openai`` package, unchanged, with its base URL pointed here."""

import asyncio
import base64

import numpy as np
import pytest
from openai import AsyncOpenAI

from gateway.client_audio import load
from tests.speech import path as speech

pytestmark = pytest.mark.end_to_end

FRAME = 480


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
        said: asyncio.Queue = asyncio.Queue()

        async def microphone():
            due = asyncio.get_running_loop().time()
            pending = np.zeros(0, np.int16)
            while True:
                if not len(pending) and not said.empty():
                    pending = said.get_nowait()
                frame, pending = pending[:FRAME], pending[FRAME:]
                pcm = np.concatenate([frame, np.zeros(FRAME - len(frame), np.int16)]).tobytes()
                await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
                due += 0.02
                await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))

        sending = asyncio.create_task(microphone())
        said.put_nowait(load(speech("story")))
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
                        said.put_nowait(load(speech("time")))
                elif event.type == "response.done":
                    statuses[event.response.id] = (event.response.status, event.response.status_details)
                    if len(statuses) == 2:
                        break
                elif event.type == "error":
                    raise AssertionError(event.error)
        sending.cancel()
    (first, details), (second, _) = statuses.values()
    assert (first, details.reason, second) == ("cancelled", "turn_detected", "completed")
    assert audio_after == 0
    assert len(transcripts) == 2 and "story" in transcripts[0] and "time" in transcripts[1]
