"""Which words have been spoken, where an engine does not say: an estimate that is rather late than early."""

from __future__ import annotations

import re
import unicodedata
from itertools import accumulate

SLOWEST = 8.0
"""Characters a second of the slowest speech. At 175 words a minute it is about 15, at 100 it is 9."""
LAG = 0.3
"""Seconds of silence that a sound may begin with."""
QUICK = 0.8
"""How much any character still to come counts, where how long the sound is is known."""


class SpokenWords:
    """Which words of a text have surely been spoken by some moment; never ahead of the sound, so rather late.

    What was spoken is taken to be slow: a capital, which may be spelled, counts as 3 characters, punctuation for its
    pause as 5, a digit or symbol, which may be a word or more, as 10. A word is told LAG seconds after speech of
    SLOWEST would have reached its end. Where the length of the sound is known, what is still to come is taken to be
    quick, and the two share that length. The last word is told with the last chunk only.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = [match.end() for match in re.finditer(r"\s*\S+\s*", text)][:-1]
        self._weights = [0, *accumulate(map(_weight, text))]
        self._told = 0

    def until(self, elapsed: float, seconds: float | None) -> str:
        """The text to tell ``elapsed`` seconds after the beginning of a sound of ``seconds``."""
        end = max((end for end in self._ends if self._due(end, seconds) <= elapsed), default=0)
        told, self._told = self._text[self._told : end], max(self._told, end)
        return told

    def rest(self) -> str:
        """The text that was not told; it counts as told."""
        told, self._told = self._text[self._told :], len(self._text)
        return told

    def _due(self, end: int, seconds: float | None) -> float:
        if seconds is None:
            return LAG + self._weights[end] / SLOWEST
        spoken, to_come = self._weights[end], QUICK * (len(self._text) - end)
        return LAG + seconds * spoken / (spoken + to_come)


def _weight(character: str) -> int:
    kind = unicodedata.category(character)
    if kind[0] in "NS":
        return 10
    if kind[0] == "P":
        return 5
    return 1 if kind in ("Ll", "Zs") else 3
