"""G.711, and audio in each of the protocol's formats through a whole call."""

import base64
import warnings

import numpy as np
import pytest
import soxr

from gateway.codecs import CODECS, PCMA, PCMU
from gateway.hearing import Hearing
from gateway.output import Output
from gateway.protocols.twilio_outlet import TwilioOutlet
from tests.gateway.realtime_client import client, voice
from tests.stack import running_stack

EVERY = np.arange(65536).astype("<u2").tobytes()


def itu_mu_law(sample: int) -> int:
    """G.711 as its flow chart has it, one sample at a time: 14 bits, bias 33, eight segments of sixteen steps."""
    value = sample >> 2
    mask, value = (0x7F, -value) if value < 0 else (0xFF, value)
    value = min(value, 8159) + 33
    segment = value.bit_length() - 6
    if segment > 7:
        return 0x7F ^ mask
    return ((segment << 4) | ((value >> (segment + 1)) & 0x0F)) ^ mask


def itu_a_law(sample: int) -> int:
    """The same for A-law: 13 bits, the first two segments alike."""
    value = sample >> 3
    mask, value = (0x55, -value - 1) if value < 0 else (0xD5, value)
    segment = max(0, value.bit_length() - 5)
    return ((segment << 4) | ((value >> max(segment, 1)) & 0x0F)) ^ mask


@pytest.mark.parametrize(("codec", "reference"), [(PCMU, itu_mu_law), (PCMA, itu_a_law)])
def test_every_sample_has_g711s_code(codec, reference):
    """All 65,536 samples."""
    samples = np.frombuffer(EVERY, "<i2").astype(int)
    assert list(codec.encode(EVERY)) == [reference(int(sample)) for sample in samples]


@pytest.mark.parametrize("codec", [PCMU, PCMA])
def test_a_code_that_was_decoded_is_that_code_again(codec):
    """All 256 codes; mu-law's two zeros are one, and a decoded sample lies in the middle of what has its code."""
    codes = bytes(range(256))
    again = codec.encode(codec.decode(codes))
    assert [(c, a) for c, a in zip(codes, again, strict=True) if c != a] == ([(0x7F, 0xFF)] if codec is PCMU else [])
    samples = np.frombuffer(EVERY, "<i2").astype(int)
    decoded = np.frombuffer(codec.decode(codec.encode(EVERY)), "<i2").astype(int)
    within = np.abs(samples) <= 32_000
    assert (np.abs(decoded - samples)[within] <= np.abs(samples)[within] / 32 + 8).all()


@pytest.mark.parametrize("codec", [PCMU, PCMA])
def test_it_is_what_pythons_old_module_said(codec):
    """audioop, where it still is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audioop = pytest.importorskip("audioop")
    encode, decode = (audioop.lin2ulaw, audioop.ulaw2lin) if codec is PCMU else (audioop.lin2alaw, audioop.alaw2lin)
    assert codec.encode(EVERY) == encode(EVERY, 2)
    assert codec.decode(bytes(range(256))) == decode(bytes(range(256)), 2)


@pytest.mark.parametrize("size", [1, 160, 37])
def test_a_phones_audio_is_resampled_without_clicks(size):
    """8 kHz in pieces of any size: the same samples as all at once, and every one of them after the end."""
    time = np.arange(8000) / 8000
    tone = (9000 * np.sin(2 * np.pi * 440 * time)).astype("<i2")
    hearing = Hearing(8000)
    pieces = [hearing.feed(tone[at : at + size].tobytes()) for at in range(0, len(tone), size)] + [hearing.finish()]
    clean = b"".join(piece[1] for piece in pieces)
    whole = soxr.resample(tone, 8000, 16_000, quality="HQ")
    assert len(clean) == 2 * 16_000
    assert np.abs(np.frombuffer(clean, "<i2").astype(int) - whole.astype(int)).max() <= 2  # it dithers


def held_back(feed, rate_in, rate_out):
    """Milliseconds that a resampler has taken and not given after each 20 ms: (in the median, at most)."""
    given, waits = 0, []
    for fed in range(20, 2001, 20):
        given += feed(bytes(2 * rate_in // 50))
        waits.append(fed - given * 1000 / rate_out)
    return np.median(waits), max(waits)


def test_what_resamplers_hold_back_is_what_the_page_says():
    """docs/clients.md: a caller's 8 kHz on its two ways in, and a voice's 24 kHz on its way to a phone."""
    for way, median, most in ((0, 0.25, 0.25), (1, 66, 115)):
        hearing = Hearing(8000)
        found = held_back(lambda pcm, way=way, hearing=hearing: len(hearing.feed(pcm)[way]) // 2, 8000, 16_000)
        assert found[0] <= median + 1 and found[1] <= most
    outlet = TwilioOutlet("s0-1", "MZ1", lambda message: None)
    output = Output(outlet, lambda: 0.0, lead=0.2, report=print, on_played_out=print, on_starved=print)
    output.begin(1)
    found = held_back(lambda pcm: len(output._resampled(np.frombuffer(pcm, "<i2"), 24_000)) // 2, 24_000, 8000)
    assert found[0] <= 43 and found[1] <= 76


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
async def test_a_call_in_g711(name):
    """Both directions at 8 kHz: speech is heard, the reply is 8,000 codes a second, what it says has its tones."""
    codec = CODECS[name]
    async with running_stack() as stack, client(stack.ws) as call:
        formats = {"input": {"format": {"type": name}}, "output": {"format": {"type": name}}}
        await call.send("session.update", session={"audio": formats})
        updated = (await call.get("session.updated"))["session"]["audio"]
        assert updated["input"]["format"] == updated["output"]["format"] == {"type": name}
        spoken = np.frombuffer(voice(0.8) + bytes(24_000 * 2), "<i2")
        phone = codec.encode(soxr.resample(spoken, 24_000, 8_000).astype("<i2").tobytes())
        for start in range(0, len(phone), 160):
            part = base64.b64encode(phone[start : start + 160]).decode()
            await call.send("input_audio_buffer.append", audio=part)
        done = (await call.get("response.done"))["response"]
        said = call.audio_of(done["id"])
        assert abs(len(said) - 8 * 200 * 8) <= 80
        heard = np.frombuffer(codec.decode(said), "<i2")[200:1400].astype(float)
        loudest = np.argmax(np.abs(np.fft.rfft(heard * np.hanning(len(heard))))) * 8000 / len(heard)
        assert 290 <= loudest <= 310
        started = call.all("input_audio_buffer.speech_started")[0]["audio_start_ms"]
        assert started <= 40
        assert 11_000 <= stack.stt.heard[0] <= 24_000
        item = done["output"][0]["id"]
        await call.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=99_999)
        assert abs((await call.get("conversation.item.truncated"))["audio_end_ms"] - 1600) <= 10


async def test_in_and_out_may_differ_and_change():
    """PCM in, mu-law out; then PCM again for the next reply; while one is spoken a change is refused."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.send("session.update", session={"audio": {"output": {"format": {"type": "audio/pcmu"}}}})
        await call.speak()
        await call.get("response.output_audio.delta", 3)
        change = {"audio": {"output": {"format": {"type": "audio/pcm"}}}, "instructions": "changed"}
        await call.send("session.update", session=change)
        assert (await call.get("error"))["error"]["param"] == "session.audio.output.format"
        first = (await call.get("response.done"))["response"]["id"]
        await call.send("session.update", session=change)
        assert (await call.get("session.updated", 2))["session"]["instructions"] == "changed"
        await call.send("response.create")
        second = (await call.get("response.done", 2))["response"]["id"]
        sizes = [len(call.audio_of(each)) for each in (first, second)]
        assert abs(sizes[0] - 8 * 200 * 8) <= 80 and sizes[1] == 8 * 200 * 48


async def test_a_change_of_input_format_loses_no_audio():
    """What a resampler held back is heard before the new format's: positions go on."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.audio(bytes(24_000))
        await call.send("session.update", session={"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
        await call.get("session.updated")
        (session,) = stack.sessions.values()
        assert session.microphone.position == 8000
        silence = base64.b64encode(b"\xff" * 8000).decode()
        await call.send("input_audio_buffer.append", audio=silence)
        await call.send("response.create")
        await call.get("response.created")
        assert 8000 + 16_000 - 1100 <= session.microphone.position <= 24_000
