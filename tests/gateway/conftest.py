"""What several files of tests are given."""

import pytest_asyncio

from tests.engines import ScriptedLlm
from tests.gateway.two_gateways import LONG, two_gateways


@pytest_asyncio.fixture
async def pair():
    """Two gateways at one server."""
    async with two_gateways(llm=ScriptedLlm(LONG)) as both:
        yield both
