import asyncio
import itertools
import random

import numpy as np
import pytest

from bus.events import SpeechAudio
from gateway import echo
from gateway.echo import DELAY, Anchor, EchoCanceller, Played, canceller
from gateway.output import Output
from gateway.playback import Playback
from gateway.protocols.realtime_outlet import RealtimeOutlet
from tests.gateway import echo_room

RATE = 24_000
LONG = ["austen_0870", "austen_0920", "jfk"]
LONG_INSTEAD = ["thanks", "brooklyn", "story", "thanks", "count", "brooklyn", "time", "thanks"]
SETTLED = 3.0
"""Seconds of playback within which the canceller adapts."""

needs_extra = pytest.mark.skipif(not echo.available(), reason="the extra is not installed: pip install bargein[echo]")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Pairs:
    """A module that lags as the real one does, changes nothing, and keeps the pairs it was given."""

    def __init__(self, rate):
        self.line = bytes(DELAY[rate] * 2)
        self.pairs = []

    def cancel(self, played, heard):
        self.pairs.append((played, heard))
        self.line += heard
        out, self.line = self.line[: len(heard)], self.line[len(heard) :]
        return out


def cancelling(rate=RATE, played=None, clock=None):
    made = EchoCanceller(rate, played or Played(rate), clock or Clock())
    made._module = Pairs(rate)
    return made


def ramp(start, count):
    return (np.arange(start, start + count) % 30_000 + 1).astype("<i2")


# -- the reference: what is played when


@pytest.mark.parametrize("drops", [True, False])
def test_the_reference_is_what_the_account_says_was_heard(drops):
    """At every moment of any course of turns, holds and cancels, the sample that was heard last by the account is
    the one that the reference has there."""
    rng, now, compared = random.Random(7), 0.0, 0
    playback, played = Playback(RATE), Played(RATE)
    for turn in range(1, 40):
        playback.begin(turn)
        playback.push(turn, ramp(0, rng.randrange(200, 40_000)).tobytes(), [])
        playback.finish(turn)
        quiet_until = played.drained_at  # what is left of a turn before is still being played
        while not playback.played_out(now) and rng.random() > 0.01:
            while frame := playback.pull(now):
                played.send(frame.pcm, now)
            now = round(now + rng.choice((0.001, 0.01, 0.02, 0.05)), 3)
            if rng.random() < 0.05 and not playback.held:
                playback.hold(now, client_drops=drops)
                if drops:
                    played.drop(now)
            elif playback.held and rng.random() < 0.2:
                playback.resume()
            heard = playback.heard(now)
            if heard and played.drained_at > now > quiet_until + 0.01:
                sample = int(played.at(now - 1 / RATE, 1)[0])
                assert abs(sample - int(ramp(heard - 1, 1)[0])) <= 1  # both round the time to a sample
                compared += 1
        playback.drop()
    assert compared > 300


def test_nothing_played_is_silence_and_pieces_join():
    """Silence before, between and after; a request may span all of it."""
    played = Played(1_000)
    played.send(ramp(0, 20).tobytes(), 0.1)
    played.send(ramp(20, 20).tobytes(), 0.11)
    played.send(ramp(100, 20).tobytes(), 0.2)
    expected = np.zeros(300, "<i2")
    expected[100:140], expected[200:220] = ramp(0, 40), ramp(100, 20)
    assert np.array_equal(played.at(0.0, 300), expected)
    assert played.drained_at == pytest.approx(0.22)


def test_what_was_played_long_ago_is_let_go():
    """An hour of playback takes no more memory than two seconds."""
    played = Played(8_000)
    for number in range(50 * 60):
        played.send(bytes(320), number * 0.02)
    assert len(played._pieces) <= 50 * echo.KEPT_S + 2


async def test_the_output_tells_what_is_played_when():
    """What leaves for the client is the reference, sample by sample, and a hold takes back what was not played."""
    loop = asyncio.get_running_loop()

    class Listener:
        rate, drops, got = RATE, True, 0

        def audio(self, frame):
            self.got += len(frame.pcm) // 2

    listener, played = Listener(), Played(RATE)
    output = Output(
        listener, loop.time, lead=0.2, report=lambda *report: None, on_played_out=lambda turn: None,
        on_starved=lambda turn: None, played=played,
    )  # fmt: skip
    output.begin(1)
    began = loop.time()
    output.take(SpeechAudio(1, 1, 0, 0, 0, RATE, "", "exact", ramp(0, RATE).tobytes()))
    running = asyncio.create_task(output.run())
    async with asyncio.timeout(5):
        while listener.got < RATE // 4:
            await asyncio.sleep(0.005)
    first = played.drained_at - listener.got / RATE
    assert began <= first + 1 / RATE < began + 1
    assert np.array_equal(played.at(first, listener.got), ramp(0, listener.got))
    output.hold()
    assert played.drained_at <= loop.time() + 1 / RATE
    running.cancel()


# -- frames and positions


@pytest.mark.parametrize("rate", sorted(DELAY))
def test_positions_stay_whatever_the_pieces(rate):
    """Sample n out is sample n in; at most the module's lag and a frame are held back."""
    rng, pcm = random.Random(1), ramp(0, rate).tobytes()
    made, out, given = cancelling(rate), b"", 0
    while given < len(pcm):
        size = rng.choice((2, 34, 320, 640, 5000))
        out += made.feed(pcm[given : given + size])
        given = min(len(pcm), given + size)
        assert out == pcm[: len(out)]
        assert given - len(out) < (DELAY[rate] + rate // 100) * 2
    assert len(out) > len(pcm) // 2


def test_audio_waits_for_the_module():
    """What arrives while the module is being loaded comes out in full once it is there."""
    made = EchoCanceller(RATE, Played(RATE), Clock())
    pcm = ramp(0, RATE // 2).tobytes()
    assert made.feed(pcm[:9600]) == b""
    made._module = Pairs(RATE)
    assert made.feed(pcm[9600:]) == pcm[: (RATE // 2 - DELAY[RATE]) * 2]


def test_a_rate_that_the_module_does_not_take_is_refused():
    """The error says which rates there are."""
    with pytest.raises(ValueError, match="44100 Hz; expected one of 8000, 16000, 24000, 48000"):
        EchoCanceller(44_100, Played(RATE), Clock())


def test_what_is_heard_is_paired_with_what_was_played_as_it_arrived():
    """Whatever the jitter of arrivals, the pairs keep one offset: the arrival of the quickest."""
    rng, clock, played = random.Random(3), Clock(), Played(RATE)
    made, step = cancelling(played=played, clock=clock), RATE // 50
    tone = ramp(0, 5 * RATE)
    played.send(tone[-10 * step :].tobytes(), 0.0)
    for number in range(200):
        clock.now = number * 0.02
        played.send(tone[number * step : (number + 1) * step].tobytes(), clock.now)
        # Recorded 20 ms ago, 10 ms on the wire, and up to 25 ms more; every fifth is quick.
        clock.now += 0.03 + (0 if number % 5 == 0 else rng.random() * 0.025)
        made.feed(bytes(step * 2))
    pairs = [np.frombuffer(pair[0], "<i2") for pair in made._module.pairs[120:]]
    firsts = [int(pair[0]) for pair in pairs if pair.all()]
    assert len(firsts) == len(pairs) > 100
    steps = [(b - a) % 30_000 for a, b in itertools.pairwise(firsts)]
    assert set(steps) == {RATE // 100}


def test_a_stall_does_not_move_the_anchor_and_a_gap_does():
    """Audio that a slow wire delivers late was recorded on time; after a pause of the client it was not."""
    anchor = Anchor()
    for number in range(100):
        began = anchor.note(number * 0.02, 10 + number * 0.02)
    assert began == pytest.approx(10)
    assert anchor.note(2.02, 12.9) == pytest.approx(10)  # 0.88 s late: a burst follows
    for number in range(102, 150):
        began = anchor.note(number * 0.02, max(12.9, 10 + number * 0.02))
    assert began == pytest.approx(10)
    for number in range(150, 250):
        began = anchor.note(number * 0.02, 17 + number * 0.02)
    assert began == pytest.approx(17)


# -- who gets one


@pytest.mark.parametrize(
    ("wanted", "itself", "installed", "gets"),
    [
        ("auto", True, True, False),
        ("auto", False, True, True),
        ("auto", False, False, False),
        ("on", True, True, True),
        ("off", False, True, False),
    ],
)
def test_who_gets_a_canceller(wanted, itself, installed, gets, monkeypatch):
    """By default clients that do not cancel themselves, where the extra is installed."""
    monkeypatch.setattr(echo, "available", lambda: installed)
    outlet = RealtimeOutlet("s0-1", lambda event: None, extensions=False, cancels_echo=itself)
    assert (canceller(wanted, outlet, RATE, Clock()) is not None) is gets


# -- the real thing


@needs_extra
@pytest.mark.parametrize("rate", sorted(DELAY))
def test_speech_without_echo_passes_unmoved(rate):
    """Between 1 and 3.5 kHz, above the module's high pass, what comes out is what went in, to the sample."""
    made = EchoCanceller(rate, Played(rate), Clock())
    made.load()
    heard = np.tile(echo_room.spoken(["austen_0870"], ["thanks", "brooklyn"], rate), 2)
    out = np.frombuffer(made.feed(heard.tobytes()), "<i2")
    first, second = (_band(samples[2 * rate : len(out)], rate) for samples in (heard, out))
    size = 2 * len(first)
    match = np.fft.irfft(np.fft.rfft(second, size) * np.conj(np.fft.rfft(first, size)), size)
    assert int(np.argmax(match)) in (0, 1, size - 1)
    assert np.corrcoef(first, second)[0, 1] > 0.9


def _band(samples, rate):
    spectrum = np.fft.rfft(samples.astype(float))
    frequency = np.fft.rfftfreq(len(samples), 1 / rate)
    spectrum[(frequency < 1_000) | (frequency > 3_500)] = 0
    return np.fft.irfft(spectrum, len(samples))


@needs_extra
@pytest.mark.parametrize(
    ("delay_ms", "gain_db", "noise_db"),
    [(120, -10, -60), (120, -20, -60), (250, -10, -60), (250, -15, -50), (400, -10, -60), (400, -20, -50)],
)
def test_an_echo_is_no_onset(delay_ms, gain_db, noise_db):
    """After 3 s of playback nothing that the assistant says is taken for the caller; without a canceller it is."""
    played = echo_room.spoken(LONG, LONG_INSTEAD, RATE)
    echoed = echo_room.echo(played, RATE, delay_ms, gain_db)
    heard = echo_room.microphone(echoed, noise_db=noise_db)
    result = echo_room.listen(played, heard, RATE)
    cut = int(SETTLED * RATE)
    before = echo_room.erle(echoed[delay_ms * RATE // 1000 : cut], result.samples[delay_ms * RATE // 1000 : cut])
    after = echo_room.erle(echoed[cut : len(result.samples)], result.samples[cut:])
    print(
        f"echo of {delay_ms} ms, {gain_db} dB, noise {noise_db} dB: ERLE {before:.1f} dB in the first 3 s, "
        f"{after:.1f} dB after; onsets {[round(at, 2) for at in result.onsets]}"
    )
    assert [at for at in result.onsets if at > SETTLED] == []
    # What is left of a quiet echo is the noise itself.
    assert after > (20 if gain_db >= -10 else 3)
    assert [at for at in echo_room.listen(played, heard, RATE, cancel=False).onsets if at > SETTLED]


@needs_extra
@pytest.mark.parametrize(("delay_ms", "gain_db"), [(120, -10), (250, -15), (400, -20)])
def test_a_caller_is_heard_over_the_echo(delay_ms, gain_db):
    """Whoever speaks over the assistant is an onset within 200 ms of their first sound, and nothing else is."""
    played = echo_room.spoken(LONG, LONG_INSTEAD, RATE)
    echoed = echo_room.echo(played, RATE, delay_ms, gain_db)
    times = (4.5, 8.2, 11.7)
    users = [
        echo_room.spoken([name], [instead], RATE)
        for name, instead in (("brooklyn", "brooklyn"), ("weather", "time"), ("df_book_a_room", "wait"))
    ]
    near, began = np.zeros(len(echoed)), []
    for at, user in zip(times, users, strict=True):
        start = int(at * RATE)
        near[start : start + len(user)] += user[: len(near) - start]
        power = np.convolve(user.astype(float) ** 2, np.ones(480) / 480, "same")
        began.append(at + int(np.argmax(power > power.max() / 300)) / RATE)
    result = echo_room.listen(played, echo_room.microphone(echoed, near, noise_db=-60), RATE)
    onsets = [at for at in result.onsets if at > SETTLED]
    assert len(onsets) == len(began)
    for onset, true in zip(onsets, began, strict=True):
        assert -0.1 < onset - true < 0.2
