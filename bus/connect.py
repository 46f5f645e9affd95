"""Connections to the Redis at an Address: one server, the master that Sentinel names, or a cluster's nodes.

Nothing here retries by itself: redis-py's defaults (5 s socket timeout, 10 retries) make a blocking read never return
and write entries twice.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode as SyncClusterNode
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, RedisClusterException, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as SyncRetry

from bus.address import Address
from bus.packing import lost_when_closed, packed

OUTAGE = (
    RedisConnectionError, RedisTimeoutError, OSError, TimeoutError, AskError, ClusterDownError, ReadOnlyError,
    RedisClusterException, TryAgainError,
)  # fmt: skip
"""What a lost, refused or frozen server raises, one that is no longer the master, and a cluster that is regrouping."""

COMMAND_TIMEOUT = 5.0
"""Seconds that a command, and a connection, may take."""
SENTINEL_TIMEOUT = 1.0
MAX_CONNECTIONS = 64

Client = Any
"""A ``redis.asyncio.Redis`` whose answers are bytes. redis-py types them as unions of every possible setting."""

OnConnect = Callable[[Any], Awaitable[None]]
"""Called with each new connection of a client, before its first command; it has to await ``connection.on_connect``."""

MakeClient = Callable[[float | None], Client]
"""Makes a client; the argument is its socket timeout in seconds (None: none)."""


class Connector:
    """Makes clients for one Redis. Those of a cluster find a key's node themselves."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._options = {
            "protocol": 2,
            "socket_connect_timeout": COMMAND_TIMEOUT,
            **({} if address.url.startswith("unix") else {"socket_keepalive": True}),
            "max_connections": MAX_CONNECTIONS,
            **address.options(),
        }

    @property
    def spread(self) -> bool:
        """Whether keys are on several servers."""
        return self.address.kind == "cluster"

    def __call__(self, timeout: float | None, on_connect: OnConnect | None = None) -> Client:
        """A client; ``timeout`` in seconds for each command (None: none, for those that block)."""
        address, options = self.address, {**self._options, "socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        if on_connect is not None:
            options["redis_connect_func"] = on_connect
        if address.kind == "single":
            return packed(Redis.from_url(address.url, **options))
        if address.kind == "sentinel":
            sentinel = self._sentinel(Sentinel)
            return packed(sentinel.master_for(address.service, db=address.database, **self._secured(options)))
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        random.shuffle(nodes)
        return _Cluster(startup_nodes=nodes, ssl=address.secure, **options)

    async def holder(
        self, commands: Client, key: str, timeout: float | None, on_connect: OnConnect | None = None
    ) -> Client:
        """A client of its own for the server that holds ``key``; ``commands`` is one of this connector's.

        In a cluster it knows that one node only: when the key has moved it raises what OUTAGE lists; ask again then.
        """
        if not self.spread:
            return self(timeout, on_connect)
        await commands.exists(key)  # finds out who holds it now
        return self._node(commands.get_node_from_key(key), timeout, on_connect)

    async def anybody(self, commands: Client, timeout: float | None) -> Client:
        """A client of its own for any server that answers: what is published on one is heard on all."""
        if not self.spread:
            return self(timeout)
        await commands.initialize()
        nodes = commands.get_primaries()
        return self._node(random.choice(nodes), timeout, None)

    def sync(self, timeout: float | None, *, connect: float = COMMAND_TIMEOUT, patient: bool = False) -> Any:
        """A synchronous client, for jobs and commands; ``connect`` in seconds. Patient: it retries."""
        address = self.address
        options = {**self._options, "socket_timeout": timeout, "socket_connect_timeout": connect}
        if not patient:
            options["retry"] = SyncRetry(NoBackoff(), 0)
        if address.kind == "single":
            return redis.Redis.from_url(address.url, **options)
        if address.kind == "sentinel":
            sentinel = self._sentinel(redis.Sentinel)
            return sentinel.master_for(address.service, db=address.database, **self._secured(options))
        nodes = [SyncClusterNode(host, port) for host, port in address.hosts]  # type: ignore[no-untyped-call]
        options.pop("max_connections")
        return redis.RedisCluster(startup_nodes=nodes, ssl=address.secure, **options)

    def _sentinel(self, kind: Any) -> Any:
        address = self.address
        asking: dict[str, Any] = {
            "socket_timeout": SENTINEL_TIMEOUT,
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            "protocol": 2,
        }
        who = {"username": address.sentinel_username, "password": address.sentinel_password}
        asking.update({name: value for name, value in who.items() if value is not None})
        return kind(address.hosts, sentinel_kwargs=self._secured({**asking, **address.security()}))

    def _secured(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "ssl": True} if self.address.secure else options

    def _node(self, node: Any, timeout: float | None, on_connect: OnConnect | None) -> Client:
        options = {**self._options, "socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        if on_connect is not None:
            options["redis_connect_func"] = on_connect
        return packed(Redis(host=node.host, port=node.port, **self._secured(options)))


class _Cluster(RedisCluster):
    """redis-py's, whose tasks close each other's connections when a node is lost: that is an outage, not a defect."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        with lost_when_closed():
            return await super().execute_command(*args, **kwargs)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> Any:
        return _ClusterPipeline(self, transaction)  # type: ignore[abstract]


class _ClusterPipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> Any:
        with lost_when_closed():
            return await super().execute(raise_on_error, allow_redirections)


def connector(where: str | Address) -> Connector:
    """Makes clients for the Redis at an address, or at a URL as ``bus.address`` has it. Raises ValueError."""
    return Connector(Address.parse(where) if isinstance(where, str) else where)


class Whereabouts:
    """Where the keys of a Bus are, whether its clients come from a Connector or from a test's own function."""

    def __init__(self, make_client: MakeClient) -> None:
        self._make = make_client
        self.spread = isinstance(make_client, Connector) and make_client.spread
        """Whether shards are on several servers."""
        self.tells = isinstance(make_client, Connector)
        """Whether a client says when it has connected anew."""

    async def holder(
        self, commands: Client, key: str, timeout: float | None, on_connect: OnConnect | None = None
    ) -> Client:
        """As Connector.holder."""
        if isinstance(self._make, Connector):
            return await self._make.holder(commands, key, timeout, on_connect)
        return self._make(timeout)

    async def anybody(self, commands: Client, timeout: float | None) -> Client:
        """As Connector.anybody."""
        return await self._make.anybody(commands, timeout) if isinstance(self._make, Connector) else self._make(timeout)

    async def unblock(self, commands: Client, key: str, client_id: int) -> None:
        """Wake the blocking call of the client with this id, on the server that holds ``key``."""
        where = {"target_nodes": commands.get_node_from_key(key)} if self.spread else {}
        await commands.execute_command("CLIENT UNBLOCK", client_id, **where)
