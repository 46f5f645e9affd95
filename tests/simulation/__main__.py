"""Run seeds by hand: ``python -m tests.simulation 7``, or ``100-199`` for many; ``--log`` prints the whole schedule."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.report import covered, failed
from tests.simulation.test_simulation import HOUR
from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="one seed, or FIRST-LAST")
    parser.add_argument("--log", action="store_true", help="print every line of the schedule")
    parser.add_argument("--grep", default="", help="print only lines that hold this text, failure or not")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    outcomes, broken = [], 0
    for seed in range(int(first), int(last or first) + 1):
        outcome = World(seed, HOUR).run()
        outcomes.append(outcome)
        if options.log or options.grep:
            print("\n".join(line for line in outcome.log if options.grep in line))
        if outcome.failure:
            broken += 1
            print(failed(outcome), flush=True)
    print(covered(outcomes))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
