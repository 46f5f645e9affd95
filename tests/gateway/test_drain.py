"""A gateway that is asked to end."""

import asyncio
import contextlib
import os
import signal
import sys

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from bus.streams import connector
from tests.gateway.realtime_client import client
from tests.product import ROOT, free_port
from tests.stack import running_stack

pytestmark = pytest.mark.real


async def _ready(port, wanted):
    async with asyncio.timeout(30), httpx.AsyncClient() as http:
        while True:
            try:
                answer = await http.get(f"http://127.0.0.1:{port}/ready")
                if wanted(answer):
                    return answer
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def gateway(redis_url, drain):
    """A gateway as a process of its own, with ``drain`` seconds to end in, and its workers: (process, port, ws)."""
    port = free_port()
    environment = {**os.environ, "GATEWAY_PORT": str(port), "REDIS_URL": redis_url, "DRAIN_S": drain}
    async with running_stack(make_client=connector(redis_url)) as stack:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.app", env=environment, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await _ready(port, lambda answer: answer.status_code == 200)
            yield process, port, stack.ws.replace(stack.ws.split("/")[2], f"127.0.0.1:{port}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_sigterm_lets_calls_end(redis_url):
    """After SIGTERM a gateway says so at /ready, refuses new calls with Retry-After, and serves the one that goes on;
    when that ends, it ends, and long before its limit."""
    async with gateway(redis_url, "60") as (process, port, url):
        async with client(url) as call:
            await call.get("session.created")
            process.send_signal(signal.SIGTERM)
            told = await _ready(port, lambda answer: answer.json()["draining"])
            assert told.status_code == 503 and told.headers["retry-after"] and not told.json()["ready"]
            with pytest.raises(InvalidStatus) as refused:
                async with client(url):
                    pass
            assert refused.value.response.status_code == 503 and refused.value.response.headers["retry-after"]
            await call.send("input_audio_buffer.clear")
            await call.get("input_audio_buffer.cleared")
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def test_calls_that_go_on_too_long_are_told(redis_url):
    """At its limit a gateway tells its clients that the session ends, and goes."""
    async with gateway(redis_url, "0.2") as (process, _, url), client(url) as call:
        await call.get("session.created")
        process.send_signal(signal.SIGTERM)
        assert (await call.get("error"))["error"]["code"] == "session_expired"
        async with asyncio.timeout(20):
            assert await process.wait() == 0
