"""Transcription sessions: speech in, words out, no replies; and the terminal client's transcripts."""

import asyncio
import base64

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from gateway.client_cli import main
from gateway.client_transcribe import Transcript, address, clock
from gateway.protocols.append_only import AppendOnly
from tests.engines import ScriptedStt
from tests.gateway.realtime_client import RATE, client, voice
from tests.stack import running_stack

TRANSCRIPTION = "conversation.item.input_audio_transcription"


def url(stack):
    return stack.ws.replace("model=bargein", "intent=transcription")


@pytest.mark.parametrize(
    ("partials", "final", "deltas"),
    [
        (
            ["how", "how old", "how old is", "how old is the"],
            "how old is the bridge",
            ["how", " old", " is", " the bridge"],
        ),
        (["how", "how cold", "how old is"], "how old is it", ["how", " old is it"]),
        ([], "yes", ["yes"]),
        (["a b c", "a b c"], "x y", ["a b"]),
        (["a b", "a b"], "", ["a"]),
        ([], "", []),
    ],
)
def test_words_are_told_once_they_are_certain(partials, final, deltas):
    words = AppendOnly()
    told = [words.partial(text) for text in partials] + [words.final(final)]
    assert [each for each in told if each] == deltas


@given(st.lists(st.text("ab ", max_size=8), max_size=8), st.text("ab ", max_size=8))
def test_what_was_told_is_never_taken_back(partials, final):
    """The deltas are the final text, or a beginning that some texts in a row agreed on and the final one left."""
    words = AppendOnly()
    told = "".join([words.partial(text) for text in partials])
    whole = told + words.final(final)
    assert whole.split() == final.split() or whole == told
    if final.split()[: len(told.split())] == told.split():
        assert whole.split() == final.split()


async def test_a_transcription_session_hears_and_never_answers():
    """The protocol's events; words before the end; a worker that thinks or speaks is not needed."""
    stt = ScriptedStt("one two three four")

    async with running_stack(stt=stt, llm=False, tts=False) as stack, client(url(stack)) as call:
        created = (await call.get("session.created"))["session"]
        assert created["type"] == "transcription" and "output" not in created["audio"]
        change = {"type": "transcription", "audio": {"input": {"transcription": {"model": "any", "language": "en"}}}}
        await call.send("session.update", session=change)
        await call.speak()
        done = await call.get(f"{TRANSCRIPTION}.completed")
        assert done["transcript"] == "one two three four"
        deltas = call.all(f"{TRANSCRIPTION}.delta")
        assert "".join(event["delta"] for event in deltas) == done["transcript"]
        assert {event["item_id"] for event in deltas} == {done["item_id"]}
        kinds = call.kinds()
        order = ["speech_started", "speech_stopped", "committed"]
        places = [kinds.index(f"input_audio_buffer.{kind}") for kind in order]
        assert places == sorted(places) < [kinds.index(f"{TRANSCRIPTION}.completed")]
        await call.send("response.create", event_id="r")
        error = (await call.get("error"))["error"]
        assert (error["code"], error["event_id"]) == ("invalid_value", "r")
        assert not [kind for kind in call.kinds() if kind.startswith("response")]


async def test_a_client_that_commits_itself_is_transcribed():
    """turn_detection null, as Pipecat's STT service has it: each commit is an utterance, in order."""
    texts = ("first", "second")
    stt = ScriptedStt([*texts, "none"])
    async with running_stack(stt=stt, llm=False, tts=False) as stack, client(url(stack)) as call:
        manual = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        await call.send("session.update", session=manual)
        for _ in texts:
            await call.audio(voice(0.3))
            await call.send("input_audio_buffer.commit")
        for number, text in enumerate(texts, 1):
            assert (await call.get(f"{TRANSCRIPTION}.completed", number))["transcript"] == text
        assert "input_audio_buffer.speech_started" not in call.kinds()


async def test_the_openai_package_transcribes():
    """extra_query intent=transcription, without a model, as its documentation has it."""
    async with running_stack(llm=False, tts=False) as stack:
        sdk = AsyncOpenAI(api_key="any", base_url=f"{stack.http}/v1")
        async with sdk.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            await connection.session.update(session={"type": "transcription"})
            pcm = voice(0.6) + bytes(RATE * 2)
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
            async with asyncio.timeout(8):
                async for event in connection:
                    assert event.type != "error"
                    if event.type == f"{TRANSCRIPTION}.completed":
                        assert event.transcript == "hello there"
                        break


def told(transcript):
    for item, start, end, text in (("a", 250, 1900, "How old is it?"), ("b", 3_661_001, 3_661_500, " Stop. ")):
        transcript.take({"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": start})
        transcript.take({"type": "input_audio_buffer.speech_stopped", "item_id": item, "audio_end_ms": end})
        assert not transcript.complete
        transcript.take({"type": f"{TRANSCRIPTION}.completed", "item_id": item, "transcript": text})
    transcript.take({"type": "input_audio_buffer.speech_started", "item_id": "c", "audio_start_ms": 9})
    transcript.take({"type": f"{TRANSCRIPTION}.failed", "item_id": "c", "error": {"message": "x"}})
    return transcript


def test_a_transcript_as_text_srt_and_webvtt():
    """Each form to the letter; what was not understood has no cue."""
    transcript = told(Transcript())
    assert transcript.complete
    assert transcript.written("txt") == "How old is it?\nStop.\n"
    first, second = "00:00:00{0}250 --> 00:00:01{0}900", "01:01:01{0}001 --> 01:01:01{0}500"
    srt = f"1\n{first.format(',')}\nHow old is it?\n\n2\n{second.format(',')}\nStop.\n"
    assert transcript.written("srt") == srt
    vtt = f"WEBVTT\n\n{first.format('.')}\nHow old is it?\n\n{second.format('.')}\nStop.\n"
    assert transcript.written("vtt") == vtt
    assert clock(0, ".") == "00:00:00.000"


def test_the_address_of_a_transcription_session():
    given_ = "ws://h:1/v1/realtime?model=bargein&extensions=bargein&language=de-DE"
    assert address(given_) == "ws://h:1/v1/realtime?model=bargein&language=de-DE&intent=transcription"


@pytest.mark.parametrize(("name", "begins"), [("out.srt", "1\n00:00:0"), ("out.vtt", "WEBVTT"), ("out.txt", "hello")])
async def test_a_file_is_transcribed_from_a_terminal(tmp_path, capsys, name, begins):
    """The words on the terminal as they come, the file in the form of its name."""
    pcm = np.frombuffer(voice(0.8), "<i2")
    soundfile.write(tmp_path / "said.wav", np.concatenate([np.zeros(6000, np.int16), pcm]), RATE)
    async with running_stack(llm=False, tts=False) as stack:
        arguments = ["--transcribe", str(tmp_path / "said.wav"), "--url", stack.ws, "--out", str(tmp_path / name)]
        code = await asyncio.to_thread(main, arguments)
    assert (code, capsys.readouterr().out.splitlines()[-1]) == (0, "hello there")
    written = (tmp_path / name).read_text()
    assert written.startswith(begins) and "hello there" in written
