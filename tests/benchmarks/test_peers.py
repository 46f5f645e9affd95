"""The comparison's own harness: what it says of a server is what that server did."""

import asyncio
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import soxr

from benchmarks.model_server import Pace
from benchmarks.peers import coded, table
from benchmarks.peers.account import Step
from benchmarks.peers.hearing import Hearing
from benchmarks.peers.models import SeenModels
from benchmarks.peers.phone import Phone, Speech, in_frames
from benchmarks.peers.run import measure
from benchmarks.peers.sides import Running
from benchmarks.peers.usage import Usage, between, descendants, usage
from gateway.codecs import PCMU
from tests.benchmarks.scripted_peer import Faults, ScriptedPeer


def audio(number, frames=1):
    """So many frames of a reply's sound."""
    words = 1 + frames * 20 // coded.WORD_MS
    pcm = soxr.resample(coded.sound(number, words, 24_000), 24_000, 8000)[: frames * coded.FRAME]
    return PCMU.encode(pcm.astype("<i2").tobytes())


# -- replies that say who they are


@pytest.mark.parametrize("number", [0, 1, 15, 16, 255, 256, 1234, coded.COUNT - 1])
def test_any_20_ms_of_a_reply_say_its_number(number):
    """In words, and in sound that went through a telephone's rate and mu-law, cut at any sample."""
    said = coded.text(number, 14, 7)
    assert coded.number_in(said.split(". ")[0] + ".") == (number, 7)
    codes = audio(number, 100)
    for start in range(13, len(codes) - coded.FRAME, 231):
        assert coded.heard(codes[start : start + coded.FRAME]) == number


def test_what_is_no_reply_has_no_number():
    noise = np.random.default_rng(1).normal(0, 3000, coded.FRAME).astype("<i2")
    assert coded.heard(b"\xff" * coded.FRAME) == coded.heard(PCMU.encode(noise.tobytes())) == -1
    assert coded.heard(audio(7)[:100]) == -1
    torn = audio(7)[:80] + audio(900)[:80]
    assert coded.heard(torn) in (-1, 7, 900)
    assert coded.number_in("Sorry, I lost my train of thought.") == (-1, 0)


# -- what a caller hears, in virtual time


def spoken(hearing, now, length=1.0):
    """The caller says something at ``now``."""
    turn = hearing.say(now)
    turn.onset, turn.end = now, now + length
    return turn


def heard(hearing, number, begin, frames, every=0.02):
    """Frames of a reply come one after the other, from ``begin`` on."""
    for place in range(frames):
        hearing.media(audio(number), begin + place * every)


def test_an_interruption_is_measured_from_its_onset_to_the_clear():
    hearing = Hearing()
    first = spoken(hearing, 1.0)
    heard(hearing, 5, 2.9, 50)
    assert (first.answered, first.reply, first.over) == (2.9, 5, -1)
    turn = spoken(hearing, 3.5)
    heard(hearing, 5, 3.9, 5)
    hearing.clear(4.03)
    assert (turn.over, turn.cleared, turn.told) == (5, 4.03, True)
    heard(hearing, 6, 5.4, 5)
    assert (turn.answered, turn.reply, turn.stale, turn.gaps, turn.again) == (5.4, 6, [], [], 0)


def test_a_frame_of_what_was_interrupted_is_stale_whenever_it_comes():
    hearing = Hearing()
    spoken(hearing, 1.0)
    heard(hearing, 5, 2.9, 50)
    turn = spoken(hearing, 3.5)
    hearing.clear(3.6)
    hearing.media(audio(5, 2), 3.7)
    heard(hearing, 6, 5.4, 5)
    hearing.media(audio(5), 5.45)
    assert turn.stale == [(3.7, 2.0), (5.45, 1.0)] and hearing.playing == 6


def test_a_server_without_clear_is_silent_at_its_last_sound():
    hearing = Hearing()
    spoken(hearing, 1.0)
    heard(hearing, 5, 2.9, 50)
    turn = spoken(hearing, 3.5)
    heard(hearing, 5, 3.9, 10)
    played = hearing.line.until
    heard(hearing, 6, 5.4, 5)
    assert turn.cleared == pytest.approx(played) and not turn.told


def test_an_empty_buffer_within_a_reply_is_an_underrun_and_between_replies_is_none():
    hearing = Hearing()
    turn = spoken(hearing, 1.0)
    heard(hearing, 5, 2.9, 10)
    heard(hearing, 5, 3.1 + 0.015, 10)
    assert turn.gaps == []
    hearing.media(audio(5), hearing.line.until + 0.1)
    assert turn.gaps == [pytest.approx(0.1)]
    after = spoken(hearing, 9.0)
    heard(hearing, 6, 10.9, 10)
    assert after.over == -1 and after.gaps == []
    over = spoken(hearing, 10.95)
    hearing.clear(11.0)
    heard(hearing, 7, 12.9, 2)
    hearing.media(audio(7), 13.0)
    assert over.gaps == [pytest.approx(0.06)]


def test_marks_come_back_when_all_before_them_was_played_or_cleared():
    line = Hearing().line
    line.media(800, 1.0)
    line.mark("a")
    line.media(800, 1.0)
    line.mark("b")
    assert line.due(1.05) == [] and line.due(1.1) == ["a"] and line.clear(1.15) == ["b"]
    assert line.until == 1.15 and line.due(9.0) == []


# -- the whole harness, against a server that is known


@pytest.fixture
def sentence():
    time = np.arange(8000 * 6 // 10) / 8000
    codes = PCMU.encode((8000 * np.sin(2 * np.pi * 440 * time)).astype("<i2").tobytes())
    return Speech(in_frames(codes), 0.6)


async def step(sentence, faults, seconds=4.0, **pace):
    """(step, peer) of a call with a scripted peer and the scripted models."""
    models = SeenModels(Pace(words=161, hear=0.0, token=0.02, sound=0.02, **pace))
    async with await models.start() as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with ScriptedPeer(f"{url}/v1", faults).running() as peer:
            seen = Step("scripted", 1, 1)
            running = Running([peer.url], lambda: [], {}, "server")
            await measure(seen, running, [sentence], seconds, (url, 0), settle=0.0)
    return seen, peer


async def test_a_good_server_is_said_to_be_good(sentence):
    """Each clear between the peer's own times; both requests seen dropped; nothing stale, missing or dry."""
    seen, peer = await step(sentence, Faults())
    assert seen.interruptions >= 1 and seen.interruptions == len(seen.clear) == len(seen.llm)
    assert (seen.never, seen.stale_frames, seen.missing, seen.llm_to_the_end, seen.broken) == (0, 0, 0, 0, 0)
    took = [
        (clear - next(at for at in reversed(peer.seen.first_sound) if at <= clear)) * 1000
        for clear in peer.seen.cleared
    ]
    assert all(clear >= min(took) for clear in seen.clear) and all(clear >= 20 for clear in seen.clear)
    assert len(seen.response) == seen.utterances and min(seen.response) >= 200
    assert seen.cpu["callers"] > 0 and seen.memory["callers"] > 0


async def test_stale_frames_are_counted(sentence):
    seen, _ = await step(sentence, Faults(stale_frames=3))
    assert seen.stale_frames == seen.interruptions * 6 and len(seen.stale_after) == seen.interruptions


async def test_a_reply_that_runs_dry_is_seen(sentence):
    seen, _ = await step(sentence, Faults(pause=0.08))
    assert seen.underruns > 0 and seen.empty_ms >= 20 * seen.underruns


async def test_a_reply_that_does_not_come_is_missing(sentence, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.phone.PATIENCE", 0.3)
    seen, _ = await step(sentence, Faults(mute=True))
    assert seen.missing == seen.utterances >= 1 and not seen.response


async def test_a_call_that_is_refused_is_broken(sentence):
    phone = Phone("ws://127.0.0.1:9/", [sentence], "x", random.Random(1))
    await asyncio.wait_for(phone.run(), 10)
    assert phone.broken


# -- what processes cost


def test_what_a_process_starts_is_counted_with_it():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"1\n"
        found = descendants(parent.pid)
        assert len(found) == 2 and parent.pid in found
        assert os.getpid() not in found and sum(usage(dict.fromkeys(found, "x")).memory.values()) > 5
        parent.stdin.close()


def test_cpu_is_told_by_name_in_percent_of_a_core():
    before = Usage(10.0, {1: ("gateway", 5.0), 2: ("stt", 1.0)}, {}, 100.0)
    after = Usage(20.0, {1: ("gateway", 7.0), 2: ("stt", 1.5), 3: ("gateway", 1.0)}, {}, 110.0)
    cpu, machine = between(before, after)
    assert cpu == {"gateway": pytest.approx(30.0), "stt": pytest.approx(5.0)}
    assert machine == pytest.approx(100.0 / os.cpu_count())


# -- what is written of it


def test_the_tables_are_made_of_the_json_alone_and_put_between_their_marks(tmp_path):
    one = Step("bargein", 1, 1, 3, [60.0, 70.0, 80.0], 0, [500.0], response=[800.0], utterances=4, cpu={"gateway": 5.0})
    bad = Step("peer", 1, 1, 3, [300.0], 2, [], 3, stale_frames=7.0, stale_after=[90.0], utterances=4, missing=1)
    run = {
        "machine": "2 cores", "at": "2026-11-26", "steps": [json.loads(json.dumps(vars(each))) for each in (one, bad)],
        "short_calls": {"peer": [[0, 100.0], [20, 150.0], [100, 160.0], [200, 170.0]]}, "killed": {"peer": "is lost"},
    }  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.into(page, table.markdown(run))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| bargein | 1 | 70/79/80 | 500/500 | – | 0 | 800/800/800 | 0 of 4 | 0 | 5 | 0 | 0 |" in text
    assert "300/300/300, never in 2 of 3" in text and "7, until 90 ms" in text and "to the end in 3" in text
    assert "| peer | 100 | 150 | 160 | 170 |" in text and "- peer: is lost" in text
    assert table.picture(run).svg().count("<g ") == 8
    with pytest.raises(ValueError, match="expected a line"):
        table.into(tmp_path / "page.md", "") if page.write_text("no marks") else None
