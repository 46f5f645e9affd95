"""Replies that say which reply they are, in words and in sound that a telephone carries.

A reply has a number, 0 to 4095, which is its only word; in sound it is three tones below 2.8 kHz that never pause.
All of them are multiples of 50 Hz, so every 20 ms of them tell the number, at whatever sample they were cut.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from gateway.codecs import PCMU

COUNT = 16**3
SYLLABLES = ("ba", "da", "fa", "ga", "ha", "ja", "ka", "la", "ma", "na", "pa", "ra", "sa", "ta", "va", "za")
LOWEST = (300, 1150, 2000)
"""Hz of the first tone of each of the three."""
STEP = 50
WORD_MS = 300
LOUD = 4000
"""Amplitude of each tone."""
QUIETEST = 1000
"""Amplitude below which a tone is none."""
CLEAR = 2.5
"""How much louder than its neighbours a tone is, in a frame that is not torn where two pieces of audio meet."""
FRAME = 160
"""Codes of 20 ms of a telephone's audio."""
_WORD = re.compile(rf"\b((?:{'|'.join(SYLLABLES)}){{3}})\b")
_BINS = np.array([[low // STEP + place for place in range(16)] for low in LOWEST])


def word(number: int) -> str:
    """The word of a reply."""
    return "".join(SYLLABLES[number // weight % 16] for weight in (256, 16, 1))


def text(number: int, words: int, sentence: int) -> str:
    """A reply of so many words, ``sentence`` to a sentence."""
    said = " ".join([word(number)] * sentence).capitalize() + "."
    return " ".join([said] * max(1, words // sentence))


def number_in(said: str) -> tuple[int, int]:
    """(number, words) of what is said of a reply; (-1, 0) if there is none of its words."""
    found = _WORD.findall(said.lower())
    if not found:
        return -1, 0
    places = [SYLLABLES.index(found[0][at : at + 2]) for at in (0, 2, 4)]
    return places[0] * 256 + places[1] * 16 + places[2], len(found)


def sound(number: int, words: int, rate: int) -> npt.NDArray[np.int16]:
    """So many words of a reply, without a pause in them."""
    time = np.arange(rate * WORD_MS // 1000 * words) / rate
    places = (number // 256 % 16, number // 16 % 16, number % 16)
    tones = sum(
        LOUD * np.sin(2 * np.pi * (low + STEP * place) * time) for low, place in zip(LOWEST, places, strict=True)
    )
    return np.rint(tones).astype(np.int16)


def heard(codes: bytes) -> int:
    """The number of the reply of which these 20 ms of mu-law are; -1 for silence, or where it cannot be told."""
    if len(codes) < FRAME:
        return -1
    spectrum = np.abs(np.fft.rfft(np.frombuffer(PCMU.decode(codes[:FRAME]), "<i2"))) * 2 / FRAME
    groups = spectrum[_BINS]
    loudest = groups.max(axis=1)
    if loudest.min() < QUIETEST or np.count_nonzero(groups > loudest[:, None] / CLEAR) != len(LOWEST):
        return -1
    high, middle, low = (int(place) for place in groups.argmax(axis=1))
    return high * 256 + middle * 16 + low
