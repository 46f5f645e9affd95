import asyncio
import io
import logging

import numpy as np
import pytest
import soundfile

from bus.cancel import Cancelled, CancelToken
from tests.workers.audio_stand_in import (
    SPEAK,
    AudioStandIn,
    answers,
    cut,
    drops,
    refuses,
    stalls,
    streams,
    tone,
    wav,
)
from workers.engines import EngineError, find
from workers.tts.engines.espeak import Espeak
from workers.tts.engines.http import CHUNK_MS, Http

KEY = "sk-very-secret-0123456789"
TEXT = "Hello there, this is a sentence of some length."
SOUND = tone(2.5)


def engine(monkeypatch, url, **settings):
    """An engine that is not loaded yet; ``settings`` are its environment, without TTS_."""
    for name, value in {"url": url, **settings}.items():
        monkeypatch.setenv(f"TTS_{name}".upper(), str(value))
    return Http()


async def voice_at(monkeypatch, url, **settings):
    http = engine(monkeypatch, url, **settings)
    await http.load()
    return http


async def say(http, text=TEXT, voice="", cancel=None):
    async with asyncio.timeout(20):
        return [chunk async for chunk in http.speak(text, voice, "en-US", cancel or CancelToken("s0-abcdef", 1))]


def joined(chunks):
    return b"".join(chunk.pcm for chunk in chunks)


def header(pcm, rate, size):
    """The WAV header of a stream: ``size`` where its length would stand."""
    start = bytearray(wav(pcm, rate)[:44])
    start[4:8] = start[40:44] = size
    return bytes(start)


def test_it_is_found_by_its_name():
    assert isinstance(find("tts", "http"), Http)


async def test_a_sentence_is_passed_on_to_the_sample(monkeypatch):
    """What was asked for, and what came: every byte in order, chunks of at most 60 ms, all of the text."""
    async with AudioStandIn(speak=[streams(*cut(SOUND, 4096))]) as server:
        http = await voice_at(monkeypatch, server.url, model="kokoro", voice="nova", api_key=KEY)
        chunks = await say(http)
        assert joined(chunks) == SOUND
        assert max(len(chunk.pcm) for chunk in chunks) <= http.rate * CHUNK_MS // 1000 * 2
        assert all(chunk.pcm and not chunk.exact for chunk in chunks)
        assert "".join(chunk.text for chunk in chunks) == TEXT
        await say(http, voice="onyx")
        first, second = server.of(SPEAK)
        assert first.fields == {"model": "kokoro", "input": TEXT, "voice": "nova", "response_format": "pcm"}
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert second.fields["voice"] == "onyx"


@pytest.mark.parametrize("size", [1, 7, 2881])
async def test_samples_cut_anywhere_are_whole_again(monkeypatch, size):
    """Half a sample waits for its other half; a last one that has none is dropped."""
    sound = tone(0.2)
    async with AudioStandIn(speak=[streams(*cut(sound + b"\x7f", size))]) as server:
        chunks = await say(await voice_at(monkeypatch, server.url))
        assert joined(chunks) == sound
        assert all(len(chunk.pcm) % 2 == 0 for chunk in chunks)


async def test_audio_leaves_while_the_server_still_speaks(monkeypatch):
    """The first chunk is there before the answer is complete."""
    async with AudioStandIn(speak=[stalls(SOUND[:6000])]) as server:
        http = await voice_at(monkeypatch, server.url)
        stream = http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 1))
        async with asyncio.timeout(5):
            assert (await anext(stream)).pcm == SOUND[:2880]
            assert not server.requests[0].gone.is_set()
            await stream.aclose()
            await server.requests[0].gone.wait()


@pytest.mark.parametrize("kind", ["", "audio/pcm_s16le", "audio/pcm; rate=24000", "audio/wav"])
@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\0\0\0\0", None])
async def test_a_wav_is_taken_by_its_header_whatever_its_content_type_and_size(monkeypatch, kind, size):
    """Streamed WAVs do not know their length; of one that does, what stands behind the samples is no sound."""
    whole = wav(SOUND, 24_000) + b"LIST\4\0\0\0abcd" if size is None else header(SOUND, 24_000, size) + SOUND
    async with AudioStandIn(speak=[streams(*cut(whole, 999), content_type=kind)]) as server:
        chunks = await say(await voice_at(monkeypatch, server.url))
        assert joined(chunks) == SOUND


async def test_a_wav_header_may_be_long_extensible_and_cut_anywhere(monkeypatch):
    """Byte by byte, with chunks before the samples, one of them of odd length."""
    plain = wav(SOUND[:4800], 24_000)
    extra = (22).to_bytes(2, "little") + b"\x10\0\4\0\0\0" + b"\1\0" + bytes(14)
    extensible = b"fmt \x28\0\0\0" + b"\xfe\xff" + plain[22:36] + extra
    whole = plain[:12] + b"LIST\3\0\0\0abc\0" + extensible + plain[36:]
    async with AudioStandIn(speak=[streams(*cut(whole, 1), content_type="audio/wav")]) as server:
        assert joined(await say(await voice_at(monkeypatch, server.url))) == SOUND[:4800]


@pytest.mark.parametrize(
    "play",
    [
        streams(*cut(wav(tone(1.0, 22_050), 22_050), 1000), content_type="audio/wav"),
        answers(tone(1.0, 22_050), "audio/pcm; rate=22050"),
    ],
)
async def test_another_rate_is_converted(monkeypatch, play):
    """As long as before within a millisecond, and the same tone."""
    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url, http_rate=16_000)
        chunks = await say(http)
        pcm = np.frombuffer(joined(chunks), "<i2").astype(float)
        assert http.rate == 16_000 and abs(len(pcm) - 16_000) <= 16
        assert max(len(chunk.pcm) for chunk in chunks) <= 1920
        spectrum = np.abs(np.fft.rfft(pcm[:16_000] * np.hanning(len(pcm[:16_000]))))
        assert abs(int(np.argmax(spectrum)) * 16_000 / len(pcm[:16_000]) - 440) < 2


def flac():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(4000, np.int16), 24_000, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (answers(b"\xff\xfb" * 4000, "audio/mpeg"), "answered audio/mpeg; expected audio/pcm or audio/wav"),
        (answers(b'{"text": "x"}', "application/json"), "answered application/json; expected"),
        (answers(flac(), "audio/pcm"), "compressed audio; expected audio/pcm or audio/wav"),
        (answers(SOUND, "audio/wav"), "answered audio/wav without a WAV header"),
        (answers(wav(SOUND, 24_000, channels=2), "audio/wav"), "format 1, 16 bits, 2 channels; expected PCM"),
        (answers(wav(SOUND, 24_000, width=1), "audio/wav"), "format 1, 8 bits, 1 channels; expected PCM"),
        (answers(wav(SOUND, 40), "audio/wav"), "audio of 40 samples a second; expected 8000 to 192000"),
        (answers(header(SOUND, 24_000, b"\0\0\0\0")[:12] + b"junk\xff\xff\xff\0" + bytes(70_000)), "without samples"),
        (answers(SOUND, "audio/pcm; rate=7"), "audio of 7 samples a second"),
        (refuses(401, {"error": {"message": f"bad key {KEY}"}}), r"answered 401: bad key \*\*\*$"),
        (refuses(400, {"error": {"message": f"cannot say {TEXT}"}}), r"answered 400: cannot say \.\.\.$"),
        (refuses(422, {"detail": [{"msg": "Field required", "input": TEXT}]}), "answered 422: Field required$"),
        (answers(b"gone", "text/plain", 404), "answered 404: Status$"),
    ],
)
async def test_what_is_no_sound_is_refused_with_a_reason_and_asked_for_once(monkeypatch, caplog, play, said):
    """Asking again would not help. Neither the key nor the sentence is in the error or a log."""
    caplog.set_level(logging.DEBUG, "workers")
    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url, api_key=KEY)
        with pytest.raises(EngineError, match=said) as failure:
            await say(http)
        assert len(server.requests) == 1
        assert KEY not in str(failure.value) + caplog.text and TEXT not in str(failure.value) + caplog.text


FAILURES = [
    (drops(), "connection to the voice server failed"),
    (drops(SOUND[:1000]), "connection to the voice server failed"),
    (refuses(500, {"error": "out of memory"}), "answered 500: out of memory"),
    (refuses(503, {}), "answered 503: Status"),
    (streams(), "sent no audio"),
    (streams(wav(SOUND, 24_000)[:30], content_type="audio/wav"), "broke off within its WAV header"),
]


@pytest.mark.parametrize(("play", "said"), FAILURES)
async def test_a_failure_before_the_first_chunk_is_tried_once_more(monkeypatch, play, said):
    """Nothing was heard, so nothing is repeated; a second failure is the sentence's."""
    async with AudioStandIn(speak=[play, streams(SOUND)]) as server:
        http = await voice_at(monkeypatch, server.url)
        chunks = await say(http)
        assert joined(chunks) == SOUND and "".join(chunk.text for chunk in chunks) == TEXT
        server.plays[SPEAK] = [play]
        with pytest.raises(EngineError, match=said):
            await say(http)
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (drops(SOUND[:12_000]), "connection to the voice server failed"),
        (stalls(SOUND[:12_000]), r"did not send more audio within 0\.3 s"),
    ],
)
async def test_a_failure_within_the_sound_is_final(monkeypatch, play, said):
    """What was heard is not said twice; no text is told whose sound did not come."""
    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url, stall_s=0.3)
        chunks = []
        with pytest.raises(EngineError, match=said):
            async with asyncio.timeout(5):
                async for chunk in http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 1)):
                    chunks.append(chunk)
        assert joined(chunks) == SOUND[: 2880 * 4]
        assert len(server.requests) == 1
        assert "".join(chunk.text for chunk in chunks) == ""


@pytest.mark.parametrize(
    "play", [stalls(), stalls(b""), stalls(wav(SOUND, 24_000)[:44], content_type="audio/wav")]
)  # fmt: skip
async def test_a_server_that_hangs_before_the_first_audio_is_given_up(monkeypatch, play):
    """After TTS_FIRST_AUDIO_S, headers or not; the connection is closed and nothing is asked again."""
    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url, first_audio_s=0.3)
        with pytest.raises(EngineError, match=r"did not send any audio within 0\.3 s"):
            await say(http)
        async with asyncio.timeout(5):
            await server.requests[0].gone.wait()
        assert len(server.requests) == 1


async def test_a_sound_may_be_longer_than_its_first_audio_may_take(monkeypatch):
    """TTS_FIRST_AUDIO_S ends with the first audio; from then on only a stall is too long."""
    async with AudioStandIn(speak=[streams(*cut(SOUND, 4800), pace=0.03)]) as server:
        http = await voice_at(monkeypatch, server.url, first_audio_s=0.3)
        assert joined(await say(http)) == SOUND


async def test_a_listener_who_waits_does_not_make_the_server_late(monkeypatch):
    """The time for which no audio was asked for is no stall, and the server is not read ahead of it."""
    pieces = cut(tone(200.0), 48_000)
    async with AudioStandIn(speak=[streams(*pieces)]) as server:
        http = await voice_at(monkeypatch, server.url, stall_s=0.2)
        stream = http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 1))
        await anext(stream)
        await asyncio.sleep(0.5)
        assert server.requests[0].sent < len(pieces) * 48_000
        async with asyncio.timeout(20):
            rest = [chunk async for chunk in stream]
        assert sum(len(chunk.pcm) for chunk in rest) == len(pieces) * 48_000 - 2880


@pytest.mark.parametrize("play", [stalls(), stalls(SOUND[:12_000]), streams(*cut(tone(60.0), 960), pace=0.005)])
async def test_a_cancel_closes_the_connection_and_no_chunk_follows(monkeypatch, play):
    """Whether it hangs, has paused, or is in mid-sound: the server sees the client go, and nothing more leaves."""
    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url)
        loop, token, chunks, cancelled_at = asyncio.get_running_loop(), CancelToken("s0-abcdef", 1), [], []

        async def listen():
            async for chunk in http.speak(TEXT, "", "en-US", token):
                assert not token.cancelled
                chunks.append(chunk)

        listening = asyncio.create_task(listen())
        request = await server.asked(SPEAK)
        async with asyncio.timeout(5):
            while not chunks and request.sent:
                await asyncio.sleep(0.001)
            token.cancel()
            cancelled_at.append(loop.time())
            with pytest.raises(Cancelled):
                await listening
            await request.gone.wait()
        assert request.gone_at - cancelled_at[0] < 1.0
        server.plays[SPEAK] = [streams(SOUND)]
        assert joined(await say(http)) == SOUND


async def test_sound_that_is_here_already_does_not_leave_after_a_cancel(monkeypatch):
    async with AudioStandIn(speak=[answers(SOUND)]) as server:
        http = await voice_at(monkeypatch, server.url)
        token, chunks = CancelToken("s0-abcdef", 1), []
        with pytest.raises(Cancelled):
            async for chunk in http.speak(TEXT, "", "en-US", token):
                chunks.append(chunk)
                token.cancel()
        assert len(chunks) == 1


async def test_a_cancelled_turn_asks_for_nothing(monkeypatch):
    """Neither at all, nor again when the cancel comes between two attempts."""
    async with AudioStandIn(speak=[refuses(500)]) as server:
        http = await voice_at(monkeypatch, server.url)
        token = CancelToken("s0-abcdef", 1)
        saying = asyncio.create_task(say(http, cancel=token))
        await server.asked(SPEAK)
        token.cancel()
        with pytest.raises(Cancelled):
            await saying
        with pytest.raises(Cancelled):
            await say(http, cancel=token)
        assert len(server.requests) == 1


async def test_many_sentences_at_once_keep_their_own_sound(monkeypatch):
    sounds = [tone(0.3 + 0.05 * number) for number in range(12)]

    async def play(request, wire):
        await streams(*cut(sounds[int(request.fields["input"])], 960), pace=0.001)(request, wire)

    async with AudioStandIn(speak=[play]) as server:
        http = await voice_at(monkeypatch, server.url)
        said = await asyncio.gather(*(say(http, str(number)) for number in range(12)))
        assert [joined(chunks) for chunks in said] == sounds


@pytest.mark.parametrize("text", ["...", "—", "\U0001f600 !"])
async def test_what_has_no_word_has_no_sound(monkeypatch, text):
    async with AudioStandIn() as server:
        (chunk,) = await say(await voice_at(monkeypatch, server.url), text)
        assert (chunk.pcm, chunk.text) == (b"", text) and server.requests == []


SENTENCES = [
    TEXT,
    "It cost 1,234.50 dollars in 1883, and that was 45% too much.",
    "Wait, no, yes: the FBI and NASA say so!",
    "One two three four five six seven eight nine ten.",
    "Unfortunately the extraordinarily long words come first, so it is as it is to us.",
    "In 1883 it opened; by 1984, 2,000,000 people crossed it, and I do too.",
]


@pytest.mark.parametrize("words_per_minute", [100, 175, 300])
@pytest.mark.parametrize("known", [False, True])
async def test_no_word_is_told_before_its_sound_is_complete(monkeypatch, words_per_minute, known):
    """Held to a voice that knows its words exactly, slow and quick, whether the length is known or not."""
    monkeypatch.setenv("TTS_RATE_WPM", str(words_per_minute))
    espeak = Espeak()
    await espeak.load()
    early = told = 0
    async with AudioStandIn() as server:
        http = await voice_at(monkeypatch, server.url, http_rate=espeak.rate)
        for text in SENTENCES:
            exact = [chunk async for chunk in espeak.speak(text, "", "en-US", CancelToken("s0-abcdef", 1))]
            pcm = joined(exact)
            server.plays[SPEAK] = [answers(pcm) if known else streams(*cut(pcm, 4096))]
            estimated = await say(http, text)
            assert "".join(chunk.text for chunk in estimated) == text
            for number in range(len(estimated)):
                surely = "".join(chunk.text for chunk in exact[: number + 1])
                now = "".join(chunk.text for chunk in estimated[: number + 1])
                early += len(now) > len(surely)
            told += sum(len(chunk.text) for chunk in estimated[:-1]) / len(text)
    assert early == 0
    assert told / len(SENTENCES) > (0.5 if known else 0.05)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", r"TTS_URL=: expected http://host:port/v1"),
        (f"http://me:{KEY}@host/v1", r"TTS_URL=\(hidden\): .* without user, password or query"),
    ],
)
async def test_an_address_that_cannot_be_one_is_refused(monkeypatch, url, said):
    """At load, with what was expected; a secret in it is not repeated."""
    with pytest.raises(EngineError, match=said) as failure:
        await engine(monkeypatch, url).load()
    assert KEY not in str(failure.value)


async def test_the_key_may_stand_in_a_file(monkeypatch, tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    async with AudioStandIn(speak=[streams(SOUND)]) as server:
        await say(await voice_at(monkeypatch, server.url, api_key_file=file))
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    file.write_text("")
    with pytest.raises(EngineError, match=r"TTS_API_KEY_FILE=.*: is empty; expected the key"):
        await Http().load()
