"""The writer of a process: whatever becomes of its connection, what was sent arrives."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bus.outbox import Outbox
from bus.packing import packed
from tests.bus.fake_server import fake_connector

UVLOOP = "unable to perform operation on <TCPTransport closed=True reading=False>; the handler is closed"


async def test_a_writer_goes_on_after_an_error_that_nobody_knows():
    """One that ended would be silent for ever, while its process went on renewing its leases."""
    make, opened = fake_connector(), 0

    def broken(**options):
        raise RuntimeError("nobody knows this")

    async def open_client(on_connect):
        nonlocal opened
        opened += 1
        client = make(5.0)
        if opened == 1:
            client.pipeline = broken
        return client

    outbox = Outbox(open_client, {}, restore="")
    try:
        async with asyncio.timeout(10):
            assert await outbox.send("PING")
        assert opened == 2
    finally:
        await outbox.close()


@pytest.mark.parametrize("error", [RuntimeError(UVLOOP), AttributeError("'NoneType' object has no attribute 'write'")])
async def test_a_write_to_a_connection_that_was_closed_meanwhile_is_an_outage(error):
    """uvloop and redis-py have other words for it than OSError."""

    class Closed:
        def writelines(self, data):
            raise error

        def close(self):
            pass

    client = packed(Redis(socket_timeout=None))
    connection = client.connection_pool.make_connection()
    connection._reader, connection._writer = object(), Closed()
    with pytest.raises(RedisConnectionError):
        await connection.send_command("PING")
