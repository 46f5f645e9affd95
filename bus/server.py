"""The Redis of a machine: the one that answers at ``REDIS_URL``, else an embedded one started for it.

``python -m bus.server`` stays in the foreground. If a server answers (a refusal to authenticate is an answer), it is
used and only watched. If nobody does and the address is loopback, an embedded server is started there, on loopback
only, with its data in ``EMBEDDED_REDIS_DIR``, and started again whenever it dies. Anything else is waited for.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from bus.address import Address
from bus.backoff import Backoff
from bus.child import ending
from bus.connect import OUTAGE, connector
from bus.embedded import Embedded, Problem, is_ours_to_start
from bus.logs import start_logging
from bus.notify import Notifier
from bus.settings import CONFIGURATION_ERROR, BusSettings, load, masked, no_arguments

log = logging.getLogger("bus.server")

PROBE_TIMEOUT = 2.0
"""Seconds a server has to accept a connection and to answer PING."""
WATCH_EVERY = 1.0
POLL_EVERY = 0.1
"""Seconds between two looks at the embedded server's process."""
STEADY = 30.0
"""Seconds of life after which an embedded server's death counts as the first again."""
LINGER = 2.5
"""Seconds the embedded server waits at shutdown for its clients to go first; with TERM_WAIT below honcho's 5 s."""
TERM_WAIT = 1.5


def client(where: str | Address) -> Any:
    """A synchronous client that tries once and gives up after PROBE_TIMEOUT seconds."""
    return connector(where).sync(PROBE_TIMEOUT, connect=PROBE_TIMEOUT)


def answers(where: str | Address) -> bool:
    """Whether a Redis listens there, even one that refuses to let us in. Raises Problem if something else does."""
    connection = None
    try:
        connection = client(where)
        connection.ping()
    except (AuthenticationError, AuthorizationError, BusyLoadingError, ResponseError):
        return True
    except InvalidResponse:
        url = where if isinstance(where, str) else where.url
        raise Problem(f"{masked(url)}: what listens there is not Redis") from None
    except (RedisError, *OUTAGE):
        return False
    finally:
        if connection is not None:
            connection.close()
    return True


def watch(where: Address, stop: threading.Event, there: bool, notifier: Notifier) -> None:
    """Say when the server goes away and when it comes back, until ``stop``; ``there`` is how it is now."""
    url = where.url
    if there:
        log.info("using the Redis that answers at %s; it is only watched", masked(url))
    else:
        log.warning("nobody answers at %s, where no embedded server can be started; waiting for it", masked(url))
    if there:
        notifier.ready()
    while not stop.wait(WATCH_EVERY):
        notifier.alive()
        try:
            now = answers(where)
        except Problem:
            now = False
        if now and not there:
            log.info("the Redis at %s answers", masked(url))
            notifier.ready()
        elif there and not now:
            log.warning("the Redis at %s no longer answers", masked(url))
        there = now


def keep_alive(server: Embedded, stop: threading.Event, notifier: Notifier) -> None:
    """Run the embedded server until ``stop``, starting it again with growing waits when it dies. Raises Problem."""
    backoff = Backoff(0.2, 10.0)
    try:
        while not stop.is_set():
            began = time.monotonic()
            server.start()
            if _ready(server, stop):
                notifier.ready()
                log.info(
                    "started an embedded Redis at %s (%s); its data is in %s",
                    masked(server.url), server.program, server.folder,
                )  # fmt: skip
            while server.returncode is None and not stop.wait(POLL_EVERY):
                notifier.alive()
            if server.returncode is None:
                _let_clients_go(server)
                return
            if stop.is_set():
                return
            if time.monotonic() - began > STEADY:
                backoff.reset()
            wait = backoff.next()
            log.error(
                "the embedded Redis ended (%s); starting it again in %.1f s. Its last words:\n%s",
                ending(server.returncode), wait, "\n".join(server.last_words),
            )  # fmt: skip
            stop.wait(wait)
    finally:
        server.stop(TERM_WAIT)
        log.info("the embedded Redis at %s has ended", masked(server.url))


def _ready(server: Embedded, stop: threading.Event) -> bool:
    """Wait until the embedded server answers; False if it died or ``stop`` came first."""
    while server.returncode is None and not stop.is_set():
        if answers(server.url):
            return server.returncode is None
        stop.wait(0.02)
    return False


def _let_clients_go(server: Embedded) -> None:
    """Wait up to LINGER seconds for others to disconnect, so that workers can give back what they hold."""
    deadline = time.monotonic() + LINGER
    connection = client(server.url)
    try:
        while time.monotonic() < deadline and int(connection.info("clients")["connected_clients"]) > 1:
            time.sleep(POLL_EVERY)
    except (RedisError, OSError):
        pass
    finally:
        connection.close()


def run(settings: BusSettings, stop: threading.Event) -> None:
    """Use or start a server for ``settings``, until ``stop``. Raises Problem when neither is possible."""
    where = settings.address()
    notifier = Notifier()
    there = answers(where)
    if there or not is_ours_to_start(where.url):
        watch(where, stop, there, notifier)
    else:
        keep_alive(Embedded(where.with_credentials(), settings.embedded_redis_dir), stop, notifier)


@contextmanager
def running(folder: Path, port: int = 0, password: str = "") -> Iterator[Embedded]:
    """An embedded server that answers, on ``port`` or a free one; it has ended when the block ends. For tests.

    ``folder`` keeps its data. Raises Problem when it does not come up within 10 s.
    """
    userinfo = f":{quote(password, safe='')}@" if password else ""
    server = Embedded(f"redis://{userinfo}127.0.0.1:{port or free_port()}/0", folder)
    deadline = threading.Event()
    timer = threading.Timer(10.0, deadline.set)
    timer.start()
    try:
        server.start()
        if not _ready(server, deadline):
            raise Problem("the embedded server does not answer: " + " / ".join(server.last_words))
        yield server
    finally:
        timer.cancel()
        server.stop(TERM_WAIT)


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    settings = load(BusSettings)
    start_logging(settings.log_level, settings.log_format)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        Notifier().stopping()
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        run(settings, stop)
    except Problem as problem:
        log.error("%s", problem)
        return CONFIGURATION_ERROR
    return 0


if __name__ == "__main__":
    no_arguments("bus.server", __doc__)
    sys.exit(main())
