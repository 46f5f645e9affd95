"""Calls through a whole stack, run through the turn logic again; and the command that does it."""

import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest

from bus import archive
from bus.events import Input
from bus.keys import session_key
from bus.server import free_port
from gateway import replay
from gateway.client import Call
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.inputs import (
    FirstAudio,
    PlayedOut,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TimerFired,
    Words,
)
from gateway.journal import BadJournal, Journal
from gateway.rerun import fates, rerun
from tests.gateway.realtime_client import voice
from tests.stack import running_stack

SESSION = "s0-4f1c09aa31d2"


def journal_of(*events, rules=None):
    """The journal of a session that saw ``events``."""
    entries = []
    journal = Journal(entries.append)
    state = Conversation(rules=rules or Duplex(settle_min=0.0))
    journal.rules(0.0, state.rules)
    for event in events:
        state, _ = journal.decide(state, event)
    return entries


ASKED = [
    SpeechStarted(0.1, 1600), SpeechPaused(1.1, 17_600), SpeechEnded(1.3, 20_000), Words(1.4, 1, 1, "a story", True),
    FirstAudio(2.0, 1),
]  # fmt: skip
LONG_NOISE = [
    *ASKED, SpeechStarted(3.0, 48_000), TimerFired(3.7002, "barge_in", 2), SpeechPaused(4.0, 64_000),
    SpeechEnded(4.3, 66_000), Words(4.4, 2, 1, "", True),
]  # fmt: skip
SHORT_NOISE = [
    *ASKED, SpeechStarted(3.0, 48_000), SpeechPaused(3.5, 56_000), Words(3.55, 2, 1, "", True),
    SpeechEnded(3.8, 60_000), PlayedOut(9.0, 1),
]  # fmt: skip


def test_another_threshold_turns_a_cough_into_an_interruption_and_back():
    """Speech of 500 ms without words is taken back at 700 ms and interrupts at 300; 1 s interrupts, not at 1.2."""
    short, long = rerun(journal_of(*SHORT_NOISE)), rerun(journal_of(*LONG_NOISE))
    assert short.difference is long.difference is None
    assert [str(fate) for fate in fates(short)] == ["done at 9.000 s, held 1x, taken back 1x"]
    assert [str(fate) for fate in fates(short, replay.change_of(["BARGE_IN_MIN_MS=300"]))] == [
        "cancelled (turn_detected) at 3.300 s, held 1x, taken back 0x"
    ]
    assert [str(fate) for fate in fates(long)] == ["cancelled (turn_detected) at 3.700 s, held 1x, taken back 0x"]
    assert [str(fate) for fate in fates(long, replay.change_of(["BARGE_IN_MIN_MS=1200"]))] == [
        "still going on at 4.400 s, held 1x, taken back 1x"
    ]
    assert [str(fate) for fate in fates(long, replay.change_of(["ENABLE_BARGE_IN=false"]))] == [
        "still going on at 4.400 s"
    ]


def test_rules_that_change_in_a_call_are_kept():
    """Rules set by the client in mid-call decide from there on, in the replay as in the call."""
    entries = []
    journal = Journal(entries.append)
    state = Conversation(rules=Duplex())
    journal.rules(0.0, state.rules)
    changed = Duplex(respond=False, backchannels=frozenset(("ja", "genau")))
    state, _ = journal.decide(state, SpeechStarted(0.1, 1600))
    journal.rules(0.2, changed)
    state = Conversation(changed, state.turn, state.cancelling, state.utterances, state.heard)
    for event in (SpeechPaused(1.1, 9), SpeechResumed(1.2, 9), SpeechEnded(1.5, 9), Words(1.6, 1, 2, "ja", True)):
        state, _ = journal.decide(state, event)
    done = rerun(entries)
    assert done.difference is None and done.turns == []
    assert done.moments[-1].after.rules == changed


def test_a_timer_that_came_due_while_nobody_served_fires_after_what_had_come_meanwhile():
    """The limit for a reply's first sound passes with a gateway that dies; the next one finds the sound first."""
    entries = journal_of(*ASKED[:-1], rules=Duplex(reply_limit=8.0))
    journal, state = Journal(entries.append), rerun(entries).moments[-1].after
    journal.resumed(9.6)
    journal.rules(9.6, state.rules)
    for event in (FirstAudio(9.7, 1), TimerFired(9.701, "reply", 1), PlayedOut(12.0, 1)):
        state, _ = journal.decide(state, event)
    done = rerun(entries)
    assert done.difference is None
    assert [str(fate) for fate in fates(done)] == ["done at 12.000 s"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "does not begin with the session's rules"),
        ([Input("Words", "{}")], "does not begin with the session's rules"),
        ([Input("Rules", '{"at":0}'), Input("Sang", "{}")], "'Sang' is not an input"),
        ([Input("Rules", '{"at":0}'), Input("Words", '{"at":1}')], "Words cannot be read"),
        ([Input("Rules", '{"at":0,"backchannels":1}')], "the rules cannot be read"),
        ([Input("Rules", "{}")], "Rules has no time"),
    ],
)
def test_a_journal_that_cannot_be_replayed(entries, said):
    with pytest.raises(BadJournal, match=said):
        rerun(entries)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("BARGE_IN_MIN_MS", "expected NAME=value with one of ENABLE_BARGE_IN, BARGE_IN_MIN_MS"),
        ("END_OF_TURN_MS=300", "act outside of the turn logic"),
        ("BARGE_IN_MIN_MS=soon", "valid integer"),
        ("BARGE_IN_MIN_MS=-1", "out of range"),
        ("ENABLE_BARGE_IN=perhaps", "valid boolean"),
    ],
)
def test_a_setting_that_cannot_be_tried(setting, said, capsys):
    assert replay.main([SESSION, "--set", setting]) == 2
    assert said in capsys.readouterr().err


async def test_a_call_is_replayed_from_its_file_alone(tmp_path, capsys):
    """A greeting, a question and an interruption through the whole stack; the file needs no Redis."""
    async with running_stack(end_of_turn_ms=300, greeting="Hello there you.") as stack:
        question = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])
        async with Call(f"{stack.ws}&extensions=bargein") as call:
            await call.reply()
            await call.say(question)
            await call.reply_started()
            await call.say(question)
            assert (await call.reply()).status == "cancelled"
            await call.reply()
            session = call.session_id
        while await stack.bus.commands.exists(session_key(session, "lease:gateway")):
            await asyncio.sleep(0.01)
        path = tmp_path / "call.jsonl.gz"
        assert await archive.save(stack.bus, session, path) > 50
    assert replay.main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("3 turns: every decision is the same, bit for bit\n")
    assert replay.main([str(path), "--set", "ENABLE_BARGE_IN=false"]) == 0
    said = capsys.readouterr().out
    assert "turn 1: the same: done at" in said and "turn 2: still going on at" in said
    assert said.endswith("1 of 3 turns would have been different\n")


def command(url, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "gateway.replay", *map(str, arguments)],
        env={**os.environ, "REDIS_URL": url}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.real
def test_the_command(redis_url, tmp_path):
    """Imported, replayed, exported again: the same file; a second import is refused; a change is an exit code."""
    from redis import Redis

    from bus.wire import encode

    with Redis.from_url(redis_url) as client:
        client.hset(session_key(SESSION, "config"), "language", "en-US")
        for entry in journal_of(*SHORT_NOISE):
            client.xadd(session_key(SESSION, "inputs"), encode(entry, at=1))
        one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
        done = command(redis_url, SESSION, "--export", one)
        assert (done.returncode, done.stdout) == (0, f"{SESSION}: 11 entries written to {one}\n")
        assert command(redis_url, "--import", one).returncode == 2
        client.flushall()
        done = command(redis_url, "--import", one, "--keep-s", 100)
        assert (done.returncode, done.stdout) == (0, f"{SESSION}: 11 entries imported, kept 100 s\n")
        assert 0 < client.ttl(session_key(SESSION, "inputs")) <= 100
        done = command(redis_url, SESSION, "--set", "BARGE_IN_MIN_MS=300")
        assert done.returncode == 0 and "1 of 1 turns would have been different" in done.stdout
        assert command(redis_url, SESSION, "--export", two).returncode == 0
        assert [line for line in two.read_text().splitlines()[1:]] == one.read_text().splitlines()[1:]
    one.write_text(one.read_text().replace("SetTimer", "SatTimer"))
    done = command(redis_url, one)
    assert done.returncode == 1 and "is decided otherwise than it was" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "expected SESSION or FILE, or --import FILE"),
        (["no/such/file"], 2, "no/such/file: No such file"),
        (["no/such/file", "--export", "x"], 2, "is not a session id"),
        ([SESSION], 3, "no answer from redis://***@127.0.0.1"),
    ],
)
def test_what_goes_wrong_is_said(monkeypatch, tmp_path, capsys, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    try:
        assert replay.main(arguments) == code
    except SystemExit as exit:
        assert exit.code == code
    err = capsys.readouterr().err
    assert said in err and "hunter2" not in err
