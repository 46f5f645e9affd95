import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.events import Event, SpeechAudio
from bus.keys import SESSION_STREAMS, WORK
from bus.wire import STREAMS, TYPES, BadEvent, decode, encode

VALUES = {
    "int": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": st.text(),
    "bytes": st.binary().filter(lambda raw: len(raw) % 2 == 0),
}
POSITIONS = st.integers(0, 2**40)
PLACES = {
    "offset": POSITIONS,
    "start": POSITIONS,
    "end": POSITIONS,
    "mic": POSITIONS,
    "rate": st.integers(8000, 192_000),
}
"""What has a range of its own."""


@st.composite
def events(draw):
    kind = draw(st.sampled_from(sorted(TYPES.values(), key=lambda kind: kind.type)))
    values = {f.name: draw(PLACES.get(f.name, VALUES[str(f.type)])) for f in dataclasses.fields(kind) if f.name != "at"}
    return kind(**values, at=draw(st.integers(1, 2**41)))


def on_the_wire(event: Event) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in encode(event, at=1).items()}


@given(events())
def test_what_is_written_is_what_is_read(event):
    """Every event survives the wire unchanged, whatever its values."""
    assert decode(on_the_wire(event)) == event


def test_every_type_has_its_stream():
    """One and no more; and every stream has its types."""
    assert sorted(kind.type for kinds in STREAMS.values() for kind in kinds) == sorted(TYPES)
    assert set(STREAMS) == {*SESSION_STREAMS, *WORK.values()}


def test_samples_come_last():
    """An entry reads left to right: version, type and text first, raw samples last."""
    fields = list(encode(SpeechAudio(1, 1, 0, 0, 0, 22050, "hi", "exact", b"\0\0"), at=7))
    assert fields[:3] == ["v", "type", "at"]
    assert fields[-1] == "pcm"


def test_newer_fields_and_types_are_ignored():
    """A rolling upgrade may add fields and types without breaking readers of this version."""
    known = on_the_wire(SpeechAudio(1, 1, 0, 0, 0, 22050, "hi", "exact", b"\0\0"))
    assert decode({**known, b"mood": b"cheerful"}) == decode(known)
    assert decode({b"v": b"2", b"type": b"video"}) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({b"turn": b"two"}, "field 'turn' is b'two'; expected int"),
        ({b"turn": b"9" * 20}, "field 'turn' is b'99999999999999999999'; expected int"),
        ({b"rate": b"40"}, "field 'rate' is b'40'; expected int from 8000 to 192000"),
        ({b"offset": b"-1"}, "field 'offset' is b'-1'; expected int from 0 to"),
        ({b"pcm": b"\0"}, "pcm has 1 bytes"),
        ({b"text": b"\xff"}, "field 'text'"),
    ],
)
def test_a_malformed_field_is_named(change, complaint):
    """A bad entry is refused with its field, its value and what was expected."""
    known = on_the_wire(SpeechAudio(1, 1, 0, 0, 0, 22050, "hi", "exact", b"\0\0"))
    with pytest.raises(BadEvent, match=complaint.replace("'", "'")):
        decode({**known, **change})


def test_a_missing_field_is_named():
    """An entry that lacks a required field says which."""
    known = on_the_wire(SpeechAudio(1, 1, 0, 0, 0, 22050, "hi", "exact", b"\0\0"))
    del known[b"rate"]
    with pytest.raises(BadEvent, match="field 'rate' is missing"):
        decode(known)


def test_half_a_surrogate_pair_is_written_as_a_question_mark():
    """Redis holds UTF-8: a text that has none is not a reason to lose its event."""
    assert decode(on_the_wire(SpeechAudio(1, 1, 0, 0, 0, 22050, "a\ud83d", "exact", b"\0\0"))).text == "a?"
