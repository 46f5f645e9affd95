"""What stands on Redis: entries, announcements, rows that describe a worker. Whoever wrote them may be of another
version, broken, or hostile."""

import asyncio
import dataclasses
import json

from hypothesis import strategies as st

from bus.cancel import CancelGuard, _hear
from bus.events import Event
from bus.history import conversation
from bus.keys import is_session, session_in, shard_of
from bus.monitor import parse, readable, wanted
from bus.reader import Subscription, Unique, read_entry
from bus.waterfall import drawn, spans
from bus.wire import TYPES, BadEvent, decode, encode
from tests.fuzz.garbage import ANY_TEXT, as_bytes, fuzzed, json_text

NUMBERS = [b"0", b"1", b"-1", b"7", b"1e3", b"nan", b"inf", b"-inf", b"9" * 30, b"-" + b"9" * 30, b"9" * 5000, b"0x10"]
RAW = (
    st.sampled_from(NUMBERS)
    | st.binary(max_size=40)
    | st.sampled_from([*NUMBERS, b"", b"\xff\xfe", "é".encode(), b"x" * 3000])
)
VALUE = {
    "int": st.integers(-3, 10**6).map(lambda n: b"%d" % n),
    "float": st.floats(0, 1e4).map(lambda x: str(x).encode()),
    "bool": st.sampled_from([b"0", b"1"]),
    "str": ANY_TEXT.map(lambda text: text.encode("utf-8", "replace")),
    "bytes": st.binary(max_size=64).map(lambda raw: raw + raw),
}
MARKS = st.fixed_dictionaries({}, optional={b"by": RAW, b"seq": RAW, b"fence": RAW, b"v": RAW, b"at": RAW})


@st.composite
def fields(draw, kinds=tuple(TYPES)):
    """The fields of an entry of one of our types: as they should be, but for some that are anything or missing."""
    name = draw(st.sampled_from(kinds))
    found = {b"type": name.encode()}
    for spec in dataclasses.fields(TYPES[name]):
        choice = draw(st.integers(0, 7))
        if choice:
            found[spec.name.encode()] = draw(RAW if choice == 1 else VALUE[str(spec.type)])
    return {**found, **draw(MARKS)}


ENTRIES = fields() | st.dictionaries(RAW, RAW, max_size=6)


@fuzzed(ENTRIES)
def test_an_entry_is_an_event_or_left_out(found):
    """An event, None for a type of another version, or BadEvent, which says which field; what was read is written and
    read again as it is, and its numbers are such as every reader and script can count with."""
    try:
        event = decode(found)
    except BadEvent as error:
        assert str(error)
        return
    assert event is None or isinstance(event, Event)
    if event is not None:
        assert decode({name.encode(): value for name, value in encode(event, 1).items()}) == (
            event if event.at else dataclasses.replace(event, at=1)
        )
        for spec in dataclasses.fields(event):
            value = getattr(event, spec.name)
            assert not isinstance(value, int | float) or abs(value) < 2**63


@fuzzed(st.lists(ENTRIES, max_size=8))
def test_a_reader_lives_through_any_entries(entries):
    """Whatever stands on a stream, a follower gets the events that can be read, and goes on after those that cannot."""

    async def read():
        subscription = Subscription("mic", "0-0", lambda each: None)
        for number, found in enumerate(entries, 1):
            subscription.offer(b"%d-0" % number, found)
        subscription.offer(b"999-0", {b"type": b"hangup"})
        got = []
        while (entry := subscription.take()) is not None:
            got.append(entry)
        return subscription.position, got

    position, got = asyncio.run(read())
    assert position == "999-0" and got[-1].event.type == "hangup"
    unique = Unique()
    for found in entries:
        assert isinstance(unique.is_new(found), bool)
        entry = read_entry("mic", b"1-0", found)
        assert entry is None or isinstance(entry.event, Event)


@fuzzed(json_text([{"session": "s0-abcd", "turn": 3}, {"session": "s0-abcd", "turn": 1e400}, [1]]).map(as_bytes))
def test_any_announcement_on_the_cancel_channel(data):
    """It raises the mark of the session that it names, or changes nothing; the listener lives."""

    async def hear():
        guard = CancelGuard()
        token = guard.token("s0-abcd", 2)
        _hear(guard, data)
        return token.cancelled

    if asyncio.run(hear()):
        assert json.loads(data)["session"] == "s0-abcd"


def events(kinds):
    """Readable events of the named types."""

    def read(found):
        try:
            return decode(found)
        except BadEvent:
            return None

    return st.lists(fields(kinds).map(read).filter(bool), max_size=8)


@fuzzed(events(("said", "amended")))
def test_any_history_is_a_conversation(found):
    """However messages and amendments are mixed, each item stands once at most."""
    items = [message.item for message in conversation(found)]
    assert len(items) == len(set(items))


STEPS = [[["onset", 1.0, ""], ["turn", 2, "x"], ["held", 3, ""], ["cancelled", 4, "y"], ["stopped:llm", 5, ""]]]


@fuzzed(json_text(STEPS), events(("turn_record",)))
def test_any_record_is_drawn_or_refused(text, records):
    """A turn's steps are a waterfall, or a ValueError says what they should be."""
    for record in records:
        record = dataclasses.replace(record, steps=text.encode("utf-8", "replace").decode())
        for shown in (spans, drawn):
            try:
                shown(record)
            except ValueError as error:
                assert "steps are not" in str(error)


LINES = [
    b'1795358268.881123 [0 127.0.0.1:1] "XADD" "k" "*" "v" "1" "pcm" "\\x00\\xff"',
    b'1795358268.881123 [0 lua] "HSET" "k" "a"', b'99999999999999999999.1 [0 x] "GET" "\\"', b'1.0 [0] ""',
]  # fmt: skip


@fuzzed(st.sampled_from(LINES).flatmap(lambda line: st.sampled_from([line, line[:-3], line * 3])) | st.binary())
def test_the_monitor_shows_any_line(line):
    """What the server's MONITOR sends is shown as one line of printable text, or passed over."""
    parsed = parse(line)
    if parsed is not None:
        wanted(parsed[1], "s0-abcd", ["XADD"], False)
        shown = readable(*parsed)
        assert shown.isprintable()


@fuzzed(ANY_TEXT | st.from_regex(r"s\d{0,7}-[0-9a-zA-Z]{0,40}(\.\d*)?", fullmatch=True))
def test_any_text_is_a_session_or_not(text):
    """An id has a shard; nothing else has."""
    if is_session(text):
        assert shard_of(text) >= 0 and session_in(text) == text
    else:
        try:
            shard_of(text)
        except ValueError as error:
            assert "not a session id" in str(error)
        else:
            raise AssertionError(text)
