"""Partial texts, which may change, as words that never do: the protocol has no way to take a word back."""

from __future__ import annotations


class AppendOnly:
    """One utterance's words as they become certain: those that two texts in a row agree on, but for the last."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._before: list[str] = []

    def partial(self, text: str) -> str:
        """The words, if any, that are certain now and were not before, with the space before them."""
        words = text.split()
        agreed = 0
        for word, before in zip(words[:-1], self._before, strict=False):
            if word != before:
                break
            agreed += 1
        self._before = words
        return self._tell(words[:agreed])

    def final(self, text: str) -> str:
        """The rest of the whole text; nothing when it no longer begins with what was told."""
        return self._tell(text.split())

    def _tell(self, words: list[str]) -> str:
        known = len(self._told)
        if len(words) <= known or words[:known] != self._told:
            return ""
        fresh = " ".join(words[known:])
        self._told = words
        return f" {fresh}" if known else fresh
