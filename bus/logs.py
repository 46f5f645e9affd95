"""What is logged: to stderr, one line a record, as text or as JSON, each with the session and the turn it is about.

A task says once what it works for (``concern``); what it logs, and what it calls logs, an engine for example, then
names it. Text of callers and of replies is logged at DEBUG only, secrets never.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from bus.keys import session_in

Format = Literal["text", "json"]

_ABOUT: ContextVar[tuple[str, int]] = ContextVar("about", default=("", 0))


def concern(session: str, turn: int = 0) -> None:
    """From now on this task, and what it starts, works for a session, or for one turn of it."""
    _ABOUT.set((session, turn))


def start_logging(level: str, kind: Format = "text") -> None:
    """Log records of ``level`` and above to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if kind == "json" else TextLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def about(record: logging.LogRecord) -> tuple[str, int]:
    """The session ("": none) and the turn (0: none) that a record is about.

    A record's own ``session`` and ``turn`` (``extra``) come first, then a session that its message names, then what the
    task works for.
    """
    session, turn = _ABOUT.get()
    named = getattr(record, "session", "") or session_in(record.getMessage())
    if named and named != session:
        session, turn = named, 0
    return session, getattr(record, "turn", turn)


def logger_of(record: logging.LogRecord) -> str:
    """Which module logs, also when it is the one that was started: ``gateway.app``, not ``__main__``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if record.name == "__main__" and spec is not None else record.name


class TextLines(logging.Formatter):
    """``12:00:01.250 INFO gateway.app s0-1a2b/3: message``; no session where the message itself names it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(logger)s%(about)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        session, turn = about(record)
        shown = session and session not in record.getMessage()
        record.logger = logger_of(record)
        record.about = f" {session}{f'/{turn}' if turn else ''}" if shown else ""
        return super().format(record)


class JsonLines(logging.Formatter):
    """An object a line: time (ISO 8601, UTC), level, logger, process, message; if there are: session, turn, error."""

    def format(self, record: logging.LogRecord) -> str:
        session, turn = about(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": logger_of(record),
            "process": record.process,
            "message": record.getMessage(),
        }
        if session:
            line["session"] = session
        if turn:
            line["turn"] = turn
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
