"""A model that fails, from the caller's side: the whole of bargein in one process."""

import asyncio

from bus.history import read
from tests.engines import ScriptedLlm
from tests.gateway.realtime_client import client
from tests.stack import running_stack
from workers.llm.worker import FallbackSettings

FALLBACK = FallbackSettings(_env_file=None).fallback_text


async def test_the_fallback_is_spoken_and_the_turn_then_fails(monkeypatch, tmp_path):
    """The caller hears it whole, the response ends as failed with the reason, and the conversation goes on.

    What was heard stands in the history, so the next prompt has it: that is what the assistant said.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FALLBACK_TEXT", raising=False)
    llm = ScriptedLlm("Now it works.")
    llm.fail_after = 0
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.speak()
        failed = (await call.get("response.done"))["response"]
        assert failed["status"] == "failed"
        assert "500" in failed["status_details"]["error"]["message"]
        assert stack.tts.spoken == [FALLBACK]
        samples = len(call.audio_of(failed["id"])) // 2
        assert samples == len(FALLBACK.split()) * 200 * 24
        said = "".join(e["delta"] for e in call.all("response.output_audio_transcript.delta"))
        assert said == FALLBACK
        llm.fail_after = None
        await call.speak()
        assert (await call.get("response.done", 2))["response"]["status"] == "completed"
        assert llm.prompts[-1][-3:] == [("user", "hello there"), ("assistant", FALLBACK), ("user", "hello there")]
        (session,) = stack.sessions
        await stack.bus.outbox.drain()
        (first, *_) = [said for said in await read(stack.bus, session) if said.role == "assistant"]
        assert (first.text, first.complete) == (FALLBACK, False)


async def test_a_fallback_can_be_interrupted_like_any_reply(monkeypatch, tmp_path):
    """A barge-in over it cancels the turn; the history has what was heard of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FALLBACK_TEXT", "Sorry, this is a very long apology that nobody wants to hear to its end.")
    llm = ScriptedLlm("Now it works.")
    llm.fail_after = 0
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.speak()
        await call.get("response.output_audio.delta", 20)
        llm.fail_after = None
        await call.speak()
        done = (await call.get("response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
        await call.get("response.done", 2)
        async with asyncio.timeout(5):
            while len(llm.prompts) < 2:
                await asyncio.sleep(0.005)
        role, heard = llm.prompts[-1][-2]
        assert role == "assistant" and "Sorry, this is a very long apology".startswith(heard[:20])
        assert not heard.endswith("end.")
