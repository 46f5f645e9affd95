"""A real server for every test that asks for one; and, where CI says so, no test that should run is skipped."""

import os

import pytest
from redis import Redis

from bus.server import running

MUST_RUN = ("real", "browser", "end_to_end", "nemo")


@pytest.fixture(scope="session")
def real_server(tmp_path_factory):
    """An embedded server of this test run's own, on a free port."""
    with running(tmp_path_factory.mktemp("redis") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def real_port(real_server):
    """The port of the real server on 127.0.0.1. What is in it may be left over from another test."""
    return int(real_server.url.rsplit(":", 1)[1].split("/")[0])


@pytest.fixture
def redis_url(real_server):
    """The address of the real server, emptied for this test."""
    with Redis.from_url(real_server.url) as client:
        client.flushall()
    return real_server.url


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With NO_SKIPS=1 a skipped test of MUST_RUN fails, unless it wants a GPU, or recordings, which are elsewhere."""
    report = yield
    if report.skipped and os.environ.get("NO_SKIPS") == "1" and any(item.get_closest_marker(m) for m in MUST_RUN):
        reason = str(report.longrepr)
        if "recording" not in reason and "CUDA" not in reason and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be: {reason}"
    return report
