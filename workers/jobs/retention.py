"""What removes recordings that are too old."""

from __future__ import annotations

import logging
from pathlib import Path

from bus.keys import is_session

log = logging.getLogger("workers.jobs")

ENDINGS = (".wav", ".flac", ".json", ".txt", ".vtt", ".second.json")
DAY_S = 86_400


def sweep(folder: Path, keep_days: int, now: float) -> int:
    """Remove the files of calls that were written more than ``keep_days`` before ``now`` (s); how many. 0: none.

    Only what a job has written is touched: ``<session>`` with one of ENDINGS.
    """
    if not keep_days or not folder.is_dir():
        return 0
    removed = 0
    for path in sorted(folder.iterdir()):
        ours = any(path.name.endswith(end) and is_session(path.name.removesuffix(end)) for end in ENDINGS)
        try:
            if ours and path.is_file() and path.stat().st_mtime < now - keep_days * DAY_S:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            log.error("%s could not be removed: %s", path.name, error.strerror)
    if removed:
        log.info("removed %d files of calls older than %d days", removed, keep_days)
    return removed
