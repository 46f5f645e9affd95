"""The record of each turn: what happened when, what a cancel cost, and which stage did not answer it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bus.events import Stopped, TurnRecord

Step = tuple[str, float, str]
"""(name, milliseconds since the session began, detail)."""


@dataclass(slots=True)
class _Open:
    """A turn that is not settled yet."""

    utterance: int
    steps: list[Step]
    outcome: str = ""
    reason: str = ""
    heard: int = 0
    acks: list[Stopped] = field(default_factory=list)


class Recorder:
    """Collects one session's steps and writes a record of each turn, once, when it is settled."""

    def __init__(self, write: Callable[[TurnRecord], None]) -> None:
        self._write = write
        self._turns: dict[int, _Open] = {}
        self._utterances: dict[int, list[Step]] = {}

    def spoke(self, utterance: int, step: Step) -> None:
        """A step of an utterance: it begins the record of the turn that the utterance leads to."""
        self._utterances.setdefault(utterance, []).append(step)

    def opened(self, turn: int, utterance: int) -> None:
        """A turn begins; ``utterance`` led to it (0: none)."""
        self._turns[turn] = _Open(utterance, self._utterances.pop(utterance, []))

    def forget(self, utterance: int) -> None:
        """An utterance that leads to no turn any more: it was nothing, or is answered with a later one."""
        self._utterances.pop(utterance, None)

    def step(self, turn: int, step: Step) -> None:
        """A step of a turn; one that is settled, or unknown, is left alone."""
        if turn in self._turns:
            self._turns[turn].steps.append(step)

    def closed(self, turn: int, outcome: str, reason: str, heard: int) -> None:
        """The turn is over for the client; ``heard`` in ms. It is settled when its stages have stopped."""
        if turn in self._turns:
            record = self._turns[turn]
            record.outcome, record.reason, record.heard = outcome, reason, heard

    def stopped(self, turn: int, ack: Stopped) -> None:
        """A stage of a cancelled turn has stopped."""
        if turn in self._turns:
            self._turns[turn].acks.append(ack)

    def settled(self, turn: int, unanswered: Sequence[str] = ()) -> None:
        """Nothing more is to come of the turn: its record is written."""
        record = self._turns.pop(turn, None)
        if record is None:
            return
        made = {ack.stage: ack for ack in record.acks}
        self._write(
            TurnRecord(
                turn,
                record.utterance,
                record.outcome,
                record.reason,
                record.heard,
                json.dumps([(name, round(at, 1), detail) for name, at, detail in record.steps], separators=(",", ":")),
                ",".join(unanswered),
                made["tts"].samples if "tts" in made else 0,
                made["llm"].tokens if "llm" in made else 0,
            )
        )

    def flush(self) -> None:
        """The session is over: what is not settled is written as it stands."""
        for turn in list(self._turns):
            self.settled(turn)


def described(ack: Stopped) -> str:
    """An acknowledgement in words: its outcome, how long it took, what was in vain."""
    parts = [ack.outcome, ack.detail]
    parts += [f"{ack.took:.1f} ms"] if ack.took else []
    parts += [f"{ack.samples} samples unheard"] if ack.samples else []
    parts += [f"{ack.tokens} tokens"] if ack.tokens else []
    parts += [f"{ack.steps} steps after"] if ack.steps >= 0 else []
    return ", ".join(filter(None, parts))
