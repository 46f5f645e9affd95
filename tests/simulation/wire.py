"""Wires between processes and the server: late, sometimes very late, lossy for announcements, and breakable.

redis-py runs as it is, on a connection whose messages travel as timers in the NETWORK context: a request that was sent
lands though its sender has died since, and its answer is lost. Within one connection nothing is reordered.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fakeredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.simulation.loop import NETWORK, Process, VirtualLoop
from tests.simulation.server import Peer


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is. Times in seconds, chances 0 to 1."""

    delay: float = 0.002
    """One way, uniform from 0."""
    slow: float = 0.003
    """Chance that a message takes up to 50 times as long."""
    drop: float = 0.25
    """Chance that an announcement on a channel never arrives at one subscriber."""
    late: float = 0.15
    """Chance that an announcement is up to 1.5 s late."""


class Network:
    """All wires of one world."""

    def __init__(self, loop: VirtualLoop, fake: fakeredis.FakeServer, seed: str, weather: Weather) -> None:
        self.loop = loop
        self.server = fake
        self.weather = weather
        self.links: dict[str, dict[Link, None]] = {}
        self.over = False
        """No connection can be made any more."""
        self.watch: Callable[[Peer, list[bytes]], None] = lambda peer, command: peer.receive(command)
        """Hands a command to the server; a checker may look at it before and after."""
        self.counts = {"dropped": 0, "late": 0, "reset": 0}
        self._seed = seed
        self._made: dict[str, int] = {}

    def connector(self, process: Process) -> Callable[[float | None], Any]:
        """What a Bus takes as ``make_client``: clients whose every message crosses this network."""
        self.links[process.name] = {}
        process.on_kill.append(lambda: self._close_all(process.name))

        def make(timeout: float | None) -> Any:
            pool: Any = ConnectionPool(
                connection_class=Connection,
                network=self,
                process=process.name,
                protocol=2,
                socket_timeout=timeout,
                socket_connect_timeout=5.0,
                retry=Retry(NoBackoff(), 0),
                max_connections=64,
            )
            return Redis.from_pool(pool)

        return make

    def reset(self, process: str) -> int:
        """Break every connection of a process: what is on its way may land or not, answers are lost; how many."""
        links = list(self.links[process])
        for link in links:
            link.reset()
        self.counts["reset"] += len(links)
        return len(links)

    def connect(self, process: str) -> Link:
        if self.over:
            raise RedisConnectionError("the world is over")
        number = self._made[process] = self._made.get(process, 0) + 1
        link = Link(self, process, random.Random(f"{self._seed}/{process}/{number}"))
        self.links[process][link] = None
        return link

    def _close_all(self, process: str) -> None:
        for link in list(self.links[process]):
            link.close()


class Link:
    """One connection. Requests and answers each keep their order."""

    def __init__(self, network: Network, process: str, rng: random.Random) -> None:
        self.inbox: deque[Any] = deque()
        self.open = True
        self._network = network
        self._process = process
        self._rng = rng
        self._arrives = self._returns = 0.0
        self._cut = False
        self._gathered: list[Any] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self.peer = NETWORK.copy().run(Peer, network.server, self._answer)

    def lag(self) -> float:
        """Seconds one message takes, one way."""
        weather = self._network.weather
        lag = self._rng.random() * weather.delay
        return lag * 50 if self._rng.random() < weather.slow else lag

    def send(self, commands: list[list[bytes]]) -> None:
        """Put commands on the wire. Raises redis' ConnectionError when it is closed."""
        if not self.open:
            raise RedisConnectionError("connection reset by peer")
        self._up(self._arrive, commands)

    async def receive(self) -> Any:
        """The next answer or message. Raises redis' ConnectionError when the connection is lost."""
        while not self.inbox:
            if not self.open:
                raise RedisConnectionError("connection closed by server")
            self._waiting = self._network.loop.create_future()
            await self._waiting
        return self.inbox.popleft()

    def close(self) -> None:
        """The client's side closes; the server learns of it in time, after what was sent before."""
        if self.open:
            self.open = False
            self._up(self._fin)
            self._network.links[self._process].pop(self, None)
            self._wake()

    def reset(self) -> None:
        """The connection breaks in the middle."""
        self.open = False
        self._network.links[self._process].pop(self, None)
        if self._rng.random() < 0.5:
            self._cut = True
        self._up(self._fin)
        self.inbox.clear()
        self._wake()

    def _up(self, step: Callable[..., None], *args: Any) -> None:
        loop = self._network.loop
        self._arrives = max(self._arrives, loop.now + self.lag())
        loop.call_at(self._arrives, step, *args, context=NETWORK)

    def _arrive(self, commands: list[list[bytes]]) -> None:
        if self._cut or self._network.over:
            return
        self._gathered = []
        for command in commands:
            self._network.watch(self.peer, command)
        gathered, self._gathered = self._gathered, None
        if gathered:
            self._down(gathered, 0.0)

    def _fin(self) -> None:
        self.peer.hang_up()

    def _answer(self, message: Any) -> None:
        network, extra = self._network, 0.0
        if isinstance(message, list) and message and message[0] == b"message":
            if self._rng.random() < network.weather.drop:
                network.counts["dropped"] += 1
                return
            if self._rng.random() < network.weather.late:
                network.counts["late"] += 1
                extra = self._rng.random() * 1.5
        if self._gathered is None:
            self._down([message], extra)
        else:
            self._gathered.append(message)

    def _down(self, messages: list[Any], extra: float) -> None:
        loop = self._network.loop
        self._returns = max(self._returns, loop.now + self.lag() + extra)
        loop.call_at(self._returns, self._return, messages, context=NETWORK)

    def _return(self, messages: list[Any]) -> None:
        if self.open:
            self.inbox.extend(messages)
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Connection(AbstractConnection):
    """redis-py's connection, on a Link instead of a socket."""

    def __init__(self, *, network: Network, process: str, **kwargs: Any) -> None:
        self._network = network
        self._process = process
        self._link: Link | None = None
        super().__init__(**kwargs)

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def repr_pieces(self) -> list[tuple[str, Any]]:
        return [("process", self._process)]

    def _host_error(self) -> str:
        return "simulated server"

    async def _connect(self) -> None:
        link = self._network.connect(self._process)
        await asyncio.sleep(link.lag() + link.lag())
        self._link = link

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """No handshake: the protocol is agreed upon."""

    def pack_command(self, *args: Any) -> Any:
        name, *rest = args
        words = (name if isinstance(name, bytes) else name.encode()).split()
        return [[*words, *(argument if type(argument) is bytes else _encoded(argument) for argument in rest)]]

    def pack_commands(self, commands: Any) -> Any:
        return [self.pack_command(*command)[0] for command in commands]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._link is None:
            await self.connect_check_health(check_health=False)
        try:
            assert self._link is not None
            self._link.send(command)
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def can_read(self) -> bool:
        return self._link is not None and (bool(self._link.inbox) or not self._link.open)

    async def _read_response_from_parser(self, disable_decoding: bool = False, push_request: Any = False) -> Any:
        if self._link is None:
            raise RedisConnectionError("not connected")
        if not self._link.inbox:
            return await self._link.receive()
        return self._link.inbox.popleft()

    async def disconnect(self, *_: Any, **__: Any) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _encoded(argument: Any) -> bytes:
    if isinstance(argument, str):
        return argument.encode()
    if isinstance(argument, float):
        return repr(argument).encode()
    return b"%d" % argument
