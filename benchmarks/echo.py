"""What echo cancellation costs and leaves: ``python -m benchmarks.echo``. Needs the extra ``echo``.

Prints, for each rate in Hz that a client may send, the CPU time and the wall time of 10 ms of audio through
``gateway.echo``, the reference included, and how much weaker than the echo what it leaves is.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time

import numpy as np

from benchmarks.picture import Bars, Picture, add_options, save
from gateway.echo import DELAY, MISSING, EchoCanceller, Played, available

PLAYED = 24_000
SECONDS = 30
ECHO_S = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description=__doc__.split("\n")[0])
    add_options(parser)
    options = parser.parse_args()
    if not available():
        print(MISSING, file=sys.stderr)
        return 1
    print(
        f"Python {platform.python_version()}, {platform.machine()}; noise as loud as syllables, "
        f"its echo after {ECHO_S:.2f} s"
    )
    print(f"{'Hz':>6}  {'CPU ms':>7}  {'wall ms':>7}  {'ERLE dB':>7}")
    seen = {}
    for rate in sorted(DELAY):
        cpu, wall, erle = seen[rate] = measure(rate)
        print(f"{rate:>6}  {cpu:>7.3f}  {wall:>7.3f}  {erle:>7.1f}")
    panels = [
        Bars("CPU of 10 ms of audio", {f"{rate} Hz": cpu for rate, (cpu, _, _) in seen.items()}, "ms"),
        Bars("Echo return loss enhancement", {f"{rate} Hz": erle for rate, (_, _, erle) in seen.items()}, "dB"),
    ]
    rows = [{"rate": rate, "cpu_ms": cpu, "wall_ms": wall, "erle_db": erle} for rate, (cpu, wall, erle) in seen.items()]
    save(options, {"rows": rows}, Picture("Echo cancellation", panels))
    return 0


def measure(rate: int) -> tuple[float, float, float]:
    """(CPU ms, wall ms) of 10 ms, and ERLE in dB after the first 3 s. Caller and reference both at ``rate``."""
    rng = np.random.default_rng(1)
    loud = np.repeat(rng.random(SECONDS * 5) ** 2, rate // 5)  # as loud as syllables are
    played = (3000 * loud * rng.normal(size=SECONDS * rate)).clip(-32768, 32767).astype("<i2")
    echo = np.concatenate([np.zeros(int(ECHO_S * rate)), 0.2 * played])[: len(played)]
    heard = (echo + rng.normal(size=len(played)) * 3).astype("<i2")
    now = 0.0
    reference = Played(rate)
    canceller = EchoCanceller(rate, reference, lambda: now)
    canceller.load()
    step, left = rate // 50, []
    began = time.process_time(), time.perf_counter()
    for start in range(0, len(played), step):
        reference.send(played[start : start + step].tobytes(), now)
        now += 0.02
        left.append(canceller.feed(heard[start : start + step].tobytes()))
    frames = SECONDS * 100 / 1000
    cost = (time.process_time() - began[0]) / frames, (time.perf_counter() - began[1]) / frames
    rest = np.frombuffer(b"".join(left), "<i2")[3 * rate :].astype(float)
    return *cost, 10 * np.log10(np.mean(echo[3 * rate :] ** 2) / np.mean(rest**2))


if __name__ == "__main__":
    sys.exit(main())
