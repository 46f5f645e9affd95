"""The whole of bargein in one process: a real gateway on a free port, real workers, scripted engines, fakeredis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import numpy as np
import uvicorn

from bus.streams import Bus
from gateway.app import create_app
from gateway.settings import GatewaySettings
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedLlm, ScriptedStt, ScriptedTts
from workers.llm.worker import LlmWorker
from workers.stt.worker import SttWorker
from workers.tts.worker import TtsWorker


def loud(window: bytes) -> float:
    """A voice activity model for tests: whatever is loud is speech."""
    samples = np.frombuffer(window, "<i2").astype(float)
    return 0.9 if np.sqrt((samples**2).mean()) > 500 else 0.0


class Stack:
    """What a test may look at: the engines, the bus, and where to connect."""

    def __init__(self, port: int, bus: Bus, stt, llm, tts, app) -> None:
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}/v1/realtime?model=bargein"
        self.bus, self.stt, self.llm, self.tts, self.app = bus, stt, llm, tts, app

    @property
    def sessions(self):
        return self.app.state.gateway.sessions


@contextlib.asynccontextmanager
async def running_stack(
    *, stt=None, llm=None, tts=None, make_client=None, worker_client=None, shards=1, **settings
) -> AsyncIterator[Stack]:
    """Run everything; ``settings`` are the gateway's. Workers may be left out by passing False."""
    make_client = make_client or fake_connector()
    worker_client = worker_client or make_client
    stt, llm, tts = (
        ScriptedStt() if stt is None else stt,
        ScriptedLlm() if llm is None else llm,
        ScriptedTts() if tts is None else tts,
    )
    kinds = ((SttWorker, stt), (LlmWorker, llm), (TtsWorker, tts))
    workers = [kind(Bus(worker_client, shards=shards), engine) for kind, engine in kinds if engine is not False]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bus = Bus(make_client, shards=shards)
    app = create_app(GatewaySettings(_env_file=None, gateway_port=port, **settings), bus, lambda: loud)
    config = uvicorn.Config(app, port=port, ws_per_message_deflate=False, ws_max_size=32 << 20, log_level="warning")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            await asyncio.gather(*(worker.ready.wait() for worker in workers))
            while not server.started:
                await asyncio.sleep(0.005)
        yield Stack(port, bus, stt, llm, tts, app)
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=10)
        for worker in workers:
            worker.drain()
        await asyncio.wait(running, timeout=10) if running else None
        await asyncio.gather(bus.close(), *(worker.bus.close() for worker in workers))
