"""Real Redis servers as a test wants them: killed, frozen, replicas, sentinels, clusters, behind a wire of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from bus.embedded import find_program
from bus.server import free_port

LIMIT = 20.0


def until(what, limit: float = LIMIT):
    """The first true answer of ``what``, asked again and again; what Redis cannot answer yet counts as false."""
    due = time.monotonic() + limit
    while True:
        with contextlib.suppress(RedisError, OSError):
            if answer := what():
                return answer
        if time.monotonic() > due:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(0.02)


class Server:
    """One server process on 127.0.0.1, with its data in a folder of its own. ``lines`` are its configuration."""

    def __init__(self, folder: Path, *lines: str, port: int = 0, arguments: tuple[str, ...] = ()) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._file = folder / "server.conf"
        self._arguments = arguments
        folder.mkdir(parents=True)
        own = (f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', f"logfile {folder}/log")
        self._file.write_text("\n".join((*own, *lines)) + "\n")
        self.start()

    def start(self) -> None:
        """Start it, after its end once more, and wait until it answers."""
        self.process = subprocess.Popen(
            [find_program(), str(self._file), *self._arguments], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except RedisError as error:
            return "NOAUTH" in str(error) or "Authentication" in str(error)

    def ask(self, *command: object):
        """What it answers to a command."""
        with Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def servers() -> Iterator[list[Server]]:
    """A list to put servers in: they are killed at the end, frozen ones too."""
    made: list[Server] = []
    try:
        yield made
    finally:
        for each in made:
            each.kill()


def replica(folder: Path, master: Server, *lines: str) -> Server:
    """A replica that is in step."""
    made = Server(folder, f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0", *lines)
    until(lambda: b"master_link_status:up" in _raw(made, "INFO", "replication"))
    return made


def sentinel(folder: Path, master: Server, name: str) -> Server:
    """A sentinel that alone decides, half a second after the master fell silent."""
    made = Server(
        folder,
        f"sentinel monitor {name} 127.0.0.1 {master.port} 1",
        f"sentinel down-after-milliseconds {name} 500",
        f"sentinel failover-timeout {name} 4000",
        arguments=("--sentinel",),
    )
    until(lambda: _raw(made, "SENTINEL", "REPLICAS", name))
    return made


def cluster(folder: Path, nodes: int = 3, replicas: int = 0) -> list[Server]:
    """A cluster that is complete: the masters, each with as many replicas, which follow the masters in the list."""
    lines = ("cluster-enabled yes", "cluster-node-timeout 1500", "repl-diskless-sync-delay 0", "appendonly no")
    made = [Server(folder / str(n), *lines) for n in range(nodes * (1 + replicas))]
    for number, each in enumerate(made):
        each.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < nodes:
            each.ask("CLUSTER", "ADDSLOTSRANGE", 16384 * number // nodes, 16384 * (number + 1) // nodes - 1)
    for each in made[1:]:
        made[0].ask("CLUSTER", "MEET", "127.0.0.1", each.port)
    until(lambda: all(_raw(each, "CLUSTER", "NODES").count(b"connected") >= len(made) for each in made))
    for number, each in enumerate(made[nodes:]):
        master = made[number % nodes]
        until(lambda each=each, master=master: each.ask("CLUSTER", "REPLICATE", _raw(master, "CLUSTER", "MYID")))
    until(lambda: all(b"cluster_state:ok" in _raw(each, "CLUSTER", "INFO") for each in made))
    for each in made[nodes:]:
        until(lambda each=each: b"master_link_status:up" in _raw(each, "INFO", "replication"))
    return made


def _raw(server: Server, *command: str) -> bytes:
    with Redis(port=server.port, socket_timeout=5) as client:
        client.response_callbacks.clear()
        answer = client.execute_command(*command)
        return answer if isinstance(answer, bytes) else repr(answer).encode() if answer else b""


class Wire:
    """A TCP relay: clients reach whichever server it is led to; with ``tls`` it is spoken to in TLS."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.port = 0
        self._tls = tls
        self._ends: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break every connection."""
        for end in self._ends:
            end.transport.abort()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, far}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            writer.transport.abort()
            far.transport.abort()

        try:
            await asyncio.gather(pump(reader, far), pump(far_reader, writer))
        finally:
            self._ends -= {writer, far}


@contextlib.asynccontextmanager
async def wire(target: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A relay to a port of 127.0.0.1."""
    made = Wire(target, tls)
    server = await asyncio.start_server(made._lead, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.cut()
