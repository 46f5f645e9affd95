"""What a voice server is told of a cancel, and how a session's text and speed reach it."""

import asyncio
import re

import pytest

from bus.cancel import Cancelled, CancelToken
from tests.workers.audio_stand_in import SPEAK, AudioStandIn, answers, drops, refuses, stalls, streams, tone
from workers.engines import EngineError
from workers.tts.engines import http_cancel
from workers.tts.engines.http import Http

KEY = "sk-very-secret-0123456789"
SESSION = "s0-abcdef"
TEXT = "Hello there, this is a sentence."
PATH = f"/cancel/{SESSION}"


async def voice_at(monkeypatch, url, **settings):
    for name, value in {"url": url, **settings}.items():
        monkeypatch.setenv(f"TTS_{name}".upper(), str(value))
    http = Http()
    await http.load()
    return http


async def cancelled(http, server):
    """Speak, cancel while the server stalls, and let the turn's task end as the worker does."""
    token = CancelToken(SESSION, 3)

    async def listen():
        async for _ in http.speak(TEXT, "", "en-US", token):
            pass

    listening = asyncio.create_task(listen())
    await server.asked(SPEAK)
    token.cancel()
    listening.cancel()
    async with asyncio.timeout(5):
        with pytest.raises((Cancelled, asyncio.CancelledError)):
            await listening
    return http.wasted(token).detail


async def test_without_an_endpoint_the_acknowledgement_says_what_is_not_known(monkeypatch):
    """Whether the server's model stopped: the connection is closed, more was not seen."""
    async with AudioStandIn(speak=[stalls()]) as server:
        http = await voice_at(monkeypatch, server.url)
        assert await cancelled(http, server) == "connection closed, the server may be busy until its sentence ends"
        assert "x-session-id" not in server.requests[0].headers
        assert http.wasted(CancelToken(SESSION, 4)).detail == ""


@pytest.mark.parametrize("place", ["/cancel/{session}", PATH])
async def test_a_server_with_an_endpoint_is_told(monkeypatch, place):
    """The session and the turn, with the key; the request that is meant carried the same id. Once."""
    async with AudioStandIn(speak=[stalls(tone(0.2))]) as server:
        server.plays[PATH] = [answers(b"{}", "application/json")]
        http = await voice_at(monkeypatch, server.url, cancel_url=server.url + place, api_key=KEY)
        said = await cancelled(http, server)
        assert said.startswith("connection closed, the server answered the cancel with 200 after ")
        (told,) = server.of(PATH)
        assert told.fields == {"session_id": SESSION, "turn": 3}
        assert told.headers["authorization"] == f"Bearer {KEY}"
        assert server.of(SPEAK)[0].headers["x-session-id"] == SESSION


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (refuses(404, {}), "answered the cancel with 404"),
        (drops(), "could not be told: "),
        (stalls(), r"did not answer the cancel within 0\.2 s"),
    ],
)
async def test_an_endpoint_that_fails_delays_nothing_for_long(monkeypatch, play, said):
    """The acknowledgement comes all the same, and says so."""
    monkeypatch.setattr(http_cancel, "LIMIT_S", 0.2)
    async with AudioStandIn(speak=[stalls()]) as server:
        server.plays[PATH] = [play]
        http = await voice_at(monkeypatch, server.url, cancel_url=server.url + PATH)
        assert re.search(said, await cancelled(http, server))


async def test_another_host_is_not_given_the_key(monkeypatch):
    """Not even one on another port of the same machine."""
    async with AudioStandIn(speak=[stalls()]) as server, AudioStandIn() as other:
        other.plays[PATH] = [answers(b"", "text/plain")]
        http = await voice_at(monkeypatch, server.url, cancel_url=other.url + PATH, api_key=KEY)
        await cancelled(http, server)
        assert "authorization" not in other.of(PATH)[0].headers


async def test_a_sentence_that_was_spoken_needs_no_cancel(monkeypatch):
    async with AudioStandIn(speak=[answers(tone(0.3))]) as server:
        http = await voice_at(monkeypatch, server.url, cancel_url=server.url + PATH)
        token = CancelToken(SESSION, 3)
        assert [chunk async for chunk in http.speak(TEXT, "", "en-US", token)]
        token.cancel()
        assert http.wasted(token).detail == "" and server.of(PATH) == []


async def test_an_address_that_cannot_be_one_is_refused(monkeypatch):
    """At load; a secret in it is not repeated."""
    for url, said in (("cancel", "TTS_CANCEL_URL=cancel: expected"), (f"http://a:{KEY}@b/c", r"=\(hidden\): expected")):
        with pytest.raises(EngineError, match=said) as failure:
            await voice_at(monkeypatch, "http://127.0.0.1:9", cancel_url=url)
        assert KEY not in str(failure.value)


async def test_text_is_sent_as_it_is_said_and_told_as_it_was_written(monkeypatch):
    """Without markdown and emoji; numbers are the server's to read. Speed is sent when it is not 1."""
    written = "It **opened** in 1883 🎉, see [the page](http://x.org)."
    async with AudioStandIn(speak=[streams(tone(1.0))]) as server:
        http = await voice_at(monkeypatch, server.url)
        chunks = [chunk async for chunk in http.speak(written, "", "en-US", CancelToken(SESSION, 1), speed=1.25)]
        assert "".join(chunk.text for chunk in chunks) == written
        (asked,) = server.of(SPEAK)
        assert asked.fields["input"] == "It opened in 1883, see the page."
        assert asked.fields["speed"] == 1.25
        (silent,) = [chunk async for chunk in http.speak("🎉", "", "en-US", CancelToken(SESSION, 1))]
        assert (silent.pcm, silent.text) == (b"", "🎉") and len(server.requests) == 1
