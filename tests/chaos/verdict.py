"""What a round came to: one row of the table, from what the callers saw and what the records say."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field

from benchmarks.figures import percentile
from benchmarks.numbered import SLOT_MS, numbers_in
from bus.events import Said
from tests.chaos.caller import RIGHT, Story, differences

HEADERS = ("fault", "calls alive", "turns", "lost", "doubled", "again", "stale", "failed", "went on p50", "max")
GAP = re.compile(r"broken for ([\d.]+) s")
"""How long it was, in the message that tells a conversation of a gap in the caller's audio."""


@dataclass
class Row:
    """One fault. Words are counted in both directions: the caller's as they were written down, the assistant's as they
    were heard. ``went_on``: for each call the longest silence (s) in which somebody waited for speech."""

    fault: str
    seed: int
    calls: int = 0
    alive: int = 0
    turns: int = 0
    lost: int = 0
    told: int = 0
    """Words of the caller's that were lost with its client's knowledge: it cannot send again, and was told of a gap."""
    doubled: int = 0
    again: int = 0
    """Words that began the rest of a reply after a gateway's end, though they had been heard: no fault."""
    stale: int = 0
    """Words of another reply, and frames of one that was over."""
    failed: int = 0
    """Turns that failed, or were never answered."""
    went_on: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def zero(self) -> bool:
        """Whether everything that has to be zero is, and every call lived."""
        return self.calls == self.alive and not (self.lost or self.doubled or self.stale or self.failed or self.wrong)

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        waits = [f"{percentile(self.went_on, share):.2f} s" for share in (0.5, 1.0)] if self.went_on else ["-", "-"]
        lost = f"{self.lost} + {self.told} told" if self.told else self.lost
        counts = (self.turns, lost, self.doubled, self.again, self.stale, self.failed)
        return (self.fault, f"{self.alive}/{self.calls}", *(str(count) for count in counts), *waits)

    def add(self, story: Story, history: list[Said]) -> None:
        """Count one call."""
        name = story.session or "a call that was never taken"
        self.calls += 1
        self.alive += story.alive
        if story.ended:
            self.wrong.append(f"{name}: {story.ended}")
        known = [number for said in history if said.role == "user" for number in numbers_in(said.text)]
        if story.understood not in (None, known):
            self.wrong.append(f"{name}: the history has other words of the caller's than were told")
        lost, doubled, foreign = differences(story.said, known if story.understood is None else story.understood)
        gaps = story.told_lost
        if story.understood is None:
            gaps = [float(gap) for said in history if said.role == "system" for gap in GAP.findall(said.text)]
        # A gap also cuts a word at each of its ends.
        if len(lost) <= sum(math.ceil(gap * 1000 / SLOT_MS) + 1 for gap in gaps):
            self.told += len(lost)
            lost = []
        self._words(name, "understood", (lost, doubled, foreign))
        self.stale += (story.stale_samples + 479) // 480
        for turn in story.turns:
            self.turns += 1
            self.again += len(turn.again)
            self._words(
                f"{name} turn {turn.utterance + 1} ({turn.status})", "heard", (turn.lost, turn.doubled, turn.stale)
            )
            if turn.status not in RIGHT:
                self.failed += 1
                self.wrong.append(f"{name} turn {turn.utterance + 1}: {turn.status}: {turn.error}")
        if story.turns:
            self.went_on.append(max(turn.waited for turn in story.turns))

    def _words(self, name: str, what: str, found: tuple[list[int], list[int], list[int]]) -> None:
        for count, numbers in zip(("lost", "doubled", "stale"), found, strict=True):
            setattr(self, count, getattr(self, count) + len(numbers))
            if numbers:
                self.wrong.append(f"{name}: {count} of what was {what}: {numbers}")

    def as_json(self) -> dict[str, object]:
        """For --json."""
        return asdict(self)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [HEADERS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])
