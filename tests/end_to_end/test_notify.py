"""Every process of the product, as its systemd unit starts it, on a real notify socket."""

import asyncio
import os
import signal
import socket
import sys

import pytest

from tests.product import free_port

pytestmark = [pytest.mark.real, pytest.mark.end_to_end]


@pytest.mark.parametrize("name", ["redis", "gateway", "stt", "llm", "tts", "jobs"])
async def test_a_process_is_ready_lives_and_ends(name, redis_url, tmp_path):
    """It says that it is ready when it is, then gives signs of life; at SIGTERM it says that it ends, and does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)

        async def hear(wanted):
            async with asyncio.timeout(60):
                while (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode() != wanted:
                    pass

        module = ["bus.server"] if name == "redis" else ["workers.supervisor", "--exec", name]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "1500000",
                "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0" if name == "redis" else redis_url,
                "GATEWAY_PORT": str(free_port()),
            },
        )  # fmt: skip
        try:
            await hear("READY=1")
            await hear("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            if name != "jobs":  # RQ ends as soon as no job is under way
                await hear("STOPPING=1")
            async with asyncio.timeout(30):
                assert await process.wait() in (0, -signal.SIGTERM)
        finally:
            if process.returncode is None:
                process.kill()
