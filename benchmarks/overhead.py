"""What records, journal, metrics and traces cost of a call's CPU: the same calls with and without, alternating.

Gateway, workers, client and fakeredis run in this one process, whose CPU time is measured. The engines are scripted and
cost next to nothing, so no model hides the overhead; the client's and fakeredis' own time is in both figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks.figures import machine, percentile
from benchmarks.picture import Picture, Spreads, add_options, save
from bus import tracing
from gateway.client import Call
from gateway.conductor import policy
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.record import Recorder
from tests.engines import ScriptedLlm, ScriptedTts
from tests.gateway.realtime_client import voice
from tests.stack import Stack, running_stack
from workers import runtime

QUESTION = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])


@contextmanager
def seen(on: bool) -> Iterator[None]:
    """With ``on`` everything is recorded, counted and traced; without, nothing of it is done."""
    with ExitStack() as stack:
        if on:
            tracing.use(SimpleSpanProcessor(InMemorySpanExporter()))
            stack.callback(tracing.use, None)
        else:

            async def untold(*arguments: object) -> None:
                pass

            nothing = lambda self, *arguments, **options: None  # noqa: E731
            stack.enter_context(patch.object(Journal, "decide", lambda self, state, event: policy(state, event)))
            stack.enter_context(patch.object(Journal, "rules", nothing))
            stack.enter_context(patch.object(Journal, "closing", nothing))
            stack.enter_context(patch.object(Metrics, "record", nothing))
            stack.enter_context(patch.object(runtime, "tell", untold))
            for name in ("spoke", "opened", "forget", "step", "closed", "stopped", "settled", "flush"):
                stack.enter_context(patch.object(Recorder, name, nothing))
        yield


async def one_call(stack: Stack, interruptions: int) -> None:
    """A call whose every reply but the last is interrupted."""
    async with Call(f"{stack.ws}&extensions=bargein") as call:
        await call.say(QUESTION)
        for _ in range(interruptions):
            await call.reply_started()
            await call.say(QUESTION)
            await call.reply()
        await call.reply()


async def measure(calls: int, interruptions: int) -> tuple[list[float], list[float]]:
    """CPU seconds of each call (with, without)."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    async with running_stack(
        llm=ScriptedLlm("One two three four five six."), tts=ScriptedTts(), end_of_turn_ms=300
    ) as stack:
        await one_call(stack, 1)
        for number in range(2 * calls):
            on = number % 4 in (0, 3)
            gc.collect()
            with seen(on):
                began = time.process_time()
                await one_call(stack, interruptions)
                spent[on].append(time.process_time() - began)
    return spent[True], spent[False]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--calls", type=int, default=12, help="calls of each kind")
    parser.add_argument("--interruptions", type=int, default=4, help="in each call")
    add_options(parser)
    options = parser.parse_args(argv)
    print(f"machine: {machine()}")
    seen_on, seen_off = asyncio.run(measure(options.calls, options.interruptions))
    for name, spent in (("with", seen_on), ("without", seen_off)):
        shown = ", ".join(f"p{share * 100:.0f} {percentile(spent, share) * 1000:.0f} ms" for share in (0.5, 0.95))
        print(f"CPU of a call {name} records, journal, metrics and traces: {shown} ({len(spent)} calls)")
    middle = percentile(seen_on, 0.5) / percentile(seen_off, 0.5) - 1
    print(f"difference of the medians: {middle * 100:+.1f} %")
    spent = {name: [each * 1000 for each in calls] for name, calls in (("with", seen_on), ("without", seen_off))}
    panel = Spreads("CPU of a call with and without them", spent)
    save(options, {"cpu_ms": spent}, Picture("What records, metrics and traces cost", [panel]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
