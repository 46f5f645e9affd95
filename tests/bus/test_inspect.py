"""What ``python -m bus.inspect`` shows of sessions on a real server."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from redis import Redis

from bus import inspect
from bus.events import Input, MicAudio, Said, TurnRecord
from bus.keys import session_key
from bus.server import free_port
from bus.wire import encode
from tests.bus.test_waterfall import INTERRUPTED

LIVE, OVER = "s0-4f1c09aa31d2", "s0-0123456789ab"

pytestmark = pytest.mark.real


@pytest.fixture
def client(redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    with Redis.from_url(redis_url) as connection:
        yield connection


def session(client, name, live=False):
    client.hset(session_key(name, "config"), "language", "en-US")
    client.xadd(session_key(name, "inputs"), encode(Input("SpeechStarted", "{}"), at=1), id="1795358269118-0")
    client.xadd(session_key(name, "inputs"), encode(Input("Words", "{}"), at=1), id="1795358334118-0")
    if live:
        client.set(session_key(name, "lease:gateway"), "gateway-1", px=60_000)
    else:
        client.expire(session_key(name, "config"), 100)


def settle(client, name, turn, outcome="cancelled"):
    record = TurnRecord(turn, 1, outcome, "turn_detected", 1180, json.dumps(INTERRUPTED), "llm", 48_000, 12)
    client.xadd(session_key(name, "records"), encode(record, at=1))


def test_the_sessions(client, capsys):
    """Live ones first, how long each is, how many turns; and one line when there are none."""
    assert inspect.main([]) == 0
    assert capsys.readouterr().out.startswith("no session is live")
    session(client, OVER)
    session(client, LIVE, live=True)
    settle(client, LIVE, 1)
    client.set(session_key(LIVE, "cancelled"), 1)
    assert inspect.main(["list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["session", "state"]
    assert first.split()[:2] == [LIVE, "live"] and first.split()[-3:] == ["1:05", "1", "1"]
    assert second.startswith(OVER) and "over, kept" in second


def test_a_turn_and_all_turns(client, capsys):
    session(client, LIVE, live=True)
    settle(client, LIVE, 1, "done")
    settle(client, LIVE, 2)
    assert inspect.main(["turns", LIVE]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("turn 1   done") and "no answer from llm" in second
    assert inspect.main(["turn", LIVE, "2"]) == 0
    assert "stop:llm" in capsys.readouterr().out
    assert inspect.main(["turn", LIVE, "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0] == ["onset", 100, "96 ms"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["turn", LIVE, "3"], 1, f"{LIVE} has no settled turn 3"),
        (["turns", OVER], 1, f"no session {OVER}"),
        (["tail", OVER], 1, f"no session {OVER}"),
        (["turns", "nonsense"], 2, "'nonsense' is not a session id; expected s<shard>-<hex>"),
        (["turn", LIVE, "two"], 2, "invalid int value"),
        (["sing"], 2, "invalid choice"),
    ],
)
def test_what_is_not_there_is_said(client, capsys, arguments, code, said):
    """One line on stderr that says what is wrong, and an exit code of its own for each kind."""
    session(client, LIVE)
    try:
        assert inspect.main(arguments) == code
    except SystemExit as exit:
        assert exit.code == code
    assert said in capsys.readouterr().err


def follow(redis_url, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "bus.inspect", "tail", *arguments],
        env={**os.environ, "REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_one_session_as_it_happens(client, redis_url):
    """Every stream's events in the order the server had them, no audio bytes; and an end when the session ends."""
    session(client, LIVE, live=True)
    watched = follow(redis_url, LIVE, "--all")
    try:
        assert watched.stdout.readline().endswith("inputs     input name=SpeechStarted data={}\n")
        assert "Words" in watched.stdout.readline()
        client.xadd(session_key(LIVE, "mic"), encode(MicAudio(0, b"\1\2" * 160), at=1))
        client.xadd(session_key(LIVE, "history"), encode(Said("i1", "user", "how old"), at=1))
        said = watched.stdout.readline()
        assert said.endswith('history    said item=i1 role=user text="how old" turn=0 complete=True\n')
        client.delete(session_key(LIVE, "lease:gateway"))
        assert watched.stdout.readline() == f"{LIVE} is over\n"
        assert watched.wait(20) == 0
    finally:
        watched.kill()


def test_nobody_answers(monkeypatch, tmp_path, capsys):
    """One line that says so, without the password, and an exit code of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    assert inspect.main([]) == 3
    said = capsys.readouterr().err
    assert said.startswith("no answer from redis://***@127.0.0.1:") and "hunter2" not in said


def test_a_closed_pipe_ends_it_quietly(client, redis_url):
    session(client, LIVE, live=True)
    watched = follow(redis_url, LIVE)
    watched.stdout.close()
    try:
        for number in range(200):
            client.xadd(session_key(LIVE, "inputs"), encode(Input(f"Words{number}", "{}"), at=1))
            if watched.poll() is not None:
                break
            asyncio.run(asyncio.sleep(0.05))
        assert watched.wait(20) == 0 and watched.stderr.read() == ""
    finally:
        watched.kill()
