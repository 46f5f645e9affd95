"""What was kept: exported files, journals, streams of a session that is told again, gone on with, or written down."""

import asyncio
import contextlib
import dataclasses
import gzip
import json

import pytest
from hypothesis import strategies as st

from bus import archive
from bus.archive import BadArchive
from bus.events import (
    Final,
    Input,
    MicAudio,
    Played,
    ReplyEnd,
    Said,
    Sentence,
    SpeechAudio,
    ToolCall,
    TurnRecord,
)  # fmt: skip
from bus.foreign import read_json
from bus.reader import Entry
from bus.streams import Bus
from bus.wire import BadEvent, decode, encode
from gateway import inputs
from gateway.journal import BadJournal, Journal
from gateway.levels import of_caller, of_heard
from gateway.recovery import Ended, Left, recover
from gateway.rerun import fates, rerun
from gateway.settings import Profile
from gateway.story import Streams, story
from tests.bus.fake_server import fake_connector
from tests.fuzz.garbage import ANY_TEXT, as_bytes, bent, fuzzed, json_text
from workers.jobs.heard import moments, place
from workers.jobs.recording import caller
from workers.jobs.webvtt import webvtt
from workers.llm.tools import arranged, read_request

HEAD = {"bargein": "session", "version": 1, "session": "s0-abcd", "config": {"language": "en-US"}, "cancelled": 2}
ROWS = [
    {"stream": "mic", "id": "1-0", "fields": {"v": "1", "type": "audio", "offset": "0"}, "pcm": "AAAA"},
    {"stream": "inputs", "id": "2-0", "fields": {"v": "1", "type": "input", "name": "Rules", "data": "{}"}},
    {"stream": "history", "id": "5-1", "fields": {"type": "said", "item": "a", "role": "user", "text": "hi"}},
]
FILES = st.one_of(
    st.tuples(json_text([HEAD]), st.lists(json_text(ROWS), max_size=5)).map(
        lambda parts: as_bytes("\n".join([parts[0], *parts[1]]))
    ),
    st.lists(bent(ROWS).map(json.dumps), max_size=5).map(lambda rows: "\n".join([json.dumps(HEAD), *rows]).encode()),
    st.binary(max_size=200),
)


def test_any_file_is_a_session_or_refused(tmp_path):
    """An export is read and put on a server whole, or BadArchive names the line, and nothing of it is there; packed or
    not, cut anywhere."""
    path, connect = tmp_path / "call.jsonl", fake_connector()

    async def put():
        bus = Bus(connect)
        await bus.commands.flushall()
        try:
            head, rows = archive.load(path)
            count = await archive.restore(bus, head, rows, 60)
            return count, await bus.commands.dbsize(), [archive.events([], "mic")]
        except BadArchive as error:
            assert str(error)
            return 0, await bus.commands.dbsize(), []
        finally:
            await bus.close()

    @fuzzed(FILES, st.booleans(), st.integers(0, 400))
    def read(raw, packed, cut):
        raw = gzip.compress(raw) if packed else raw
        path.write_bytes(raw[:-cut] if cut < 40 and cut else raw)
        count, keys, found = asyncio.run(put())
        assert found or (count == 0 and keys == 0)
        with contextlib.suppress(BadArchive):
            _, rows = archive.load(path)
            entries = [event for event in archive.events(rows, "inputs") if isinstance(event, Input)]
            with contextlib.suppress(BadJournal):
                rerun(entries)

    read()


def journal(found):
    """A real call's entries: two utterances, a turn that is interrupted, one that ends."""
    from gateway.floor import Conversation

    written = []
    book, state = Journal(written.append), Conversation()
    book.rules(0.0, state.rules)
    for event in found:
        state, _ = book.decide(state, event)
    return written


CALL = [
    inputs.SpeechStarted(1.0, 3200), inputs.Words(1.5, 1, 0, "hello", final=False), inputs.SpeechPaused(2.0, 16_000),
    inputs.Words(2.1, 1, 1, "hello there", final=True), inputs.SpeechEnded(2.3, 16_000), inputs.FirstAudio(2.8, 1),
    inputs.SpeechStarted(3.4, 54_400), inputs.Words(3.9, 2, 0, "stop that", final=False),
]  # fmt: skip
WRITTEN = journal(CALL)


@st.composite
def journals(draw):
    """A journal of which some entries are other than they were."""
    found = []
    for entry in WRITTEN:
        kind = draw(st.integers(0, 12))
        if kind == 0:
            continue
        if kind == 1:
            entry = dataclasses.replace(entry, data=draw(json_text([json.loads(entry.data)])))
        if kind == 2:
            entry = dataclasses.replace(
                entry, name=draw(st.sampled_from(["Rules", "Closing", "Resumed", "X", "Words"]))
            )
        if kind == 3:
            entry = dataclasses.replace(entry, actions=draw(json_text([json.loads(entry.actions or "[]")])))
        found += [entry] * (2 if kind == 4 else 1)
    return found


@fuzzed(journals())
def test_any_journal_is_run_again(found):
    """It decides the same, or the first entry that is decided otherwise is named, or BadJournal says why it is none."""
    try:
        done = rerun(found)
    except BadJournal as error:
        assert str(error)
        return
    if done.difference is None:
        assert [fate.turn for fate in fates(done)] == list(done.turns)


NUMBERS = st.integers(-2, 40) | st.sampled_from([-(2**63), 2**63 - 1, 2**40, 16_000, 10**6])
TEXTS = ANY_TEXT.map(lambda text: text.encode("utf-8", "replace").decode())
PCM = st.binary(max_size=40).map(lambda raw: raw + raw)
EVENTS = st.one_of(
    st.builds(MicAudio, NUMBERS, PCM),
    st.builds(Final, NUMBERS, NUMBERS, TEXTS, NUMBERS, NUMBERS),
    st.builds(Sentence, NUMBERS, NUMBERS, NUMBERS, TEXTS),
    st.builds(ToolCall, NUMBERS, NUMBERS, NUMBERS, TEXTS, TEXTS, TEXTS),
    st.builds(ReplyEnd, NUMBERS, NUMBERS, TEXTS, NUMBERS),
    st.builds(SpeechAudio, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TEXTS, TEXTS, PCM),
    st.builds(Said, TEXTS, st.sampled_from(["user", "assistant", "tool", "x"]), TEXTS, NUMBERS),
    st.builds(Played, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.builds(
        TurnRecord, NUMBERS, NUMBERS, TEXTS, TEXTS, NUMBERS, json_text([[["turn", 1.0, ""], ["held", 2, "x"]]])
    ),
    st.builds(
        Input, st.sampled_from(["Rules", "SpeechStarted", "SpeechPaused", "Words"]),
        json_text([{"at": 1.0, "offset": 3}]),
        json_text([[["StartUtterance", {"utterance": 1, "offset": 3, "over": False}]]]),
    ),
)  # fmt: skip


def stood(event):
    """The event as it is read from a stream; None for what is left out there."""
    try:
        return decode({name.encode(): value for name, value in encode(event, 1).items()})
    except BadEvent:
        return None


STREAM = st.lists(EVENTS.map(stood).filter(bool), max_size=5)


@fuzzed(STREAM, journals(), STREAM)
def test_any_session_can_be_told(found, written, others):
    """Whatever stands on its streams, the console has a story that is JSON, with levels of bounded length."""
    told = story("s0-abcd", Streams(found, found, others, found, found, [*written, *others]))
    json.dumps(told, allow_nan=False)
    for levels in (of_caller(found), of_heard(found, others)):
        assert len(levels) < 10_000_000


@fuzzed(STREAM, journals(), STREAM)
def test_any_session_can_be_gone_on_with(found, written, others):
    """Where a session stands follows from whatever its streams hold; what cannot be understood is given up, by turn."""

    def entries(events):
        return [Entry("k", f"{number}-0", event) for number, event in enumerate(events, 1)]

    left = Left(
        "s0-abcd", entries([*written, *[e for e in others if isinstance(e, Input)]]), entries(found), entries(found),
        entries(others), entries(found), entries(others), entries(found), entries(others), watermark=3, now=10,
    )  # fmt: skip
    with contextlib.suppress(Ended):
        recover(left, Profile().pre_roll_ms)


@fuzzed(STREAM, STREAM)
def test_any_call_can_be_written_down(found, others):
    """Audio whose place cannot be is left out; what is made of the rest is bounded."""
    speech, playback = ([e for e in found if isinstance(e, kind)] for kind in (SpeechAudio, Played))
    assert len(place(speech, playback)) < 2**31
    assert len(caller(e for e in [*found, *others] if isinstance(e, MicAudio))) < 2**31
    moments(playback)


@fuzzed(st.lists(st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "text": TEXTS, "complete": st.booleans()},
    optional={"start": NUMBERS, "end": NUMBERS})))  # fmt: skip
def test_any_transcript_is_subtitles(messages):
    """A cue is a line of time, then one line of text that cannot end the cue, begin another or open a tag."""
    timed = [{**each, "end": each.get("end", 0)} for each in messages]
    text = webvtt(timed)
    cues = text.split("\n\n")
    assert cues[0].strip() == "WEBVTT"
    for cue in cues[1:]:
        when, said = cue.strip("\n").split("\n")
        assert when.count("-->") == 1 and "-->" not in said
        assert said.startswith(("<v Caller>", "<v Assistant>"))


OFFERED = [{"tools": [{"name": "f"}], "tool_choice": "auto", "max_tokens": 5, "conversation": [
    {"role": "user", "text": "hi"}, {"role": "tool", "text": "1", "call_id": "c"}]}]  # fmt: skip


@fuzzed(json_text(OFFERED), st.lists(st.builds(Said, TEXTS, st.sampled_from(["tool", "tool_call", "user"]), TEXTS)))
def test_any_request_of_a_turn(text, conversation):
    """What an offer asks for is understood, or a ValueError says that it is not; calls keep their outputs."""
    arranged(conversation)
    try:
        request, given = read_request(text)
    except ValueError as error:
        assert str(error)
        return
    arranged(given or [])
    assert isinstance(request.max_tokens, int)


@fuzzed(json_text([{"a": [1, 2.5, "x"]}, HEAD]))
def test_any_json(text):
    """What is read can be written as RFC 8259 has it, in UTF-8; anything else is a ValueError."""
    try:
        value = read_json(text)
    except ValueError:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def test_what_is_nested_too_deep_is_no_json():
    with pytest.raises(ValueError, match="nested"):
        read_json("[" * 100_000)
