"""Spoken conversations with the real Procfile: real engines, a real Redis, the client that users have."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from gateway.client import Call
from tests.product import ROOT
from tests.recordings import path
from tests.speech import path as speech
from tests.synthesise import VOICES, synthesise

pytestmark = pytest.mark.end_to_end

SPEECH_RATE = (1.5, 5.0)
"""Words per second of espeak at 175 words a minute, with its pauses."""


def loudness(pcm):
    """RMS of 16-bit samples."""
    return float(np.sqrt((pcm.astype(np.float64) ** 2).mean()))


def run_client(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gateway.client", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


async def test_a_real_question_is_understood_and_answered_aloud(product, tmp_path):
    """The command of the README: a transcript with "brooklyn bridge", and a reply whose length fits its text."""
    out = tmp_path / "reply.wav"
    question = path("brooklyn")
    done = await asyncio.to_thread(run_client, question, "--url", product.extended, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "brooklyn bridge" in done.stdout
    pcm, _ = soundfile.read(out, dtype="int16")
    sounding = pcm[np.abs(pcm) > 0]
    assert loudness(sounding) > 300
    async with Call(product.extended) as call:
        await call.say(question)
        reply = await call.reply()
        words, seconds = len(reply.transcript.split()), reply.heard_ms / 1000
        assert words > 5
        assert SPEECH_RATE[0] < words / seconds < SPEECH_RATE[1], (words, seconds)
        assert call.stale_samples == 0


async def barge_in(product, url):
    """One call: ask for something long, interrupt it, hear the next answer to its end."""
    async with Call(url) as call:
        await call.say(speech("story"))
        first = await call.reply_started()
        await call.clock.sleep_until(call.clock.now() + 1500)
        await call.say(speech("time"))
        cut = await call.reply()
        following = await call.reply()
        assert cut is first
        return call, cut, following


@pytest.mark.parametrize("kind", ["extended", "ws"])
async def test_ten_barge_ins_without_a_stale_sample(product, kind):
    """Each reply is interrupted in mid-word, ends as cancelled, and nothing of it comes after; the next is whole.

    Checked by what reached the client.
    """
    for _ in range(5):
        for call, cut, following in await asyncio.gather(
            *(barge_in(product, getattr(product, kind)) for _ in range(1 if kind == "ws" else 2))
        ):
            assert cut.status == "cancelled"
            assert following.status == "completed", following
            assert call.stale_samples == 0
            assert 500 < cut.heard_ms < 8000
            assert len(cut.transcript.split()) > 2
            assert following.heard_ms > 500
            assert "time" in following.transcript.lower() or "o'clock" in following.transcript, following.transcript


async def test_the_stages_say_that_they_stopped(product):
    """After a barge-in every stage is heard of: playback, the voice, the model."""
    call, *_ = await barge_in(product, product.extended)
    steps = {e["step"]: e for _, e in call.events if e.get("type") == "bargein.step" and e["turn"] == 1}
    assert {"onset", "held", "cancelled", "stopped:playback", "stopped:tts", "stopped:llm"} <= set(steps), steps


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("word", ["stop", "no"])
async def test_one_short_word_interrupts(product, tmp_path, word, voice):
    """ "Stop" and "no", too short to interrupt by their length, cancel the reply because they are words."""
    said = synthesise(word, tmp_path / "word.wav", voice)
    async with Call(product.extended) as call:
        await call.say(speech("story"))
        await call.reply_started()
        await call.say(said)
        cut = await call.reply()
        assert cut.status == "cancelled" and call.stale_samples == 0
        words = [e["text"] for _, e in call.events if e.get("type") == "bargein.transcript.partial"]
        assert words[-1]


@pytest.mark.parametrize(("ms", "decay", "loudness"), [(150, 60, 9_000), (300, 50, 14_000)], ids=["cough", "slam"])
async def test_a_noise_does_not_cost_the_reply(product, ms, decay, loudness):
    """A cough and a slammed door, made of noise, during a reply: it is heard to its end."""
    at = np.arange(24 * ms)
    noise = np.random.default_rng(0).normal(0, loudness, len(at)) * np.exp(-at / (24 * decay))
    async with Call(product.extended) as call:
        await call.say(speech("brooklyn"))
        await call.reply_started()
        await call.say(np.concatenate([noise.clip(-32_000, 32_000).astype("<i2"), np.zeros(12_000, np.int16)]))
        whole = await call.reply()
        assert whole.status == "completed" and call.stale_samples == 0
        assert whole.transcript.endswith("the longest one in the world."), whole.transcript


async def test_a_call_is_recorded_when_asked(product):
    """RECORD_CALLS=true: the transcript and the stereo WAV of a call lie there soon after it, and hold both sides."""
    async with Call(product.extended) as call:
        session = call.session_id
        await call.say(speech("time"))
        reply = await call.reply()
    wav, text = product.recordings / f"{session}.wav", product.recordings / f"{session}.json"
    async with asyncio.timeout(60):
        while not (wav.exists() and text.exists()):
            await asyncio.sleep(0.1)
    pcm, rate = soundfile.read(wav, dtype="int16")
    assert rate == 16_000 and pcm.shape[1] == 2
    caller, heard = pcm[:, 0], pcm[:, 1]
    assert loudness(caller) > 100 and loudness(heard) > 100
    assert abs(np.count_nonzero(np.abs(heard) > 0) / 16 - reply.heard_ms) < 0.25 * reply.heard_ms
    messages = json.loads(text.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["text"].split() == reply.transcript.split()
