"""A voice on its own: ``python -m benchmarks.tts_latency ENGINE ...``, in the environment that the engine needs.

Prints for each engine, as distributions over sentences of 20 to 160 characters,

    first chunk   ms from asking for a sentence to its first chunk
    rtf           seconds of work for one second of sound (below 1 is faster than real time)
    cancel        ms from a cancel at a random moment of a sentence until the engine had stopped
    steps         steps of its model begun after the cancel, where the engine counts them

``random-chatterbox`` is the real chatterbox-tts with random weights, ``--full`` in the full-size architecture, which
costs what real weights cost. Engines are set up by their environment variables, such as CHATTERBOX_VARIANT.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import defaultdict
from typing import Any

from benchmarks.figures import machine, percentile
from benchmarks.picture import Panel, Picture, Spreads, add_options, save
from bus.cancel import Cancelled, CancelToken
from workers.engines import EngineError, find

RANDOM = "tests.workers.tts.random_chatterbox:RandomChatterbox"
SENTENCES = (
    "Yes, of course I can.",
    "The bridge was opened in May, and people walked over it all day.",
    "Every evening she climbed one hundred and twelve steps and lit the lamp.",
    "One night a storm came up, the lamp went out, and a ship was near; she could hear its bell, but she had no oil "
    "left at all, and nobody came to help.",
)


async def whole(engine: Any, text: str, found: dict[str, list[float]]) -> float:
    """Speak a sentence; the seconds that it took."""
    began, first, samples = time.perf_counter(), 0.0, 0
    async for chunk in engine.speak(text, "", "en-US", CancelToken("s0-bench", 1)):
        if chunk.pcm and not first:
            first = time.perf_counter() - began
        samples += len(chunk.pcm) // 2
    took = time.perf_counter() - began
    found["first chunk"].append(first * 1000)
    found["rtf"].append(took / (samples / engine.rate))
    return took


async def cut(engine: Any, text: str, after: float, found: dict[str, list[float]]) -> None:
    """Cancel a sentence ``after`` seconds; nothing is noted when it had ended by then."""
    token = CancelToken("s0-bench", 1)

    async def listen() -> None:
        async for _ in engine.speak(text, "", "en-US", token):
            pass

    listening = asyncio.create_task(listen())
    await asyncio.wait({listening}, timeout=after)
    if listening.done():
        return
    began = time.perf_counter()
    token.cancel()
    listening.cancel()  # as the worker does
    try:
        await listening
    except (asyncio.CancelledError, Cancelled):
        found["cancel"].append((time.perf_counter() - began) * 1000)
    if hasattr(engine, "wasted") and (waste := engine.wasted(token)).steps >= 0:
        found["steps"].append(waste.steps)
        found["tokens"].append(waste.tokens)


async def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Load an engine, print its figures, and return all of them. Raises EngineError."""
    engine = find("tts", name)
    began = time.perf_counter()
    await engine.load()
    print(f"\n{name}: ready after {time.perf_counter() - began:.1f} s; {rounds} rounds of {len(SENTENCES)} sentences")
    rng, found = random.Random(1), defaultdict[str, list[float]](list)
    for _ in range(rounds):
        for text in SENTENCES:
            took = await whole(engine, text, found)
            await cut(engine, text, took * rng.random(), found)
    print(f"{'':12}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'n':>6}")
    for row, values in found.items():
        cells = [percentile(values, share) for share in (0.5, 0.95, 0.99)] + [max(values)]
        digits = 3 if row == "rtf" else 1
        print(f"{row:12}" + "".join(f"{cell:9.{digits}f}" for cell in cells) + f"{len(values):6}", flush=True)
    return found


def panels(name: str, found: dict[str, list[float]]) -> list[Panel]:
    """The distributions drawn."""
    times = {row: found[row] for row in ("first chunk", "cancel") if row in found}
    return [Spreads(name, times), Spreads(name, {"rtf": found["rtf"]}, "")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tts_latency", description=__doc__.split("\n")[0])
    parser.add_argument("engines", nargs="*", default=["espeak"], metavar="ENGINE")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="over all sentences (default 10)")
    parser.add_argument("--full", action="store_true", help="random-chatterbox: the full-size architecture")
    add_options(parser)
    options = parser.parse_args()
    if options.full:
        os.environ["RANDOM_CHATTERBOX"] = "full"
    print(machine())
    seen, drawn = {}, list[Panel]()
    for name in options.engines:
        try:
            seen[name] = asyncio.run(measure(RANDOM if name == "random-chatterbox" else name, options.rounds))
            drawn += panels(name, seen[name])
        except EngineError as error:
            print(error, file=sys.stderr)
            return 2
    save(options, {"engines": seen, "full": options.full}, Picture("A voice on its own", drawn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
