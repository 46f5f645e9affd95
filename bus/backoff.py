"""Waits that grow, with jitter, so that a crowd does not come back in step."""

import random


class Backoff:
    """Doubling waits between ``first`` and ``longest`` seconds, each drawn from the upper half of its range."""

    def __init__(self, first: float, longest: float, rng: random.Random | None = None) -> None:
        self._first = first
        self._longest = longest
        self._rng = rng or random.Random()
        self._current = first

    def next(self) -> float:
        """Seconds to wait now."""
        wait = self._current * (0.5 + self._rng.random() / 2)
        self._current = min(self._current * 2, self._longest)
        return wait

    def reset(self) -> None:
        """Start again from ``first``: the last try succeeded."""
        self._current = self._first
