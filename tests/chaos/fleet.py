"""Every process of the product as the Procfile starts it, several of each, with a proxy of its own to Redis each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2

from bus.child import dies_with_parent
from tests.chaos.proxy import Proxy
from tests.product import ROOT, free_port

READY_LIMIT = 60.0
STAGES = ("stt", "llm", "tts", "gateway")
MODULES = {"gateway": "gateway.app", "redis": "bus.server", "models": "benchmarks.model_server"}


class Process:
    """One line of the Procfile, once: its supervisor and what that keeps running."""

    def __init__(self, kind: str, number: int, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.kind = kind
        self.name = f"{kind}.{number}"
        self.proxy: Proxy | None = None
        self.replaced = 0
        """How often it was killed or asked to end, and started again."""
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),
            )  # fmt: skip

    def pid(self) -> int:
        """The process that does the work: the supervisor's child. 0 while there is none."""
        if self.kind == "models":
            return self._process.pid
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def signal(self, number: signal.Signals) -> int:
        """Send it to the process that does the work; its pid."""
        pid = self.pid()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    def end(self) -> None:
        """Ask the supervisor to end."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            self.signal(signal.SIGCONT)
            self._process.terminate()

    async def ended(self, limit: float) -> None:
        """Return when nothing of it is left; what does not end within ``limit`` seconds is killed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._process.poll() is None:
                    await asyncio.sleep(0.05)
        if self._process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class Fleet:
    """The product's processes. ``processes`` has them by kind; the gateways share one port."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.redis_url = ""
        self.port = free_port()
        """Of all gateways."""
        self.processes: dict[str, list[Process]] = {}

    @property
    def http(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where a call can be made; which gateway has it is the kernel's choice."""
        return f"ws://127.0.0.1:{self.port}/v1/realtime?model=bargein"

    async def ready(self) -> dict[str, object]:
        """What /ready says at one gateway or another; {} while nobody answers."""
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            async with httpx2.AsyncClient(timeout=2) as http:
                answer: dict[str, object] = (await http.get(f"{self.http}/ready")).json()
                return answer
        return {}

    async def staffed(self, workers: int) -> None:
        """Return when every gateway is ready and each stage has ``workers`` live workers. Raises TimeoutError."""
        gateways: set[object] = set()
        async with asyncio.timeout(READY_LIMIT):
            while len(gateways) < len(self.processes["gateway"]):
                seen = await self.ready()
                stages = seen.get("stages")
                known = isinstance(stages, dict) and seen.get("ready")
                if known and all(len(stages[stage]) >= workers for stage in ("stt", "llm", "tts")):
                    gateways.add(seen["gateway"])
                await asyncio.sleep(0.05)

    async def replaced(self, process: Process, dead: int) -> None:
        """Return when the supervisor has started another than ``dead``, and the product is whole again."""
        async with asyncio.timeout(READY_LIMIT):
            while process.pid() in (0, dead):
                await asyncio.sleep(0.05)
        process.replaced += 1


@asynccontextmanager
async def running_fleet(folder: Path, log: Path, workers: int, words: int, **settings: str) -> AsyncIterator[Fleet]:
    """Start everything, ``workers`` of each stage and as many gateways; all of it has ended when the block ends.

    What the processes print is appended to the file ``log``.
    """
    fleet = Fleet(log)
    redis_port, models_port = free_port(), free_port()
    fleet.redis_url = f"redis://127.0.0.1:{redis_port}/0"
    models = f"http://127.0.0.1:{models_port}/v1"
    common = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "EMBEDDED_REDIS_DIR": str(folder / "redis"),
        "RECORDINGS_DIR": str(folder / "recordings"),
        "STT_ENGINE": "http", "LLM_ENGINE": "openai", "TTS_ENGINE": "http",
        "STT_URL": models, "LLM_URL": models, "TTS_URL": models,
        "DRAIN_S": "5", "SHUTDOWN_S": "7",
        "TTS_REPEATABLE": "true", "LLM_PREFILL": "true",
        **settings,
    }  # fmt: skip
    supervisor = [sys.executable, "-m", "workers.supervisor"]
    async with AsyncExitStack() as stack:
        started: list[Process] = []

        async def start(kind: str, number: int, command: list[str], **more: str) -> None:
            proxy = None
            if kind not in ("redis", "models"):
                proxy = await stack.enter_async_context(Proxy("127.0.0.1", redis_port))
                more["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
            process = Process(kind, number, command, {**common, **more}, fleet.log)
            process.proxy = proxy
            started.append(process)
            fleet.processes.setdefault(kind, []).append(process)

        try:
            await start("redis", 1, [sys.executable, "-m", "bus.server"], REDIS_URL=fleet.redis_url)
            model = [sys.executable, "-m", "benchmarks.model_server", str(models_port)]
            await start("models", 1, [*model, "--tokens", "10", "--words", str(words)])
            for number in range(1, workers + 1):
                await start(
                    "gateway",
                    number,
                    [*supervisor, "gateway"],
                    GATEWAY_PORT=str(fleet.port),
                    GATEWAY_SHARES_PORT="true",
                    DRAIN_S="3",
                    SHUTDOWN_S="7",
                )
                for stage in ("stt", "llm", "tts"):
                    await start(stage, number, [*supervisor, stage])
            await start("jobs", 1, [*supervisor, "jobs"])
            await fleet.staffed(workers)
            yield fleet
        finally:
            others = [each for each in started if each.kind not in ("redis", "models")]
            for group in (others, [each for each in started if each not in others]):
                for process in group:
                    if process.proxy is not None:
                        process.proxy.heal()
                    process.end()
                await asyncio.gather(*(process.ended(8) for process in group))
