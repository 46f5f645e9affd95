"""Commands packed by hiredis."""

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection

from bus.packing import packed


@pytest.mark.parametrize(
    "command",
    [
        ("XADD", "{s0}:s0-0a1b2c3d4e5f:mic", "MAXLEN", "~", 5, "*", "text", "Grüße".encode(), "pcm", bytes(range(256))),
        ("EVALSHA", "0" * 40, 1, "key", -1, 0.25, ""),
        ("XREAD", "COUNT", 200, "BLOCK", 5000, "STREAMS", "a", "b", "0-0", "1795669552417-0"),
        ("CLIENT UNBLOCK", 7),
        ("CLIENT SETINFO", "LIB-NAME", "redis-py"),
    ],
)  # fmt: skip
async def test_the_bytes_are_those_that_redis_py_would_send(command):
    """One command, and several in one send."""
    client = packed(Redis())
    ours, theirs = client.connection_pool.make_connection(), Connection()
    assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command))
    assert b"".join(ours.pack_commands([command] * 3)) == b"".join(theirs.pack_commands([command] * 3))
    await client.aclose()
