"""Every command that reaches the bus, live, one readable line each: ``redis-cli monitor`` with the audio shortened.

``python -m bus.monitor --session s0-4f1c09aa31d2`` needs no redis-cli. A server that is monitored works for its
monitors too: on a busy one this costs throughput.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from redis.exceptions import RedisError

from bus.connect import connector
from bus.settings import BusSettings, load, masked

LONGEST = 120
"""Characters of one argument that are shown."""
_LINE = re.compile(rb'^(\d{1,11}\.\d+) \[.*?\] (".*)$', re.DOTALL)
_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_FIELDS_AFTER = {"XADD": 3, "HSET": 2}
"""After how many arguments (the command included) a command goes on in pairs of field and value."""


def parse(line: bytes) -> tuple[float, list[bytes]] | None:
    """The time (s since 1970) and the arguments in a line of MONITOR; None for a line of another form."""
    match = _LINE.match(line)
    if match is None:
        return None
    arguments = [_ESCAPE.sub(_unescape, quoted[1]) for quoted in _ARGUMENT.finditer(match[2])]
    return float(match[1]), arguments


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES.get(code, code)


def readable(at: float, arguments: Sequence[bytes]) -> str:
    """One line: local time, the command, its arguments, those of XADD as ``field=value``."""
    command = arguments[0].decode("ascii", "replace").upper() if arguments else ""
    words = [f"<{len(argument)} bytes>" if name == b"pcm" else show(argument) for name, argument in pairwise(arguments)]
    first = _FIELDS_AFTER.get(command)
    if command == "XADD" and b"*" in arguments:
        first = arguments.index(b"*") + 1
    if first is not None and (len(arguments) - first) % 2 == 0:
        pairs = iter(words[first - 1 :])
        words = [*words[: first - 1], *(f"{name}={value}" for name, value in zip(pairs, pairs, strict=True))]
    clock = time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"
    return " ".join([clock, command, *words])


def show(argument: bytes) -> str:
    """An argument as printable text: what is not text as ``<n bytes>``, the long cut short, what has spaces quoted."""
    try:
        text = argument.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{len(argument)} bytes>"
    if "\0" in text:
        return f"<{len(argument)} bytes>"
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:LONGEST])
    if not shown or " " in shown:
        shown = f'"{shown}"'
    return f"{shown}... ({len(text)} characters)" if len(text) > LONGEST else shown


def wanted(arguments: Sequence[bytes], session: str, only: Sequence[str], audio: bool) -> bool:
    """Whether a command passes the filters: of one session (its children included), of some commands, with audio."""
    if only and (not arguments or arguments[0].decode("ascii", "replace").upper() not in only):
        return False
    if not audio and b"pcm" in arguments:
        return False
    return not session or any(session.encode() in argument for argument in arguments)


def lines(client: Any) -> Iterator[bytes]:
    """The lines of MONITOR as the server sends them, for ever. Raises RedisError when the server goes away."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("MONITOR")
        connection.read_response()
        while True:
            yield connection.read_response(disconnect_on_error=True)
    finally:
        connection.disconnect()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bus.monitor",
        description="Show every command that reaches the Redis at REDIS_URL, live, with audio shortened.",
    )
    parser.add_argument("--session", default="", metavar="ID", help="only what names this session")
    parser.add_argument("--only", default="", metavar="COMMAND,...", help="only these commands, such as XADD,PUBLISH")
    parser.add_argument("--no-audio", action="store_true", help="leave out entries that carry audio")
    parser.add_argument("--raw", action="store_true", help="print the server's lines untouched")
    options = parser.parse_args(argv)
    only = [command.strip().upper() for command in options.only.split(",") if command.strip()]
    address = load(BusSettings).address()
    url = address.url
    if address.kind == "cluster":
        print("a cluster has a MONITOR for each node: name one, REDIS_URL=redis://host:port", file=sys.stderr)
        return 2
    client = connector(address).sync(None, connect=3)
    try:
        for line in lines(client):
            parsed = parse(line)
            if parsed is None or not wanted(parsed[1], options.session, only, not options.no_audio):
                continue
            print(line.decode("utf-8", "replace") if options.raw else readable(*parsed), flush=True)
    except RedisError as error:
        print(f"no answer from {masked(url)}: {masked(str(error))}", file=sys.stderr)
        print("start one with 'make run' or 'python -m bus.server', or set REDIS_URL", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
