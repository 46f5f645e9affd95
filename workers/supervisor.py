"""The small parent of a worker: runs it, and runs it again when it ends.

honcho ends everything when one process ends, so each line of the Procfile but Redis's is
``python -m workers.supervisor NAME``. The worker is a process group of its own, so that a signal to the whole line
reaches it once, through here. Its output goes where the supervisor's goes. It dies with the supervisor.
Where systemd or a container runtime does all that, ``--exec`` only becomes the worker, with the Python that is set.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from bus.backoff import Backoff
from bus.child import dies_with_parent, ending
from bus.logs import start_logging
from bus.settings import CONFIGURATION_ERROR, BusSettings, load

log = logging.getLogger("supervisor")

MODULES = {
    "stt": "workers.stt.worker",
    "llm": "workers.llm.worker",
    "tts": "workers.tts.worker",
    "jobs": "workers.jobs.worker",
    "gateway": "gateway.app",
}
FIRST_WAIT = 0.2
LONGEST_WAIT = 10.0
STEADY = 30.0
"""Seconds of life after which a worker's end counts as the first again."""


def _python(path: str) -> str:
    if shutil.which(path) is None:
        raise ValueError("no such program; expected a Python, such as .venv-nemo/bin/python of make install-nemo")
    return path


Python = Annotated[str, AfterValidator(_python)]
"""A Python to run a worker with: a path, or a name that is looked for in PATH."""


class SupervisorSettings(BusSettings):
    """With what a worker runs, and how long it may take to end."""

    shutdown_s: float = Field(default=4.0, ge=0, le=600)
    """Seconds between SIGTERM and SIGKILL; honcho itself kills after 5."""
    stt_python: Python = sys.executable
    """The Python of the STT worker: engines with large dependencies live in environments of their own."""
    llm_python: Python = sys.executable
    """The Python of the LLM worker."""
    tts_python: Python = sys.executable
    """The Python of the TTS worker."""

    def command(self, name: str) -> list[str]:
        """The command line of the worker ``name``, one of MODULES."""
        return [getattr(self, f"{name}_python", sys.executable), "-m", MODULES[name]]


class Supervisor:
    """Keeps one command running. Every time is in seconds."""

    def __init__(self, name: str, command: Sequence[str], shutdown_s: float) -> None:
        self._name = name
        self._command = command
        self._shutdown_s = shutdown_s
        self._backoff = Backoff(FIRST_WAIT, LONGEST_WAIT)
        self._stopping = asyncio.Event()
        self._child: Process | None = None

    async def run(self) -> None:
        """Run the command again and again until ``stop``; return when it has ended for good."""
        while not self._stopping.is_set():
            began = time.monotonic()
            returncode = await self._run_once()
            if self._stopping.is_set():
                break
            wait = self._wait_after(returncode, time.monotonic() - began)
            await _within(wait, self._stopping.wait())

    def stop(self) -> None:
        """End it: the first call asks the worker to end, a second kills it."""
        if self._stopping.is_set():
            self._signal(signal.SIGKILL)
        else:
            self._stopping.set()
            self._signal(signal.SIGTERM)

    async def _run_once(self) -> int:
        self._child = child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        ended = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done() and not await _within(self._shutdown_s, asyncio.shield(ended)):
            log.warning("%s did not end within %.1f s; killing it", self._name, self._shutdown_s)
            self._signal(signal.SIGKILL)
        returncode = await ended
        self._child = None
        return returncode

    def _wait_after(self, returncode: int, lived: float) -> float:
        """How long to wait before the next start; says why the worker ended."""
        if returncode == CONFIGURATION_ERROR:
            log.error(
                "%s cannot run as it is configured (its message is above); trying again in %.0f s",
                self._name, LONGEST_WAIT,
            )  # fmt: skip
            return LONGEST_WAIT
        if lived > STEADY:
            self._backoff.reset()
        wait = self._backoff.next()
        log.warning(
            "%s ended with %s after %.1f s; starting it again in %.1f s",
            self._name, ending(returncode), lived, wait,
        )  # fmt: skip
        return wait

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            try:
                self._child.send_signal(number)
            except ProcessLookupError:
                pass


async def _within(seconds: float, awaitable: Awaitable[object]) -> bool:
    """Whether ``awaitable`` finished within ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        return False
    return True


async def supervise(supervisor: Supervisor) -> None:
    """Run a supervisor until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.supervisor", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=MODULES, help="what to keep running")
    parser.add_argument("--exec", action="store_true", help="become it instead, for systemd, which keeps it running")
    told = parser.parse_args()
    name, settings = told.name, load(SupervisorSettings)
    if told.exec:
        command = settings.command(name)
        os.execvp(command[0], command)
    start_logging(settings.log_level, settings.log_format)
    asyncio.run(supervise(Supervisor(name, settings.command(name), settings.shutdown_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
