"""``TTS_ENGINE=http`` against a server process that is not ours."""

import asyncio

import numpy as np
import pytest

from bus.cancel import Cancelled, CancelToken
from tests.workers.tts import piper_server
from workers.engines import EngineError
from workers.tts.engines.http import Http

pytestmark = pytest.mark.slow

PHONEME_MS = 50
TEXT = "one night a **storm** came up."


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with piper_server.running(tmp_path_factory.mktemp("piper")) as url:
        yield url


async def voice_at(monkeypatch, url, key=piper_server.KEY):
    monkeypatch.setenv("TTS_URL", url)
    monkeypatch.setenv("TTS_API_KEY", key)
    http = Http()
    await http.load()
    return http


async def test_a_sentence_of_a_real_server(monkeypatch, server):
    """Its rate is heard from its answer, 22,050 Hz: as long as it hums, at 24 kHz, and the tone it hums."""
    http = await voice_at(monkeypatch, server)
    chunks = [chunk async for chunk in http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 1))]
    assert "".join(chunk.text for chunk in chunks) == TEXT
    pcm = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2").astype(float)
    # Piper puts a pad after every phoneme, and one each at the beginning and the end of a sentence.
    phonemes = 2 * len("one night a storm came up.") + 3
    assert len(pcm) / http.rate == pytest.approx(phonemes * PHONEME_MS / 1000, abs=0.01)
    spectrum = np.abs(np.fft.rfft(pcm[:24_000] * np.hanning(24_000)))
    assert abs(int(np.argmax(spectrum)) - 220) <= 2


async def test_its_refusal_is_told_without_the_key(monkeypatch, server):
    http = await voice_at(monkeypatch, server, "sk-wrong-0123456789")
    with pytest.raises(EngineError, match="answered 401: Incorrect API key provided") as failure:
        [chunk async for chunk in http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 1))]
    assert "sk-wrong" not in str(failure.value)


async def test_a_cancel_and_the_next_sentence(monkeypatch, server):
    """The connection is closed, the acknowledgement says so, and the server speaks on for the next turn."""
    http = await voice_at(monkeypatch, server)
    token = CancelToken("s0-abcdef", 1)

    async def listen():
        return [chunk async for chunk in http.speak("A " * 2000, "", "en-US", token)]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    token.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(Cancelled):
            await listening
    assert http.wasted(token).detail.startswith("connection closed")
    assert [chunk async for chunk in http.speak(TEXT, "", "en-US", CancelToken("s0-abcdef", 2))]
