"""The live check itself: it finds nothing wrong with the product, and does find what is wrong."""

import numpy as np
import pytest

from benchmarks import live_check
from benchmarks.live_check import Findings, check_recording, falls_silent
from gateway.client_ear import Hold, Reply
from tests import speech


@pytest.mark.end_to_end
def test_a_call_with_four_interruptions_tells_one_story(capsys):
    """The real Procfile with the embedded engines: client, records, console, recording and replay agree."""
    for name in ("story", "count", "thanks"):
        speech.path(name)
    code = live_check.main([])
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.count("on the recording") >= 4 and out.endswith("everything tells the same story\n")


def call(heard_until_ms):
    """The caller begins at 2 s, the assistant is heard from 1 s on: the recording, its story, the reply."""
    samples = np.zeros((5 * 16_000, 2), np.int16)
    samples[32_000:48_000, 0] = 4000
    samples[16_000 : heard_until_ms * 16, 1] = 4000
    story = {
        "entries": [{"who": "assistant", "turn": 1, "at": 1.0, "end": 2.1, "text": "a"}],
        "marks": [{"name": "onset", "at": 2.05}, {"name": "cancelled", "at": 2.5, "turn": 1}],
    }
    reply = Reply("r", status="cancelled", holds=[Hold(2040.0, 1040.0, 40.0)])
    return samples, story, reply


def test_silence_is_measured_on_the_samples():
    samples, _, _ = call(2040)
    onset, silence = falls_silent(samples, 2050, 5000)
    assert onset == 2000 and silence == pytest.approx(2040, abs=0.1)


@pytest.mark.parametrize(("until", "wrong"), [(1900, 0), (2040, 0), (2099, 0), (2110, 1), (4000, 1)])
def test_a_recording_that_sounds_on_is_found(until, wrong):
    """Sound beyond what the client reports, and the tolerance, is wrong, also when it comes back after a while."""
    samples, story, reply = call(until)
    found = Findings()
    check_recording(found, story, [reply], samples)
    assert len(found.wrong) == wrong and len(found.seen) == 1
