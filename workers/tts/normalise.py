"""What was written, as it is said: without markdown and emoji, and with numbers and abbreviations in words.

Pure. An engine speaks ``Spoken.text`` and tells the written text, which is what the conversation remembers;
``Spoken.written`` says how far it has got in that. What a language's rules do not cover stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import emoji
from markdown_it import MarkdownIt

from workers.tts.numbers import in_words

# Blocks that a sentence on its own is not, and what would take a list's number away.
_MARKDOWN = MarkdownIt("commonmark").disable(["list", "code", "html_block", "html_inline", "reference", "entity"])
_MARKDOWN.enable("strikethrough")
_KEPT = ("text", "code_inline")
_BULLET = re.compile(r"^\s*[-*+•‣◦]\s+")
_CHECKBOX = re.compile(r"^\s*\[[ xX]\]\s+")
_RULE = re.compile(r"^[\s|:=*_~`#-]*$")
_URL = re.compile(r"(?:https?://|www\.)[^\s<>()\"']*[^\s<>()\"'.,;:!?]")
_STRAY = re.compile(r"\\(?=[^\w\s])|[*`~|]+|(?<![^\W_])_+|_+(?![^\W_])|^#+\s+")
_JOINED = re.compile(r"(?<=[^\W_])_+(?=[^\W_])")
_JOINERS = re.compile(r"[\u200b-\u200d\u2060\ufe00-\ufe0f]+")
_SPACES = re.compile(r"\s+")
_BEFORE_MARK = re.compile(r"(?<=\w) (?=[,.;:!?](?:\s|$))")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence as it is said; ``origins`` has, for each of its characters, where it comes from in the written one."""

    text: str
    origins: tuple[int, ...]
    length: int
    """Characters of the written sentence."""

    def written(self, index: int) -> int:
        """How many characters of the written sentence are complete when ``text[:index]`` has been said.

        A mark before a word belongs to the word.
        """
        if index >= len(self.origins):
            return self.length
        return min(self.origins[index], self.origins[index - 1] + 1) if index > 0 else 0

    @property
    def has_words(self) -> bool:
        """Whether there is anything to say."""
        return any(character.isalnum() for character in self.text)


def normalise(text: str, language: str, *, numbers: bool = True) -> Spoken:
    """``text``, one sentence in ``language`` (BCP-47), as it is said.

    ``numbers`` false: numbers and abbreviations stay as they are, for engines that read them themselves.
    """
    said = Rewriting(text)
    _markdown(said)
    said.sub(_URL, lambda match: _host(match.group(), language) if numbers else _host(match.group(), ""))
    said.cut([(found["match_start"], found["match_end"]) for found in emoji.emoji_list(said.text)])
    said.sub(_JOINERS, lambda match: "")
    if numbers:
        in_words(said, re.split("[-_]", language)[0].lower())
    said.sub(_STRAY, lambda match: "")
    said.sub(_JOINED, lambda match: " ")
    said.sub(_SPACES, lambda match: " ")
    said.sub(_BEFORE_MARK, lambda match: "")
    said.strip()
    return Spoken(said.text, tuple(said.origins), len(text))


class Rewriting:
    """A text being rewritten, which knows where each of its characters comes from."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.origins = list(range(len(text)))

    def sub(self, pattern: re.Pattern[str], said: Callable[[re.Match[str]], str | None]) -> None:
        """Replace every match by what ``said`` answers; None leaves it as it is."""
        parts: list[str] = []
        origins: list[int] = []
        end = 0
        for match in pattern.finditer(self.text):
            new = said(match)
            if new is None:
                continue
            start = match.start()
            parts += [self.text[end:start], new]
            origins += self.origins[end:start]
            # What is said in place of something is complete only when all of it has been said.
            origins += [self.origins[start]] * len(new) if start < len(self.origins) else []
            end = match.end()
        self.text = "".join([*parts, self.text[end:]])
        self.origins = origins + self.origins[end:]

    def cut(self, spans: list[tuple[int, int]]) -> None:
        """Take out ``spans`` of characters, given in order."""
        for start, end in reversed(spans):
            self.text = self.text[:start] + self.text[end:]
            del self.origins[start:end]

    def strip(self) -> None:
        """Without white space at both ends."""
        start = len(self.text) - len(self.text.lstrip())
        self.origins = self.origins[start : start + len(self.text.strip())]
        self.text = self.text.strip()


def _markdown(said: Rewriting) -> None:
    """Keep the words of a line of markdown. What it does not understand stays."""
    if _RULE.match(said.text):
        said.cut([(0, len(said.text))])
        return
    said.sub(_BULLET, lambda match: "")
    said.sub(_CHECKBOX, lambda match: "")
    end, gaps = 0, []
    for block in _MARKDOWN.parse(said.text):
        for piece in block.children or ():
            # An image has its words in children of its own; the parser does not say where a piece stands.
            words = piece.content if piece.type in _KEPT or piece.type == "image" else ""
            at = said.text.find(words, end)
            if at < 0:
                return  # something was escaped: the words do not stand there as they are meant
            if words:
                gaps.append((end, at))
                end = at + len(words)
    gaps.append((end, len(said.text)))
    # Line breaks stand between pieces: they part words.
    said.cut([(at, stop) for start, stop in gaps for at, stop in _without_breaks(said.text, start, stop)])


def _without_breaks(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The spans from ``start`` to ``end`` between line breaks."""
    spans = []
    for match in re.finditer(r"[^\n]+", text[start:end]):
        spans.append((start + match.start(), start + match.end()))
    return spans


def _host(url: str, language: str) -> str:
    """An address as it is said: its host."""
    try:
        host = urlsplit(url if "://" in url else f"https://{url}").netloc.removeprefix("www.")
    except ValueError:
        return url  # it only looks like one
    return host.replace(".", " dot ") if language.lower().startswith("en") else host
