import pytest
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from bus.address import Address, Tls
from bus.connect import connector
from bus.settings import masked


def test_one_server():
    """User and password of the URL win over those beside it."""
    address = Address.parse("redis://me:p%40ss@h:7/2", username="other", password="x")
    assert (address.kind, address.username, address.password) == ("single", "me", "p@ss")
    assert Address.parse("redis://h", username="me", password="x").options() == {"username": "me", "password": "x"}


def test_sentinel():
    """Several sentinels, a name, a database; one without a port has Sentinel's."""
    address = Address.parse("redis+sentinel://:pw@a:1,b,[::1]:3/mymaster/4")
    assert address.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert (address.kind, address.service, address.database, address.password) == ("sentinel", "mymaster", 4, "pw")
    assert not address.secure and Address.parse("rediss+sentinel://a/m").secure


def test_cluster():
    address = Address.parse("rediss+cluster://u:p@a:1,b", tls=Tls("ca.pem"))
    assert (address.kind, address.hosts, address.secure) == ("cluster", (("a", 1), ("b", 6379)), True)
    assert address.options() == {"username": "u", "password": "p", "ssl_ca_certs": "ca.pem"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1", "redis+sentinel://a:1/", "redis+sentinel://a:1/m/x", "redis+sentinel:///m",
        "redis+cluster://", "redis+cluster://a,,b", "redis+cluster://a:0", "redis+cluster://a:1/2",
        "redis+cluster://a:66000", "unix+cluster://a", "redis+what://a",
    ],
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match="expected redis://"):
        Address.parse(url)


@pytest.mark.parametrize("form", ["redis://{}@h/0", "redis+sentinel://{}@a,b/m", "redis+cluster://{}@a,b"])
def test_no_password_is_shown(form):
    """Neither an address nor its masked URL shows a password."""
    url = form.format("me:hunter2")
    assert "hunter2" not in repr(Address.parse(url, password="hunter2", sentinel_password="hunter2"))
    assert "hunter2" not in masked(url)


async def test_the_clients_of_each_kind():
    """redis-py's own clients do the finding; nothing retries by itself."""
    sentinel = connector("redis+sentinel://u:p@a:1/m/3")(5.0)
    assert isinstance(sentinel.connection_pool, SentinelConnectionPool)
    assert sentinel.connection_pool.connection_kwargs["db"] == 3
    assert sentinel.connection_pool.connection_kwargs["retry"].get_retries() == 0
    assert isinstance(connector("redis+cluster://a:1")(5.0), RedisCluster)


def test_credentials_for_an_embedded_server():
    """A password that came from REDIS_PASSWORD is the embedded server's as well."""
    assert Address.parse("redis://127.0.0.1:1/0", password="p@s").with_credentials() == "redis://:p%40s@127.0.0.1:1/0"
    assert Address.parse("redis://:x@127.0.0.1:1/0", password="y").with_credentials() == "redis://:x@127.0.0.1:1/0"
