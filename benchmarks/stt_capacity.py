"""How many calls one machine listens to at once with a streaming NeMo model: ``python -m benchmarks.stt_capacity``.

Plays streams in real time, each beginning at a moment of its own and ending in mid-chunk, and takes all whose chunk is
due in one step; doubles their number, then narrows it down, until the p95 of a step takes longer than a chunk lasts, or
a chunk waits longer than that for its text. For each attention context, and beside it NeMo's own
CacheAwareRNNTPipeline with the same model and audio in the same run:

    streams    how many fitted
    step       a step's time with so many (ms)
    encoder, decoder
               its parts, measured apart with all streams in one step
    partial    from a stream's beginning to its first text (ms)
    final      from the end of a stream's audio to its final text (ms)
    memory     what is kept of a stream between steps (MB)

The model is the architecture of nemotron-speech-streaming-en-0.6b with random weights whose blank is biased until it
writes 3 to 4 tokens a second; ``--tiny`` takes the tests' 20-word model, for a machine without a GPU. Needs
``make install-nemo``; run it with that Python.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.stt_contenders import Apart, Contender, Ours, Piece, Pipeline, wait_for_gpu
from benchmarks.stt_weights import RATE, make, noise


@dataclass
class Played:
    """What a run of streams showed. Seconds."""

    streams: int
    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """From the moment at which a chunk was complete to its text."""
    partials: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)

    def fits(self, chunk: float) -> bool:
        """Whether the machine kept up."""
        return bool(self.steps) and percentile(self.steps, 95) <= chunk and percentile(self.waits, 95) <= chunk


def percentile(values: Iterable[float], which: float) -> float:
    """Of any number of values; nan of none."""
    found = list(values)
    return float(np.percentile(found, which)) if found else float("nan")


def play(contender: Contender, streams: int, seconds: float) -> Played:
    """Play so many streams of about so many seconds in real time. Gives up once it is three chunks behind."""
    chunk = contender.chunk
    chance = np.random.default_rng(streams)
    pool = [noise(seconds + 3, seed) for seed in range(8)]
    starts = chance.uniform(0, chunk / RATE, streams)
    lengths = np.maximum(chance.uniform(seconds - 1, seconds + 1, streams), 1.5 * chunk / RATE) * RATE
    due = [
        (starts[stream] + min(at + chunk, int(lengths[stream])) / RATE, stream, at)
        for stream in range(streams)
        for at in range(0, int(lengths[stream]), chunk)
    ]
    due.sort()
    played, waiting = Played(streams), set(range(streams))
    contender.begin(streams)
    began, following = time.perf_counter(), 0
    while following < len(due):
        time.sleep(max(0.0, due[following][0] - (time.perf_counter() - began)))
        now, together, taken = time.perf_counter() - began, [], set()
        if now - due[following][0] > 3 * chunk / RATE:
            return Played(streams)
        while following < len(due) and due[following][0] <= now and due[following][1] not in taken:
            together.append(due[following])
            taken.add(due[following][1])
            following += 1
        pieces = [
            Piece(
                stream,
                pool[stream % len(pool)][at : min(at + chunk, int(lengths[stream]))],
                first=at == 0,
                last=at + chunk >= int(lengths[stream]),
            )
            for _, stream, at in together
        ]
        stepped = time.perf_counter()
        texts = contender.step(pieces)
        wait_for_gpu()
        done = time.perf_counter()
        played.steps.append(done - stepped)
        for (at_time, stream, _), piece, text in zip(together, pieces, texts, strict=True):
            (played.finals if piece.last else played.waits).append(done - began - at_time)
            if text and stream in waiting:
                waiting.discard(stream)
                played.partials.append(done - began - starts[stream])
    return played


def most(contender: Contender, seconds: float, limit: int) -> Played:
    """The largest run that fits, ``limit`` streams at most: doubled, then narrowed down to an eighth."""
    chunk = contender.chunk / RATE
    play(contender, 1, min(seconds, 4))  # warms up
    best, size = Played(0), 1
    while size <= limit and (run := play(contender, size, seconds)).fits(chunk):
        best, size = run, size * 2
    low, high = best.streams, min(size, limit + 1)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        run = play(contender, middle, seconds)
        if run.fits(chunk):
            best, low = run, middle
        else:
            high = middle
    return best


def parts(contender: Contender, streams: int, repeats: int = 12) -> Apart:
    """The parts' times of steps with all streams, the first few left out."""
    apart = Apart()
    contender.begin(streams)
    audio = noise((repeats + 1) * contender.chunk / RATE)
    with contender.timed(apart):
        for repeat in range(repeats):
            samples = audio[repeat * contender.chunk : (repeat + 1) * contender.chunk]
            contender.step([Piece(stream, samples, repeat == 0, False) for stream in range(streams)])
    return Apart(apart.encoder[3:], apart.decoder[3:])


def row(context: list[int], contender: Contender, seconds: float, limit: int) -> str:
    """One line of the table."""
    best = most(contender, seconds, limit)
    apart = parts(contender, max(1, best.streams))
    kept = contender.bytes_per_stream()

    def ms(values: list[float]) -> str:
        return f"{percentile(values, 50) * 1000:7.1f} {percentile(values, 95) * 1000:7.1f}"

    return (
        f"{context[0]},{context[1]:<3} {contender.name:<16} {best.streams:>7}{'+' if best.streams >= limit else ' '}"
        f" {ms(best.steps)}  {ms(apart.encoder)}  {ms(apart.decoder)}  {ms(best.partials)}  {ms(best.finals)}"
        f"  {kept / 1e6 if kept else float('nan'):6.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stt_capacity", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the tests' 20-word model instead of the 0.6b architecture")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long streams are (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1024, help="the most streams tried (default: %(default)s)")
    parser.add_argument("--contexts", nargs="+", default=["70,13", "70,6", "70,1", "70,0"], metavar="LEFT,AHEAD")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on a CPU; 0: as torch thinks best")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    if device == "cpu" and not given.tiny:
        print("no GPU here; --tiny measures the tests' model on the CPU", file=sys.stderr)
        return 1
    if given.threads:
        torch.set_num_threads(given.threads)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    with tempfile.TemporaryDirectory() as folder:
        path, pace = make(Path(folder), tiny=given.tiny, device=device, dtype=dtype)
        print(
            f"{where}; {dtype}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
            f"torch {torch.__version__}, NeMo {version('nemo_toolkit')}; "
            f"{'20-word model' if given.tiny else '0.6b architecture, random weights'}, {pace:.1f} tokens/s; "
            f"streams of {given.seconds:g} s"
        )
        print("ctx   engine           streams     step p50/p95    encoder p50/p95  decoder p50/p95"
              "  partial p50/p95    final p50/p95  MB/stream")  # fmt: skip
        makers: tuple[Callable[..., Contender], ...] = (Ours, Pipeline)
        for context in ([int(part) for part in each.split(",")] for each in given.contexts):
            for maker in makers:
                print(row(context, maker(path, context, device, dtype), given.seconds, given.limit), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
