"""What processes cost, read from /proc: CPU seconds, memory, and how busy the whole machine was."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def descendants(root: int) -> dict[int, str]:
    """``root`` and every process that descends from it: pid -> command line."""
    parents, words = {}, {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    found, more = {root}, {root}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return {pid: words[pid] for pid in found if pid in words}


@dataclass(frozen=True)
class Usage:
    """At one moment. CPU in seconds so far by process; memory in MB resident by name."""

    at: float
    cpu: Mapping[int, tuple[str, float]]
    memory: Mapping[str, float]
    busy: float
    """Seconds that the machine's cores have worked."""


def usage(named: Mapping[int, str]) -> Usage:
    """What the processes ``named`` (pid -> name) have used until now."""
    cpu, memory = {}, defaultdict(float)
    for pid, name in named.items():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu[pid] = (name, (int(fields[11]) + int(fields[12])) / TICKS)
            memory[name] += int(fields[21]) * PAGE / 1e6
    spent = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return Usage(time.monotonic(), cpu, dict(memory), (sum(spent) - spent[3] - spent[4]) / TICKS)


def between(before: Usage, after: Usage) -> tuple[dict[str, float], float]:
    """(% of one core by name, % of the whole machine) from one moment to the other."""
    took, spent = after.at - before.at, defaultdict(float)
    for pid, (name, seconds) in after.cpu.items():
        spent[name] += (seconds - before.cpu.get(pid, (name, 0.0))[1]) * 100 / took
    return dict(spent), (after.busy - before.busy) * 100 / took / (os.cpu_count() or 1)
