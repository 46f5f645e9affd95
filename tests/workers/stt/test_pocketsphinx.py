import asyncio
import wave

import pytest

from tests.recordings import recording
from tests.synthesise import PHRASES, CannotSynthesise, Phrase, synthesise
from workers.engines import EngineError, find
from workers.stt.engines.pocketsphinx import HELD, PRIOR, PocketSphinx, Segment, cleaned, mean_of

FRAME = 640
"""Bytes of 20 ms."""


@pytest.fixture(scope="module")
def engine():
    engine = find("stt", "pocketsphinx")
    asyncio.run(engine.load())
    return engine


@pytest.fixture
async def recognizer(engine):
    recognizer = await engine.open("en-US")
    yield recognizer
    await recognizer.close()


@pytest.fixture
def spoken(tmp_path):
    """Samples of a phrase said by flite; skips where there is none."""

    def speak(phrase):
        try:
            path = synthesise(phrase.text, tmp_path / "speech.wav", phrase.voice, phrase.phones)
        except CannotSynthesise as error:
            pytest.skip(str(error))
        with wave.open(str(path)) as file:
            return file.readframes(file.getnframes())

    return speak


async def heard(recognizer, pcm, step=FRAME):
    """The final text, and every text on the way to it."""
    await recognizer.begin()
    partial = [await recognizer.feed(pcm[at : at + step]) for at in range(0, len(pcm), step)]
    return await recognizer.flush(), partial


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brooklyn", "brooklyn bridge"),
        ("weather", "what's the weather like"),
        ("df_book_a_room", "book a room"),
        ("df_today", "today"),
        ("goforward", "go forward"),
        ("alsa_Front_Left", "front left"),
    ],
)
async def test_people_are_understood(recognizer, name, words):
    text, _ = await heard(recognizer, recording(name))
    assert words in text


@pytest.mark.parametrize("name", [name for name in PHRASES if name != "mmhmm"])
async def test_the_phrases_of_the_tests_are_understood(recognizer, spoken, name):
    text, _ = await heard(recognizer, spoken(PHRASES[name]))
    if name == "brooklyn":
        assert text.endswith("the brooklyn bridge")
    else:
        assert text == PHRASES[name].text


async def test_a_hum_is_written_as_a_backchannel(recognizer, spoken):
    text, _ = await heard(recognizer, spoken(PHRASES["mmhmm"]))
    assert text == "mhm"


@pytest.mark.parametrize("word", ["stop", "no", "wait", "yes", "okay"])
@pytest.mark.parametrize("voice", ["slt", "rms"])
async def test_one_word_cut_tight_is_understood(recognizer, spoken, word, voice):
    """A word is known also when the audio begins 100 ms before it and the flush comes 40 ms after it."""
    pcm = spoken(Phrase(word, voice))
    loud = [
        at
        for at in range(0, len(pcm) - FRAME, FRAME)
        if max(map(abs, memoryview(pcm[at : at + FRAME]).cast("h"))) > 500
    ]
    text, _ = await heard(recognizer, pcm[loud[0] - 5 * FRAME : loud[-1] + 3 * FRAME])
    assert text == word


async def test_words_come_while_the_caller_speaks(recognizer, spoken):
    """Partial texts grow out of "" towards the final one."""
    text, partial = await heard(recognizer, spoken(PHRASES["story"]))
    assert "" in partial
    assert partial[-1].startswith("tell me")
    assert len(set(partial)) > 2
    assert text == "tell me a story"


@pytest.mark.parametrize("step", [2, 334, 3_200, 1_000_000])
async def test_the_size_of_a_feed_does_not_matter(recognizer, spoken, step):
    pcm = spoken(PHRASES["question_time"])
    text, _ = await heard(recognizer, pcm, step)
    assert text == "what time is it"


async def test_an_utterance_goes_on_after_a_flush(recognizer, spoken):
    """Its text is all that was said since begin; begin forgets it."""
    await recognizer.begin()
    await recognizer.feed(spoken(PHRASES["stop"]))
    assert await recognizer.flush() == "stop"
    assert await recognizer.flush() == "stop"
    assert await recognizer.feed(bytes(FRAME)) == "stop"
    await recognizer.feed(spoken(PHRASES["story"]))
    assert await recognizer.flush() == "stop tell me a story"
    await recognizer.begin()
    assert await recognizer.flush() == ""


async def test_an_utterance_that_was_not_flushed_leaves_nothing_behind(recognizer, spoken):
    await recognizer.begin()
    await recognizer.feed(spoken(PHRASES["story"]))
    text, _ = await heard(recognizer, spoken(PHRASES["no"]))
    assert text == "no"


async def test_silence_has_no_words(recognizer):
    text, partial = await heard(recognizer, bytes(2 * 16_000))
    assert text == ""
    assert set(partial) == {""}


async def test_half_a_sample_is_refused(recognizer):
    await recognizer.begin()
    with pytest.raises(ValueError, match="3 bytes"):
        await recognizer.feed(b"abc")


@pytest.mark.parametrize("language", ["de-DE", "", "english", "fr"])
async def test_another_language_is_refused_with_what_may_do_it(engine, language):
    with pytest.raises(EngineError, match=r"English only.*STT_ENGINE=http"):
        await engine.open(language)


@pytest.mark.parametrize("language", ["en", "en-GB", "EN_us"])
async def test_english_of_any_country_is_taken(engine, language):
    await (await engine.open(language)).close()


async def test_a_closed_session_hands_its_decoder_on(engine, spoken):
    """The next session gets the same decoder, and its result does not depend on who had it before."""
    first = await engine.open("en-US")
    decoder = first._decoder
    fresh, _ = await heard(first, spoken(PHRASES["brooklyn"]))
    await first.feed(spoken(PHRASES["stop"]))
    await first.close()
    await first.close()
    with pytest.raises(EngineError, match="closed"):
        await first.feed(bytes(FRAME))
    second = await engine.open("en-US")
    assert second._decoder is decoder
    again, _ = await heard(second, spoken(PHRASES["brooklyn"]))
    await second.close()
    assert again == fresh


async def test_a_cancelled_close_still_hands_the_decoder_on(engine, recognizer):
    decoder = recognizer._decoder
    closing = asyncio.create_task(recognizer.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    other = await engine.open("en-US")
    assert other._decoder is decoder
    await other.close()


async def test_two_sessions_at_once_do_not_mix(engine, recognizer, spoken):
    other = await engine.open("en-US")
    (one, _), (two, _) = await asyncio.gather(
        heard(recognizer, spoken(PHRASES["story"])), heard(other, spoken(PHRASES["question_time"]))
    )
    await other.close()
    assert (one, two) == ("tell me a story", "what time is it")


async def test_the_loop_runs_while_words_are_decoded(recognizer, spoken):
    """Decoding is cut into slices, so other work of the process gets its turn many times within one long feed."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    pcm = spoken(PHRASES["brooklyn"])
    await recognizer.begin()
    await recognizer.feed(pcm[: 2 * HELD])
    counting = asyncio.create_task(count())
    await recognizer.feed(pcm[2 * HELD :])
    counting.cancel()
    assert turns > 20


async def test_the_mean_does_not_depend_on_digital_silence(engine, spoken):
    """Silence around speech changes the mean of the segment by no more than rounding and frame edges."""
    decoder = await engine.run(engine._take)
    pcm = spoken(PHRASES["brooklyn"])
    plain = await engine.run(mean_of, decoder, pcm, PRIOR, 50)
    padded = await engine.run(mean_of, decoder, bytes(64_000) + pcm, PRIOR, 50)
    await engine.give_back(decoder)
    assert plain == pytest.approx(padded, abs=0.2)
    assert plain[0] != pytest.approx(PRIOR[0], abs=0.5)


async def test_a_decoder_that_fails_is_an_engine_error(engine, recognizer, monkeypatch):
    def fail(self, pcm):
        raise RuntimeError("Decoder internal error")

    monkeypatch.setattr(Segment, "hear", fail)
    await recognizer.begin()
    with pytest.raises(EngineError, match="pocketsphinx failed: Decoder internal error"):
        await recognizer.feed(bytes(6_400))


@pytest.mark.parametrize(
    ("hypothesis", "words"),
    [("<s> go(2) on </s>", "go on"), ("[NOISE] Stop ++um++", "stop"), ("", ""), ("<sil>", "")],
)
def test_markers_are_not_words(hypothesis, words):
    assert cleaned(hypothesis) == words


def test_a_wrong_capacity_is_named(monkeypatch):
    monkeypatch.setenv("STT_CAPACITY", "none")
    with pytest.raises(EngineError, match="STT_CAPACITY=none: expected an integer >= 1 and <= 64"):
        PocketSphinx()
