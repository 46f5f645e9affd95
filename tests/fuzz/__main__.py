"""``make fuzz``: the tests of this folder with new examples, again and again.

::

    make fuzz                                       a minute or two
    make fuzz ARGS="--seconds 3600"                 for an hour, each round with another seed
    make fuzz ARGS="--examples 5000 -k doors"       many of some tests; what is behind goes to pytest
    make fuzz ARGS="--seed 7 --rounds 1"            a round again
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every parser.")
    parser.add_argument("--examples", type=int, default=500, help="of each test in a round (500)")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin rounds for so long; without: one round")
    parser.add_argument("--rounds", type=int, default=0, help="at most; 0: any number")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the next ones count up")
    options, rest = parser.parse_known_args()
    began, done = time.monotonic(), 0
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as folder:
        count = Path(folder) / "count"
        count.touch()
        environment = {**os.environ, "FUZZ_EXAMPLES": str(options.examples), "FUZZ_COUNT": str(count)}
        while True:
            told = [f"--hypothesis-seed={seed + done}", "-p", "no:cacheprovider", "--show-capture=no", *rest]
            ended = subprocess.run([sys.executable, "-m", "pytest", str(HERE), *told], env=environment).returncode
            done += 1
            took = time.monotonic() - began
            print(
                f"{count.stat().st_size} examples in {done} rounds, {took:.0f} s; the last seed was {seed + done - 1}"
            )
            if ended or took >= options.seconds or done == options.rounds:
                return ended


if __name__ == "__main__":
    sys.exit(main())
