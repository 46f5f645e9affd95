"""The voice activity models and what is saved on them."""

import numpy as np
import soundfile
import soxr

from gateway import silero
from gateway.silero import Detector, make
from gateway.speech import RATE, WINDOW
from tests.speech import path


def windows(name):
    samples, rate = soundfile.read(path(name), dtype="float32")
    pcm = np.rint(soxr.resample(samples, rate, RATE) * 32_767).astype("<i2")
    pcm = np.concatenate([np.zeros(2 * RATE, "<i2"), pcm, np.zeros(2 * RATE, "<i2"), pcm])
    return [pcm[at : at + WINDOW].tobytes() for at in range(0, len(pcm) - WINDOW, WINDOW)]


def test_speech_after_silence_that_was_not_looked_at_is_found_as_soon(monkeypatch):
    """Where the model, asked about every window, hears speech begin, it begins; a window more or less."""
    said = windows("time")
    found = {}
    for quiet in (silero.QUIET, -1):
        monkeypatch.setattr(silero, "QUIET", quiet)
        detector = Detector()
        speaks = np.array([detector(window) >= 0.5 for window in said])
        found[quiet] = np.flatnonzero(np.diff(speaks.astype(int)) == 1)
    asked, skipped = found.values()
    assert abs(asked[0] - skipped[0]) <= 1 and len(said) > 100
    half = (len(said) + 60) // 2
    assert abs(asked[asked > half][0] - skipped[skipped > half][0]) <= 1


def test_a_model_serves_one_call_after_the_other_and_remembers_nothing(monkeypatch):
    """What the next call hears is what a new model would."""
    monkeypatch.setattr(silero, "prepare", lambda: None)
    with silero._making:  # no thread of another test's makes any
        monkeypatch.setattr(silero, "_spare", [])
    said, made = windows("brooklyn")[60:160], []

    def counted():
        made.append(make())
        return made[-1]

    first = Detector(counted)
    fresh = [first(window) for window in said]
    first.close()
    assert first(said[0]) == 0.0
    again = Detector(counted)
    assert [again(window) for window in said] == fresh and len(made) == 1
    other = Detector(counted)
    assert len(made) == 2 and other is not again
