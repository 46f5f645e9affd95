"""The product as a user runs it: the real Procfile under honcho, on free ports, with data of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
READY_LIMIT = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Product:
    """A running product: where to call it, its log, its processes."""

    def __init__(self, folder: Path, settings: dict[str, str], formation: str = "") -> None:
        """``formation`` as honcho takes it: how many of each process, such as ``stt=2,tts=3``."""
        self.port, self.redis_port = free_port(), free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}/v1/realtime?model=bargein"
        self.extended = f"{self.ws}&extensions=bargein"
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.recordings = folder / "recordings"
        self._log = folder / "log"
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "GATEWAY_PORT": str(self.port),
            "REDIS_URL": self.redis_url,
            "EMBEDDED_REDIS_DIR": str(folder / "redis"),
            "RECORDINGS_DIR": str(self.recordings),
            **settings,
        }
        command = [sys.executable, "-m", "honcho", "start", "--no-colour", "-e", os.devnull]
        command += ["-c", formation] if formation else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def log(self) -> str:
        """What all processes have printed."""
        return self._log.read_text(errors="replace")

    def ready(self) -> dict[str, object]:
        """What GET /ready says, or {} while nobody answers."""
        with contextlib.suppress(httpx.HTTPError):
            answer: dict[str, object] = httpx.get(f"{self.http}/ready", timeout=5).json()
            return answer
        return {}

    def wait(self) -> None:
        """Return once a call can be served. Raises RuntimeError with the log when that takes too long."""
        due = time.monotonic() + READY_LIMIT
        while not self.ready().get("ready"):
            if time.monotonic() > due or self._process.poll() is not None:
                raise RuntimeError(f"not ready: {self.ready()}\n{self.log[-4000:]}")
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """honcho's: every other process descends from it."""
        return self._process.pid

    def processes(self) -> dict[int, list[str]]:
        """Every process of the product that lives: pid -> command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                environment = (entry / "environ").read_bytes()
                if f"GATEWAY_PORT={self.port}\0".encode() in environment + b"\0" and words[0]:
                    found[int(entry.name)] = words
        return found

    def worker(self, stage: str) -> int:
        """The pid of a stage's worker, not of its supervisor."""
        wanted = {"gateway": "gateway.app"}.get(stage, f"workers.{stage}.worker")
        return next(pid for pid, words in self.processes().items() if wanted in words)

    def server(self) -> int:
        """The pid of the embedded server, 0 for none: it writes its title over its environment."""
        parent = next((pid for pid, words in self.processes().items() if "bus.server" in words), 0)
        children = Path(f"/proc/{parent}/task/{parent}/children")
        return int((children.read_text().split() or [0])[0]) if parent else 0

    def kill(self, stage: str) -> int:
        """kill -9 of a stage's worker; the pid it had."""
        pid = self.worker(stage)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def until_respawned(self, stage: str, dead: int) -> None:
        """Return once another worker of the stage is ready."""
        async with asyncio.timeout(READY_LIMIT):
            while True:
                with contextlib.suppress(StopIteration):
                    if self.worker(stage) != dead and (await asyncio.to_thread(self.ready)).get("ready"):
                        return
                await asyncio.sleep(0.1)

    def interrupt(self) -> float:
        """Ctrl-C; the seconds until honcho has ended."""
        began = time.monotonic()
        os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
        return time.monotonic() - began


@contextlib.contextmanager
def running_product(folder: Path, formation: str = "", **settings: str) -> Iterator[Product]:
    """Start the product with these variables in its environment, wait until it is ready, and end it afterwards."""
    product = Product(folder, settings, formation)
    try:
        product.wait()
        yield product
    finally:
        with contextlib.suppress(ProcessLookupError):
            product.interrupt()
