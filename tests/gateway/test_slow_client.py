"""A client that does not read."""

import asyncio
import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.drain import listen
from gateway.protocols import connection
from tests.gateway.realtime_client import client
from tests.stack import running_stack


async def test_a_client_that_does_not_read_is_cut_and_its_session_ends(monkeypatch, caplog):
    """What it leaves unread is bounded; it is cut with the reason, though its socket takes nothing more, and others
    are served meanwhile."""
    monkeypatch.setattr(connection, "MAX_UNSENT", 1 << 20)
    async with running_stack() as stack, client(stack.ws) as other:
        await other.get("session.created")
        address = urlsplit(stack.ws)
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        narrow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(narrow, (address.hostname, address.port))
        async with connect(stack.ws, sock=narrow, max_queue=1, compression=None, close_timeout=0.1) as deaf:
            async with asyncio.timeout(5):
                while len(stack.sessions) < 2:
                    await asyncio.sleep(0.01)
            told = {"type": "session.update", "session": {"type": "realtime", "instructions": "x" * 200_000}}

            async def ask():
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await deaf.send(json.dumps(told))

            asking = asyncio.create_task(ask())
            async with asyncio.timeout(15):
                while len(stack.sessions) > 1:
                    await asyncio.sleep(0.01)
            asking.cancel()
            assert "cut" in caplog.text and "unread" in caplog.text
            await other.send("input_audio_buffer.clear")
            await other.get("input_audio_buffer.cleared")
            deaf.transport.abort()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system cannot")
async def test_the_kernel_drops_a_client_that_takes_nothing():
    """Also when the server has closed the connection, which would else wait for ever to have its bytes read."""
    lost = asyncio.Event()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(bytes(8 << 20))
            transport.close()

        def connection_lost(self, error):
            lost.set()

    with listen("127.0.0.1", 0, shared=False, stalled=0.5) as listener, socket.socket() as deaf:
        server = await asyncio.get_running_loop().create_server(Server, sock=listener)
        deaf.connect(listener.getsockname())
        async with asyncio.timeout(30), server:
            await lost.wait()
