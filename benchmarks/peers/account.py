"""What a step was like, from what its callers heard and what the scripted models saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.hearing import Turn
from benchmarks.peers.phone import Phone


@dataclass
class Step:
    """So many calls at once with one side. Times in ms from the onset of what interrupts, if not said otherwise."""

    side: str
    calls: int
    processes: int
    interruptions: int = 0
    clear: list[float] = field(default_factory=list)
    """Until ``clear`` reached the caller."""
    never: int = 0
    """Interruptions after which nothing fell silent before the caller gave up."""
    llm: list[float] = field(default_factory=list)
    """Until the LLM's server saw the request of what was interrupted dropped."""
    llm_to_the_end: int = 0
    """... which was never dropped, but written to its end after the interruption."""
    tts: list[float] = field(default_factory=list)
    """Until the TTS server had nothing of it left to speak."""
    stale_after: list[float] = field(default_factory=list)
    """From ``clear`` to the last frame of what was interrupted, where any came."""
    stale_frames: float = 0
    response: list[float] = field(default_factory=list)
    """From the end of what the caller said to the first sound of the reply."""
    utterances: int = 0
    missing: int = 0
    early: int = 0
    """Replies that began before the caller had ended."""
    again: int = 0
    """Replies that nobody had asked for."""
    underruns: int = 0
    empty_ms: float = 0
    """Silence within replies, in all."""
    broken: int = 0
    """Calls that the server ended, or never took."""
    cpu: dict[str, float] = field(default_factory=dict)
    """% of one core by process."""
    machine: float = 0
    """% of the whole machine, callers and models included."""
    memory: dict[str, float] = field(default_factory=dict)
    """MB resident by process."""
    late: float = 0
    """ms by which the caller's frames left after their time, p99: the harness's own fault."""

    def add(self, phone: Phone, seen: Sequence[dict[str, Any]], begin: float, end: float) -> None:
        """Count one call's turns that began between these times. ``seen``: the models' record of the step."""
        self.broken += bool(phone.broken)
        for turn in phone.hearing.turns:
            if turn.onset and begin <= turn.onset < end:
                self._turn(turn)
                if turn.over >= 0:
                    self._interruption(turn, [each for each in seen if each["reply"] == turn.over])

    def _turn(self, turn: Turn) -> None:
        self.utterances += 1
        self.again += turn.again
        self.underruns += len(turn.gaps)
        self.empty_ms += sum(turn.gaps) * 1000
        self.stale_frames += sum(frames for _, frames in turn.stale)
        if turn.answered is None:
            self.missing += 1
        elif turn.answered < turn.end or not turn.end:
            self.early += 1
        else:
            self.response.append((turn.answered - turn.end) * 1000)

    def _interruption(self, turn: Turn, seen: Sequence[dict[str, Any]]) -> None:
        self.interruptions += 1
        if turn.cleared is None:
            self.never += 1
        else:
            self.clear.append((turn.cleared - turn.onset) * 1000)
            if turn.stale:
                self.stale_after.append((turn.stale[-1][0] - turn.cleared) * 1000)
        after = [each for each in seen if each["ended"] > turn.onset]
        for each in (each for each in after if each["stage"] == "llm"):
            if each["dropped"]:
                self.llm.append((each["ended"] - turn.onset) * 1000)
            else:
                self.llm_to_the_end += 1
        if spoken := [each["ended"] for each in after if each["stage"] == "tts"]:
            self.tts.append((max(spoken) - turn.onset) * 1000)

    @property
    def server_cpu(self) -> float:
        """% of one core that the side itself took."""
        return sum(share for name, share in self.cpu.items() if name not in ("models", "callers"))

    @property
    def server_memory(self) -> float:
        """MB resident of the side itself."""
        return sum(size for name, size in self.memory.items() if name not in ("models", "callers"))
