"""The clients that people have, unchanged, each in an environment of its own: a turn, a barge-in, a function call.

``make test-clients`` makes the environments in ``build/clients``.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.page_browser import chromium
from tests.engines import CallingLlm
from tests.stack import running_stack
from workers.llm.tools import PENDING, Call, CallPiece

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"
KEY = "sk-client-0123456789"
LONG = [f"{word} " for word in ("One two three four five. " * 12).split()]
HALF = CallPiece(0, "weather", 0, '{"city":"Rome"}')
"""A call that is interrupted before the model has made it, whole as it looks: no client may execute it."""
PARIS = [CallPiece(0, "weather", 0, '{"city":'), CallPiece(0, "weather", 8, '"Paris"}'),
         Call("", "weather", '{"city":"Paris"}')]  # fmt: skip


def python(name):
    return [str(ENVIRONMENTS / name / "bin" / "python"), str(HERE / f"{name}_client.py")]


async def run(command, stack, url, limit=60):
    """What a client printed last, as JSON."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not there: make test-clients")
    process = await asyncio.create_subprocess_exec(
        *command, url, KEY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ENVIRONMENTS,
        env={**os.environ, "OPENAI_AGENTS_DISABLE_TRACING": "1"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(limit):
            said, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    lines = [line for line in said.decode().splitlines() if line.startswith("{")]
    assert lines, errors.decode()[-4000:]
    return json.loads(lines[-1]) | {"stderr": errors.decode()[-2000:]}


def check(seen, llm, *, first):
    """A turn was heard and interrupted; what was heard of it, and the result of the call, reached the model."""
    assert seen["errors"] == [], seen
    assert seen["interrupted"] >= 1 and seen["tools"] == ["Paris"] and seen["after"] > 0, seen
    assert "hello there" in " ".join(seen["transcripts"]), seen
    interrupted = next(m for m in llm.messages[first] if m.role == "assistant" and not m.calls)
    heard = interrupted.text.split()
    assert 2 <= len(heard) <= 20 and "".join(LONG).startswith(interrupted.text)
    results = [m.text for m in llm.messages[-1] if m.role == "tool"]
    assert len(results) == 1 and results[0] != PENDING and "22" in results[0]
    assert [tool["name"] for tool in llm.requests[0].tools] == ["weather"]


async def test_livekit():
    llm = CallingLlm([*LONG, HALF], PARIS)
    async with running_stack(llm=llm, api_keys=KEY) as stack:
        seen = await run(python("livekit"), stack, f"{stack.http}/v1")
        check(seen, llm, first=1)


async def test_pipecat():
    llm = CallingLlm([*LONG, HALF], PARIS)
    async with running_stack(llm=llm, api_keys=KEY) as stack:
        seen = await run(python("pipecat"), stack, stack.ws.partition("?")[0])
        check(seen, llm, first=1)


async def test_openai_agents_in_node():
    llm = CallingLlm([*LONG, HALF], PARIS)
    for name in ("agents.mjs", "agents_scenario.mjs"):
        shutil.copy(HERE / name, ENVIRONMENTS / "agents")
    async with running_stack(llm=llm, api_keys=KEY) as stack:
        seen = await run(["node", str(ENVIRONMENTS / "agents" / "agents.mjs")], stack, stack.ws)
        check(seen, llm, first=1)


async def test_openai_agents_in_chromium():
    """The package's own bundle on a page of somebody else's, let in by origin, with an ephemeral key."""
    llm = CallingLlm([*LONG, HALF], PARIS)
    bundle = ENVIRONMENTS / "agents/node_modules/@openai/agents-realtime/dist/bundle"
    origin = "https://shop.example"

    async def serve(route):
        name = route.request.url.rpartition("/")[2]
        if name == "":
            await route.fulfill(body="<!doctype html><title>shop</title>", content_type="text/html")
        else:
            file = HERE / name if name == "agents_scenario.mjs" else bundle / name
            await route.fulfill(path=file, content_type="text/javascript")

    async with (
        running_stack(llm=llm, api_keys=KEY, allowed_origins=origin) as stack,
        httpx.AsyncClient(base_url=stack.http, headers={"Authorization": f"Bearer {KEY}"}) as http,
        chromium("--disable-features=LocalNetworkAccessChecks", "--allow-running-insecure-content") as browser,
    ):
        key = (await http.post("/v1/realtime/client_secrets")).json()["value"]
        page = await browser.new_page()
        await page.route(f"{origin}/**", serve)
        await page.goto(f"{origin}/")
        seen = await page.evaluate(
            """async ([url, key]) => {
              const sdk = await import("/openai-realtime-agents.mjs");
              const { talk } = await import("/agents_scenario.mjs");
              return talk(sdk, url, key);
            }""",
            [stack.ws, key],
        )
        check(seen, llm, first=1)
