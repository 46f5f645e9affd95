"""What the code under simulation logs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.simulation.engines import InjectedCrash

if TYPE_CHECKING:
    from tests.simulation.world import World


class Records(logging.Handler):
    """Warnings become lines of the world's log; one that tells of an exception nobody planted is a failure."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        self._world.note("log", f"{record.levelname} {text}{f' ({error!r})' if error else ''}")
        if error is not None and not isinstance(error, InjectedCrash):
            self._world.fail(f"unexpected: {text}: {error!r}")
