"""Pipecat as its ``pipecat init`` writes a Twilio bot: FastAPI, TwilioFrameSerializer, Silero, and its default turns.

Usage: python pipecat_server.py PORT MODELS [SILENCE]. MODELS is the address of the scripted models. With SILENCE (s) a
turn ends after so much of it (SpeechTimeoutUserTurnStopStrategy), instead of by the default smart-turn model.
"""

import sys

import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

STT_P99 = 0.2
"""Seconds that the scripted recogniser takes at most: Pipecat asks its users to say so (default: OpenAI's 2 s)."""

port, models = int(sys.argv[1]), sys.argv[2]
silence = float(sys.argv[3]) if len(sys.argv) > 3 else None
app = FastAPI()
logger.remove()
logger.add(sys.stderr, level="WARNING")


def turns() -> UserTurnStrategies | None:
    """None: Pipecat's default, Silero and smart-turn."""
    if silence is None:
        return None
    return UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=silence)])


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.websocket("/")
async def call(websocket: WebSocket) -> None:
    await websocket.accept()
    _, data = await parse_telephony_websocket(websocket)
    serializer = TwilioFrameSerializer(
        data["stream_id"], data["call_id"], params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
    )
    params = FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer)
    transport = FastAPIWebsocketTransport(websocket, params)
    stt = OpenAISTTService(api_key="none", base_url=models, ttfs_p99_latency=STT_P99)
    llm = OpenAILLMService(api_key="none", base_url=models)
    tts = OpenAITTSService(api_key="none", base_url=models, sample_rate=24_000)  # what OpenAI's voices answer
    user, assistant = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=turns()),
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant]),
        params=PipelineParams(
            audio_in_sample_rate=8000, audio_out_sample_rate=8000, enable_metrics=True, enable_usage_metrics=True
        ),
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_disconnected")
    async def gone(transport, client) -> None:
        await runner.cancel()

    await runner.run()


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
