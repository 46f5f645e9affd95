import asyncio
import logging

import pytest

from tests.workers.audio_stand_in import (
    HEAR,
    AudioStandIn,
    answers,
    drops,
    refuses,
    stalls,
    tone,
    understands,
)
from workers.engines import EngineError, find
from workers.stt.engines.http import RATE, Http

KEY = "sk-very-secret-0123456789"
SECOND = tone(1.0, RATE)


def engine(monkeypatch, url, **settings):
    """An engine that is not loaded yet; ``settings`` are its environment, without STT_."""
    for name, value in {"url": url, **settings}.items():
        monkeypatch.setenv(f"STT_{name}".upper(), str(value))
    return Http()


async def listener(monkeypatch, url, language="en-US", **settings):
    http = engine(monkeypatch, url, **settings)
    await http.load()
    recognizer = await http.open(language)
    await recognizer.begin()
    return recognizer


def test_it_is_found_by_its_name():
    assert isinstance(find("stt", "http"), Http)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/audio/transcriptions"])
async def test_an_utterance_is_posted_once_as_a_wav_when_it_ends(monkeypatch, end):
    """Every sample, in order, 16 kHz mono 16-bit, with model, language and key; its text comes back cleaned."""
    async with AudioStandIn(hear=[understands("  How old is\nthe bridge? ")]) as server:
        ear = await listener(monkeypatch, server.url + end, model="large-v3", api_key=KEY)
        assert [await ear.feed(SECOND[:1000]), await ear.feed(SECOND[1000:])] == ["", ""]
        assert server.requests == []
        assert await ear.flush() == "How old is the bridge?"
        (request,) = server.of(HEAR)
        assert request.wav == (1, 2, 16_000) and request.pcm == SECOND
        assert request.fields == {"model": "large-v3", "response_format": "json", "language": "en"}
        assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_an_utterance_that_goes_on_is_posted_whole_again_and_the_next_one_alone(monkeypatch):
    """The text is always of the whole utterance; nothing of one utterance is in another."""
    async with AudioStandIn(hear=[understands("one"), understands("one two"), understands("three")]) as server:
        ear = await listener(monkeypatch, server.url)
        await ear.feed(SECOND)
        assert await ear.flush() == "one"
        assert await ear.flush() == "one"
        await ear.feed(bytes(3200))
        assert await ear.flush() == "one two"
        await ear.begin()
        await ear.feed(SECOND[:8000])
        assert await ear.flush() == "three"
        assert [request.pcm for request in server.requests] == [SECOND, SECOND + bytes(3200), SECOND[:8000]]
        assert "authorization" not in server.requests[0].headers


async def test_silence_costs_nothing_and_a_short_sound_is_lengthened(monkeypatch):
    """Without audio nothing is posted; what is shorter than servers take gets silence behind it."""
    async with AudioStandIn(hear=[understands("no")]) as server:
        ear = await listener(monkeypatch, server.url)
        assert await ear.flush() == "" and server.requests == []
        await ear.feed(SECOND[:200])
        assert await ear.flush() == "no"
        assert server.requests[0].pcm == SECOND[:200] + bytes(3000)


@pytest.mark.parametrize("first", [drops(), refuses(500, {}), refuses(503, {"detail": "loading"})])
async def test_a_lost_connection_and_an_error_of_the_server_are_tried_once_more(monkeypatch, first):
    async with AudioStandIn(hear=[first, understands("hello")]) as server:
        ear = await listener(monkeypatch, server.url)
        await ear.feed(SECOND)
        assert await ear.flush() == "hello"
        assert [request.pcm for request in server.requests] == [SECOND, SECOND]


@pytest.mark.parametrize(
    ("play", "said", "requests"),
    [
        (refuses(500, {"error": {"message": "out of\n memory"}}), "answered 500: out of memory", 2),
        (refuses(401, {"error": {"message": f"bad key {KEY}"}}), r"answered 401: bad key \*\*\*$", 1),
        (refuses(404, {"detail": "no such model"}), "answered 404: no such model", 1),
        (refuses(422, {"detail": [{"msg": "Field required", "input": "what was said"}]}), "422: Field required$", 1),
        (answers(b"<html>busy</html>", "text/html", 429), "answered 429: Status$", 1),
        (answers(b"<html>hello</html>", "text/html"), "answered text/html; expected a JSON object with a text", 1),
        (answers(b'{"text": 7}', "application/json"), "expected a JSON object with a text", 1),
        (answers(b'["text"]', "application/json"), "expected a JSON object with a text", 1),
        (drops(), "connection to the transcription server failed", 2),
    ],
)
async def test_what_the_server_says_is_passed_on_briefly(monkeypatch, caplog, play, said, requests):
    """An error names its reason, never the key; the next flush tries again with the same audio."""
    caplog.set_level(logging.DEBUG, "workers")
    async with AudioStandIn(hear=[play]) as server:
        ear = await listener(monkeypatch, server.url, api_key=KEY)
        await ear.feed(SECOND)
        with pytest.raises(EngineError, match=said) as failure:
            await ear.flush()
        assert len(server.requests) == requests
        assert KEY not in str(failure.value) + caplog.text
        server.plays[HEAR] = [understands("at last")]
        assert await ear.flush() == "at last"


async def test_a_server_that_hangs_is_given_up_and_its_connection_closed(monkeypatch):
    """After STT_TIMEOUT_S, once: a second attempt has no time left."""
    async with AudioStandIn(hear=[stalls()]) as server:
        ear = await listener(monkeypatch, server.url, timeout_s=0.2)
        await ear.feed(SECOND)
        with pytest.raises(EngineError, match=r"did not answer within 0\.2 s"):
            await ear.flush()
        async with asyncio.timeout(5):
            await server.requests[0].gone.wait()
        assert len(server.requests) == 1


async def test_nobody_there_is_said(monkeypatch):
    async with AudioStandIn() as server:
        url = server.url
    ear = await listener(monkeypatch, url)
    await ear.feed(SECOND)
    with pytest.raises(EngineError, match="connection to the transcription server failed: ConnectError"):
        await ear.flush()


async def test_the_session_ending_closes_the_connection(monkeypatch):
    """A flush that is cancelled leaves no request behind."""
    async with AudioStandIn(hear=[stalls()]) as server:
        ear = await listener(monkeypatch, server.url)
        await ear.feed(SECOND)
        flushing = asyncio.create_task(ear.flush())
        request = await server.asked(HEAR)
        flushing.cancel()
        async with asyncio.timeout(5):
            await request.gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await flushing


async def test_an_utterance_beyond_the_limit_is_refused_and_the_next_one_is_not(monkeypatch):
    """STT_MAX_UTTERANCE_S holds to the sample; nothing is posted, and the next utterance is understood."""
    async with AudioStandIn(hear=[understands("fine")]) as server:
        ear = await listener(monkeypatch, server.url, max_utterance_s=2)
        await ear.feed(SECOND * 2)
        assert await ear.flush() == "fine"
        await ear.feed(b"\0\0")
        with pytest.raises(EngineError, match=r"utterance of 2\.0 s; STT_MAX_UTTERANCE_S allows 2 s"):
            await ear.flush()
        assert len(server.requests) == 1
        await ear.begin()
        await ear.feed(SECOND)
        assert await ear.flush() == "fine"
        assert server.requests[1].pcm == SECOND


async def test_half_a_sample_is_refused(monkeypatch):
    async with AudioStandIn() as server:
        ear = await listener(monkeypatch, server.url)
        with pytest.raises(ValueError, match="3 bytes of audio; expected whole 16-bit samples"):
            await ear.feed(b"\0\0\0")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", r"STT_URL=: expected http://host:port/v1"),
        ("localhost:8000", "STT_URL=localhost:8000: expected"),
        ("ftp://host/v1", "STT_URL=ftp://host/v1: expected"),
        ("http://host:port/v1", "STT_URL=http://host:port/v1: expected"),
        (f"http://me:{KEY}@host/v1", r"STT_URL=\(hidden\): .* without user, password or query"),
        (f"http://host/v1?key={KEY}", r"STT_URL=\(hidden\)"),
    ],
)
async def test_an_address_that_cannot_be_one_is_refused(monkeypatch, url, said):
    """At load, with what was expected; a secret in it is not repeated."""
    with pytest.raises(EngineError, match=said) as failure:
        await engine(monkeypatch, url).load()
    assert KEY not in str(failure.value)


async def test_the_key_may_stand_in_a_file(monkeypatch, tmp_path):
    """Its first word; a file that is not there, empty or no key is refused at load without showing what it holds."""
    file = tmp_path / "key"
    async with AudioStandIn(hear=[understands("yes")]) as server:
        http = engine(monkeypatch, server.url, api_key_file=file)
        with pytest.raises(EngineError, match=r"STT_API_KEY_FILE=.*key: cannot be read: FileNotFoundError"):
            await http.load()
        file.write_text("\n")
        with pytest.raises(EngineError, match="is empty; expected the key"):
            await http.load()
        file.write_text("schlüssel-geheim\n")
        with pytest.raises(EngineError, match="expected a key of printable ASCII") as failure:
            await http.load()
        assert "geheim" not in str(failure.value)
        file.write_text(KEY + "\nsecond line\n")
        ear = await listener(monkeypatch, server.url)
        await ear.feed(SECOND)
        assert await ear.flush() == "yes"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_wrong_settings_end_the_process(monkeypatch, capsys):
    """As every setting: named, with what was expected."""
    with pytest.raises(SystemExit):
        engine(monkeypatch, "http://host/v1", timeout_s=0)
    assert "STT_TIMEOUT_S=0: expected a number > 0" in capsys.readouterr().err
