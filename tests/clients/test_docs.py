"""Every block of docs/clients.md, run as it stands but for the address and the key."""

import asyncio
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.settings import GatewaySettings
from tests.clients.test_clients import ENVIRONMENTS, HERE, KEY
from tests.engines import CallingLlm
from tests.gateway.realtime_client import voice
from tests.stack import running_stack
from workers.llm.tools import Call

PAGE = HERE.parents[1] / "docs" / "clients.md"
BLOCKS = {name: (kind, code) for kind, name, code in re.findall(r"```(\w+) ([\w-]+)\n(.*?)```", PAGE.read_text(), re.S)}
AROUND_PIPECAT = (
    """
import asyncio
from pipecat.frames.frames import LLMRunFrame, TTSAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor

heard = asyncio.Event()

class End(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            heard.set()
        await self.push_frame(frame, direction)

class transport:
    input = output = End

context = LLMContext([{"role": "user", "content": "Greet the caller."}])

def task_for(pipeline):
    global task
    task = PipelineTask(pipeline, cancel_on_idle_timeout=False)
    asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    return task
""",
    """
await asyncio.wait_for(heard.wait(), 20)
await task.cancel()
""",
)
AROUND_CALL = (
    """
import json
from openai import AsyncOpenAI

def weather(city):
    return f"22 degrees in {city}"

class Until:
    # The connection, until the function's result was spoken about.
    def __init__(self, connection):
        self.response, self.conversation, self.events = connection.response, connection.conversation, connection

    async def __aiter__(self):
        answers = 0
        async for event in self.events:
            yield event
            answers += event.type == "response.done"
            if answers == 2:
                return

client = AsyncOpenAI(api_key="YOUR_KEY", base_url="http://127.0.0.1:8080/v1")
connection = Until(await client.realtime.connect(model="any").enter())
await connection.response.create(response={"tools": [{"type": "function", "name": "weather"}]})
""",
    "",
)
AROUND_AGENTS = ("", '\nawait new Promise((resolve) => session.on("audio", resolve));\nprocess.exit(0);\n')


async def execute(stack, name, folder, around=("", "")):
    """Run a block in its client's environment; it has to end by itself, well."""
    kind, code = BLOCKS[name]
    code = around[0] + code + around[1]
    for ours, here in (("127.0.0.1:8080", stack.http.removeprefix("http://")), ("YOUR_KEY", KEY)):
        code = code.replace(ours, here)
    file = folder / f"block.{'mjs' if kind == 'js' else kind}"
    file.write_text(code)
    interpreter = sys.executable if name.startswith("openai") else str(ENVIRONMENTS / name / "bin" / "python")
    command = {
        "python": [interpreter, str(HERE / "run_block.py"), str(file)],
        "js": ["node", str(file)],
        "sh": ["bash", "-eu", str(file)],
    }[kind]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(HERE.parents[1]), "OPENAI_AGENTS_DISABLE_TRACING": "1"},
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-3000:]


@pytest.mark.clients
@pytest.mark.parametrize("name", ["openai", "livekit", "pipecat", "agents"])
async def test_a_client_connects_as_the_page_says(name, tmp_path):
    """It gets in, asks for an answer, and the model is asked."""
    folder = tmp_path
    if name == "agents":
        folder = ENVIRONMENTS / "agents"
    around = {"pipecat": AROUND_PIPECAT, "agents": AROUND_AGENTS}.get(name, ("", ""))
    async with running_stack(api_keys=KEY) as stack:
        await execute(stack, name, folder, around)
        assert any("Greet the caller." in text for _, text in stack.llm.prompts[-1])


@pytest.mark.clients
async def test_a_function_is_called_as_the_page_says(tmp_path):
    llm = CallingLlm([Call("", "weather", '{"city":"Paris"}')])
    async with running_stack(api_keys=KEY, llm=llm) as stack:
        await execute(stack, "openai-call", tmp_path, AROUND_CALL)
        assert [message.text for message in llm.messages[1] if message.role == "tool"] == ["22 degrees in Paris"]


async def test_the_terminal_client_as_the_page_says(tmp_path):
    soundfile.write(tmp_path / "question.wav", np.frombuffer(voice(0.8), "<i2"), 24_000)
    async with running_stack(api_keys=KEY) as stack:
        await execute(stack, "terminal", tmp_path)
    assert (tmp_path / "reply.wav").exists() and "hello there" in (tmp_path / "question.srt").read_text()


def test_twilios_settings_as_the_page_says(tmp_path):
    file = tmp_path / ".env"
    file.write_text(BLOCKS["twilio"][1])
    profile = GatewaySettings(_env_file=file).profile()
    assert profile.own_tools == ("end_call", "transfer") and profile.transfer_to == {"sales": "+15550100"}


def test_telnyx_settings_as_the_page_says(tmp_path):
    file = tmp_path / ".env"
    file.write_text(BLOCKS["telnyx"][1])
    assert GatewaySettings(_env_file=file).profile().own_tools == ("end_call",)


def test_every_block_is_run():
    assert set(BLOCKS) == {"openai", "openai-call", "livekit", "pipecat", "agents", "twilio", "telnyx", "terminal"}
    for name in ("openai", "openai-call", "livekit", "pipecat", "agents"):
        assert len(BLOCKS[name][1].strip().splitlines()) <= 7
