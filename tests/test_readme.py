"""README.md's commands for a terminal, run as they stand but for the address."""

import asyncio
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import soundfile

from tests.engines import ScriptedLlm
from tests.gateway.realtime_client import voice
from tests.stack import running_stack

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = re.findall(r"^(bargein client .*?)\s+#", (ROOT / "README.md").read_text(), re.M)


async def run(command, stack, folder):
    """What a command says; it has to end well."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "bargein"), *shlex.split(command)[1:], "--url", stack.ws,
        cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-3000:]
    return said.decode()


async def test_the_commands_for_a_terminal(tmp_path):
    """A reply is saved, an interruption stops every stage, a transcript is written."""
    for name, seconds in (("question", 0.8), ("stop", 0.8), ("talk", 1.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.frombuffer(voice(seconds), "<i2"), 24_000)
    asked, interrupted, transcribed = COMMANDS
    async with running_stack() as stack:
        assert "hello there" in await run(asked, stack, tmp_path)
        assert soundfile.info(tmp_path / "reply.wav").duration > 0.5
        await run(transcribed, stack, tmp_path)
        assert "hello there" in (tmp_path / "talk.srt").read_text()
    async with running_stack(llm=ScriptedLlm(answer="One two three four. " * 10)) as stack:
        said = await run(interrupted, stack, tmp_path)
    assert re.search(r"response 1 .*cancelled", said) and "stale audio: 0 samples" in said


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
