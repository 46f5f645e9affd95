"""fakeredis on virtual time, with seeded random, stable order, and blocked readers that wake for their own keys only.

It uses private names of fakeredis, whose version is pinned in pyproject.toml. ``tests.bus.fake_server`` repairs
XREADGROUP. Commands and answers cross as Python objects: packing and parsing RESP was a fifth of the time. What took
most of the rest is short-cut in ``Peer``: scripts are compiled once, and XREAD looks only at streams that have grown.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fakeredis
import redis.asyncio
from fakeredis._core._database import Database
from fakeredis._helpers import NoResponse, decode_command_bytes
from fakeredis._socket._async import AsyncFakeSocket
from fakeredis.commands_mixins.scripting_mixin import _convert_redis_arg
from fakeredis.model._stream import StreamRangeTest

import tests.bus.fake_server  # noqa: F401
from tests.simulation.loop import NETWORK, VirtualLoop

EPOCH = 1_700_000_000
"""Seconds since 1970 at which every simulation begins."""


@contextmanager
def virtual_time(loop: VirtualLoop, seed: str) -> Iterator[None]:
    """Inside, fakeredis reads the loop's clock and draws from a seeded generator; the rest of Python is left alone."""
    clock = types.SimpleNamespace(time=lambda: EPOCH + loop.now, monotonic=loop.time)
    seeded = random.Random(seed)
    replaced: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if not name.startswith("fakeredis."):
            continue
        for attribute, stand_in in (("time", clock), ("random", seeded)):
            original = getattr(module, attribute, None)
            if isinstance(original, types.ModuleType):
                replaced.append((module, attribute, original))
                setattr(module, attribute, stand_in)
    try:
        yield
    finally:
        for module, attribute, original in replaced:
            setattr(module, attribute, original)


class _Ordered(dict[Any, None]):
    """A set that iterates in the order of insertion, never in that of memory addresses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


class _Keyed(Database):
    """A database that wakes those who wait for the key that changed."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.waiting: dict[bytes, dict[Peer, None]] = {}

    def notify_watch(self, key: bytes) -> None:
        for peer in self.waiting.get(key, ()):
            peer.wake()

    def wake_all(self) -> None:
        for peers in list(self.waiting.values()):
            for peer in peers:
                peer.wake()


class _NobodyIsRefused:
    def validate_command(self, *_: Any) -> None:
        """Every command of every user is allowed."""


def server() -> fakeredis.FakeServer:
    """A fresh, empty server. Call inside ``virtual_time``."""
    fake = fakeredis.FakeServer(version=(7,))
    fake.dbs[0] = _Keyed(fake.lock)
    fake.subscribers.default_factory = _Ordered  # type: ignore[attr-defined]
    fake.acl = _NobodyIsRefused()  # type: ignore[assignment]
    fake.compiled = {}  # type: ignore[attr-defined]
    return fake


class Peer(AsyncFakeSocket):
    """The server's end of one connection. ``answer`` is called with every reply and every pushed message."""

    _db: Any  # a _Keyed

    def __init__(self, fake: fakeredis.FakeServer, answer: Callable[[Any], None]) -> None:
        self._answer = answer
        self._pending: deque[list[bytes]] = deque()
        self._awaited: tuple[Callable[[bool], Any], Any, list[bytes], asyncio.TimerHandle | None] | None = None
        self._woken = False
        self.gone = False
        super().__init__(fake, 0, client_class=redis.asyncio.Redis, client_info={"resp": 2}, lua_modules=None)

    def receive(self, command: list[bytes]) -> None:
        """Carry out a command, or keep it until a blocking one before it has been answered."""
        if self.gone:
            return
        if self._blocked:
            self._pending.append(command)
        elif command[0] == b"XREAD":
            self._db.time = EPOCH + self._event_loop.time()
            answer = self.xread(*command[1:])
            if not isinstance(answer, NoResponse):
                self.put_response(self._decode_result(answer))
        else:
            self._process_command(command)

    def hang_up(self) -> None:
        """The connection is closed: what blocks claims nothing more, and nothing is published to it."""
        if self.gone:
            return
        self.gone = True
        self._forget()
        if self in self._server.sockets:
            self._server.sockets.remove(self)
        for peers in self._server.subscribers.values():
            peers.discard(self)

    def put_response(self, msg: Any) -> None:
        if not self.gone:
            self._answer(msg)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._event_loop.call_soon(self._look, context=NETWORK)

    def _keyspace_notifications(self, *_: Any) -> None:
        """Off, as on a server with default settings."""

    def _subkey_notifications(self, *_: Any) -> None:
        """Off, as on a server with default settings."""

    def xread(self, *args: bytes) -> Any:
        streams = args.index(b"STREAMS")
        options = dict(zip(args[:streams:2], args[1:streams:2], strict=True))
        half = (len(args) - streams - 1) // 2
        names, starts = args[streams + 1 : -half], args[-half:]
        wanted = [(name, _after(start)) for name, start in zip(names, starts, strict=True)]
        count = int(options[b"COUNT"]) if b"COUNT" in options else None
        if b"BLOCK" not in options:
            return self._xread(wanted, count, False, False)
        timeout = int(options[b"BLOCK"]) / 1000
        return self._blocking(timeout, lambda first: self._xread(wanted, count, True, first), names=names)

    def _xread(self, wanted: Any, count: int | None, blocking: bool, first_pass: bool) -> Any:
        grown = []
        for name, start in wanted:
            item = self._db._dict.get(name)
            if item is not None and item.value.last_id > start.value:
                grown.append((name, start))
        if not grown:
            return None if blocking else []
        return super()._xread(grown, count, blocking, first_pass)

    def eval(self, script: bytes, numkeys: int, *rest: bytes) -> Any:
        server: Any = self._server
        runtime = self._get_server_runtime(server)
        function = server.compiled.get(script)
        if function is None:
            function = server.compiled[script] = runtime.compile(script)
        server._lua_current_socket[0] = self
        server._lua_set_keys_argv(runtime.table_from(rest[:numkeys]), runtime.table_from(rest[numkeys:]))
        self._script_resp = 2
        try:
            return self._convert_lua_result(function(), nested=False)
        finally:
            self._script_resp = None

    def script_load(self, *args: bytes) -> bytes:
        sha = hashlib.sha1(args[0]).hexdigest().encode()
        self._server.script_cache[sha] = args[0]
        return sha

    def _lua_redis_call(self, lua_runtime: Any, expected_globals: Any, op: bytes, *args: Any) -> Any:
        func, sig = self._name_to_func(decode_command_bytes(op))
        result = self._run_command(func, sig, [_convert_redis_arg(arg) for arg in args], True)
        return self._convert_redis_result(lua_runtime, result)

    def _blocking(self, timeout: float | None, func: Any, shape: Any = None, names: Any = None) -> Any:
        found = func(True)
        if found is not None:
            return found if shape is None else shape(found)
        # XREADGROUP comes from fakeredis, as a partial whose list holds (group, stream, id).
        keys = names or [item[1] for item in next(argument for argument in func.args if isinstance(argument, list))]
        timer = self._event_loop.call_later(timeout, self._finish, None, context=NETWORK) if timeout else None
        self._blocked, self._awaited = True, (func, shape, keys, timer)
        for key in keys:
            self._db.waiting.setdefault(key, {})[self] = None
        return NoResponse()

    def _look(self) -> None:
        self._woken = False
        if self._awaited is None:
            return
        if self._unblock_reason is not None:
            self._finish(None)
            return
        found = self._awaited[0](False)
        if found is not None:
            self._finish(found)

    def _finish(self, found: Any) -> None:
        if self._awaited is None:
            return
        shape = self._awaited[1]
        self._forget()
        self.put_response(self._decode_result(found if shape is None else shape(found)))
        while self._pending and not self._blocked:
            self.receive(self._pending.popleft())

    def _forget(self) -> None:
        if self._awaited is None:
            return
        _, _, keys, timer = self._awaited
        self._awaited, self._blocked, self._unblock_reason = None, False, None
        if timer is not None:
            timer.cancel()
        for key in keys:
            peers = self._db.waiting.get(key, {})
            peers.pop(self, None)
            if not peers:
                self._db.waiting.pop(key, None)


@lru_cache(maxsize=50_000)
def _after(entry_id: bytes) -> StreamRangeTest:
    return StreamRangeTest.decode(entry_id, exclusive=True)
