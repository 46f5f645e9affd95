"""Sentences out of a stream of text, each as soon as it is certain.

A sentence is certain when the next one has begun, or a line ends. What ``sentencex`` calls a boundary is one, unless a
list's number stands alone before it or only closing brackets and quotes after it. Markdown and emoji are left as they
are.
"""

import re

from sentencex import segment

CLAUSE_AFTER = 240
"""Characters without an end after which a sentence is cut at its last clause mark, so that speech can start."""
SPACE_AFTER = 480
"""Characters without an end or a clause mark after which it is cut at its last space."""
CUT_AFTER = 2400
"""Characters without any of these after which it is cut where it stands."""

_CJK_MARKS = "。！？｡"
_CLOSERS = re.compile(r"[)\]}\"'”’»」』）】]+\s*")
_LIST_NUMBER = re.compile(r"\s*\(?\d+[.)]\s*")
_AFTER_NUMBER = re.compile(r"\d\W*\s")
_CLAUSE = re.compile(r"[,;:](?=\s)|(?<=\s)[-–—](?=\s)|—|[，、；：]")


class SentenceSplitter:
    """Takes text in pieces of any size; what it gives does not depend on how the text was cut into pieces.

    Sentences are stripped and never empty; joined, they are the text without the white space between them.
    ``language`` is a BCP-47 tag: its abbreviations do not end a sentence.
    """

    def __init__(self, language: str) -> None:
        self._language = re.split("[-_]", language)[0].lower() or "en"
        self._text = ""
        """What has not been released."""

    def push(self, delta: str) -> list[str]:
        """Take a piece of text; the sentences that became certain with it. Half a surrogate pair is left out."""
        sentences: list[str] = []
        for character in delta.encode("utf-8", "ignore").decode():
            self._text += character
            if character == "\n":
                sentences += self.finish()
            else:
                sentences += self._ended(character) or self._too_long()
        return sentences

    def finish(self) -> list[str]:
        """The text is over: the sentences that are left."""
        parts, self._text = self._parts(), ""
        return [part.strip() for part in parts if part.strip()]

    def _ended(self, character: str) -> list[str]:
        """The sentences before the one that ``character``, the latest, belongs to."""
        # A boundary can be seen where a word begins or ends, nowhere else.
        before = self._text[-2:-1]
        if not (character.isspace() or before.isspace() or _ends_without_space(before)):
            return []
        parts = self._parts()
        last = parts[-1]
        if len(parts) < 2 or not last.strip():
            return []
        # Whether a number with a dot is an ordinal ("3. Januar") shows in the whole of the word after it.
        if _AFTER_NUMBER.search(parts[-2][-4:]) and not re.search(r"\S\s", last):
            return []
        self._text = last
        return [part.strip() for part in parts[:-1]]

    def _too_long(self) -> list[str]:
        """The beginning of a sentence that goes on for too long."""
        text = self._text
        if len(text.strip()) <= CLAUSE_AFTER:
            return []
        cut = max((match.end() for match in _CLAUSE.finditer(text)), default=0)
        if not cut and len(text.strip()) > SPACE_AFTER:
            cut = text.rstrip().rfind(" ") + 1
        if not cut and len(text) > CUT_AFTER:
            cut = len(text)
        head = text[:cut].strip()
        if not head:
            return []
        self._text = text[cut:]
        return [head]

    def _parts(self) -> list[str]:
        """The text cut at each boundary; joined, the parts are the text."""
        parts: list[str] = []
        for found in segment(self._language, self._text):
            part = found
            if parts:
                closers = _CLOSERS.match(part)
                if closers is not None and not parts[-1][-1:].isspace():
                    parts[-1] += closers.group()
                    part = part[closers.end() :]
                    if not part:
                        continue
                if _goes_on(parts[-1]):
                    parts[-1] += part
                    continue
            parts.append(part)
        return parts or [""]


def _goes_on(part: str) -> bool:
    """Whether what follows ``part`` belongs to it: it is a list's number, or nothing separates the two."""
    if not part.strip() or _LIST_NUMBER.fullmatch(part):
        return True
    return not (part[-1].isspace() or _ends_without_space(part))


def _ends_without_space(text: str) -> bool:
    """Whether ``text`` ends with a mark that needs no space after it, perhaps within quotes."""
    return text.rstrip(")]}\"'”’»」』）】")[-1:] in tuple(_CJK_MARKS)
