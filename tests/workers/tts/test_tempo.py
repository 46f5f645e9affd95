from contextlib import aclosing

import numpy as np
import pytest

from bus.cancel import CancelToken
from workers.tts.engine import Chunk
from workers.tts.engines.espeak import Espeak
from workers.tts.tempo import Tempo, at_speed

RATE = 24_000
SPEEDS = [0.25, 0.5, 0.8, 1.25, 1.5, 2.0]


def tone(seconds, hertz=220):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype("<i2").tobytes()


def made(pcm, speed, size):
    tempo = Tempo(RATE, speed)
    pieces = [tempo.take(pcm[start : start + size]) for start in range(0, len(pcm), size)]
    return b"".join([*pieces, tempo.finish()])


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("samples", [0, 1, 500, 24_000, 24_001])
def test_it_is_as_long_as_it_should_be(speed, samples):
    assert len(made(tone(1.1)[: 2 * samples], speed, 2880)) == 2 * round(samples / speed)


@pytest.mark.parametrize("speed", SPEEDS)
def test_how_it_was_cut_does_not_matter(speed):
    sound = tone(0.7) + np.random.default_rng(1).normal(0, 3000, 6000).astype("<i2").tobytes()
    assert made(sound, speed, 2 * 37) == made(sound, speed, 2880) == made(sound, speed, len(sound))


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_pitch_stays_and_the_waveform_is_whole(speed):
    """A tone stays that tone: as loud, and with no step between frames."""
    sound = np.frombuffer(made(tone(2.0), speed, 2880), "<i2").astype(float)
    middle = sound[len(sound) // 8 : -len(sound) // 8]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(int(np.argmax(spectrum)) * RATE / len(middle) - 220) < 220 * 0.02
    assert 0.9 < np.sqrt((middle**2).mean()) / (8000 / np.sqrt(2)) < 1.05
    assert np.abs(np.diff(middle)).max() < 2 * np.pi * 220 / RATE * 8000 * 1.5


async def test_words_are_told_where_their_sound_is_complete():
    """The sentence's text is whole, and each word comes after the same share of the sound as before."""
    espeak = Espeak()
    await espeak.load()
    text = "It opened in May, and people walked over it all day."

    def speak():
        return espeak.speak(text, "", "en-US", CancelToken("s0-abcdef", 1))

    plain = [chunk async for chunk in speak()]
    quick = [chunk async for chunk in at_speed(speak(), espeak.rate, 1.5)]
    assert "".join(chunk.text for chunk in quick) == text
    assert all(chunk.exact for chunk in quick) and max(len(chunk.pcm) for chunk in quick) <= 2 * 1323
    lengths = [sum(len(chunk.pcm) // 2 for chunk in chunks) for chunks in (plain, quick)]
    assert abs(lengths[0] / lengths[1] - 1.5) < 0.03
    places = []
    for chunks in (plain, quick):
        at, said = 0, ""
        for chunk in chunks:
            at, said = at + len(chunk.pcm) // 2, said + chunk.text
            if said.startswith("It opened in May,"):
                places.append(at)
                break
    assert 0 <= places[1] - places[0] / 1.5 < 2 * 1323 + espeak.rate * 0.03


async def test_who_stops_listening_stops_the_engine():
    closed = []

    async def endless():
        try:
            while True:
                yield Chunk(tone(0.06), "", True)
        finally:
            closed.append(True)

    async with aclosing(at_speed(endless(), RATE, 2.0)) as chunks:
        async for _ in chunks:
            break
    assert closed == [True]
