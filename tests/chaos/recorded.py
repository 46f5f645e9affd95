"""A caller whose microphone runs on whatever happens: what is said, and when, is settled before the call.

Microphone and loudspeaker are recorded on one clock, and what was heard when is read from the recordings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from benchmarks import numbered
from benchmarks.model_server import reply_to
from tests.chaos.caller import WORDS, Caller, Turn, differences, heard_again

RATE = 24_000
BEFORE = 2.0
"""Seconds of silence before the first word: the call is made meanwhile."""
PATIENCE = 6.0
"""Seconds from a caller's last word to its next utterance, besides the time that the reply sounds."""
INTERRUPTS = (2.0, 3.2)
"""The same, all in all, where the next utterance interrupts the reply."""

Words = Sequence[tuple[int, float]]
"""Numbers that sounded, each with when it began (ms)."""


class RecordedCaller(Caller):
    """One call. The last utterance interrupts nothing."""

    def __init__(self, url: str, words: int, rng: random.Random, seconds: float) -> None:
        super().__init__(url, words, rng, seconds)
        self._utterances: list[list[int]] = []
        self._interrupted: list[bool] = []
        """Whether the reply to each is interrupted by the next one."""

    def script(self) -> numbered.Int16:
        """What the microphone hears, at RATE; the story knows it as said."""
        parts, seconds, over = [np.zeros(int(BEFORE * RATE), np.int16)], BEFORE, False
        while over or seconds < self._seconds:
            first = len(self._utterances) * WORDS
            self._utterances.append([(first + place) % numbered.COUNT for place in range(WORDS)])
            self.story.said += self._utterances[-1]
            over = self._rng.random() < 0.3 and seconds < self._seconds
            self._interrupted.append(over)
            silence = self._rng.uniform(*INTERRUPTS) if over else PATIENCE + self._words * numbered.SLOT_MS / 1000
            parts += [numbered.spoken(self._utterances[-1]), np.zeros(int(silence * RATE), np.int16)]
            seconds += len(parts[-2]) / RATE + silence
        return np.concatenate(parts)

    def judge(self, spoken: Words, heard: Words, returns: int) -> None:
        """Tell the turns from what sounded at the microphone and the loudspeaker; the client came back so often."""
        for number, numbers in enumerate(self._utterances):
            expected, following = self._reply_to(number), self._reply_to(number + 1)
            end = next((at for word, at in heard if word in following), float("inf"))
            mine = [(word, at) for word, at in heard if word in expected and at < end]
            turn = Turn(number, 0.0)
            turn.lost, doubled, _ = differences(expected, [word for word, _ in mine])
            turn.again, turn.doubled = heard_again(doubled, returns)
            turn.stale = [word for word, at in heard if word in expected and at >= end]
            turn.status = "completed" if mine else "missing"
            if self._interrupted[number]:
                turn.status, turn.lost = "interrupted", []
            places = [*[at + numbered.SLOT_MS for word, at in spoken if word in numbers][-1:], *(at for _, at in mine)]
            gaps = [later - before for before, later in zip(places, places[1:], strict=False)]
            # Between two words of a reply its own time for a word is no silence.
            silences = [*gaps[:1], *(gap - numbered.SLOT_MS for gap in gaps[1:])]
            turn.waited = max(silences, default=PATIENCE * 1000) / 1000
            self.story.turns.append(turn)

    def _reply_to(self, number: int) -> list[int]:
        return reply_to(self._utterances[number], self._words) if number < len(self._utterances) else []
