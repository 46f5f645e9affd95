"""What has been recognised of an utterance: tokens with their frames and confidences, and the words they make."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workers.stt.engine import Details, Word

START = "\u2581"
"""What SentencePiece marks the beginning of a word with."""
LANGUAGE = re.compile(r"<([a-z]{2,3}(-[A-Za-z]{2,4})?)>")
"""A token by which multilingual models name the language they hear."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Never changed, so that a step that is only tried out leaves no trace. Frames are the encoder's."""

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    """At which frame the model wrote each token, counted from the utterance's first."""
    confidences: tuple[float, ...] = ()
    state: Any = None
    """What the decoder needs to go on; None at the very beginning."""
    decoded: int = 0
    """How many frames the decoder has seen with this state."""
    origin: int = 0
    """How many of them before the utterance."""

    def extended(
        self, tokens: Sequence[int], frames: Sequence[int], confidences: Sequence[float], state: Any, decoded: int
    ) -> Transcript:
        """After a step over ``decoded`` frames that found these tokens, at frames as the decoder counts them."""
        if not tokens:
            return replace(self, state=state, decoded=self.decoded + decoded)
        return Transcript(
            (*self.tokens, *tokens),
            (*self.frames, *(frame - self.origin for frame in frames)),
            (*self.confidences, *confidences),
            state,
            self.decoded + decoded,
            self.origin,
        )

    def onward(self) -> Transcript:
        """The next utterance's, for a decoder that goes on where it is: without a word."""
        return Transcript(state=self.state, decoded=self.decoded, origin=self.decoded)


@dataclass(frozen=True, slots=True)
class Heard:
    """A transcript and its text."""

    transcript: Transcript = field(default_factory=Transcript)
    text: str = ""


class Vocabulary:
    """The pieces that tokens stand for."""

    def __init__(self, pieces: Sequence[str], join: Callable[[list[int]], str], frame: int) -> None:
        """``join`` writes tokens as text, ``frame`` is the samples of an encoder frame."""
        self._pieces = pieces
        self._join = join
        self._frame = frame
        self._tags = {
            token: match[1] for token, piece in enumerate(pieces) if (match := LANGUAGE.fullmatch(piece.strip(START)))
        }

    def written(self, transcript: Transcript, before: Heard) -> Heard:
        """The words as the model writes them, its punctuation and capitals included; ``before`` saves work."""
        if transcript.tokens is before.transcript.tokens:
            return Heard(transcript, before.text)
        return Heard(transcript, self._join([each for each in transcript.tokens if each not in self._tags]).strip())

    def details(self, transcript: Transcript) -> Details:
        """The words with the times at which the model wrote them, and how sure it was: each word's least sure token."""
        words: list[list[int]] = []
        tags = []
        for index, token in enumerate(transcript.tokens):
            if token in self._tags:
                tags.append(self._tags[token])
            elif words and not self._pieces[token].startswith(START):
                words[-1].append(index)
            else:
                words.append([index])
        confidences = [transcript.confidences[index] for word in words for index in word]
        return Details(
            tuple(word for indices in words if (word := self._word(transcript, indices)).text),
            sum(confidences) / len(confidences) if confidences else 0.0,
            tags[-1] if tags else "",
        )

    def _word(self, transcript: Transcript, indices: list[int]) -> Word:
        return Word(
            self._join([transcript.tokens[index] for index in indices]).strip(),
            transcript.frames[indices[0]] * self._frame,
            (transcript.frames[indices[-1]] + 1) * self._frame,
            min(transcript.confidences[index] for index in indices),
        )
