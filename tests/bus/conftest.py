"""One suite, two servers: every bus test runs on fakeredis and on a real one."""

from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from bus.streams import Bus, connector
from tests.bus.fake_server import fake_connector


@pytest_asyncio.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
async def make_bus(request):
    """A factory: every call is another process's Bus on the same, empty server."""
    if request.param == "fake":
        make_client = fake_connector()
    else:
        make_client = connector(request.getfixturevalue("redis_url"))
    async with AsyncExitStack() as stack:

        def make(**options):
            bus = Bus(make_client, **options)
            stack.push_async_callback(bus.close)
            return bus

        await make().commands.flushall()
        yield make


@pytest_asyncio.fixture
async def bus(make_bus):
    return make_bus()
