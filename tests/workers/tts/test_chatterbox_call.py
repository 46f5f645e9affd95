"""Calls spoken by Chatterbox: the whole system in one process, the real package, a tiny model of random weights."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("chatterbox", reason="chatterbox-tts is not installed here: make test-chatterbox")

from bus.events import SpeechAudio, SpeechEnd, Stopped
from bus.keys import session_key
from gateway.client import Call
from tests.engines import ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import voice
from tests.stack import running_stack
from tests.workers.tts.random_chatterbox import RandomChatterbox

pytestmark = pytest.mark.chatterbox

ANSWER = "She climbed the **steps** and lit the lamp. It was 9:05. Nobody saw it burn 🎉."


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setenv("CHATTERBOX_MAX_TOKENS", "60")
    return RandomChatterbox()


def said(seconds):
    return np.concatenate([np.frombuffer(voice(seconds), "<i2"), np.zeros(12_000, np.int16)])


async def events(stack, session, name, kind):
    return [e.event for e in await stack.bus.replay(session_key(session, name)) if isinstance(e.event, kind)]


async def test_a_call_is_spoken_and_its_barge_ins_are_acknowledged(engine):
    """An answer is heard to its end, told as it was written; one that is interrupted stops within the model's step: the
    voice's acknowledgement says so, nothing stale is heard, and the next turn is spoken."""
    engine.tokens = None
    stt = ScriptedStt(["hello there", "stop that please", "go on"])
    async with running_stack(stt=stt, llm=ScriptedLlm(ANSWER), tts=engine) as stack:
        async with Call(stack.ws + "&extensions=bargein") as call:
            await call.say(said(0.6))
            whole = await call.reply(timeout=120)
            assert (whole.status, whole.transcript) == ("completed", ANSWER)
            assert whole.heard_ms == pytest.approx(3 * 60 * 40, abs=80)
            await call.say(said(0.6))
            reply = await call.reply_started(60)
            await call.clock.sleep_until(call.clock.now() + 300)
            await call.say(said(1.2))
            assert await call.reply(60) is reply and reply.status == "cancelled"
            async with asyncio.timeout(60):
                while not (acks := await events(stack, call.session_id, "acks", Stopped)):
                    await asyncio.sleep(0.02)
            (ack,) = [ack for ack in acks if ack.stage == "tts"]
            assert (ack.turn, ack.outcome) == (2, "stopped") and ack.steps <= 1
            following = await call.reply(timeout=120)
            assert following is not reply and following.status == "completed"
            assert call.stale_samples == 0
        ends = await events(stack, call.session_id, "speech", SpeechEnd)
        assert [(end.turn, end.reason) for end in ends] == [(1, "done"), (3, "done")]
        audio = await events(stack, call.session_id, "speech", SpeechAudio)
        first, last = (b"".join(event.pcm for event in audio if event.turn == turn) for turn in (1, 3))
        assert first == last  # the same words after a cancel: the same samples
