"""Voices of other kinds in the running product: servers with keys, and one that never says a sentence twice alike."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from gateway.client import Call
from tests.product import running_product
from tests.speech import path as speech
from tests.workers.audio_stand_in import HEAR, SPEAK, AudioStandIn, cut, streams, tone, understands
from tests.workers.llm.llm_stand_in import DONE, Scripted, chunk, says

pytestmark = pytest.mark.end_to_end

SECRETS = {
    "LLM_API_KEY": "sk-llm-0123456789abcdef",
    "STT_API_KEY": "sk-stt-0123456789abcdef",
    "TTS_API_KEY": "sk-tts-0123456789abcdef",
    "HF_TOKEN": "hf_0123456789abcdef",
}


@contextlib.asynccontextmanager
async def running(folder, **settings):
    """The product, while this test's own loop goes on: servers of the test live in it."""
    manager = running_product(folder, **settings)
    product = await asyncio.to_thread(manager.__enter__)
    try:
        yield product
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_text()


async def test_no_token_is_in_an_argument_a_log_or_an_address(tmp_path):
    """A call with three servers that want keys, everything logged: the keys reach the servers and nothing else."""
    hear, speak = [understands("hello there")], [streams(*cut(tone(0.6), 4096))]
    async with AudioStandIn(hear=hear, speak=speak) as audio, Scripted(says(chunk("Good morning. "), DONE)) as llm:
        settings = {
            "STT_ENGINE": "http", "STT_URL": audio.url, "STREAMING_STT": "false",
            "LLM_ENGINE": "openai", "LLM_URL": f"{llm.url}/v1",
            "TTS_ENGINE": "http", "TTS_URL": audio.url, "TTS_CANCEL_URL": f"{audio.url}/cancel/{{session}}",
            "LOG_LEVEL": "DEBUG",
        } | SECRETS  # fmt: skip
        async with running(tmp_path, **settings) as product:
            async with Call(product.extended) as call:
                await call.say(speech("time"))
                reply = await call.reply()
                assert reply.status == "completed" and reply.transcript == "Good morning."
            processes = product.processes()
            lines = "\n".join(" ".join(words) for words in processes.values())
            (voice,) = (pid for pid, words in processes.items() if "workers.tts.worker" in words)
            assert len(processes) >= 11  # six lines of the Procfile, their workers, honcho
            assert SECRETS["TTS_API_KEY"] in environment(voice)
        for name, secret in SECRETS.items():
            assert secret not in lines, f"{name} in an argument"
            assert secret not in product.log, f"{name} in a log"
        assert audio.of(HEAR)[0].headers["authorization"] == f"Bearer {SECRETS['STT_API_KEY']}"
        assert audio.of(SPEAK)[0].headers["authorization"] == f"Bearer {SECRETS['TTS_API_KEY']}"
        assert llm.requests[-1].headers["authorization"] == f"Bearer {SECRETS['LLM_API_KEY']}"
        assert not any("sk-" in request.path for request in (*audio.requests, *llm.requests))


async def test_what_a_killed_voice_says_again_is_counted(tmp_path):
    """kill -9 in mid-sentence of a voice that is different each time: nothing is missing, its words are told once, and
    what is heard twice is said in the timeline and the log."""
    engine = "tests.engines:MoodyTts"
    async with running(tmp_path, TTS_ENGINE=engine) as product:
        async with Call(product.extended) as call:
            await call.say(speech("brooklyn"))
            reply = await call.reply_started()
            await call.clock.sleep_until(call.clock.now() + 700)
            product.kill("tts")
            whole = await call.reply(timeout=90)
            assert whole is reply and whole.status == "completed"
            steps = [e for _, e in call.events if e.get("type") == "bargein.step" and e["step"] == "done"]
        assert whole.transcript.count("Brooklyn Bridge") == 1
        assert whole.transcript.endswith("the longest one in the world."), whole.transcript
        repeated = int(re.search(r"(\d+) samples of the voice repeated", steps[0]["detail"])[1])
        words = len(whole.transcript.split())
        assert whole.heard_ms == pytest.approx(200 * words + repeated / 24, abs=200)
        assert "is spoken again" in product.log and "are heard again" in product.log
