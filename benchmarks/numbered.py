"""Words that are numbers, in text and in sound, so that whoever hears them knows which were lost and which came twice.

A number 0 to 255 is a word of two syllables. In sound it is a pair of tones above the voice, where a recording of
speech that is played along does not disturb them: a detector of speech hears speech, a decoder numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Int16 = npt.NDArray[np.int16]

COUNT = 256
SYLLABLES = ("ba", "da", "fa", "ga", "ha", "ja", "ka", "la", "ma", "na", "pa", "ra", "sa", "ta", "va", "za")
LOW, HIGH, STEP = 1900, 2750, 50
"""Hz of the first tone of each of the pair, and between two of them; all below 3.6 kHz, which a telephone carries."""
VOICE = 1700
"""Hz below which the voice is that a caller's words are played over."""
BEGIN_MS = 1200
"""Where the voice begins in its recording: there a detector of speech knows it for speech within one window."""
SLOT_MS, LEAD_MS, TONE_MS = 300, 40, 220
"""A word's time, silence of the tones before it, and the tones."""
LOUD = 1500
"""Amplitude of each tone."""
WINDOW_MS, HOP_MS = 40, 10
QUIETEST = 150
"""Amplitude below which there is no tone."""
WHOLE_MS = TONE_MS + WINDOW_MS * 3 // 2
"""What the parts of a word that was cut last at most, with what a window adds to each."""
SHORTEST_MS = 60
"""A tone that is shorter was not heard."""
CARRIER = Path(__file__).parents[1] / "tests" / "speech" / "brooklyn.wav"
_WORD = re.compile("|".join(f"{a}{b}" for a in SYLLABLES for b in SYLLABLES))


def word(number: int) -> str:
    """The word for a number (modulo COUNT)."""
    return SYLLABLES[number // 16 % 16] + SYLLABLES[number % 16]


def text(numbers: Iterable[int]) -> str:
    """Words in a row."""
    return " ".join(word(number) for number in numbers)


def numbers_in(said: str) -> list[int]:
    """The numbers whose words stand in a text, in order; other words are ignored."""
    return [
        SYLLABLES.index(each[:2]) * 16 + SYLLABLES.index(each[2:])
        for each in re.findall(r"[a-z]+", said.lower())
        if _WORD.fullmatch(each)
    ]


def tones(numbers: Sequence[int], rate: int) -> Int16:
    """The words' tones alone, SLOT_MS each."""
    slot, lead, length = (rate * ms // 1000 for ms in (SLOT_MS, LEAD_MS, TONE_MS))
    pcm = np.zeros(len(numbers) * slot)
    time, fade = np.arange(length) / rate, rate // 200
    ramp = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / fade)
    for place, number in enumerate(numbers):
        pair = (LOW + STEP * (number // 16 % 16), HIGH + STEP * (number % 16))
        at = place * slot + lead
        pcm[at : at + length] = ramp * sum(LOUD * np.sin(2 * np.pi * hertz * time) for hertz in pair)
    return np.rint(pcm).astype(np.int16)


def spoken(numbers: Sequence[int], rate: int = 24_000) -> Int16:
    """The words as a caller says them: the tones over a voice, whose own sound ends below them."""
    coded = tones(numbers, rate).astype(np.float64)
    voice = _voice(rate)
    voice = np.tile(voice, 1 + len(coded) // len(voice))[: len(coded)]
    return np.clip(coded + voice, -32_768, 32_767).astype(np.int16)


def heard(pcm: Int16, rate: int) -> list[int]:
    """The numbers that sound in ``pcm``, in order. One that sounds twice, or too long for once, is there twice."""
    return [number for number, _ in placed(pcm, rate)]


def placed(pcm: Int16, rate: int) -> list[tuple[int, int]]:
    """As ``heard``, each with where it begins, in ms. One that a pause cuts in two is there once."""
    window, hop = rate * WINDOW_MS // 1000, rate * HOP_MS // 1000
    if len(pcm) < window:
        return []
    frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float32), window)[::hop]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32), axis=1)) * 4 / window
    bin_of = window / rate
    low = spectrum[:, [round((LOW + STEP * n) * bin_of) for n in range(16)]]
    high = spectrum[:, [round((HIGH + STEP * n) * bin_of) for n in range(16)]]
    sounding = (low.max(axis=1) > QUIETEST) & (high.max(axis=1) > QUIETEST)
    codes = np.where(sounding, low.argmax(axis=1) * 16 + high.argmax(axis=1), -1)
    found: list[tuple[int, int]] = []
    begin = before = 0
    for end in range(1, len(codes) + 1):
        if end < len(codes) and codes[end] == codes[begin]:
            continue
        number, lasted = int(codes[begin]), (end - begin) * HOP_MS
        if number >= 0 and lasted >= SHORTEST_MS:
            if found and found[-1][0] == number and before + lasted <= WHOLE_MS:
                before = 0
            else:
                before = lasted
                found += [(number, begin * HOP_MS)] * max(1, round(lasted / (TONE_MS + WINDOW_MS / 2)))
        begin = end
    return found


_voices: dict[int, npt.NDArray[np.float64]] = {}


def _voice(rate: int) -> npt.NDArray[np.float64]:
    """Speech without its pauses and without anything above VOICE, at half its loudness."""
    if rate not in _voices:
        samples, own = soundfile.read(CARRIER, dtype="float32")
        samples = soxr.resample(soxr.resample(samples, own, 2 * VOICE), 2 * VOICE, rate)
        step = rate // 50
        pieces = samples[: len(samples) // step * step].reshape(-1, step)
        levels = np.sqrt((pieces**2).mean(axis=1))
        loud = pieces[levels > 0.1 * levels.max()].ravel() * 16_384
        _voices[rate] = np.roll(loud, -rate * BEGIN_MS // 1000)
    return _voices[rate]
