"""Words that are numbers: whoever decodes them may be believed."""

import numpy as np
import pytest
import soxr

from benchmarks import numbered
from gateway.codecs import PCMU

RATE = 24_000
NUMBERS = [0, 15, 16, 255, 7, 7, 130]


def on_the_phone(pcm):
    codes = PCMU.encode(soxr.resample(pcm, RATE, 8000).astype("<i2").tobytes())
    return np.frombuffer(PCMU.decode(codes), "<i2")


@pytest.mark.parametrize("sound", [numbered.tones(NUMBERS, RATE), numbered.spoken(NUMBERS)], ids=["tones", "voice"])
def test_every_word_is_heard_in_its_place_also_on_the_phone(sound):
    for pcm, rate in ((sound, RATE), (on_the_phone(sound), 8000)):
        found = numbered.placed(pcm, rate)
        assert [number for number, _ in found] == NUMBERS
        begins = [place * numbered.SLOT_MS + numbered.LEAD_MS for place in range(len(NUMBERS))]
        assert np.allclose([at for _, at in found], begins, atol=numbered.WINDOW_MS)


@pytest.mark.parametrize("cut_ms", [100, 140, 180])
def test_a_word_that_a_pause_cuts_is_one_and_one_that_is_said_again_two(cut_ms):
    pcm = numbered.tones([3, 4, 5], RATE)
    at = (numbered.SLOT_MS + cut_ms) * RATE // 1000
    pause = np.zeros(RATE, np.int16)
    assert numbered.heard(np.concatenate([pcm[:at], pause, pcm[at:]]), RATE) == [3, 4, 5]
    again = numbered.SLOT_MS * RATE // 1000
    assert numbered.heard(np.concatenate([pcm[:at], pause, pcm[again:]]), RATE) == [3, 4, 4, 5]
