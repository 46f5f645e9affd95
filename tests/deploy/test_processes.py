"""Every process of the product, as its systemd unit starts it: under its filters, on a real notify socket."""

import asyncio
import os
import shutil
import signal
import socket
import sys

import pytest

from tests.deploy.units import NAMES, settings
from tests.product import ROOT, free_port

pytestmark = [
    pytest.mark.real,
    pytest.mark.end_to_end,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's systemd"),
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_process_is_ready_lives_and_ends(name, redis_url, tmp_path):
    """With the calls and the memory that its unit allows it says that it is ready when it is, then gives signs of
    life; at SIGTERM it says that it ends, and does so within the unit's time."""
    unit = settings(NAMES[name])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)

        async def hear(wanted):
            async with asyncio.timeout(60):
                while (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode() != wanted:
                    pass

        _, *started = unit["ExecStart"][0].split()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.deploy.units", NAMES[name], sys.executable, *started,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "1500000",
                "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0" if name == "redis" else redis_url,
                "EMBEDDED_REDIS_DIR": str(tmp_path / "redis"),
                "GATEWAY_PORT": str(free_port()),
            },
        )  # fmt: skip
        try:
            await hear("READY=1")
            await hear("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            if name != "jobs":  # RQ ends as soon as no job is under way
                await hear("STOPPING=1")
            async with asyncio.timeout(float(unit["TimeoutStopSec"][0])):
                assert await process.wait() in (0, -signal.SIGTERM)
        finally:
            if process.returncode is None:
                process.kill()
