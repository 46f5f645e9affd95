"""A session as one file: what somebody can attach to a bug report, and import on another machine.

The file is lines of JSON (gzip when its name ends in ``.gz``). The first says what it is::

    {"bargein": "session", "version": 1, "session": "s0-4f1c09aa31d2", "config": {...}, "cancelled": 2}

Each other is one entry of one of the session's streams, stream after stream, in order; ``pcm`` is base64::

    {"stream": "mic", "id": "1795358269141-0", "fields": {"v": "1", "type": "audio", ...}, "pcm": "..."}

It holds what was said and how the assistant was instructed, so it is written for its owner's eyes only.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from redis.exceptions import DataError, ResponseError

from bus.events import Event
from bus.foreign import read_json
from bus.keys import SESSION_STREAMS, is_session, session_key
from bus.reader import Unique, read_entry
from bus.streams import Bus

VERSION = 1
PAGE = 500
"""Entries read or written at once: at most a few MB of audio."""
LONGEST_LINE = 16 << 20
"""Characters of a line of a file; no entry is that long."""


class BadArchive(ValueError):
    """A file that is no session, or not one this version can read: where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a file's first line says."""

    session: str
    config: dict[str, str] = field(default_factory=dict)
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of one stream."""

    stream: str
    id: str
    fields: dict[bytes, bytes]


async def rows(bus: Bus, session: str, name: str) -> list[Row]:
    """All entries of one of a session's streams."""
    found: list[Row] = []
    after = "-"
    while True:
        page: Any = await bus.commands.xrange(session_key(session, name), min=after, count=PAGE)
        found += [Row(name, entry_id.decode(), fields) for entry_id, fields in page]
        if len(page) < PAGE:
            return found
        after = f"({page[-1][0].decode()}"


async def save(bus: Bus, session: str, path: Path, *, audio: bool = True) -> int:
    """Write a session to a file, whole or not at all; the number of entries. Without ``audio``, text only."""
    cancelled = await bus.commands.get(session_key(session, "cancelled"))
    head = {
        "bargein": "session", "version": VERSION, "session": session, "config": await bus.config(session),
        "cancelled": int(cancelled or 0),
    }  # fmt: skip
    count = 0
    with _whole(path) as file:
        file.write(_line(head))
        for name in SESSION_STREAMS:
            for row in await rows(bus, session, name):
                if audio or b"pcm" not in row.fields:
                    file.write(_line(_plain(row)))
                    count += 1
    return count


def load(path: Path) -> tuple[Head, Iterator[Row]]:
    """What a file is about, and its entries, read as they are asked for. Raises BadArchive and OSError."""
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise BadArchive(f"{path}: it is empty")
    _, head = first
    if head.get("bargein") != "session" or not is_session(str(head.get("session"))):
        raise BadArchive(f"{path}: not a session; expected lines of JSON as 'python -m gateway.replay --export' writes")
    if head.get("version") != VERSION:
        raise BadArchive(f"{path}: its version is {head.get('version')!r}; expected {VERSION}")
    config, cancelled = head.get("config") or {}, head.get("cancelled") or 0
    if not isinstance(config, dict) or not isinstance(cancelled, int):
        raise BadArchive(f"{path}, line 1: expected config as an object, and cancelled as a number")
    known = {str(name): str(value) for name, value in config.items()}
    return Head(head["session"], known, cancelled), (_row(path, n, line) for n, line in lines)


async def restore(bus: Bus, head: Head, entries: Iterator[Row], seconds: float) -> int:
    """Put a session on a server that does not have it, for ``seconds``; the number of entries. Raises BadArchive."""
    keys = [session_key(head.session, name) for name in (*SESSION_STREAMS, "config")]
    if await bus.commands.exists(*keys):
        raise BadArchive(f"session {head.session} is on this server already")
    count, done = 0, False
    try:
        await bus.configure(head.session, head.config)
        if head.cancelled:
            await bus.commands.set(session_key(head.session, "cancelled"), head.cancelled)
        batch: list[Row] = []
        while not done:
            row = next(entries, None)
            done = row is None
            if row is not None:
                batch.append(row)
            if batch and (done or len(batch) == PAGE):
                async with bus.commands.pipeline(transaction=False) as pipe:
                    for each in batch:
                        pipe.xadd(session_key(head.session, each.stream), cast(Any, each.fields), id=each.id)
                    await pipe.execute()
                count += len(batch)
                batch.clear()
    except (DataError, ResponseError, BadArchive) as error:
        await bus.commands.delete(*keys, session_key(head.session, "cancelled"))
        raise BadArchive(f"{error}; nothing was imported") from None
    await bus.keep(head.session, seconds)
    await bus.outbox.drain()
    return count


def events(entries: Iterator[Row] | list[Row], stream: str) -> list[Event]:
    """The events of one stream among entries, those that a retried write stored twice once."""
    unique = Unique()
    once = (row for row in entries if row.stream == stream and unique.is_new(row.fields))
    read = (read_entry(stream, row.id.encode(), row.fields) for row in once)
    return [entry.event for entry in read if entry is not None]


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there when all of it was written, and else is not; readable by its owner only."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as raw:
        try:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=cast(IO[bytes], raw), mode="wb", filename="") as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield cast(IO[bytes], raw)
            raw.flush()
            Path(raw.name).replace(path)
        except BaseException:
            Path(raw.name).unlink(missing_ok=True)
            raise


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _plain(row: Row) -> dict[str, object]:
    texts = {name.decode(): value.decode() for name, value in row.fields.items() if name != b"pcm"}
    plain: dict[str, object] = {"stream": row.stream, "id": row.id, "fields": texts}
    if b"pcm" in row.fields:
        plain["pcm"] = base64.b64encode(row.fields[b"pcm"]).decode()
    return plain


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line with its number from 1."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if packed else raw)
        number = 0
        try:
            while line := file.readline(LONGEST_LINE):
                number += 1
                value = read_json(line)
                if not isinstance(value, dict):
                    raise ValueError("not an object")
                yield number, value
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadArchive(f"{path}, line {number}: cannot be read: {str(error)[:80]}") from None


def _row(path: Path, number: int, line: dict[str, Any]) -> Row:
    try:
        stream, entry_id = str(line["stream"]), str(line["id"])
        if stream not in SESSION_STREAMS:
            raise ValueError(f"no stream is called {stream[:20]!r}")
        fields = {str(name).encode(): str(value).encode() for name, value in dict(line["fields"]).items()}
        if "pcm" in line:
            fields[b"pcm"] = base64.b64decode(line["pcm"], validate=True)
        return Row(stream, entry_id, fields)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BadArchive(f"{path}, line {number}: not an entry: {error!r}") from None
