"""What the client for scripts and terminals is given: sound files, and whatever a server sends it."""

import asyncio
import io
import json

import numpy as np
import soundfile
from hypothesis import strategies as st

from gateway.client import BAD_EVENT
from gateway.client_audio import AudioError, load
from gateway.client_ear import Ear
from gateway.client_line import Line, Unreachable, message
from gateway.client_transcribe import Transcript, address
from tests.fuzz.garbage import ANY_TEXT, VALUES, bent, fuzzed
from tests.fuzz.test_addresses import URLS


def sound(kind, subtype):
    file = io.BytesIO()
    soundfile.write(file, np.arange(-400, 400, dtype=np.int16), 8000, format=kind, subtype=subtype)
    return file.getvalue()


SOUNDS = [sound("WAV", "PCM_16"), sound("WAV", "FLOAT"), sound("FLAC", "PCM_16"), sound("AIFF", "PCM_24")]


def test_any_file_is_sound_or_not(tmp_path):
    """It is 24 kHz mono, or an AudioError says why it cannot be; a header that lies costs no memory to speak of."""

    change = st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=4))

    @fuzzed(st.sampled_from(SOUNDS), st.lists(change, max_size=3), st.integers(0, 60))
    def read(raw, changes, cut):
        broken = bytearray(raw)
        for at, new in changes:
            broken[at : at + len(new)] = new
        (tmp_path / "x").write_bytes(broken[: len(broken) - cut])
        try:
            samples = load(tmp_path / "x")
        except AudioError as error:
            assert str(tmp_path) in str(error)
        else:
            assert samples.dtype == np.int16 and 0 < len(samples) < 10_000_000

    read()


EVENTS = [
    {"type": "response.created", "response": {"id": "r"}},
    {"type": "bargein.session", "resumed": True, "response_id": "r", "resume_s": 5, "audio_end_ms": 5},
    {"type": "response.output_item.added", "response_id": "r", "item": {"type": "message", "id": "i"}},
    {"type": "conversation.item.added", "item": {"id": "i", "status": "completed", "content": [{"transcript": "x"}]}},
    {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "AAAA"},
    {"type": "response.output_audio_transcript.delta", "response_id": "r", "item_id": "i", "delta": "x"},
    {"type": "response.done", "response": {"id": "r", "status": "cancelled", "status_details": {"reason": "x"}}},
    {"type": "bargein.output.held", "response_id": "r"},
    {"type": "bargein.output.resumed", "response_id": "r", "audio_start_ms": 5},
    {"type": "input_audio_buffer.speech_started", "item_id": "i", "audio_start_ms": 1},
    {"type": "input_audio_buffer.speech_stopped", "item_id": "i", "audio_end_ms": 900},
    {"type": "conversation.item.input_audio_transcription.completed", "item_id": "i", "transcript": "a --> b\n\n<i>"},
]
KINDS = st.integers(0, 9).flatmap(lambda n: bent(EVENTS) if n else VALUES.filter(lambda value: isinstance(value, dict)))


@fuzzed(st.lists(KINDS, max_size=8), st.booleans())
def test_any_event_of_a_server(events, extended):
    """It is heard, or is one of the errors upon which the client hangs up and says so."""
    ear = Ear(extended, [], lambda at, event: None)
    for number, event in enumerate(events):
        try:
            for answer in ear.take(event, number * 20.0):
                json.dumps(answer)
        except BAD_EVENT:
            return
    ear.loudspeaker.recording()


@fuzzed(st.lists(bent(EVENTS), max_size=8), st.sampled_from(["txt", "srt", "vtt"]))
def test_any_transcript_of_a_server(events, form):
    """What is written has a line of text for each cue, which can neither end it nor begin another."""
    transcript = Transcript()
    for event in events:
        try:
            transcript.take(event)
        except BAD_EVENT:
            return
    try:
        text = transcript.written(form)
    except BAD_EVENT:
        return
    if form != "txt":
        cues = [cue for cue in text.removeprefix("WEBVTT\n\n").split("\n\n") if cue]
        assert len(cues) == len(transcript.lines())
        assert all(cue.count("-->") == 1 for cue in cues)


@fuzzed(VALUES)
def test_any_error_has_a_message(body):
    assert isinstance(message(body), str)


@fuzzed((URLS | ANY_TEXT).map(lambda url: url.encode("utf-8", "replace").decode()))
def test_any_address_of_a_gateway(url):
    """Nobody is there, and Unreachable says so; nothing else is raised."""
    if "//" in url and any(name in url for name in ("host", "127", "::1", "localhost")):
        url = url.replace("host", "127.0.0.1:1").replace("6379", "1")
    try:
        asyncio.run(Line(url.split(","), "", 0.5).connect())
    except Unreachable as error:
        assert str(error)
    try:
        address(url)
    except ValueError:
        pass
