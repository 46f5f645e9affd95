"""Sessions and their turns as text: who is there, what happens in one, and where the time of a turn went.

::

    python -m bus.inspect                        every session, live or kept
    python -m bus.inspect tail SESSION           one session's events as they come, until it ends
    python -m bus.inspect turns SESSION          every settled turn in a line
    python -m bus.inspect turn SESSION 2         the waterfall of one turn
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from bus import sessions
from bus.events import Event, MicAudio, SpeechAudio
from bus.keys import is_session
from bus.monitor import show
from bus.reader import position, read_entry
from bus.settings import BusSettings, load, masked
from bus.streams import Bus, connector
from bus.waterfall import drawn, steps

OK, NOT_FOUND, BAD_ARGUMENTS, NO_SERVER, INTERRUPTED = 0, 1, 2, 3, 130
BLOCK_MS = 1000
PAGE = 200
EPILOG = (
    f"exit codes: {OK} shown; {NOT_FOUND} no such session or turn; {BAD_ARGUMENTS} bad arguments; "
    f"{NO_SERVER} Redis does not answer"
)


class NotThere(Exception):
    """What was asked for is not, or no longer, kept."""


def clock(milliseconds: int) -> str:
    """Local time of day with milliseconds."""
    return time.strftime("%H:%M:%S", time.localtime(milliseconds / 1000)) + f".{milliseconds % 1000:03d}"


def line(name: str, entry_id: str, event: Event) -> str:
    """One event: when the server had it, its stream, its type and fields; audio as its size."""
    words = [clock(position(entry_id)[0]), f"{name:<10}", event.type]
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name == "at" or value in ("", None):
            continue
        shown = f"<{len(value)} bytes>" if isinstance(value, bytes) else show(str(value).encode())
        words.append(f"{field.name}={shown}")
    return " ".join(words)


def table(found: Sequence[sessions.Summary]) -> list[str]:
    """The sessions as lines under a heading."""
    lines = [f"{'session':<24} {'state':<22} {'began':<13} {'length':>7} {'turns':>5}  cancelled up to"]
    for each in found:
        state = "live" if each.live else f"over, kept {each.expires_s} s" if each.expires_s >= 0 else "over"
        length = f"{(each.newest - each.began) // 60_000}:{(each.newest - each.began) // 1000 % 60:02d}"
        began = clock(each.began) if each.began else "-"
        lines.append(f"{each.session:<24} {state:<22} {began:<13} {length:>7} {each.turns:>5}  {each.cancelled or '-'}")
    return lines


async def _list(bus: Bus, options: argparse.Namespace) -> None:
    found = await sessions.summaries(bus)
    if options.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    elif not found:
        print("no session is live, and none is kept (RETENTION_S after its end)")
    else:
        print("\n".join(table(found)))


async def _tail(bus: Bus, options: argparse.Namespace) -> None:
    names = sessions.streams(options.session)
    at = {key: "0-0" if options.all else await bus.last_id(key) for key in names}
    while True:
        live = await sessions.live(bus, options.session)
        answer = await bus.commands.xread(at, count=PAGE, block=BLOCK_MS if live else None) or ()
        rows = [(position(entry_id.decode()), key.decode(), fields) for key, got in answer for entry_id, fields in got]
        for moment, key, fields in sorted(rows, key=lambda row: row[0]):
            entry_id = f"{moment[0]}-{moment[1]}"
            at[key] = entry_id
            entry = read_entry(key, entry_id.encode(), fields)
            if entry is not None and (options.audio or not isinstance(entry.event, (MicAudio, SpeechAudio))):
                print(line(names[key], entry_id, entry.event), flush=True)
        if not rows and not live:
            print(f"{options.session} is over")
            return


async def _turns(bus: Bus, options: argparse.Namespace) -> None:
    found = await sessions.records(bus, options.session)
    if options.json:
        print(json.dumps([{**dataclasses.asdict(each), "steps": json.loads(each.steps)} for each in found], indent=2))
        return
    if not found:
        print("no turn of it is settled yet")
    for record in found:
        done = steps(record)
        took = max((step.at for step in done), default=0.0) - min((step.at for step in done), default=0.0)
        late = f", no answer from {record.unanswered}" if record.unanswered else ""
        reason = f" ({record.reason})" if record.reason else ""
        outcome = f"{record.outcome or 'not settled'}{reason}"
        print(f"turn {record.turn:<3} {outcome:<28} {record.heard:>6} ms heard, {took:>6.0f} ms in all{late}")


async def _turn(bus: Bus, options: argparse.Namespace) -> None:
    record = next((each for each in await sessions.records(bus, options.session) if each.turn == options.turn), None)
    if record is None:
        raise NotThere(f"{options.session} has no settled turn {options.turn}; see: turns {options.session}")
    if options.json:
        print(json.dumps({**dataclasses.asdict(record), "steps": json.loads(record.steps)}, indent=2))
        return
    print("\n".join(drawn(record)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bus.inspect",
        description="Show the sessions on the Redis at REDIS_URL, follow one, or see where a turn's time went.",
        epilog=EPILOG,
    )
    parser.set_defaults(command=_list, session="", json=False)
    commands = parser.add_subparsers(metavar="COMMAND")
    listed = commands.add_parser("list", help="every session, live or kept (the default)")
    listed.set_defaults(command=_list)
    tail = commands.add_parser("tail", help="one session's events as they come, until it ends")
    tail.add_argument("--all", action="store_true", help="from the session's first event that is kept")
    tail.add_argument("--audio", action="store_true", help="what carries audio too, as its size")
    tail.set_defaults(command=_tail)
    turns = commands.add_parser("turns", help="every settled turn in a line")
    turns.set_defaults(command=_turns)
    turn = commands.add_parser("turn", help="one turn's waterfall: who worked on it from when to when")
    turn.set_defaults(command=_turn)
    for each in (tail, turns, turn):
        each.add_argument("session", metavar="SESSION", type=_session)
    turn.add_argument("turn", metavar="N", type=int)
    for each in (listed, turns, turn):
        each.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _session(text: str) -> str:
    if not is_session(text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a session id; expected s<shard>-<hex>")
    return text


async def _run(settings: BusSettings, options: argparse.Namespace) -> None:
    bus = Bus(connector(settings.address()), shards=settings.bus_shards)
    try:
        if options.session and not await sessions.exists(bus, options.session):
            raise NotThere(f"no session {options.session}: it never was, or its keys have expired (RETENTION_S)")
        await options.command(bus, options)
    finally:
        await bus.close()


def main(argv: Sequence[str] | None = None) -> int:
    options: Any = _parser().parse_args(argv)
    settings = load(BusSettings)
    url = settings.redis_url
    try:
        asyncio.run(_run(settings, options))
    except NotThere as error:
        print(error, file=sys.stderr)
        return NOT_FOUND
    except (RedisError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK
        print(f"no answer from {masked(url)}: {masked(str(error))}", file=sys.stderr)
        print("start one with 'make run' or 'python -m bus.server', or set REDIS_URL", file=sys.stderr)
        return NO_SERVER
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
