import asyncio
import time

import numpy as np
import pytest
import pytest_asyncio

from bus.cancel import Cancelled, CancelToken
from workers.engines import EngineError
from workers.tts.engines.espeak import CHUNK_MS, Espeak

TEXT = "Hello there, this is a sentence of some length."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine():
    espeak = Espeak()
    await espeak.load()
    return espeak


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def say(engine, text=TEXT, voice="", language="en-US", cancel=None):
    return [chunk async for chunk in engine.speak(text, voice, language, cancel or CancelToken("s0-abcdef", 1))]


def joined(chunks):
    return np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2")


def alike(one, two):
    """Whether two sounds are the same sentence: nearly as long, and as loud in every 100 ms."""
    size = 2205

    def levels(pcm):
        whole = pcm[: len(pcm) // size * size].reshape(-1, size).astype(float)
        return np.sqrt((whole**2).mean(axis=1))

    count = min(len(one), len(two)) // size
    close = np.abs(levels(one)[:count] - levels(two)[:count]) < 0.25 * levels(one).max()
    return abs(len(one) - len(two)) < 0.03 * len(one) and close.all()


async def test_a_sentence_has_sound_of_a_fitting_length(engine):
    """Speech, not silence: about 0.35 s a word at 175 words a minute, in chunks of at most 60 ms."""
    chunks = await say(engine)
    pcm = joined(chunks)
    assert 2.0 < len(pcm) / engine.rate < 5.0
    assert np.sqrt((pcm.astype(float) ** 2).mean()) > 500
    assert max(len(chunk.pcm) for chunk in chunks) <= engine.rate * CHUNK_MS // 1000 * 2


@pytest.mark.parametrize(
    "text",
    [TEXT, "It cost 1,234.50 dollars in 1883.", "Ääh, naïve café — \U0001f600 done", "...", "x", "No\nline", "a  b"],
)
async def test_the_chunks_texts_joined_are_the_sentence(engine, text):
    """Whatever the text, nothing of it is lost or doubled."""
    assert "".join(chunk.text for chunk in await say(engine, text)) == text


async def test_a_word_is_told_when_its_sound_is_complete(engine):
    """The text told by any moment, spoken alone, is no longer than the sound until then."""
    chunks = await say(engine, "One two three four five six seven.")
    at, told, moments = 0, "", []
    for chunk in chunks:
        at += len(chunk.pcm) // 2
        if chunk.text:
            told += chunk.text
            moments.append((told, at / engine.rate))
    assert len(moments) == 7
    assert all(b - a > 0.1 for (_, a), (_, b) in zip(moments, moments[1:], strict=False))
    alone = len(joined(await say(engine, "One two three"))) / engine.rate
    third = dict(moments)["One two three "]
    assert abs(third - alone) < 0.35


async def test_text_is_told_in_whole_words(engine):
    """A number that is spoken as several words is told when all of it was said."""
    told = [chunk.text for chunk in await say(engine, "It opened on May 24, 1883, at 12:30.") if chunk.text]
    assert told == ["It ", "opened ", "on ", "May ", "24, ", "1883, ", "at ", "12:30."]


async def test_a_cancel_stops_within_the_synthesis(engine):
    """No chunk comes after the cancel, and the library is free for the next sentence at once."""
    token = CancelToken("s0-abcdef", 1)
    chunks = []
    with pytest.raises(Cancelled):
        async for chunk in engine.speak(TEXT * 200, "", "en-US", token):
            chunks.append(chunk)
            if len(chunks) == 3:
                token.cancel()
    assert len(chunks) == 3
    began = time.perf_counter()
    assert len(joined(await say(engine, "Yes."))) > 0
    assert time.perf_counter() - began < 2


async def test_a_sentence_after_a_cancel_sounds_the_same(engine):
    """Nothing of a cancelled synthesis leaks into the next."""
    before = joined(await say(engine))
    token = CancelToken("s0-abcdef", 1)
    with pytest.raises(Cancelled):
        async for _ in engine.speak("Something else entirely. " * 50, "", "en-US", token):
            token.cancel()
    assert alike(joined(await say(engine)), before)


async def test_a_job_that_starts_after_its_cancel_makes_nothing(engine):
    token = CancelToken("s0-abcdef", 1)
    token.cancel()
    with pytest.raises(Cancelled):
        await say(engine, cancel=token)


async def test_closing_the_iterator_frees_the_library(engine):
    """A reader that goes away in mid-sentence does not leave the thread busy."""
    stream = engine.speak(TEXT * 500, "", "en-US", CancelToken("s0-abcdef", 1))
    await anext(stream)
    async with asyncio.timeout(5):
        await stream.aclose()
        assert await say(engine, "Free.")


async def test_two_calls_at_once_get_their_own_words(engine):
    """One synthesis at a time in the library, and no mixing."""
    one, two = await asyncio.gather(say(engine, TEXT), say(engine, "Something quite different."))
    assert "".join(c.text for c in one) == TEXT
    assert "".join(c.text for c in two) == "Something quite different."
    assert alike(joined(one), joined(await say(engine, TEXT)))


async def test_languages_and_voices(engine):
    """Another language sounds different; what is not there is refused with what is."""
    english, german = await say(engine), await say(engine, language="de-DE")
    assert not alike(joined(english), joined(german))
    assert alike(joined(await say(engine, voice="de")), joined(german))
    with pytest.raises(EngineError, match="no such voice; it has"):
        await say(engine, voice="marvin")
    with pytest.raises(EngineError, match="SPEECH_LANGUAGE=xx"):
        await say(engine, language="xx")
