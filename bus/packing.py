"""Commands in Redis's own form, written by hiredis: redis-py's asynchronous connections write them in Python.

Measured with a read that names 250 streams: 40 us instead of 350; with a frame of audio: 2 us instead of 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


class _Packs:
    """Goes before one of redis-py's connection classes."""

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        with lost_when_closed():
            await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]

    def pack_command(self, *args: Any) -> list[bytes]:
        return [_pack(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(_pack(tuple(command)) for command in commands)]


@contextmanager
def lost_when_closed() -> Iterator[None]:
    """A connection that was closed meanwhile is a lost one.

    Seen with redis-py 8.1: AttributeError ('NoneType' object has no attribute 'writelines'); with uvloop 0.23:
    RuntimeError (unable to perform operation on <TCPTransport closed=True ...>; the handler is closed).
    """
    try:
        yield
    except (AttributeError, RuntimeError) as error:
        if not ("NoneType" in str(error) if isinstance(error, AttributeError) else "closed" in str(error)):
            raise
        raise RedisConnectionError("the connection was closed meanwhile") from error


def _pack(command: tuple[Any, ...]) -> bytes:
    """A command's bytes. A name of two words, as redis-py has them (``CLIENT UNBLOCK``), is two arguments."""
    packed: bytes = hiredis.pack_command((*command[0].split(), *command[1:]))
    return packed


def packed(client: Redis) -> Redis:
    """The client, whose connections, still to be made, pack like this. Arguments: str, bytes, int or float."""
    pool = client.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f"Packed{kind.__name__}", (_Packs, kind), {})
    return client
