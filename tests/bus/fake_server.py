"""fakeredis with two of its defects repaired, so that claiming behaves as on a real server.

In 2.40.0 ``XREADGROUP ... BLOCK`` with COUNT never blocks, and a blocked one whose client has gone still claims the
next entry. Both repairs use private names: the version is pinned in pyproject.toml.
"""

from typing import Any

import fakeredis
from fakeredis._clients._async import FakeBaseAsyncConnection as Connection
from fakeredis._socket._async import AsyncFakeSocket as Socket


def _repair() -> None:
    blocking, disconnect, xreadgroup = Socket._blocking, Connection.disconnect, Socket._xreadgroup

    async def close(self: Any, *args: Any, **kwargs: Any) -> None:
        if self._sock is not None:
            self._sock.gone = True
        await disconnect(self, *args, **kwargs)

    Connection.disconnect = close
    Socket._blocking = lambda self, timeout, func, shape=None: blocking(
        self, timeout, lambda first: None if hasattr(self, "gone") else func(first), shape
    )
    Socket._xreadgroup = lambda self, *args: xreadgroup(self, *args[:-1], False) or None


_repair()


def fake_connector():
    """A bus connector to a fresh fake server of its own."""
    server = fakeredis.FakeServer()

    def make(timeout: float | None) -> Any:
        return fakeredis.FakeAsyncRedis(server=server, protocol=2, socket_timeout=timeout)

    return make
