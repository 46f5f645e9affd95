"""What is watched at the server, and what is read from the streams when a call is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from bus import scripts
from bus.connect import OUTAGE
from bus.events import Event, Final, Stopped, ToolCall, TurnRecord, UtteranceEnded
from bus.history import conversation
from bus.keys import session_key
from bus.streams import Bus
from bus.wire import decode
from gateway.speech import WINDOW
from tests.simulation.audio import MURMUR, WORD
from tests.simulation.caller import Caller
from tests.simulation.client import LOST, Client
from tests.simulation.server import Peer

if TYPE_CHECKING:
    from tests.simulation.world import World

E = TypeVar("E", bound=Event)
ACTIVE = {"stopped", "never_started"}
EXPECTED = ("mid-reply", "InjectedCrash", "died", "refused")
"""Why a turn may fail, in the words of whoever failed it."""


class Watch:
    """Sees every command before and after the server carries it out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._guarded = b""
        self._acknowledged: set[tuple[bytes, bytes, bytes]] = set()
        """(writer, stream of acknowledgements, turn): who has said that it stopped what."""
        self.refused: Counter[str] = Counter()

    def __call__(self, peer: Peer, command: list[bytes]) -> None:
        name = command[0]
        if name == b"EVALSHA" and command[1] == self._world.guarded_sha:
            self._guarded_write(peer, command)
            return
        peer.receive(command)
        if name == b"XADD" and command[1].endswith(b":acks"):
            self._ack(peer, command)

    def _guarded_write(self, peer: Peer, command: list[bytes]) -> None:
        stream, fences, cancelled, turn, fence = command[3:8]
        database = peer._db
        held = database.get(fences)
        highest = int((held.value.get(turn) if held is not None else None) or 0)
        marked = database.get(cancelled)
        mark = int(marked.value) if marked is not None else 0
        before = database.get(stream)
        length = before.value.entries_added if before is not None else 0
        if (_field(command, b"by"), cancelled, turn) in self._acknowledged:
            self._world.fail(f"{_field(command, b'by')!r} wrote for turn {turn!r} after it had said that it stopped")
        peer.receive(command)
        after = database.get(stream)
        accepted = (after.value.entries_added if after is not None else 0) > length
        if int(fence) < highest:
            self.refused["fenced"] += 1
            if accepted:
                self._world.fail(f"an entry of a fenced worker was accepted: {stream!r} turn {turn!r} fence {fence!r}")
        elif 0 < int(turn) <= mark:
            self.refused["cancelled"] += 1
            if accepted:
                self._world.fail(f"an entry of a cancelled turn was accepted: {stream!r} turn {turn!r}")

    def _ack(self, peer: Peer, command: list[bytes]) -> None:
        fields = dict(zip(command[3::2], command[4::2], strict=True))
        event = decode(fields)
        if not isinstance(event, Stopped) or event.outcome not in ACTIVE:
            return
        self._world.counts[f"acknowledged: {event.stage} {event.outcome}"] += 1
        cancelled = command[1][: -len(b"acks")] + b"cancelled"
        marked = peer._db.get(cancelled)
        if marked is None or event.turn > int(marked.value):
            self._world.fail(f"{event.stage} stopped turn {event.turn} of {command[1]!r}, which is not cancelled")
        writer, session = fields[b"by"], command[1].split(b":")[2].decode()
        self._acknowledged.add((writer, cancelled, b"%d" % event.turn))
        if (writer.decode(), session, event.turn) in self._world.generating:
            self._world.fail(f"{writer!r} acknowledged turn {event.turn} of {session} while it still generates")


async def after_call(world: World, bus: Bus, session: str, caller: Caller, client: Client, *, muted: bool) -> None:
    """Compare what the streams hold with what the caller said and the client heard."""
    streams = await _whole(bus, session)
    said = conversation(streams["history"])
    finals = _last_finals(streams)
    written = Counter((event.utterance, event.revision) for event in _of(Final, streams["transcript"]))
    for (utterance, revision), times in written.items():
        if times > 1:
            world.fail(f"{session}: revision {revision} of utterance {utterance} has {times} final texts")
    heard = {int(m.item.rpartition("_t")[2]): m.text for m in said if m.role == "assistant"}
    for number, turn in client.turns.items():
        if turn.outcome == LOST:
            world.outcomes[LOST] += 1
            continue
        if heard.get(number, "") not in turn.possible and turn.outcome:
            world.fail(
                f"{session}: the history says {heard.get(number, '')!r} of turn {number}, heard was one of "
                f"{sorted(turn.possible)}"
            )
        if not turn.outcome:
            world.fail(f"{session}: turn {number} never ended")
        _check_outcome(world, session, client, number)
    _check_records(world, streams, session, client)
    completed = {number for number, turn in client.turns.items() if turn.outcome == "completed"}
    client.functions.check(said, _of(ToolCall, streams["reply"]), completed, cut=caller.hung_up_on)
    _check_words(world, session, caller, client, finals, muted=muted)
    committed = {m.item: m.text for m in said if m.role == "user"}
    for item, text in committed.items():
        number = int(item.rpartition("_u")[2])
        final = finals.get(number)
        if final is not None and text != final.text:
            world.counts["utterances acted upon before their text was whole"] += 1
    if not caller.hung_up_on:
        for number, final in finals.items():
            if final.text and f"item_{session.replace('-', '_')}_u{number}" not in committed:
                world.counts["utterances whose text came too late"] += 1


def _check_outcome(world: World, session: str, client: Client, number: int) -> None:
    """A turn ends otherwise than completed only where somebody or something ended it."""
    turn = client.turns[number]
    world.outcomes[f"{turn.outcome} {turn.reason if turn.outcome == 'cancelled' else ''}".strip()] += 1
    if turn.outcome == "cancelled" and turn.reason == "client_cancelled" and number not in client.asked_to_cancel:
        world.fail(f"{session}: turn {number} was cancelled by the client, who had not asked for it")
    if turn.outcome == "failed" and not any(cause in turn.reason for cause in EXPECTED):
        world.fail(f"{session}: turn {number} failed: {turn.reason}")


async def _whole(bus: Bus, session: str) -> dict[str, list[Event]]:
    """Every event of each stream that is checked; connections may break meanwhile."""
    names = ("mic", "transcript", "reply", "history", "records")
    while True:
        with contextlib.suppress(*OUTAGE):
            return {name: [e.event for e in await bus.replay(session_key(session, name))] for name in names}
        await asyncio.sleep(0.2)


def _of(kind: type[E], events: Iterable[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _check_records(world: World, streams: Mapping[str, list[Event]], session: str, client: Client) -> None:
    """Every turn has one record, which tells what the client saw and names each stage that did not answer."""
    records: dict[int, TurnRecord] = {}
    for record in _of(TurnRecord, streams["records"]):
        if record.turn in records:
            world.fail(f"{session}: turn {record.turn} has two records")
        records[record.turn] = record
    for number, turn in client.turns.items():
        if (found := records.get(number)) is None:
            world.fail(f"{session}: turn {number} has no record")
        elif turn.outcome != LOST and found.outcome != ("done" if turn.outcome == "completed" else turn.outcome):
            world.fail(f"{session}: the record calls turn {number} {found.outcome}, the client saw {turn.outcome}")
    for number, record in records.items():
        late, told = set(filter(None, record.unanswered.split(","))), client.late.get(number, set())
        # A client that is away is told of nothing.
        if told - late or (late - told and not hasattr(client.session, "holds")):
            world.fail(f"{session}: turn {number}: the record says {record.unanswered!r} did not answer a cancel")
        world.counts["records"] += 1


def _last_finals(streams: Mapping[str, list[Event]]) -> dict[int, Final]:
    """The final text of each utterance's last revision, for utterances that ended."""
    ended = {event.utterance: event.revision for event in _of(UtteranceEnded, streams["mic"])}
    finals: dict[int, Final] = {}
    for event in _of(Final, streams["transcript"]):
        if event.revision >= finals.get(event.utterance, event).revision:
            finals[event.utterance] = event
    return {number: final for number, final in finals.items() if ended.get(number, 0) <= final.revision}


def _check_words(
    world: World, session: str, caller: Caller, client: Client, finals: dict[int, Final], *, muted: bool
) -> None:
    """Every word that was said stands in exactly one utterance's text, whole."""
    expected = [f"{'w' if kind == WORD else 'mm'}{a}_{b}" for kind, a, b in caller.sounds if kind in (WORD, MURMUR)]
    ends = {word.rpartition("_")[2]: word for word in expected}
    starts = {_start(word) for word in expected}
    got: Counter[str] = Counter()
    for _, final in sorted(finals.items()):
        for word in final.text.split():
            if word not in expected and _start(word) in starts and _length(word) < WINDOW // 2:
                continue  # the beginning of a word that an end of turn cut in two
            got[_unclipped(word, ends)] += 1
    world.counts["words"] += len(expected)
    for word, times in got.items():
        if times > 1:
            world.fail(f"{session}: {word} was transcribed {times} times")
        if word not in expected and not muted and not caller.hung_up_on:
            world.fail(f"{session}: {word} was transcribed, and not said so")
    if muted or caller.hung_up_on:
        return
    missing = [word for word in expected if word not in got]
    if missing:
        world.fail(f"{session}: never transcribed: {missing}")


def _unclipped(word: str, ends: dict[str, str]) -> str:
    """The word that was said. An end of turn may fall into the detector's window in which the next word begins: what
    of that window came before it belongs to the utterance before."""
    said = ends.get(word.rpartition("_")[2], word)
    return said if 0 <= _start(word) - _start(said) < WINDOW // 2 else word


def _start(word: str) -> int:
    return int(word.lstrip("wm").partition("_")[0])


def _length(word: str) -> int:
    return int(word.rpartition("_")[2]) - _start(word)


def _field(command: list[bytes], name: bytes) -> bytes:
    return command[command.index(name, 8) + 1]


GUARDED = scripts.APPEND_GUARDED
