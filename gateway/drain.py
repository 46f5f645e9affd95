"""A gateway that is asked to end: it takes nothing new, lets its calls come to their ends, and goes by a limit.

By then a client that comes back by itself is sent away, to find its session at another gateway; others are told that
their session ends.

uvicorn by itself closes every WebSocket at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from bus.heap import settle
from bus.notify import Notifier
from gateway.settings import GatewaySettings
from gateway.silero import model

if TYPE_CHECKING:
    from gateway.app import Gateway

log = logging.getLogger(__name__)

STALLED = 20.0
"""Seconds after which a client that takes nothing of what is sent to it is dropped."""
GOODBYE = 2.0
"""Seconds in which clients are told that their session ends here."""


class Server(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT, and ends at once at the second."""

    def __init__(self, config: uvicorn.Config, limit: float, *, shares_port: bool = False) -> None:
        """``limit``: seconds that calls may take to end. One that shares its port stops listening when it drains."""
        super().__init__(config)
        self._limit = limit
        self._shares_port = shares_port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._notifier = Notifier()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        watching = self._loop.create_task(self._notifier.watch())
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._notifier.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway: Gateway | None = getattr(getattr(self.config.app, "state", None), "gateway", None)
        if self._loop is None or gateway is None or gateway.draining:
            super().handle_exit(sig, frame)
            return
        gateway.draining = True
        self._notifier.stopping()
        log.info("%s: %d calls go on", signal.Signals(sig).name, len(gateway.sessions))
        self._loop.call_soon_threadsafe(self._begin, gateway)

    def _begin(self, gateway: Gateway) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain(gateway))

    async def _drain(self, gateway: Gateway) -> None:
        if self._shares_port:
            for server in self.servers:
                server.close()
        if not await _empty(gateway, self._limit):
            log.warning("%d calls have not ended within %g s", len(gateway.sessions), self._limit)
            for session in list(gateway.sessions.values()):
                session.moved.set()
            await _empty(gateway, GOODBYE)
        self.should_exit = True


async def _empty(gateway: Gateway, limit: float) -> bool:
    """Whether the gateway's last session has ended within ``limit`` seconds."""
    try:
        async with asyncio.timeout(limit):
            while gateway.sessions:
                gateway.departed.clear()
                await gateway.departed.wait()
    except TimeoutError:
        return False
    return True


def listen(host: str, port: int, *, shared: bool, stalled: float = STALLED) -> socket.socket:
    """A socket to listen on. ``shared``: other processes of the same user may listen on the port too, and the kernel
    spreads what comes in. The kernel drops clients that take nothing for ``stalled`` seconds, where it can (Linux): a
    server that closes such a connection would wait for ever until what it has written is read. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled * 1000))
    listener.bind((host, port))
    return listener


def run(app: Starlette, settings: GatewaySettings) -> None:
    """Serve until a signal ends it; exits with 3 when it cannot listen."""
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(max(logging.WARNING, logging.getLogger().level))
    # uvicorn takes a refused handshake, which was answered, for an unanswered one.
    uvicorn_log.addFilter(lambda record: "without completing handshake" not in record.getMessage())
    config = uvicorn.Config(
        app,
        # Compressing audio saves 41 % of its bytes for 0.42 ms of CPU per 100 ms.
        ws_per_message_deflate=False,
        # Larger frames than a client may send, so that it is told what was wrong instead of being cut.
        ws_max_size=2 * settings.max_message_bytes,
        timeout_graceful_shutdown=3,
        access_log=False,
        log_config=None,
    )
    host, port, shared = settings.gateway_host, settings.gateway_port, settings.gateway_shares_port
    try:
        listener = listen(host, port, shared=shared)
    except OSError as error:
        log.error("cannot listen on %s, port %d: %s", host, port, error.strerror or error)
        sys.exit(3)
    model()  # before the first call, which would wait for it
    settle()
    server = Server(config, settings.drain_s, shares_port=shared)
    server.run([listener])
    if not server.started:
        sys.exit(3)
