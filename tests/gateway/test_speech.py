import numpy as np
import pytest

from gateway.hearing import Hearing
from gateway.inputs import SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted
from gateway.speech import WINDOW, Endpointing, SpeechDetector, silero
from tests.recordings import recording

SPEECH, SILENCE = 0.9, 0.0
WINDOW_MS = 32


def detect(probabilities, endpointing=None):
    """Feed one window per probability; the events, with their positions in windows."""
    script = iter(probabilities)
    detector = SpeechDetector(lambda window: next(script), endpointing)
    events = []
    for number in range(len(probabilities)):
        events += detector.feed(bytes(WINDOW * 2), at=number * WINDOW_MS / 1000)
    return [(type(event).__name__, event.offset // WINDOW) for event in events]


def test_one_window_of_speech_is_an_onset_at_its_first_sample():
    """An onset is known after one 32 ms window."""
    assert detect([SILENCE, SPEECH]) == [("SpeechStarted", 1)]


def test_pause_resume_and_end():
    """200 ms of silence pause an utterance, speech resumes it, 500 ms end it."""
    script = [SPEECH] * 5 + [SILENCE] * 7 + [SPEECH] * 3 + [SILENCE] * 16
    assert detect(script) == [
        ("SpeechStarted", 0),
        ("SpeechPaused", 12),
        ("SpeechResumed", 12),
        ("SpeechPaused", 22),
        ("SpeechEnded", 31),
    ]


def test_a_weak_window_within_speech_is_still_speech():
    """Hysteresis: speech goes on at 0.4 but does not begin there."""
    assert detect([0.4] * 3) == []
    assert detect([SPEECH, *[0.4] * 20]) == [("SpeechStarted", 0)]


def test_the_silence_that_ends_is_configurable():
    """``silence_duration_ms`` of the client decides."""
    assert detect([SPEECH] + [SILENCE] * 40, Endpointing(silence_ms=1000))[-1] == ("SpeechEnded", 33)


def test_the_end_of_the_audio_ends_the_utterance():
    """A caller who hangs up in mid-word has said what they said."""
    detector = SpeechDetector(lambda window: SPEECH)
    detector.feed(bytes(WINDOW * 4), at=0.0)
    assert [type(event) for event in detector.end(0.1)] == [SpeechEnded]
    assert detector.end(0.2) == []


def test_audio_may_come_in_any_pieces():
    """What is found does not depend on how the audio was cut."""
    pcm = recording("brooklyn") + bytes(16_000)
    found = []
    for size in (2, 640, 5000, len(pcm)):
        detector = SpeechDetector(silero())
        events = [e for n in range(0, len(pcm), size) for e in detector.feed(pcm[n : n + size], at=0.0)]
        found.append([(type(event), event.offset) for event in events])
    assert found[0] == found[1] == found[2] == found[3]
    assert [kind for kind, _ in found[0]][0] is SpeechStarted
    assert [kind for kind, _ in found[0]][-2:] == [SpeechPaused, SpeechEnded]
    assert SpeechResumed not in [kind for kind, _ in found[0]][:2]


def test_silence_and_hum_are_not_speech():
    """No onset in silence, in faint noise, or in a mains hum."""
    rng = np.random.default_rng(1)
    noise = (rng.normal(0, 30, 48_000)).astype("<i2").tobytes()
    hum = (1000 * np.sin(np.arange(48_000) * 2 * np.pi * 50 / 16_000)).astype("<i2").tobytes()
    for pcm in (bytes(96_000), noise, hum):
        assert SpeechDetector(silero()).feed(pcm, at=0.0) == []


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_resampling_keeps_positions(rate):
    """A click at client sample n is found at n * 16000 / rate on both paths, within one millisecond."""
    hearing, at = Hearing(rate), rate // 2
    pcm = np.zeros(rate, "<i2")
    pcm[at : at + rate // 1000] = 20_000
    step = rate // 50
    parts = [hearing.feed(pcm[n : n + step].tobytes()) for n in range(0, rate, step)]
    for path in (0, 1):
        heard = np.frombuffer(b"".join(part[path] for part in parts), "<i2")
        assert abs(int(np.argmax(np.abs(heard))) - 8_000) <= 16
    assert len(b"".join(part[0] for part in parts)) >= 2 * (16_000 - 160)


def test_an_odd_byte_waits_for_its_other_half():
    """A chunk cut within a sample loses nothing."""
    hearing = Hearing(16_000)
    assert hearing.feed(b"\1\2\3")[0] == b"\1\2"
    assert hearing.feed(b"\4")[0] == b"\3\4"
