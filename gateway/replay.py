"""A recorded session run through the turn logic again; and sessions as files.

::

    python -m gateway.replay SESSION                              does it decide the same, bit for bit?
    python -m gateway.replay call.jsonl.gz                        the same of an exported session, without Redis
    python -m gateway.replay SESSION --set BARGE_IN_MIN_MS=300    what would have become of each turn
    python -m gateway.replay SESSION --export call.jsonl.gz       a session as one file, documented in bus/archive.py
    python -m gateway.replay --import call.jsonl.gz               and back, on another machine
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from bus import archive, sessions
from bus.archive import BadArchive
from bus.events import Input
from bus.keys import is_session
from bus.settings import BusSettings, load, masked
from bus.streams import Bus, connector
from gateway.duplex import BACKCHANNELS, Duplex, spoken_words
from gateway.journal import BadJournal
from gateway.rerun import Change, Rerun, fates, rerun
from gateway.settings import GatewaySettings

SAME, DIFFERENT, BAD_ARGUMENTS, NO_SERVER, INTERRUPTED = 0, 1, 2, 3, 130
KEEP_S = 86_400
"""Seconds an imported session is kept unless told otherwise."""

SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ENABLE_BARGE_IN": ("may_interrupt", bool),
    "BARGE_IN_MIN_MS": ("barge_in_min", lambda ms: ms / 1000),
    "BARGE_IN_PROTECT_MS": ("protect", lambda ms: ms / 1000),
    "BACKCHANNELS": ("backchannels", lambda listed: spoken_words(listed) or BACKCHANNELS),
}
"""What --set takes: setting -> (the rule it is, how its value becomes the rule's)."""

WHY_NO_OTHERS = "the others act outside of the turn logic, so a recording cannot tell what they would have done"


class Wrong(Exception):
    """What was asked for cannot be done: why."""


def change_of(settings: Sequence[str]) -> Change:
    """``NAME=value`` as a change of the rules. Raises Wrong."""
    changes: dict[str, Any] = {}
    for setting in settings:
        name, given, value = setting.partition("=")
        if not given or name not in SETTINGS:
            raise Wrong(f"--set {setting}: expected NAME=value with one of {', '.join(SETTINGS)}; {WHY_NO_OTHERS}")
        info = GatewaySettings.model_fields[name.lower()]
        rule, made = SETTINGS[name]
        try:
            number = TypeAdapter[Any](info.annotation or str).validate_python(value)
            for bound in info.metadata:
                if number < getattr(bound, "ge", number) or number > getattr(bound, "le", number):
                    raise Wrong(f"--set {setting}: out of range; see .env.example")
            changes[rule] = made(number)
        except ValidationError as error:
            raise Wrong(f"--set {setting}: {error.errors()[0]['msg']}") from None

    def change(rules: Duplex) -> Duplex:
        return replace(rules, **changes)

    return change


def told(name: str, done: Rerun) -> list[str]:
    """Whether it decides the same, in lines."""
    if done.difference is None:
        turns = f"{len(done.turns)} turn{'s' * (len(done.turns) != 1)}"
        return [f"{name}: {done.decisions} inputs, {turns}: every decision is the same, bit for bit"]
    found = done.difference
    return [
        f"{name}: entry {found.index + 1} is decided otherwise than it was",
        f"  input     {found.entry.name} {found.entry.data}",
        f"  recorded  {found.entry.actions or 'nothing to do'}",
        f"  now       {found.decided or 'nothing to do'}",
    ]


def compared(done: Rerun, change: Change, what: str) -> list[str]:
    """What would have been different, turn by turn, in lines."""
    lines = [f"with {what}:"]
    changed = 0
    for before, after in zip(fates(done), fates(done, change), strict=True):
        if before == after:
            lines.append(f"  turn {before.turn}: the same: {before}")
            continue
        changed += 1
        sooner = before.at - after.at
        when = f", {abs(sooner) * 1000:.0f} ms {'earlier' if sooner > 0 else 'later'}" if after.outcome else ""
        lines.append(f"  turn {before.turn}: {after}{when}; it was: {before}")
    return [*lines, f"{changed} of {len(done.turns)} turns would have been different"]


async def _with_bus(options: argparse.Namespace, settings: BusSettings) -> int:
    bus = Bus(connector(settings.address()), shards=settings.bus_shards)
    try:
        if options.import_from:
            head, entries = archive.load(options.import_from)
            count = await archive.restore(bus, head, entries, options.keep_s)
            print(f"{head.session}: {count} entries imported, kept {options.keep_s} s")
            return SAME
        if not await sessions.exists(bus, options.source):
            raise Wrong(f"no session {options.source}: it never was, or its keys have expired (RETENTION_S)")
        if options.export_to:
            count = await archive.save(bus, options.source, options.export_to, audio=not options.no_audio)
            print(f"{options.source}: {count} entries written to {options.export_to}")
            return SAME
        rows = await archive.rows(bus, options.source, "inputs")
    finally:
        await bus.close()
    return _replay(options.source, rows, options)


def _replay(name: str, rows: Any, options: argparse.Namespace) -> int:
    change = change_of(options.set)
    done = rerun([event for event in archive.events(rows, "inputs") if isinstance(event, Input)])
    print("\n".join(told(name, done)))
    if done.difference is not None:
        return DIFFERENT
    if options.set:
        print("\n".join(compared(done, change, " ".join(options.set))))
    return SAME


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.replay",
        description="Run a recorded session through the turn logic again, with its own times. Sessions are read from "
        "the Redis at REDIS_URL, where they live RETENTION_S after their end, or from an exported file.",
        epilog=f"exit codes: {SAME} the same decisions, or done; {DIFFERENT} a decision differs; {BAD_ARGUMENTS} bad "
        f"arguments, no such session, or a file that cannot be read; {NO_SERVER} Redis does not answer",
    )
    parser.add_argument("source", metavar="SESSION|FILE", nargs="?", default="")
    parser.add_argument(
        "--set", metavar="NAME=value", action="append", default=[],
        help=f"show what would have been different; one of {', '.join(SETTINGS)}, as in .env.example; repeatable",
    )  # fmt: skip
    parser.add_argument("--export", dest="export_to", metavar="FILE", type=Path, help="write the session to a file")
    parser.add_argument("--no-audio", action="store_true", help="export without the audio of either side")
    parser.add_argument("--import", dest="import_from", metavar="FILE", type=Path, help="put a file's session on Redis")
    parser.add_argument("--keep-s", metavar="S", type=int, default=KEEP_S, help="how long an import lives (86400)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if bool(options.source) == bool(options.import_from):
        parser.error("expected SESSION or FILE, or --import FILE")
    url = ""
    try:
        change_of(options.set)
        if not options.import_from and not is_session(options.source):
            if options.export_to:
                raise Wrong(f"{options.source!r} is not a session id; expected s<shard>-<hex>")
            return _replay(*_from_file(Path(options.source)), options)
        settings = load(BusSettings)
        url = settings.redis_url
        return asyncio.run(_with_bus(options, settings))
    except (Wrong, BadArchive, BadJournal) as error:
        print(error, file=sys.stderr)
        return BAD_ARGUMENTS
    except RedisError as error:
        print(f"no answer from {masked(url)}: {masked(str(error))}", file=sys.stderr)
        return NO_SERVER
    except OSError as error:
        print(f"{error.filename or options.source}: {error.strerror or error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except KeyboardInterrupt:
        return INTERRUPTED


def _from_file(path: Path) -> tuple[str, Any]:
    head, entries = archive.load(path)
    return head.session, entries


if __name__ == "__main__":
    sys.exit(main())
