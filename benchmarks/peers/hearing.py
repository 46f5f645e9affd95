"""What a caller hears, and what is made of it. Pure: time is passed in, in seconds.

Every frame tells which reply it belongs to (``coded``), so what is stale, and where a reply ran dry, is seen and not
guessed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from benchmarks.peers import coded
from gateway.codecs import PCMU

GAP = 0.02
"""Seconds of an empty buffer within a reply that count as an underrun: a frame, which a phone conceals no more."""


@dataclass
class Turn:
    """Something the caller said, and what came of it."""

    over: int = -1
    """The reply that was interrupted; -1 for none."""
    onset: float = 0.0
    """When its first sample was spoken; 0 until then."""
    end: float = 0.0
    """When its last sample was spoken; 0 until then."""
    cleared: float | None = None
    """When what was interrupted fell silent: ``clear`` came, or, from a server that has none, its last sound."""
    told: bool = False
    """Whether ``clear`` came."""
    stale: list[tuple[float, float]] = field(default_factory=list)
    """(when it came, its frames) of audio of earlier replies after that."""
    reply: int = -1
    answered: float | None = None
    """When the first sound of the reply came."""
    again: int = 0
    """Replies that came after the first without having been asked for."""
    gaps: list[float] = field(default_factory=list)
    """Seconds of an empty buffer within the reply."""


class Line:
    """What Twilio has buffered."""

    def __init__(self) -> None:
        self.until = 0.0
        """When the last sample that has come was, or will have been, played."""
        self._marks: deque[tuple[float, str]] = deque()

    def media(self, codes: int, now: float) -> float:
        """So many mu-law codes have come; for how long there had been none to play (s)."""
        empty = max(0.0, now - self.until)
        self.until = max(now, self.until) + codes / PCMU.rate
        return empty

    def mark(self, name: str) -> None:
        """A mark has come, to be sent back when all before it was played."""
        self._marks.append((self.until, name))

    def clear(self, now: float) -> list[str]:
        """Empty the buffer; every mark in it is sent back."""
        self.until = min(self.until, now)
        names = [name for _, name in self._marks]
        self._marks.clear()
        return names

    def due(self, now: float) -> list[str]:
        """The marks that are to be sent back by now."""
        names = []
        while self._marks and self._marks[0][0] <= now:
            names.append(self._marks.popleft()[1])
        return names


class Hearing:
    """One caller's. ``turns`` has what was said."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.line = Line()
        self.playing = -1
        """The newest reply of which audio has come."""
        self._old: set[int] = set()
        """Replies that are over: interrupted, or followed by another."""

    def say(self, now: float) -> Turn:
        """The caller is about to speak: over a reply, if one is heard."""
        heard = self.playing not in self._old and self.line.until > now
        self.turns.append(Turn(self.playing if heard else -1))
        return self.turns[-1]

    def clear(self, now: float) -> list[str]:
        """``clear`` has come; the marks to send back."""
        turn = self.turns[-1] if self.turns else Turn()
        if turn.over >= 0 and turn.onset and turn.cleared is None:
            turn.cleared, turn.told = now, True
            self._old.add(turn.over)
        return self.line.clear(now)

    def media(self, codes: bytes, now: float) -> bool:
        """Audio has come; whether it is the first of a reply."""
        number, before = coded.heard(codes), self.line.until
        empty = self.line.media(len(codes), now)
        if number < 0 or not self.turns:
            return False
        turn = self.turns[-1]
        if number in self._old:
            turn.stale.append((now, len(codes) / coded.FRAME))
        elif number == self.playing:
            if empty >= GAP:
                turn.gaps.append(empty)
        elif turn.onset:
            self._first(turn, number, before, now)
            return True
        return False

    def _first(self, turn: Turn, number: int, before: float, now: float) -> None:
        """A reply begins; what had come was played until ``before``."""
        if turn.over >= 0 and turn.cleared is None:
            turn.cleared = min(before, now)
            self._old.add(turn.over)
        if turn.answered is None:
            turn.answered, turn.reply = now, number
        else:
            turn.again += 1
            self._old.add(self.playing)
        self.playing = number
