"""What a process tells systemd (sd_notify): that it is ready, alive, or about to end. Elsewhere it says nothing.

The protocol is a datagram of NAME=value lines to the Unix socket in ``NOTIFY_SOCKET``. With ``WATCHDOG_USEC`` systemd
restarts a process from which it has not heard for so many microseconds.
In a container, where nobody listens, a process that serves touches the file ``ALIVE_FILE``, for probes to look at.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

FILE_EVERY = 5.0
"""Seconds between two touches of ``ALIVE_FILE``."""


class Notifier:
    """Where this process is told of, if anywhere."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environment.get("WATCHDOG_USEC", "")
        self.interval = int(usec) / 3e6 if self._address and watched and usec.isdecimal() else 0.0
        """Seconds between two signs of life, a third of what systemd waits for; 0: nobody waits for any."""
        self._file = Path(environment["ALIVE_FILE"]) if environment.get("ALIVE_FILE") else None
        self.interval = self.interval or (FILE_EVERY if self._file else 0.0)
        self._serves = False
        self._last = -1e9

    def ready(self) -> None:
        """It serves. From now on signs of life are expected."""
        self._serves = True
        self._tell("READY=1")

    def stopping(self) -> None:
        """It ends, and may take its time for that."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """A sign of life. May be called as often as one likes: one is sent every ``interval`` seconds."""
        if self.interval and time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            self._tell("WATCHDOG=1")

    async def watch(self) -> None:
        """Signs of life for as long as the event loop runs, until cancelled: one that hangs is found out."""
        while self.interval:
            self._last = time.monotonic()
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.interval)

    def _tell(self, state: str) -> None:
        if self._file and self._serves:
            self._file.touch()
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                try:
                    line.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)
                except OSError:
                    pass  # nobody listens; no reason to end
