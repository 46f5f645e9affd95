"""Where the sessions of a batch have what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Rows:
    """A batch as a table of integers, a column for each of its sessions, so that it reaches the GPU in one piece."""

    FROM, TO, COLD, FRAMES, UNBORN = range(5)
    """The row its state is in; the row its new state goes to; 1 if it begins from nothing; the mel frames of its
    window; how many of them lie before its first sample."""
    COLUMNS = 5

    def __init__(self, size: int, nobody: int, frames: int) -> None:
        """``size`` sessions that are nobody's: theirs is the row ``nobody``, which is written and never read."""
        self.table = np.empty((self.COLUMNS, size), np.int64)
        self.table[:] = np.array([nobody, nobody, 1, frames, 0])[:, None]

    def fill(self, values: Sequence[Sequence[int]]) -> None:
        """What there is to know of the first so many sessions, each in the order above."""
        self.table[:, : len(values)] = np.array(values, np.int64).T
