"""Who is compared, and how each is started: a fresh server for every step, on ports of its own.

A peer is one process, as its own examples are, on each core; calls are spread evenly over them, as a balancer does. It
lives in an environment of its own, ``build/peers/NAME``, which is made here from its pinned requirements.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import httpx

from benchmarks.load import PROCESSES
from benchmarks.peers.usage import descendants
from tests.product import READY_LIMIT, ROOT, free_port, running_product

SERVERS = Path(__file__).parent / "servers"
ENVIRONMENTS = ROOT / "build" / "peers"


@dataclass
class Running:
    """A server that is ready: where calls can be made, and its processes by what they do."""

    urls: list[str]
    roots: Callable[[], list[int]]
    """Processes from which all others descend."""
    names: Mapping[str, str]
    """A word of a process's command line -> what it does; others are called as the last of ``names``."""
    others: str
    again: Callable[[], None] = lambda: None
    """Starts what has ended, where nobody else does."""

    def processes(self) -> dict[int, str]:
        """pid -> what it does."""
        return {
            pid: next((name for word, name in self.names.items() if word in words), self.others)
            for root in self.roots()
            for pid, words in descendants(root).items()
        }


class Side(Protocol):
    """One of those compared."""

    name: str
    about: str
    """How it is set up, in a few words."""

    def install(self) -> None:
        """Make what it needs."""

    def running(self, models: str, processes: int) -> contextlib.AbstractContextManager[Running]:
        """A server, with the scripted models at the address ``models``."""


@dataclass(frozen=True)
class Bargein:
    """The product as its Procfile starts it, with the HTTP engines and these settings."""

    name: str
    about: str
    settings: Mapping[str, str]

    def install(self) -> None:
        """Nothing: it runs from this checkout."""

    @contextlib.contextmanager
    def running(self, models: str, processes: int) -> Iterator[Running]:
        settings = {
            "STT_ENGINE": "http", "LLM_ENGINE": "openai", "TTS_ENGINE": "http",
            "STT_URL": models, "LLM_URL": models, "TTS_URL": models,
            "STT_CAPACITY": "100", "LLM_CAPACITY": "100", "TTS_CAPACITY": "100", **self.settings,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder, running_product(Path(folder), **settings) as product:
            names = {"workers.supervisor": "supervisors", "bus.server": "supervisors", **PROCESSES}
            yield Running([f"ws://127.0.0.1:{product.port}/twilio"], lambda: [product.pid], names, "supervisors")


@dataclass(frozen=True)
class Peer:
    """A server of ``servers/``, in its own environment."""

    name: str
    about: str
    package: str
    arguments: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.package / "bin" / "python"

    def install(self) -> None:
        """Make the environment, unless it has what is required. Raises CalledProcessError."""
        required = SERVERS / f"requirements-{self.package}.txt"
        stamp, wanted = ENVIRONMENTS / self.package / ".installed", hashlib.sha256(required.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"installing {required.read_text().split()[0]} into {ENVIRONMENTS / self.package}", file=sys.stderr)
        venv.create(ENVIRONMENTS / self.package, with_pip=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", required]
        subprocess.run(pip, check=True)
        stamp.write_text(wanted)

    @contextlib.contextmanager
    def running(self, models: str, processes: int) -> Iterator[Running]:
        ports = [free_port() for _ in range(processes)]
        serving: dict[int, subprocess.Popen[bytes]] = {}
        with tempfile.TemporaryFile() as log:

            def again() -> None:
                for port in ports:
                    if port in serving:
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            serving[port].wait(0.2)  # one that was killed just now
                    if port not in serving or serving[port].poll() is not None:
                        command = [self.python, SERVERS / f"{self.package}_server.py", str(port), models]
                        serving[port] = subprocess.Popen(
                            [*command, *self.arguments], stdout=log, stderr=subprocess.STDOUT
                        )
                _wait(serving, log)

            try:
                again()
                urls = [f"ws://127.0.0.1:{port}/" for port in ports]
                yield Running(urls, lambda: [each.pid for each in serving.values()], {}, "server", again)
            finally:
                for each in serving.values():
                    each.kill()
                    each.wait()


def _wait(serving: Mapping[int, subprocess.Popen[bytes]], log: IO[bytes]) -> None:
    """Return once all are ready. Raises RuntimeError with what they said."""
    due = time.monotonic() + READY_LIMIT
    for port in serving:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                    break
            if time.monotonic() > due or any(each.poll() is not None for each in serving.values()):
                log.seek(0)
                raise RuntimeError(f"not ready\n{log.read().decode(errors='replace')[-4000:]}")
            time.sleep(0.1)


SIDES: dict[str, Side] = {
    side.name: side
    for side in (
        Bargein("bargein", "defaults: a turn ends after 500 ms of silence", {}),
        Bargein("bargein-300", "END_OF_TURN_MS=300", {"END_OF_TURN_MS": "300"}),
        Bargein(
            "bargein-eager",
            "EAGER_REPLY=true PAUSE_MS=96 END_OF_TURN_MS=300",
            {"EAGER_REPLY": "true", "PAUSE_MS": "96", "END_OF_TURN_MS": "300"},
        ),
        Peer("pipecat", "pipecat-ai 1.14.0, defaults: Silero, smart-turn v3", "pipecat"),
        Peer("pipecat-0.6", "pipecat-ai 1.14.0, a turn ends after 0.6 s of silence", "pipecat", ("0.6",)),
        Peer("livekit", "livekit-agents 1.8.9, defaults but VAD turns (0.5 s), no LiveKit server", "livekit"),
    )
}
FORGETFUL = Bargein("bargein, RETENTION_S=5", "an ended call is kept for 5 s instead of 300", {"RETENTION_S": "5"})
"""Its memory over short calls is what calls cost, without what is kept of them."""
