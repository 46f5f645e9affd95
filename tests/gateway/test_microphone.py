"""The caller's audio on its way to the recogniser: positions, and audio that stops coming."""

import asyncio

import numpy as np
import pytest

from bus.events import MicAudio
from gateway.inputs import SpeechEnded, SpeechStarted
from gateway.microphone import ENTRY_MS, STALL_S, Microphone
from gateway.speech import WINDOW
from tests.gateway.realtime_client import client, voice
from tests.stack import running_stack

RATE = 16_000


class Stream:
    """Stands for the bus: keeps what is posted."""

    def __init__(self):
        self.events = []

    def post(self, key, event):
        self.events.append(event)
        return asyncio.get_running_loop().create_future()

    @property
    def samples(self):
        """Samples of audio on the stream."""
        return sum(len(event.pcm) // 2 for event in self.events if isinstance(event, MicAudio))


def microphone(rate=RATE):
    """One that takes what is loud for speech, and its stream."""
    stream = Stream()

    def loud(window):
        return float(np.abs(np.frombuffer(window, "<i2").astype(int)).max() > 100)

    return Microphone(stream, "s0-0a1b2c3d4e5f", rate, loud, keep_all=True), stream


@pytest.mark.parametrize("rate", [16_000, 24_000])
async def test_positions_go_on_while_the_client_itself_ends_utterances(rate):
    """Three utterances by hand, then the detector: it finds speech where that stands on the stream, within a window
    and what the resampler holds back."""
    mic, stream = microphone(rate)
    mic.by_hand = True
    for at in range(3):
        mic.hear(b"\1\1" * rate, float(at), muted=False)
        mic.commit(at + 0.9)
    mic.by_hand = False
    mic.hear(bytes(2 * rate), 4.0, muted=False)
    before = stream.samples
    [started] = mic.hear(b"\1\1" * (rate // 10), 5.0, muted=False)
    assert isinstance(started, SpeechStarted)
    assert abs(started.offset - before) <= WINDOW + RATE // 20


async def test_audio_is_gathered_while_nobody_speaks_and_loses_nothing():
    """Silence stands on the stream in entries of ENTRY_MS at least, speech in the detector's windows, each sample once
    and in its place; what is no entry yet has arrived all the same."""
    mic, stream = microphone()
    quiet, loud = b"\0\0" * (RATE // 50), b"\1\1" * (RATE // 50)
    for frame in range(50):
        mic.hear(quiet, frame / 50, muted=False)
        assert mic.arrived == (frame + 1) * RATE // 50
    silent = [len(event.pcm) // 2 for event in stream.events if isinstance(event, MicAudio)]
    assert len(silent) > 5 and min(silent) >= ENTRY_MS * RATE // 1000
    mic.start(1, RATE)
    begun = len(stream.events)
    for frame in range(50):
        mic.hear(loud, 1 + frame / 50, muted=False)
        assert frame < 2 or 0 <= mic.arrived - stream.samples < WINDOW
    assert all(len(event.pcm) // 2 < 2 * WINDOW for event in stream.events[begun + 1 :])
    mic.hang_up()
    audio = [event for event in stream.events if isinstance(event, MicAudio)]
    assert [event.offset for event in audio] == [sum(len(e.pcm) // 2 for e in audio[:n]) for n in range(len(audio))]
    assert b"".join(event.pcm for event in audio) == quiet * 50 + loud * 50


async def test_audio_that_stops_coming_counts_as_silence():
    """A client that was muted in mid-word sends nothing: the utterance ends, once, after STALL_S; what was held back
    of it is on the stream, and the next utterance is found at its place."""
    mic, stream = microphone(24_000)
    mic.hear(b"\1\1" * 24_000, 10.0, muted=False)
    assert mic.stalled(10.0 + STALL_S - 0.1) == []
    [ended] = mic.stalled(10.0 + STALL_S)
    assert isinstance(ended, SpeechEnded) and 0.9 * RATE < ended.offset <= stream.samples
    assert mic.stalled(10.0 + 2 * STALL_S) == []
    before = stream.samples
    [started] = mic.hear(b"\1\1" * 2400, 20.0, muted=False)
    assert abs(started.offset - before) <= WINDOW + RATE // 20


async def test_an_utterance_that_only_the_client_ends_may_pause_for_as_long_as_it_likes():
    """turn_detection null: no end is guessed."""
    mic, _ = microphone()
    mic.by_hand = True
    mic.hear(b"\1\1" * RATE, 0.0, muted=False)
    assert mic.stalled(100.0) == []


async def test_a_client_that_is_muted_in_mid_word_is_answered():
    """Through the whole system: speech, then no frame at all."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.audio(voice(0.6))
        await call.get("input_audio_buffer.speech_stopped")
        done = await call.get("conversation.item.input_audio_transcription.completed")
        assert done["transcript"] == "hello there"
        assert (await call.get("response.done"))["response"]["status"] == "completed"
