"""Deliberate faults in the real code, each of which is caught: ``python -m tests.simulation.mutations [NAME ...]``.

A fault replaces text of a module as it is imported, in a process of its own; no file is changed. Most are caught by
the simulation within a few seeds; some by a named test, because calls survive them by design.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

LIMIT = 240
"""Seconds of wall time after which a fault counts as not caught."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace ``old``, which must stand exactly once in the module's source, by ``new``."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault. ``test`` names the test that catches it; empty: the simulation."""

    name: str
    edits: tuple[Edit, ...]
    test: str = ""
    slow: bool = False
    """Whether it takes so many seeds that ``make test`` leaves it to ``-m slow``."""


MUTATIONS = (
    Mutation(
        "no-guard-at-the-gateway",
        (
            Edit(
                "gateway.inlet",
                "if live is None or live.number != event.turn:\n            return\n        if live.began is None:",
                "if live is None:\n            return\n        if live.began is None:",
            ),
            Edit("gateway.output", "if event.turn != self.playback.turn:", "if not self.playback.turn:"),
            Edit("gateway.playback", "if track is None or track.turn != turn:", "if track is None:"),
        ),
        slow=True,
    ),
    Mutation(
        "a-cancel-leaves-the-buffer",
        (Edit("gateway.stagehand", "output.drop() if output.playback.turn == turn else 0", "0"),),
    ),
    Mutation(
        "less-than-in-the-workers-guard",
        (Edit("bus.cancel", "if token.turn <= turn:", "if token.turn < turn:"),),
        test="tests/bus/test_cancel.py",
    ),
    Mutation(
        "less-than-in-the-script",
        (Edit("bus.scripts", "if turn > 0 and turn <= tonumber", "if turn > 0 and turn < tonumber"),),
    ),
    Mutation(
        "no-fence-in-the-script",
        (
            Edit(
                "bus.scripts",
                "tonumber(ARGV[2]) < fence then return 'FENCED'",
                "false then return 'FENCED'",
            ),
        ),
    ),
    Mutation(
        "acknowledged-before-stopping",
        (
            Edit(
                "workers.tts.worker",
                "            took = await until_cancelled(token, speech.speak())",
                "            token.on_cancel(lambda: self.acknowledge(lease, Stopped(lease.turn, 'tts', 'stopped')))\n"
                "            took = await until_cancelled(token, speech.speak())",
            ),
        ),
    ),
    Mutation(
        "resumed-from-what-was-sent",
        (Edit("gateway.playback", "            self._rewind(heard)\n", ""),),
    ),
    Mutation(
        "history-of-what-was-generated",
        (Edit("gateway.output", "self.playback.heard_text(now)", "self.playback.text_until(1 << 40)"),),
    ),
    Mutation(
        "nothing-is-withdrawn",
        (Edit("gateway.cancellable", "for stage in self.missing:", "for stage in ():"),),
        test="tests/simulation/test_withdrawn.py",
    ),
    Mutation(
        "a-takeover-says-everything-again",
        (Edit("workers.stt.worker", "await self._so_far(session, context) if lease.fence > 1 else (", "("),),
    ),
    Mutation(
        "a-takeover-forgets-a-pause",
        (
            Edit(
                "workers.stt.worker",
                "            return  # its audio is fed with what follows, should the utterance go on\n",
                "            ear.take()\n            return\n",
            ),
        ),
    ),
    Mutation(
        "a-pause-does-not-flush",
        (
            Edit(
                "workers.stt.worker",
                "            ear.paused = True\n            if self._streaming:",
                "            ear.paused = True\n            if False:",
            ),
        ),
    ),
    Mutation(
        "doubled-entries-are-read-twice",
        (
            Edit(
                "bus.reader",
                "        if not self._unique.is_new(fields):\n            return\n        entry",
                "        entry",
            ),
        ),
        slow=True,
    ),
    Mutation(
        "the-watermark-is-not-raised",
        (
            Edit(
                "gateway.stagehand",
                "            await self._session.pen.cancel(turn, action.reason)\n",
                "",
            ),
        ),
        slow=True,
    ),
    Mutation(
        "a-cancel-hits-the-next-turn",
        (
            Edit(
                "gateway.stagehand",
                "pen.cancel(turn, action.reason)",
                "pen.cancel(turn + 1, action.reason)",
            ),
        ),
    ),
    Mutation(
        "a-voice-taken-over-in-its-first-sentence-shifts",
        (
            Edit(
                "workers.tts.worker", "> self._sentence or self.chunks == 0:", "> self._sentence or self.samples == 0:"
            ),
        ),
    ),
    Mutation(
        "what-a-new-voice-repeats-is-played-again",
        (Edit("gateway.output", "samples = samples[max(0, -missing) :]", "samples = samples[:]"),),
    ),
    Mutation(
        "a-call-is-told-again",
        (Edit("gateway.calls", "if call.call_id in self._known:\n            return False\n        self", "self"),),
    ),
    Mutation(
        "a-second-output-counts",
        (Edit("gateway.calls", "        if said.call_id in known:\n            return False\n", ""),),
    ),
    Mutation(
        "a-takeover-calls-anew",
        (Edit("workers.llm.worker", "if any(isinstance(event, ToolCall) for event in written):", "if False:"),),
    ),
    Mutation(
        "nothing-is-taken-back",
        (Edit("gateway.moves", "turn=turn.go(Cause.TAKEN_BACK)), [Resume(turn.number)]", "turn=turn), []"),),
    ),
)


def catch(mutation: Mutation) -> tuple[bool, str]:
    """Whether the fault is caught, and by what."""
    environment = {**os.environ, "MUTATION": mutation.name}
    if mutation.test:
        command = ["-m", "pytest", "-q", "-x", "-p", "tests.simulation.mutant", mutation.test]
    else:
        command = ["-m", "tests.simulation.mutant"]
    try:
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"not caught within {LIMIT} s"
    last = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
    return (done.returncode == 1, last) if mutation.test else (done.returncode == 0, last)


def main() -> int:
    wanted = set(sys.argv[1:])
    escaped = []
    for mutation in MUTATIONS:
        if wanted and mutation.name not in wanted:
            continue
        began = time.perf_counter()
        caught, by = catch(mutation)
        print(
            f"{'caught' if caught else 'ESCAPED':8} {mutation.name} ({time.perf_counter() - began:.0f} s): {by}",
            flush=True,
        )
        if not caught:
            escaped.append(mutation.name)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
