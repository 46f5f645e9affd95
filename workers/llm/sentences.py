"""Splitting an answer into sentences while it is still being written, so that the voice starts with the first."""

from __future__ import annotations

import re

from sentencex import segment

LONGEST = 240
"""Characters after which text without an end is split at its last clause mark, so that speech can start."""
_CLAUSE = re.compile(r"[,;:–—](?=\s)|[，；：、]")
_WIDE_END = re.compile(r"[。！？]")


class SentenceSplitter:
    """Takes text as it comes; gives sentences as soon as they are certain, each without outer whitespace.

    A sentence is certain when the next one has begun, a newline follows, or its end mark is one that needs no space
    after it (。！？). The sentences do not depend on how the text was cut into deltas.
    """

    def __init__(self, language: str) -> None:
        """``language`` is a BCP-47 tag; its first part chooses sentencex's rules."""
        self._language = language.partition("-")[0].lower() or "en"
        self._text = ""

    def push(self, delta: str) -> list[str]:
        """The sentences that ``delta`` completes."""
        found: list[str] = []
        for character in delta:
            self._text += character
            if character.isspace() or self._text[-2:-1].isspace() or _WIDE_END.match(character):
                found += self._complete()
        return found

    def finish(self) -> list[str]:
        """What is left, the last sentence included; the splitter is empty afterwards."""
        text, self._text = self._text, ""
        return [part.strip() for part in self._segments(text) if part.strip()]

    def _complete(self) -> list[str]:
        segments = self._segments(self._text)
        done = segments[:-1]
        rest = segments[-1] if segments else ""
        if "\n" in rest.lstrip() or _WIDE_END.search(rest[-1:]):
            done, rest = [*done, rest], ""
        if len(rest) > LONGEST:
            marks = list(_CLAUSE.finditer(rest))
            if marks:
                done, rest = [*done, rest[: marks[-1].end()]], rest[marks[-1].end() :]
        self._text = rest
        return [part.strip() for part in done if part.strip()]

    def _segments(self, text: str) -> list[str]:
        return list(segment(self._language, text)) if text.strip() else []
