"""Duplex policies: who may speak when. They differ in rules only; the turn logic is one."""

from __future__ import annotations

import re
from dataclasses import dataclass

BACKCHANNELS = frozenset(
    (
        "mm-hmm", "mmhmm", "mhm", "hmm", "hm", "mm", "mm hmm", "uh-huh", "uhhuh", "uh", "huh", "uh huh", "ah", "oh",
        "yeah", "yep", "yes", "okay", "ok", "right", "sure", "i see", "got it", "all right",
    )
)  # fmt: skip
"""English sounds and words by which a listener says: go on."""


WORDS = re.compile(r"[\w'-]+")


def spoken_words(listed: str) -> frozenset[str]:
    """Comma-separated words or phrases, as the recogniser would write them: "Ja, genau" -> {"ja", "genau"}."""
    phrases = (" ".join(WORDS.findall(phrase.lower())) for phrase in listed.split(","))
    return frozenset(phrase for phrase in phrases if phrase)


@dataclass(frozen=True, slots=True)
class Duplex:
    """The rules of one session's floor. Times are in seconds."""

    may_interrupt: bool = True
    """Whether the caller's speech may end a turn; false: the microphone is ignored while the assistant speaks."""
    respond: bool = True
    """Whether an utterance's end opens a turn by itself; false: the client asks for each."""
    interrupt: bool = True
    """Whether speech may cancel a turn by itself; false: only the client's own cancel does."""
    eager: bool = False
    """Whether a turn begins at a pause, before the caller's turn is known to be over."""
    barge_in_min: float = 0.7
    """Speech of this length confirms an interruption without any word recognised."""
    settle: float = 3.0
    """How long after the session's first audio an echo canceller may still be converging."""
    settle_min: float = 0.4
    """By how much longer speech without words must be while it does."""
    protect: float = 0.0
    """How long from its first audio a reply cannot be interrupted."""
    final_limit: float = 3.0
    """How long after the end of an utterance output is held for its text."""
    text_limit: float = 15.0
    """How much longer the text is still waited for; then it counts as lost."""
    reply_limit: float = 30.0
    """How long a turn may take to its first sound or, without sound, to its end."""
    cancel_limit: float = 2.0
    """How long every stage has to say that it stopped."""
    idle: float = 0.0
    """How long after a reply nobody speaks until the assistant speaks again by itself; 0: for ever."""
    backchannels: frozenset[str] = BACKCHANNELS

    def hears(self, speaking: bool) -> bool:
        """Whether the microphone counts while the assistant is (not) speaking."""
        return self.may_interrupt or not speaking

    def is_backchannel(self, text: str) -> bool:
        """Whether words only say: go on. Empty text says nothing and is not one."""
        words = WORDS.findall(text.lower())
        if not words:
            return False
        return " ".join(words) in self.backchannels or all(word in self.backchannels for word in words)
