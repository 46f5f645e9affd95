"""``python -m gateway.client`` against a scripted server."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

import gateway.client
from gateway.client_cli import main
from tests.gateway.realtime_stand_in import RATE, SPEED, Scripted, StandIn, nobody, ramp, tone


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
    # Long enough that a machine that stands still for seconds of this quick clock does not hear it out.
    async with StandIn(Scripted(ramp(55.0)), Scripted(ramp(0.3), "Good.")) as server:
        code = await terminal(
            wavs / "question.wav", "--barge-in", wavs / "stop.wav", "--barge-in-after", "0.6",
            "--url", server.extended_url,
        )  # fmt: skip
    printed, errors = capsys.readouterr()
    assert (code, errors) == (0, "")
    silence = re.search(r"response 1 silent after (\d+) ms of it; onset to silence (\d+) ms", printed)
    assert silence is not None
    assert 600 <= int(silence[1]) < 55_000
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
