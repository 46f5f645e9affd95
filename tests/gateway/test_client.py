"""The client against a scripted server. Calls run SPEED times as fast as real ones."""

import asyncio
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

import gateway.client
from gateway.client import Call, HungUp, NoReply, Unreachable
from gateway.client_audio import PER_MS, AudioError, Microphone, Spoken, load, sounding
from gateway.client_cli import main
from gateway.client_ear import Loudspeaker, Reply
from tests.gateway.realtime_stand_in import RATE, Scripted, StandIn, ramp

SPEED = 8.0


def tone(seconds, rate=RATE, level=0.3):
    return (np.sin(np.arange(round(seconds * rate)) * 0.1) * level * 32_767).astype("<i2") | 1


def call(url, **options):
    return Call(url, speed=SPEED, **options)


async def heard_for(talk, reply, seconds):
    """Wait until a reply has been heard for so long."""
    began = talk.clock.now() if reply.started is None else reply.started
    await talk.clock.sleep_until(began + seconds * 1000)


# -- a call -----------------------------------------------------------------------------------------------------


async def test_a_reply_is_heard_whole():
    """Every sample that was sent is heard once and in order, and the call remembers when."""
    async with StandIn(Scripted(ramp(1.0), "Since 1883.")) as server, call(server.extended_url) as talk:
        spoken = await talk.say(tone(0.3))
        reply = await talk.reply(20)
    assert np.array_equal(reply.pcm, ramp(1.0))
    assert (reply.status, reply.transcript, reply.heard_ms) == ("completed", "Since 1883.", 1000.0)
    assert spoken.last_sound < reply.created <= reply.started < reply.ended
    assert reply.ended - reply.started >= 999.9
    assert talk.stale_samples == 0
    recording = talk.recording()
    assert np.flatnonzero(recording)[0] == round(reply.started * PER_MS)
    assert np.array_equal(recording[recording != 0], ramp(1.0))
    assert talk.events[0][1]["type"] == "session.created"
    assert all(early <= late for (early, _), (late, _) in zip(talk.events, talk.events[1:], strict=False))


async def test_the_microphone_stays_open():
    """What is said arrives sample by sample, with silence before, between and after, at real-time pace."""
    async with StandIn() as server, call(server.url) as talk:
        await talk.clock.sleep_until(200)
        first = await talk.say(tone(0.25))
        await talk.clock.sleep_until(talk.clock.now() + 300)
        second = await talk.say(tone(0.25))
        await talk.clock.sleep_until(talk.clock.now() + 500)
        elapsed = talk.clock.now()
    audio = np.frombuffer(bytes(server.audio), "<i2")
    loud = np.flatnonzero(audio)
    assert np.array_equal(audio[loud], np.concatenate([tone(0.25), tone(0.25)]))
    assert second.started - first.started >= 550 - 20
    gap = np.diff(loud).max() / PER_MS
    assert abs(gap - (second.started - first.started - 250)) < 1
    assert 0 <= elapsed - len(audio) / PER_MS < 200
    assert len(audio) - loud[-1] >= 300 * PER_MS


async def test_a_barge_in_silences_at_once():
    """On held everything buffered is dropped and what was played is told to the ms; the next reply is whole."""
    script = Scripted(ramp(6.0), "Long."), Scripted(ramp(0.4, 9_000), "Short.")
    async with StandIn(*script) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 1.0)
        stop = talk.play(tone(0.4))
        first, second = await talk.reply(20), await talk.reply(20)
    (hold,) = first.holds
    assert (first.status, first.reason) == ("cancelled", "turn_detected")
    assert np.array_equal(first.pcm, ramp(6.0)[: len(first.pcm)])
    assert len(first.pcm) < first.received
    assert server.events("bargein.output.played") == [
        {"type": "bargein.output.played", "response_id": "resp_1", "audio_end_ms": int(hold.played)}
    ]
    assert hold.played == len(first.pcm) / PER_MS == first.heard_ms
    assert hold.resumed_from is None
    assert hold.after_onset == pytest.approx(hold.at - stop.onset)
    assert hold.after_onset > 0
    assert talk.stale_samples == 0
    after = talk.recording()[round(hold.at * PER_MS) + 1 : round(second.started * PER_MS) - 1]
    assert len(after)
    assert not after.any()
    assert np.array_equal(second.pcm, ramp(0.4, 9_000))


async def test_a_reply_taken_back_goes_on_where_it_stopped():
    """After resumed the reply is heard to its end; at the seam at most the begun millisecond is heard again."""
    async with StandIn(Scripted(ramp(3.0), verdict="resume")) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.7)
        talk.play(tone(0.1))
        reply = await talk.reply(20)
    (hold,) = reply.holds
    seam = round(hold.played * PER_MS)
    assert hold.resumed_from == int(hold.played)
    assert reply.status == "completed"
    assert np.array_equal(reply.pcm, np.concatenate([ramp(3.0)[:seam], ramp(3.0)[int(hold.played) * PER_MS :]]))
    assert reply.position == 3 * RATE
    assert talk.stale_samples == 0


@pytest.mark.parametrize(("stale", "held"), [(481, 0), (0, 240), (481, 240)])
async def test_stale_audio_is_counted_and_not_heard(stale, held):
    """Audio of a cancelled or held response is what a server must never send; the client proves that it did not."""
    script = Scripted(ramp(6.0), stale=stale, stale_while_held=held), Scripted(ramp(0.2))
    async with StandIn(*script) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.5)
        talk.play(tone(0.3))
        reply = await talk.reply(20)
        await talk.reply(20)
    assert talk.stale_samples == reply.stale_samples == stale + held
    assert np.array_equal(reply.pcm, ramp(6.0)[: len(reply.pcm)])


@pytest.mark.parametrize("stale", [0, 480])
async def test_without_the_extension_it_is_a_stock_client(stale):
    """speech_started is final: the buffer is dropped and the server told how much was played."""
    script = Scripted(ramp(6.0), stale=stale), Scripted(ramp(0.2))
    async with StandIn(*script) as server, call(server.url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.5)
        talk.play(tone(0.3))
        reply = await talk.reply(20)
        await talk.reply(20)
    assert server.events("bargein.output.played") == []
    assert server.events("conversation.item.truncate") == [
        {
            "type": "conversation.item.truncate",
            "item_id": "item_1",
            "content_index": 0,
            "audio_end_ms": int(reply.heard_ms),
        }
    ]
    assert np.array_equal(reply.pcm, ramp(6.0)[: len(reply.pcm)])
    assert talk.stale_samples == stale


async def test_a_cancel_from_elsewhere_silences_too():
    """A response that is cancelled without having been held (POST /cancel) is cut short and truncated."""
    async with StandIn(Scripted(ramp(0.3), status="cancelled", lead=20)) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        reply = await talk.reply(20)
        assert reply.status == "cancelled"
        assert reply.heard_ms < 300
        assert talk.recording().size == len(reply.pcm) + (round(reply.started * PER_MS) if reply.started else 0)
        assert reply.received == 0.3 * RATE


async def test_the_session_is_set_up_as_asked():
    async with StandIn() as server:
        async with call(server.url, session={"instructions": "Be brief."}) as talk:
            await talk.say(tone(0.1))
        assert server.received[0] == {
            "type": "session.update",
            "session": {"type": "realtime", "instructions": "Be brief."},
        }


async def test_the_session_id_is_known():
    greet = [{"type": "session.created"}, {"type": "bargein.session", "session_id": "s0-4f1c09aa31d2"}]
    async with StandIn(greet=greet) as server, call(server.extended_url) as talk:
        await talk.wait_for("bargein.session", 5)
        assert talk.session_id == "s0-4f1c09aa31d2"


# -- calls that fail --------------------------------------------------------------------------------------------


def nobody():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{probe.getsockname()[1]}/v1/realtime"


async def test_nobody_listens():
    with pytest.raises(Unreachable, match="connection refused"):
        async with call(nobody()):
            pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refuse": "no live worker: tts"}, "503: no live worker: tts"),
        ({"refuse": '{"error": {"message": "not ready"}}'}, "503: not ready"),
        ({"greet": []}, "no session.created came"),
        ({"greet": [{"type": "error", "error": {"message": "beta is gone"}}]}, "beta is gone"),
        ({"greet": ["hello"]}, "what the protocol does not have"),
        ({"greet": ["[]"]}, "what the protocol does not have"),
    ],
)
async def test_a_server_that_does_not_take_the_call(options, said):
    async with StandIn(**options) as server:
        with pytest.raises(Unreachable, match=re.escape(said)):
            async with call(server.url, connect_timeout=0.5):
                pass


@pytest.mark.parametrize("url", ["http://127.0.0.1/v1", "127.0.0.1:8080", "ws:///v1", ""])
def test_another_kind_of_address(url):
    with pytest.raises(ValueError, match="expected ws://"):
        Call(url)


async def test_no_reply_in_time():
    async with StandIn() as server, call(server.url) as talk:
        await talk.say(tone(0.2))
        with pytest.raises(NoReply, match=r"response 1 did not end within 1 s"):
            await talk.reply(1)
        with pytest.raises(NoReply, match=r"nothing of response 1 was heard"):
            await talk.reply_started(0)
        with pytest.raises(NoReply, match=r"no response\.done came"):
            await talk.wait_for("response.done", 0)


async def test_the_server_hangs_up():
    """Whatever is being waited for ends with the server's own reason; what was heard is kept."""
    async with StandIn(Scripted(ramp(5.0)), hang_up_after=60) as server, call(server.url) as talk:
        await talk.say(tone(0.3))
        with pytest.raises(HungUp, match=r"code 1011, scripted end"):
            await talk.reply(20)
        with pytest.raises(HungUp):
            await talk.send({"type": "response.create"})
        assert len(talk.recording())


# -- its parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "FLOAT"), (1, "ULAW")])
def test_any_sound_file_becomes_24_khz_mono(tmp_path, rate, channels, subtype):
    samples = np.sin(np.arange(rate // 2) * 2 * np.pi * 300 / rate) * 0.5
    soundfile.write(tmp_path / "a.wav", np.stack([samples] * channels, axis=1), rate, subtype=subtype)
    pcm = load(tmp_path / "a.wav")
    assert pcm.dtype == np.int16
    assert len(pcm) == RATE // 2
    expected = np.sin(np.arange(RATE // 2) * 2 * np.pi * 300 / RATE) * 0.5 * 32_768
    assert np.abs(pcm - expected)[500:-500].max() < 700


def test_files_that_are_no_audio(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    for name, said in (
        ("none.wav", "No such file"),
        ("text.wav", "cannot be read as audio"),
        ("empty.wav", "no audio"),
    ):
        with pytest.raises(AudioError, match=said) as error:
            load(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(AudioError, match="directory"):
        load(tmp_path)


def test_where_it_sounds():
    """Silence and a soft hum around speech are not speech."""
    hum, speech = tone(0.5, level=0.005), tone(0.3)
    begin, end = sounding(np.concatenate([hum, speech, hum]))
    assert (begin, end) == (500.0, 800.0)
    assert sounding(np.zeros(100, np.int16)) == (0.0, 0.0)
    assert sounding(np.zeros(0, np.int16)) == (0.0, 0.0)


def test_a_microphone_loses_nothing_between_two():
    """The second thing said begins in the frame in which the first ends, and knows when."""
    microphone = Microphone()
    first, second = Spoken(tone(0.025)), Spoken(tone(0.01))
    microphone.say(first)
    microphone.say(second)
    frames = [microphone.frame(20.0 * number)[0] for number in (1, 2, 3)]
    audio = np.frombuffer(b"".join(frames), "<i2")
    assert np.array_equal(audio, np.concatenate([tone(0.025), tone(0.01), np.zeros(600, np.int16)]))
    assert (first.started, second.started) == (0.0, 25.0)
    assert second.ended.is_set()


def test_a_loudspeaker_plays_in_real_time():
    """Nothing is heard before its time; late audio leaves a gap of its length in the record."""
    speaker, reply = Loudspeaker(), Reply("r")
    speaker.write(reply, ramp(0.1), 50)
    speaker.advance(100)
    assert reply.heard_ms == 50
    assert speaker.empty_at == 150
    speaker.advance(170)
    assert not speaker.holds(reply)
    speaker.write(reply, ramp(0.1, 2401), 200)
    speaker.drop(230.5)
    speaker.advance(900)
    assert reply.position == round(130.5 * PER_MS)
    silence = np.zeros(50 * PER_MS, np.int16)
    expected = [silence, ramp(0.1), silence, ramp(0.1, 2401)[: round(30.5 * PER_MS)]]
    assert np.array_equal(speaker.recording(), np.concatenate(expected))


# -- from a terminal --------------------------------------------------------------------------------------------


@pytest.fixture
def wavs(tmp_path):
    soundfile.write(tmp_path / "question.wav", tone(0.3), RATE)
    soundfile.write(tmp_path / "stop.wav", tone(0.4), RATE)
    return tmp_path


async def terminal(*arguments):
    """Run ``python -m gateway.client`` in a thread; its exit code."""
    return await asyncio.to_thread(main, [str(argument) for argument in arguments], SPEED)


async def test_a_question_from_a_terminal(wavs, capsys):
    """Exit code 0, a timeline in the order of time, and what was heard in a file."""
    async with StandIn(Scripted(ramp(0.8), "It opened in 1883.")) as server:
        code = await terminal(wavs / "question.wav", "--url", server.extended_url, "--out", wavs / "reply.wav", "-v")
    printed, errors = capsys.readouterr()
    assert (code, errors) == (0, "")
    texts = [line.split(" ms  ")[1] for line in printed.splitlines()]
    expected = [
        "connected",
        "caller says question.wav (0.3 s)",
        "speech started",
        'understood so far: "how"',
        'understood so far: "how old"',
        "speech stopped",
        'understood: "how old"',
        "response 1 created",
        "  turn 1 first_out at 1 ms of the server",
        'response 1 says: "It opened in 1883."',
        "response 1 completed",
        "response 1 was heard to its end (0.8 s)",
        f"heard 0.8 s of speech; stale audio: 0 samples; saved {wavs / 'reply.wav'}",
    ]
    assert [text for text in texts if " is heard" not in text] == expected
    assert any(re.fullmatch(r"response 1 is heard, \d+ ms after the caller's last sound", text) for text in texts)
    saved, rate = soundfile.read(wavs / "reply.wav", dtype="int16")
    assert (rate, saved.ndim) == (RATE, 1)
    assert np.array_equal(saved[saved != 0], ramp(0.8))


async def test_a_barge_in_from_a_terminal(wavs, capsys):
    """With --barge-in two responses are awaited; the timeline says how long it took from onset to silence."""
    async with StandIn(Scripted(ramp(6.0)), Scripted(ramp(0.3), "Good.")) as server:
        code = await terminal(
            wavs / "question.wav", "--barge-in", wavs / "stop.wav", "--barge-in-after", "0.6",
            "--url", server.extended_url,
        )  # fmt: skip
    printed, errors = capsys.readouterr()
    assert (code, errors) == (0, "")
    silence = re.search(r"response 1 silent after (\d+) ms of it; onset to silence (\d+) ms", printed)
    assert silence is not None
    assert 600 <= int(silence[1]) < 6000
    assert "response 1 cancelled (turn_detected)" in printed
    assert "response 2 completed" in printed


async def test_events_as_json(wavs, capsys):
    async with StandIn(Scripted(ramp(0.3))) as server:
        assert await terminal(wavs / "question.wav", "--url", server.extended_url, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(isinstance(event["t_ms"], float) for event in events)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "session.created"
    assert "response.output_audio.delta" in kinds
    assert max(len(json.dumps(event)) for event in events) < 1000
    assert events[-1]["stale_samples"] == 0


async def test_no_reply_is_exit_code_1(wavs, capsys):
    async with StandIn() as server:
        out = wavs / "reply.wav"
        code = await terminal(wavs / "question.wav", "--url", server.url, "--timeout", "2", "--out", out)
    assert code == 1
    assert "response 1 did not end" in capsys.readouterr().err
    assert not out.exists()


async def test_a_response_without_audio_is_no_reply(wavs, capsys):
    async with StandIn(Scripted(ramp(0), status="failed")) as server:
        assert await terminal(wavs / "question.wav", "--url", server.url) == 1
    assert "response 1 failed" in capsys.readouterr().out


async def test_one_of_two_is_exit_code_1(wavs, capsys):
    async with StandIn(Scripted(ramp(0.2))) as server:
        code = await terminal(wavs / "question.wav", "--url", server.url, "--turns", "2", "--timeout", "3")
    assert code == 1
    assert "response 2 did not end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.wav"], "none.wav: No such file"),
        (["question.wav", "--barge-in", "none.wav"], "none.wav: No such file"),
        (["question.wav", "--out", "nowhere/reply.wav"], "there is no folder"),
        (["question.wav", "--url", "http://127.0.0.1"], "expected ws://"),
        (["question.wav", "--turns", "0"], "expected an integer >= 1"),
        (["question.wav", "--timeout", "soon"], "expected seconds"),
        ([], "required: question"),
    ],
)
def test_bad_arguments_are_exit_code_2(wavs, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(wavs)
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert said in capsys.readouterr().err


async def test_nobody_to_call_is_exit_code_3(wavs, capsys):
    assert await terminal(wavs / "question.wav", "--url", nobody()) == 3
    assert "connection refused" in capsys.readouterr().err
    async with StandIn(refuse="no live worker: stt") as server:
        assert await terminal(wavs / "question.wav", "--url", server.url) == 3
    assert "503: no live worker: stt" in capsys.readouterr().err
    async with StandIn(Scripted(ramp(9.0)), hang_up_after=60) as server:
        assert await terminal(wavs / "question.wav", "--url", server.url) == 3
    assert "code 1011" in capsys.readouterr().err


async def test_ctrl_c_ends_a_call_and_keeps_what_was_heard(wavs):
    """No traceback, exit code 130, and the file holds the part that was heard."""
    async with StandIn(Scripted(ramp(20.0))) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.client", str(wavs / "question.wav"),
            "--url", server.extended_url, "--out", str(wavs / "reply.wav"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(gateway.client.__file__).parents[1],
            # A shell's background job ignores SIGINT, and so would this child of it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        async with asyncio.timeout(30):
            while b"is heard" not in (line := await process.stdout.readline()):
                assert line, "the client ended"
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    saved, _ = soundfile.read(wavs / "reply.wav", dtype="int16")
    heard = saved[saved != 0]
    assert len(heard)
    assert np.array_equal(heard, ramp(20.0)[: len(heard)])


async def test_the_example_in_the_documentation_runs(wavs, monkeypatch):
    """The module's own example, at the speed of the world, against another address."""
    lines = inspect.getdoc(gateway.client).splitlines()
    begin, end = lines.index("    import asyncio"), lines.index("    asyncio.run(main())")
    example = textwrap.dedent("\n".join(lines[begin : end + 1]))
    monkeypatch.chdir(wavs)
    async with StandIn(Scripted(ramp(0.3), "Yes.")) as server:
        code = example.replace("Call()", f"Call({server.extended_url!r})")
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(gateway.client.__file__).parents[1])},
        )  # fmt: skip
        printed, _ = await asyncio.wait_for(done.communicate(), 30)
    assert printed == b"completed Yes. 300 ms heard\n"
