"""The engine around the model: chunks, queues, voices, cancels from the loop. Real package, random weights."""

import asyncio

import pytest

pytest.importorskip("chatterbox", reason="chatterbox-tts is not installed here: make test-chatterbox")

import pytest_asyncio

from bus.cancel import Cancelled, CancelToken
from tests.workers.tts.random_chatterbox import RandomChatterbox
from workers.engines import EngineError
from workers.tts.engines.chatterbox import Chatterbox
from workers.tts.engines.chatterbox_stream import SAMPLES, SIZES

pytestmark = [pytest.mark.chatterbox, pytest.mark.asyncio(loop_scope="module")]

SENTENCE = "She climbed one hundred steps and lit the lamp."
OTHER = "Nobody was there to see it burn."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATTERBOX_MAX_TOKENS", "45")
        made = RandomChatterbox()
    made.tokens = None
    await made.load()
    return made


def token(turn=1):
    return CancelToken("s0-abcdef", turn)


async def say(engine, text=SENTENCE, cancel=None, voice=""):
    async with asyncio.timeout(120):
        return [chunk async for chunk in engine.speak(text, voice, "en-US", cancel or token())]


def joined(chunks):
    return b"".join(chunk.pcm for chunk in chunks)


async def test_a_sentence_in_chunks(engine):
    """Of at most 60 ms, whole tokens in all, with the sentence's text as it was given, told by the end."""
    chunks = await say(engine)
    assert max(len(chunk.pcm) for chunk in chunks) <= 2 * engine.rate * 60 // 1000
    assert len(joined(chunks)) % (2 * SAMPLES) == 0
    assert "".join(chunk.text for chunk in chunks) == SENTENCE
    assert not any(chunk.exact for chunk in chunks)
    assert engine.repeatable and joined(await say(engine)) == joined(chunks)


async def test_what_has_no_word_has_no_sound(engine):
    (chunk,) = await say(engine, "...")
    assert (chunk.pcm, chunk.text) == (b"", "...")


async def test_voices_and_languages_there_are_not(engine):
    """The error lists those there are."""
    assert engine.voices == ("default",)
    assert joined(await say(engine, voice="default")) == joined(await say(engine))
    with pytest.raises(EngineError, match=r"no voice 'nova'; expected one of default"):
        await say(engine, voice="nova")
    with pytest.raises(EngineError, match=r"does not speak 'de-DE'; expected en; CHATTERBOX_VARIANT=multilingual"):
        async for _ in engine.speak(SENTENCE, "", "de-DE", token()):
            pass


@pytest.mark.parametrize("after", [0, 1, 3, 9])
async def test_a_cancel_stops_the_model(engine, after):
    """At any chunk: no chunk follows, no block of the model is begun, and the next sentence is as it ever was."""
    reference = joined(await say(engine, OTHER))
    cancel, chunks = token(), []
    with pytest.raises(Cancelled):
        async for chunk in engine.speak(SENTENCE, "", "en-US", cancel):
            chunks.append(chunk)
            if len(chunks) > after:
                cancel.cancel()
    waste = engine.wasted(cancel)
    assert len(chunks) == after + 1
    assert waste.steps == 0
    made = SIZES[0] - 3 if after < 8 else SIZES[0] + SIZES[1] - 6
    assert waste.samples == max(0, made * SAMPLES - sum(len(chunk.pcm) // 2 for chunk in chunks))
    assert 0 < waste.tokens <= 45
    assert joined(await say(engine, OTHER)) == reference


async def test_a_cancel_at_any_moment_stops_the_model_within_its_step(engine):
    """From the loop, while the model's thread is anywhere: in sampling, in decoding, before its first block."""
    reference = joined(await say(engine, OTHER))
    for number in range(12):
        cancel = token(number + 2)
        speaking = asyncio.create_task(say(engine, cancel=cancel))
        await asyncio.sleep(0.03 * number)
        cancel.cancel()
        await asyncio.wait({speaking})
        # A block that asked in the microsecond before the cancel counts as one begun after it.
        assert engine.wasted(cancel).steps <= 1
    assert joined(await say(engine, OTHER)) == reference


async def test_a_listener_who_leaves_stops_the_model(engine):
    """Closing the iterator is enough; the model is free for the next sentence."""
    stream = engine.speak(SENTENCE, "", "en-US", token())
    await anext(stream)
    await stream.aclose()
    assert joined(await say(engine, OTHER))


async def test_a_turn_cancelled_before_it_began_costs_nothing(engine):
    cancel = token()
    cancel.cancel()
    with pytest.raises(Cancelled):
        await say(engine, cancel=cancel)
    assert engine.wasted(cancel).samples == engine.wasted(cancel).tokens == 0


async def test_sessions_take_turns_with_one_model(engine):
    """Three sentences at once are spoken one after the other, each as if it were alone."""
    alone = joined(await say(engine, OTHER))
    spoken = await asyncio.gather(*(say(engine, OTHER) for _ in range(3)))
    assert [joined(chunks) for chunks in spoken] == [alone] * 3


async def test_a_sentence_that_waits_may_be_cancelled(engine):
    """While another holds the model: it never reaches it."""
    stream = engine.speak(SENTENCE, "", "en-US", token())
    await anext(stream)
    waiting = asyncio.create_task(say(engine, OTHER))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()
    assert joined(await say(engine, OTHER))


async def test_a_model_does_not_run_ahead_of_a_listener_who_waits(engine):
    """One piece is made; the next is begun when that one is taken, or when another sentence waits for the model."""
    stream = engine.speak(SENTENCE, "", "en-US", token())
    first = await anext(stream)
    speaking = stream.ag_frame.f_locals["speaking"]
    await asyncio.sleep(0.5)
    assert speaking.made == (SIZES[0] - 3) * SAMPLES
    other = asyncio.create_task(say(engine, OTHER))
    rest = [chunk async for chunk in stream]
    assert joined([first, *rest]) == joined(await say(engine))
    assert joined(await other)


async def test_copies_of_the_model_speak_at_the_same_time(monkeypatch):
    """TTS_MODELS=2: two sentences are begun before either has ended. They share a generator: not repeatable."""
    monkeypatch.setenv("TTS_MODELS", "2")
    monkeypatch.setenv("CHATTERBOX_MAX_TOKENS", "25")
    both = RandomChatterbox()
    both.tokens = None
    await both.load()
    assert both.capacity == 8 and not both.repeatable and len(both.models) == 2
    streams = [both.speak(text, "", "en-US", token()) for text in (SENTENCE, OTHER)]
    async with asyncio.timeout(120):
        assert [chunk.text for chunk in await asyncio.gather(*(anext(stream) for stream in streams))] == ["", ""]
        assert both._free.empty()
        rest = [[chunk async for chunk in stream] for stream in streams]
    assert ["".join(chunk.text for chunk in chunks) for chunks in rest] == [SENTENCE, OTHER]
    assert both._free.qsize() == 2


async def test_weights_that_are_not_there(monkeypatch, tmp_path):
    """Where they were looked for, and what was missing."""
    monkeypatch.setenv("CHATTERBOX_DIR", str(tmp_path))
    with pytest.raises(EngineError, match=rf"\(english\) cannot be loaded from {tmp_path}: .*safetensors"):
        await Chatterbox().load()
