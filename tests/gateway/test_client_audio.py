"""What the client is made of, without a call."""

import numpy as np
import pytest
import soundfile

from gateway.client_audio import PER_MS, AudioError, Microphone, Spoken, load, sounding
from gateway.client_ear import Loudspeaker, Reply
from tests.gateway.realtime_stand_in import RATE, ramp, tone


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "FLOAT"), (1, "ULAW")])
def test_any_sound_file_becomes_24_khz_mono(tmp_path, rate, channels, subtype):
    samples = np.sin(np.arange(rate // 2) * 2 * np.pi * 300 / rate) * 0.5
    soundfile.write(tmp_path / "a.wav", np.stack([samples] * channels, axis=1), rate, subtype=subtype)
    pcm = load(tmp_path / "a.wav")
    assert pcm.dtype == np.int16
    assert len(pcm) == RATE // 2
    expected = np.sin(np.arange(RATE // 2) * 2 * np.pi * 300 / RATE) * 0.5 * 32_768
    assert np.abs(pcm - expected)[500:-500].max() < 700


def test_files_that_are_no_audio(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    for name, said in (
        ("none.wav", "No such file"),
        ("text.wav", "cannot be read as audio"),
        ("empty.wav", "no audio"),
    ):
        with pytest.raises(AudioError, match=said) as error:
            load(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(AudioError, match="directory"):
        load(tmp_path)


def test_where_it_sounds():
    """Silence and a soft hum around speech are not speech."""
    hum, speech = tone(0.5, level=0.005), tone(0.3)
    begin, end = sounding(np.concatenate([hum, speech, hum]))
    assert (begin, end) == (500.0, 800.0)
    assert sounding(np.zeros(100, np.int16)) == (0.0, 0.0)
    assert sounding(np.zeros(0, np.int16)) == (0.0, 0.0)


def test_a_microphone_loses_nothing_between_two():
    """The second thing said begins in the frame in which the first ends, and knows when."""
    microphone = Microphone()
    first, second = Spoken(tone(0.025)), Spoken(tone(0.01))
    microphone.say(first)
    microphone.say(second)
    frames = [microphone.frame(20.0 * number)[0] for number in (1, 2, 3)]
    audio = np.frombuffer(b"".join(frames), "<i2")
    assert np.array_equal(audio, np.concatenate([tone(0.025), tone(0.01), np.zeros(600, np.int16)]))
    assert (first.started, second.started) == (0.0, 25.0)
    assert second.ended.is_set()


def test_a_loudspeaker_plays_in_real_time():
    """Nothing is heard before its time; late audio leaves a gap of its length in the record."""
    speaker, reply = Loudspeaker(), Reply("r")
    speaker.write(reply, ramp(0.1), 50)
    speaker.advance(100)
    assert reply.heard_ms == 50
    assert speaker.empty_at == 150
    speaker.advance(170)
    assert not speaker.holds(reply)
    speaker.write(reply, ramp(0.1, 2401), 200)
    speaker.drop(230.5)
    speaker.advance(900)
    assert reply.position == round(130.5 * PER_MS)
    silence = np.zeros(50 * PER_MS, np.int16)
    expected = [silence, ramp(0.1), silence, ramp(0.1, 2401)[: round(30.5 * PER_MS)]]
    assert np.array_equal(speaker.recording(), np.concatenate(expected))
