"""What a long-lived process does about Python's garbage collector, which stops everything while it looks."""

from __future__ import annotations

import gc

EVERY = 16
"""Ended sessions until what is left of them is collected. One is a cycle of some 300 objects and 130 kB, half of that
the resamplers'. Python by itself waits for 70 000 objects: 200 sessions, 26 MB. A collection beside 4 calls takes 3 ms.
"""


def settle() -> None:
    """Leave what is there now, the imported modules above all, out of every later collection: NeMo's take 100 ms."""
    gc.collect()
    gc.freeze()


class Leftovers:
    """What is left of ended sessions until it is collected."""

    def __init__(self) -> None:
        self._ended = 0

    def add(self) -> None:
        """One more session has ended."""
        self._ended += 1
        if self._ended % EVERY == 0:
            gc.collect()
