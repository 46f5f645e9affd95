import asyncio
import gc
import threading
import time
from contextlib import aclosing

import numpy as np
import pytest

from bus.cancel import Cancelled, CancelToken
from workers.engines import EngineError, find
from workers.tts.engines import espeak
from workers.tts.engines.espeak import CHUNK_MS, PAUSE_MS, Espeak, Library, word_start

LONG = "The bridge was opened in 1883, and people walked over it all day and all night. " * 100
DEADLINE = 10


@pytest.fixture
async def engine():
    engine = find("tts", "espeak")
    await engine.load()
    return engine


def token():
    return CancelToken("s0-abcd", 1)


async def spoken(engine, text, voice="", language="en-US"):
    async with asyncio.timeout(DEADLINE):
        return [chunk async for chunk in engine.speak(text, voice, language, token())]


def samples(chunks):
    return np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2").astype(float)


def seconds(engine, chunks):
    return len(samples(chunks)) / engine.rate


async def idle():
    """Return once the engine's thread has nothing left to do; fails if it is stuck."""
    async with asyncio.timeout(DEADLINE):
        await asyncio.wrap_future(espeak._thread.submit(lambda: None))


async def test_it_says_how_it_sounds_once_loaded(engine):
    assert engine.rate == 22_050
    assert engine.capacity >= 1
    assert {"en-US", "de", "fr"} < set(engine.voices)
    assert not any("," in voice for voice in engine.voices), "they are joined with commas where workers register"
    assert all(engine.find_voice(voice, "") for voice in engine.voices)


async def test_a_sentence_is_speech_of_a_fitting_length(engine):
    """Loud enough to be heard, about as long as a person would take, and silent for the pause at its end."""
    chunks = await spoken(engine, "It opened in May of the year eighteen eighty three.")
    assert 1.8 < seconds(engine, chunks) < 4
    sound = samples(chunks)
    assert np.sqrt((sound**2).mean()) > 1000
    assert not sound[-engine.rate * PAUSE_MS // 1000 :].any()


async def test_chunks_are_short(engine):
    chunks = await spoken(engine, "Hello there, world. How are you?")
    assert len(chunks) > 20
    assert all(0 < len(chunk.pcm) <= 2 * engine.rate * CHUNK_MS // 1000 for chunk in chunks)
    assert all(len(chunk.pcm) % 2 == 0 and chunk.exact for chunk in chunks)


@pytest.mark.parametrize(
    "text",
    [
        "Hello there, world. It opened in 1883!",
        'I paid $12.50 for 3.5 kg; e.g. the U.S. (don\'t) well-known "x".',
        "  spaces \t around\n and within  ",
        "😀 fun 👍🏽 naïve café Ünï 𝄞 end.",
        "a\0b c",
        "a lone \ud800 surrogate",
        "...",
        "!? -- ,",
        "\n",
        "x",
        "<b>not markup</b> &amp; [[nor phonemes]]",
        "a  b",
        "1,234,567.89 and 2026-11-22 at 10:45",
    ],
)
async def test_the_texts_of_the_chunks_are_the_sentence(engine, text):
    chunks = await spoken(engine, text)
    assert "".join(chunk.text for chunk in chunks) == text


async def test_nothing_to_say_is_still_an_answer(engine, monkeypatch):
    """Without any audio there is one chunk, which has the text."""
    monkeypatch.setattr(Library, "synthesise", lambda *_: None)
    assert [(chunk.pcm, chunk.text) for chunk in await spoken(engine, "...")] == [(b"", "...")]


async def test_words_come_one_by_one(engine):
    """Each chunk has the words whose sound is complete, never a part of a word."""
    text = "I paid $12.50 for a well-known book in 1883, twice."
    parts = [chunk.text.split() for chunk in await spoken(engine, text) if chunk.text]
    assert [word for words in parts for word in words] == text.split()
    assert all(len(words) <= 2 for words in parts)
    assert ["$12.50"] in parts and ["well-known"] in parts and ["1883,"] in parts


async def test_a_word_is_complete_where_its_sound_ends(engine):
    """The audio up to a word's chunk is as long as the words up to there take when nothing follows them."""
    text = "One, two, three."
    chunks = await spoken(engine, text)
    heard, ends = 0.0, {}
    for chunk in chunks:
        heard += len(chunk.pcm) / 2 / engine.rate
        if chunk.text:
            ends[chunk.text.strip()] = heard
    alone = seconds(engine, await spoken(engine, "One,")) - PAUSE_MS / 1000
    both = seconds(engine, await spoken(engine, "One, two,")) - PAUSE_MS / 1000
    # A comma within a sentence has a pause after it, which is not in what is said alone.
    assert alone <= ends["One,"] <= alone + 0.45
    assert both <= ends["two,"] <= both + 0.9
    assert ends["three."] == pytest.approx(seconds(engine, chunks) - PAUSE_MS / 1000, abs=0.06)


async def test_markdown_and_emoji_are_told_and_not_said(engine):
    """The text is the sentence as it was written; its sound is that of its words, each complete in its place."""
    chunks = await spoken(engine, "It **opened** in 1883 🎉, twice.")
    assert "".join(chunk.text for chunk in chunks) == "It **opened** in 1883 🎉, twice."
    plain = await spoken(engine, "It opened in 1883, twice.")
    assert seconds(engine, chunks) == pytest.approx(seconds(engine, plain), abs=0.05)
    assert "**opened**" in [chunk.text.strip() for chunk in chunks]


async def test_a_sentence_may_be_spoken_faster(engine):
    """Its own speed, within what espeak can do."""
    text, lengths = "A rather long sentence, spoken at two speeds.", []
    for speed in (0.5, 1.0, 1.5, 9.0):
        chunks = [chunk async for chunk in engine.speak(text, "", "en-US", token(), speed=speed)]
        lengths.append(seconds(engine, chunks))
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 1.5 * lengths[2]


async def test_a_script_without_spaces_is_aligned_by_character(engine):
    texts = [c.text for c in await spoken(engine, "你好，世界。", language="zh-CN") if c.text]
    assert "".join(texts) == "你好，世界。"
    assert len(texts) > 1


@pytest.mark.parametrize(("at", "start"), [(0, 0), (2, 0), (3, 3), (5, 3), (11, 9), (99, 9), (-1, 0), (8, 3), (9, 9)])
def test_a_place_within_a_word_is_its_start(at, start):
    assert word_start("in 12.50 you", at) == start


async def test_a_cancelled_turn_is_never_begun(engine):
    cancel = token()
    cancel.cancel()
    with pytest.raises(Cancelled):
        await anext(engine.speak("Hello.", "", "en-US", cancel))


async def test_no_chunk_comes_after_the_cancel(engine):
    """The cancel is raised at the next step, though a hundred chunks wait, and the synthesis has stopped."""
    cancel = token()
    speech = engine.speak(LONG, "", "en-US", cancel)
    await anext(speech)
    cancel.cancel()
    with pytest.raises(Cancelled):
        await anext(speech)
    await idle()


async def test_the_cancel_stops_the_synthesis_itself(engine, monkeypatch):
    """The library is left at the first callback after the cancel: it makes not one chunk more."""
    cancel, made, after = token(), [], []
    take = espeak._Synthesis._take
    reached, go_on = threading.Event(), threading.Event()

    def watched(self, pcm, words):
        if len(made) == 5:
            reached.set()
            go_on.wait(DEADLINE)
        (after if cancel.cancelled else made).append(take(self, pcm, words))
        return (after or made)[-1]

    monkeypatch.setattr(espeak._Synthesis, "_take", watched)
    speech = engine.speak(LONG, "", "en-US", cancel)
    await anext(speech)
    assert await asyncio.to_thread(reached.wait, DEADLINE)
    cancel.cancel()
    go_on.set()
    with pytest.raises(Cancelled):
        await anext(speech)
    await idle()
    assert made == [True] * 5
    assert after == [False]


def alike(one, two):
    """Whether two sounds are the same sentence: nearly as long, and as loud in every 100 ms."""
    size = 2205

    def levels(sound):
        return np.sqrt((sound[: len(sound) // size * size].reshape(-1, size) ** 2).mean(axis=1))

    count = min(len(one), len(two)) // size
    close = np.abs(levels(one)[:count] - levels(two)[:count]) < 0.25 * levels(one).max()
    return abs(len(one) - len(two)) < 0.03 * len(one) and bool(close.all())


async def test_a_sentence_after_a_cancel_sounds_the_same(engine):
    """Nothing of a cancelled synthesis, nor of its voice, leaks into the next."""
    text = "Hello there, this is a sentence of some length."
    before = samples(await spoken(engine, text))
    cancel = token()
    with pytest.raises(Cancelled):
        async for _ in engine.speak(LONG, "de+f3", "en-US", cancel):
            cancel.cancel()
    assert alike(before, samples(await spoken(engine, text)))
    assert not alike(before, samples(await spoken(engine, text, "de")))


async def test_a_closed_iterator_stops_the_synthesis(engine):
    """The rest of 500 s of speech is not made, and the next sentence is whole."""
    began = time.monotonic()
    async with aclosing(engine.speak(LONG, "", "en-US", token())) as speech:
        await anext(speech)
    await idle()
    stopped = time.monotonic() - began
    chunks = await spoken(engine, "Hello there.")
    assert "".join(chunk.text for chunk in chunks) == "Hello there."
    assert 0.5 < seconds(engine, chunks) < 2
    began = time.monotonic()
    assert seconds(engine, await spoken(engine, LONG)) > 300
    assert stopped < (time.monotonic() - began) / 2


async def test_a_cancelled_task_stops_the_synthesis(engine):
    async def listen():
        async with aclosing(engine.speak(LONG, "", "en-US", token())) as speech:
            async for _ in speech:
                started.set()
                await asyncio.Event().wait()

    started = asyncio.Event()
    listening = asyncio.create_task(listen())
    await started.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    await idle()


def test_a_loop_that_ends_leaves_no_thread_stuck():
    """A loop closed in mid-sentence does not stop another one from speaking."""

    async def leave():
        engine = Espeak()
        await engine.load()
        await anext(engine.speak(LONG, "", "en-US", token()))

    async def speak():
        engine = Espeak()
        await engine.load()
        return await spoken(engine, "Still here.")

    asyncio.run(leave())
    gc.collect()
    assert "".join(chunk.text for chunk in asyncio.run(speak())) == "Still here."


async def test_many_speak_at_once(engine):
    """Sentences of several turns do not mix, whatever their voices."""
    texts = {"One two three.": "en-US", "Eins zwei drei.": "de-DE", "Un deux trois.": "fr-FR"}
    spoken_all = await asyncio.gather(*[spoken(engine, t, "", lang) for t, lang in list(texts.items()) * 4])
    assert ["".join(c.text for c in chunks) for chunks in spoken_all] == list(texts) * 4
    lengths = [seconds(engine, chunks) for chunks in spoken_all]
    for kind in range(3):
        assert lengths[kind::3] == pytest.approx([lengths[kind]] * 4, abs=0.1)


async def test_an_error_in_the_callback_is_not_swallowed(engine, monkeypatch):
    def fail(self, pcm, words):
        raise KeyError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(espeak._Synthesis, "_take", fail)
        with pytest.raises(EngineError, match="KeyError: 'broken'"):
            await spoken(engine, "Hello.")
    assert await spoken(engine, "Hello.")


async def test_a_failing_library_is_an_engine_error(engine, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            return lambda *_: -1 if name == "espeak_Synth" else 0

    monkeypatch.setattr(engine._library, "_lib", Broken())
    with pytest.raises(EngineError, match="failed with code -1"):
        await spoken(engine, "Hello.")


@pytest.mark.parametrize(
    ("voice", "language", "found"),
    [
        ("", "en-US", "English (America)"),
        ("", "en_us", "English (America)"),
        ("", "en", "English (Great Britain)"),
        ("", "en-AU", "English (Great Britain)"),
        ("", "de-DE", "German"),
        ("", "pt-BR", "Portuguese (Brazil)"),
        ("", "no", "Norwegian Bokmål"),
        ("", "zh-CN", "Chinese (Mandarin, latin as English)"),
        ("german", "en-US", "German"),
        ("en-gb", "en-US", "English (Great Britain)"),
        ("English (America)", "de", "English (America)"),
        ("en-GB-x-rp", "de", "English (Received Pronunciation)"),
        ("en-us+f3", "de", "English (America)+f3"),
    ],
)
async def test_voices_by_name_and_language(engine, voice, language, found):
    assert engine.find_voice(voice, language) == found


@pytest.mark.parametrize("voice", ["alloy", "../../etc/passwd", "en-us+../f3", "en-us+nobody", "+f3"])
async def test_an_unknown_voice_is_refused_with_some_that_exist(engine, voice):
    with pytest.raises(EngineError, match=r"has no voice .*en-US.* de"):
        await spoken(engine, "Hello.", voice)


@pytest.mark.parametrize("language", ["xx-YY", "", "-"])
async def test_an_unknown_language_is_refused_with_some_that_exist(engine, language):
    with pytest.raises(EngineError, match=r"does not speak .*en-US, de"):
        await spoken(engine, "Hello.", "", language)


async def test_before_load_it_says_so():
    with pytest.raises(EngineError, match=r"load\(\) comes first"):
        await spoken(Espeak(), "Hello.")


async def test_the_rate_is_a_setting(monkeypatch):
    lengths = {}
    for rate in ("100", "300"):
        monkeypatch.setenv("TTS_RATE_WPM", rate)
        engine = Espeak()
        await engine.load()
        lengths[rate] = seconds(engine, await spoken(engine, "A rather long sentence, spoken at two rates."))
    assert lengths["100"] > 1.8 * lengths["300"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TTS_RATE_WPM", "fast", "TTS_RATE_WPM=fast: expected an integer >= 80 and <= 450"),
        ("TTS_CAPACITY", "0", "TTS_CAPACITY=0: expected an integer >= 1 and <= 10000"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=message):
        Espeak()
