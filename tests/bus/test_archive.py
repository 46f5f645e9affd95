"""A session as a file, and back on another server."""

import gzip
import json

import pytest

from bus import archive, sessions
from bus.archive import BadArchive
from bus.events import Final, Input, MicAudio, SpeechAudio
from bus.keys import SESSION_STREAMS, session_key
from bus.streams import Bus
from tests.bus.fake_server import fake_connector

SESSION = "s0-4f1c09aa31d2"


@pytest.fixture
async def bus():
    bus = Bus(fake_connector())
    yield bus
    await bus.close()


@pytest.fixture
async def other():
    bus = Bus(fake_connector())
    yield bus
    await bus.close()


async def filled(bus):
    await bus.configure(SESSION, {"language": "de-DE", "instructions": "sei knapp"})
    await bus.commands.set(session_key(SESSION, "cancelled"), 3)
    for offset in range(0, 1200 * 320, 320):
        bus.post(session_key(SESSION, "mic"), MicAudio(offset, bytes(range(256)) * 2))
    bus.post(session_key(SESSION, "speech"), SpeechAudio(1, 1, 0, 0, 0, 24_000, "öl ", "exact", b"\xff\x7f" * 10))
    bus.post(session_key(SESSION, "transcript"), Final(1, 1, "schöne grüße\n\0", 0, 100))
    await bus.publish(session_key(SESSION, "inputs"), Input("Words", '{"at":0.1}', "[]"))


async def content(bus):
    streams = {name: await bus.commands.xrange(session_key(SESSION, name)) for name in SESSION_STREAMS}
    return streams, await bus.config(SESSION), await bus.commands.get(session_key(SESSION, "cancelled"))


@pytest.mark.parametrize("name", ["call.jsonl", "call.jsonl.gz"])
async def test_there_and_back(bus, other, tmp_path, name):
    """Every entry of every stream with its id and bytes, the config and the watermark; then it expires."""
    await filled(bus)
    path = tmp_path / name
    count = await archive.save(bus, SESSION, path)
    assert count == 1203 and path.stat().st_mode & 0o077 == 0
    assert (path.read_bytes()[:2] == b"\x1f\x8b") is name.endswith(".gz")
    assert await archive.restore(other, *archive.load(path), 60) == count
    before, after = await content(bus), await content(other)
    assert after[0] == before[0] and after[2] == before[2]
    assert after[1]["instructions"] == "sei knapp"
    assert 0 < (await sessions.summary(other, SESSION)).expires_s <= 60


async def test_without_audio(bus, tmp_path):
    """What carries audio is left out, and every text is there."""
    await filled(bus)
    assert await archive.save(bus, SESSION, tmp_path / "call.jsonl", audio=False) == 2
    _, rows = archive.load(tmp_path / "call.jsonl")
    assert [row.stream for row in rows] == ["transcript", "inputs"]


async def test_a_session_is_never_mixed_with_another(bus, tmp_path):
    await filled(bus)
    await archive.save(bus, SESSION, tmp_path / "call.jsonl")
    before = await content(bus)
    with pytest.raises(BadArchive, match="on this server already"):
        await archive.restore(bus, *archive.load(tmp_path / "call.jsonl"), 60)
    assert await content(bus) == before


HEAD = {"bargein": "session", "version": 1, "session": SESSION, "config": {}}
ENTRY = {"stream": "mic", "id": "5-0", "fields": {"type": "hangup"}}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "it is empty"),
        (["hello"], "line 1: cannot be read"),
        ([[1]], "line 1: cannot be read: not an object"),
        ([{"a": 1}], "not a session"),
        ([{**HEAD, "session": "x"}], "not a session"),
        ([{**HEAD, "version": 2}], "its version is 2; expected 1"),
        ([HEAD, {"stream": "mic"}], "line 2: not an entry"),
        ([HEAD, {**ENTRY, "stream": "cancelled"}], "no stream is called 'cancelled'"),
        ([HEAD, {**ENTRY, "pcm": "%%%"}], "line 2: not an entry"),
        ([HEAD, ENTRY, "{"], "line 3: cannot be read"),
        ([HEAD, ENTRY, ENTRY], "equal or smaller than the target stream"),
        ([HEAD, {**ENTRY, "id": "x"}], "nothing was imported"),
    ],
)
async def test_a_file_that_is_no_session(other, tmp_path, lines, said):
    """One error that says where and what; and nothing of it is left on the server."""
    path = tmp_path / "call.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(BadArchive, match=said):
        await archive.restore(other, *archive.load(path), 60)
    assert not await sessions.exists(other, SESSION)


async def test_a_file_that_was_cut(bus, other, tmp_path):
    await filled(bus)
    await archive.save(bus, SESSION, tmp_path / "call.jsonl.gz")
    (tmp_path / "cut.gz").write_bytes((tmp_path / "call.jsonl.gz").read_bytes()[:-400])
    with pytest.raises(BadArchive, match="cannot be read"):
        await archive.restore(other, *archive.load(tmp_path / "cut.gz"), 60)
    with gzip.open(tmp_path / "call.jsonl.gz") as whole:
        assert json.loads(whole.readline())["session"] == SESSION
