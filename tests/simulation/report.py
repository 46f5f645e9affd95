"""What a run covered, and how a seed failed, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gateway.turns import TRANSITIONS
from tests.simulation.world import Outcome

SCHEDULE = 60
"""Lines of a failing seed's log that are printed."""


def covered(outcomes: Sequence[Outcome]) -> str:
    """A table of what happened in all worlds together."""
    counts = sum((outcome.counts for outcome in outcomes), Counter())
    ends = sum((outcome.outcomes for outcome in outcomes), Counter())
    transitions = sum((outcome.transitions for outcome in outcomes), Counter())
    seconds = sum(outcome.session_seconds for outcome in outcomes)
    rows = [
        f"{len(outcomes)} worlds, {seconds:.0f} s of calls, {sum(outcome.barge_ins for outcome in outcomes)} barge-ins",
        "turns: " + ", ".join(f"{n} {name}" for name, n in sorted(ends.items())),
        *(f"{name}: {n}" for name, n in sorted(counts.items())),
        *(f"{a.value} --{c.value}--> {b.value}: {transitions[a, c]}" for (a, c), b in TRANSITIONS.items()),
    ]
    return "\n".join(rows)


def failed(outcome: Outcome) -> str:
    """The end of a failing seed's schedule, and how to see it again."""
    return "\n".join(
        [
            f"seed {outcome.seed} (digest {outcome.digest}): {outcome.failure}",
            *outcome.log[-SCHEDULE:],
            f"again: python -m tests.simulation {outcome.seed}     (all of it: --log)",
        ]
    )
