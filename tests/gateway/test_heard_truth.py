"""What the caller heard is what is resumed, remembered, and told to the model: exact to the sample and to the word."""

import asyncio

import numpy as np
import pytest

from bus.events import SpeechAudio
from bus.keys import session_key
from gateway.client import Call
from tests.engines import ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import client, voice
from tests.stack import running_stack
from workers.tts.engines.espeak import Espeak

STORY = (
    "Every evening she climbed one hundred and twelve steps and lit the lamp. One night a storm came up, and the lamp "
    "went out. She had no oil left, and a ship was near; she could hear its bell. "
    "In the morning the captain rowed over."
)


def sound(seconds):
    return np.frombuffer(voice(seconds), "<i2")


def noise(seconds):
    """A cough or a slammed door: a short burst."""
    rng = np.random.default_rng(1)
    return (rng.normal(0, 6000, int(seconds * 24_000))).astype("<i2")


async def told(stack, session, heard_ms):
    """The words whose sound was complete at ``heard_ms`` of turn 1, from what the voice itself says of its chunks."""
    text = ""
    for entry in await stack.bus.replay(session_key(session, "speech")):
        event = entry.event
        if isinstance(event, SpeechAudio) and event.turn == 1:
            end = (event.offset + len(event.pcm) // 2) * 1000 / event.rate
            text += event.text if end <= heard_ms + 1 else ""
    return text.strip()


@pytest.mark.parametrize(
    ("what", "text"),
    [(noise(0.15), ""), (sound(0.4), "mm-hmm"), (noise(0.4), ""), (sound(0.5), "okay, yeah")],
    ids=["cough", "mm-hmm", "door", "okay yeah"],
)
async def test_the_reply_goes_on_from_the_exact_sample(what, text):
    """Held for a cough, a backchannel, a door: what the caller hears of the reply is the uninterrupted reply."""
    stt = ScriptedStt(["hello there", text, "hello there"])
    whole = np.zeros(0, np.int16)
    async with running_stack(stt=stt, end_of_turn_ms=300) as stack:
        for interrupted in (False, True):
            stt.texts = ["hello there", text, "hello there"]
            async with Call(stack.ws + "&extensions=bargein") as call:
                await call.say(np.concatenate([sound(0.6), np.zeros(12_000, np.int16)]))
                await call.reply_started()
                if interrupted:
                    await call.clock.sleep_until(call.clock.now() + 300)
                    await call.say(what)
                reply = await call.reply()
                assert reply.status == "completed"
                assert call.stale_samples == 0
                if interrupted:
                    assert len(reply.holds) == 1 and reply.holds[0].resumed_from is not None
                    assert np.array_equal(reply.pcm, whole)
                else:
                    whole = reply.pcm
        assert len(whole) == 8 * 200 * 24


async def next_prompt(stack):
    """The second prompt that the model was given: what it was told that it had said, after the system message."""
    async with asyncio.timeout(10):
        while len(stack.llm.prompts) < 2:
            await asyncio.sleep(0.01)
    return [message for message in stack.llm.prompts[1] if message[0] != "system"]


async def test_an_extended_clients_own_word_decides():
    """espeak: the prompt contains exactly the words that the client says it had played."""
    async with (
        running_stack(llm=ScriptedLlm(STORY), tts=Espeak()) as stack,
        Call(stack.ws + "&extensions=bargein") as call,
    ):
        await call.say(np.concatenate([sound(0.6), np.zeros(12_000, np.int16)]))
        await call.reply_started()
        await call.clock.sleep_until(call.clock.now() + 1500)
        await call.say(np.concatenate([sound(1.5), np.zeros(12_000, np.int16)]))
        cut = await call.reply()
        prompt = await next_prompt(stack)
        expected = await told(stack, call.session_id, cut.position / 24)
        assert cut.status == "cancelled" and expected
        assert prompt == [("user", "hello there"), ("assistant", expected), ("user", "hello there")]
        assert STORY.startswith(expected) and STORY[len(expected)] == " "


async def interrupted(stack, call, *, truncate_ms=None):
    """A stock client's call, interrupted after some 2 s of the reply; its session id."""
    await call.speak()
    created = await call.get("response.created")
    await call.get("response.output_audio.delta", 90)
    (session,) = stack.sessions.values()
    speaking = asyncio.create_task(call.speak(1.4, 0.7))
    await call.get("input_audio_buffer.speech_started", 2)
    if truncate_ms is not None:
        item = next(e["item"]["id"] for e in call.all("response.output_item.added"))
        where = {"item_id": item, "content_index": 0, "audio_end_ms": truncate_ms}
        await call.send("conversation.item.truncate", **where)
        await call.get("conversation.item.truncated")
    done = await call.get("response.done")
    await speaking
    assert done["response"]["id"] == created["response"]["id"]
    return session.id


async def test_a_stock_clients_truncation_amends_the_history():
    """espeak: the client says after the cancel that it played less; the prompt contains the words until there."""
    async with running_stack(llm=ScriptedLlm(STORY), tts=Espeak()) as stack, client(stack.ws) as call:
        session = await interrupted(stack, call, truncate_ms=1000)
        prompt = await next_prompt(stack)
        expected = await told(stack, session, 1000)
        assert expected.startswith("Every evening")
        assert prompt == [("user", "hello there"), ("assistant", expected), ("user", "hello there")]


async def test_without_a_clients_word_the_paced_clock_decides():
    """espeak: the prompt contains the words whose sound was complete when the session's own account stopped."""
    async with running_stack(llm=ScriptedLlm(STORY), tts=Espeak()) as stack, client(stack.ws + "&x=1") as call:
        session = await interrupted(stack, call)
        prompt = await next_prompt(stack)
        played = [e.event.end for e in await stack.bus.replay(session_key(session, "playback")) if e.event.turn == 1]
        assert prompt == [
            ("user", "hello there"),
            ("assistant", await told(stack, session, max(played))),
            ("user", "hello there"),
        ]
