"""How many calls one machine listens to at once with a streaming NeMo model: ``python -m benchmarks.stt_capacity``.

Plays streams in real time, each beginning at a moment of its own and ending in mid-chunk, and takes all whose chunk is
due in one step; looks for the most streams with which the p95 of a step does not take longer than a chunk lasts, and no
chunk waits longer than that for its text (p95). For each attention context, and beside it NeMo's own
CacheAwareRNNTPipeline with the same model and audio in the same run:

    streams    how many fitted; a + where more were not tried
    step, wait, final
               with so many, in ms: a step; from a complete chunk to its text; from the audio's end to the last text
    few        with so few streams:
    partial    from a stream's beginning to its first text
    final      as above
    encoder, decoder
               a step's parts, measured apart with a chunk of each of the few
    MB/stream  what is kept of a stream between steps

The model is the architecture of nemotron-speech-streaming-en-0.6b with random weights whose blank is biased until it
writes 3 to 4 tokens a second; ``--tiny`` takes the tests' 20-word model, for a machine without a GPU. Needs
``make install-nemo``; run it with that Python.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.picture import Bars, Picture, add_options, save
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


def burst(contender: Contender, streams: int, repeats: int = 3) -> float:
    """Seconds of a step with a whole chunk of each stream; the median of a few, but for the first two."""
    contender.begin(streams)
    took = []
    audio = noise((repeats + 2) * contender.chunk / RATE)
    for repeat in range(repeats + 2):
        samples = audio[repeat * contender.chunk : (repeat + 1) * contender.chunk]
        pieces = [Piece(stream, samples, repeat == 0, False) for stream in range(streams)]
        began = time.perf_counter()
        contender.step(pieces)
        wait_for_gpu()
        took.append(time.perf_counter() - began)
    return percentile(took[2:], 50)


def guess(contender: Contender, few: int, limit: int) -> int:
    """How many streams might fit.

    A step takes a time, and more for each chunk that is due in it; due are those that came during the step before. A
    chunk waits for the rest of that step and its own: about twice, which must not be longer than a chunk.
    """
    many = min(4 * few, limit)
    lower, upper = burst(contender, few), burst(contender, many)
    each = max((upper - lower) / max(1, many - few), 1e-6)
    alone = max(lower - few * each, 0.0)
    chunk = contender.chunk / RATE
    return int(min(limit, max(4, chunk / each * (1 - 2 * alone / chunk))))


def most(contender: Contender, calm: Played, seconds: float, limit: int, tries: int) -> tuple[Played, list[int]]:
    """The largest run that fits, ``limit`` streams at most, in so many runs; and the sizes that did not fit.

    ``calm`` is a run with few streams.
    """
    chunk = contender.chunk / RATE
    best, failed = (calm, []) if calm.fits(chunk) else (Played(0), [calm.streams])
    size = guess(contender, calm.streams, limit)
    for _ in range(tries):
        low, high = best.streams, min(failed, default=2 * limit)
        if low >= limit or high - low <= max(1, low // 16):
            break
        if not low < size < high:
            size = (low + high) // 2
        try:
            run = play(contender, size, seconds)
        except torch.OutOfMemoryError:
            run = Played(size)
        if run.fits(chunk):
            best, size = run, min(limit, int(size * 1.3) + 1)
        else:
            failed.append(size)
            # Far below what was too much nothing is known: halving finds it sooner than the middle.
            size //= 2
    return best, sorted(failed)


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


def measured(context: str, contender: Contender, given: argparse.Namespace) -> dict[str, Any]:
    """All of a contender in a context; times in ms."""
    began = time.perf_counter()
    contender.use([int(part) for part in context.split(",")], given.limit)
    few = min(given.few, given.limit)
    play(contender, few, 2)  # warms up
    calm = play(contender, few, given.seconds)
    best, failed = most(contender, calm, given.seconds, given.limit, given.tries)
    apart = parts(contender, few)
    kept = contender.bytes_per_stream()
    contender.end()

    def ms(values: list[float]) -> list[float | None]:
        return [round(percentile(values, which) * 1000, 2) if values else None for which in (50, 95, 99)]

    return {
        "context": context,
        "contender": contender.name,
        "streams": best.streams,
        "limit": given.limit,
        "failed": failed,
        "full": {name: ms(getattr(best, name)) for name in ("steps", "waits", "partials", "finals")},
        "few": few,
        "calm": {name: ms(getattr(calm, name)) for name in ("steps", "waits", "partials", "finals")},
        "encoder": ms(apart.encoder),
        "decoder": ms(apart.decoder),
        "bytes_per_stream": kept,
        "took_s": round(time.perf_counter() - began, 1),
    }


def row(found: dict[str, Any]) -> str:
    """One line of the table."""

    def pair(values: list[float | None]) -> str:
        return " ".join("      -" if value is None else f"{value:7.1f}" for value in values[:2])

    full, calm = found["full"], found["calm"]
    more = "+" if found["streams"] >= found["limit"] else " "
    return (
        f"{found['context']:<5} {found['contender']:<16} {found['streams']:>7}{more}"
        f" {pair(full['steps'])} {pair(full['waits'])} {pair(full['finals'])} "
        f" {found['few']:>4} {pair(calm['partials'])} {pair(calm['finals'])} {pair(found['encoder'])}"
        f" {pair(found['decoder'])}  {found['bytes_per_stream'] / 1e6:6.2f}"
    )


HEAD = (
    "ctx   engine           streams     step p50/p95    wait p50/p95   final p50/p95"
    "    few partial p50/p95   final p50/p95 encoder p50/p95 decoder p50/p95  MB/stream"
)


def picture(rows: list[dict[str, Any]]) -> Picture:
    """How many streams each holds, and its calm times."""
    names = [f"{row['context']} {row['contender']}" for row in rows]
    streams = {name: float(row["streams"]) for name, row in zip(names, rows, strict=True)}
    finals = {name: row["calm"]["finals"][0] or 0.0 for name, row in zip(names, rows, strict=True)}
    panels = [Bars("Streams held", streams), Bars("Utterance's end → its text, few streams, p50", finals, "ms")]
    return Picture("Recognition", panels)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stt_capacity", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the tests' 20-word model instead of the 0.6b architecture")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long streams are (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=8192, help="the most streams tried (default: %(default)s)")
    parser.add_argument("--tries", type=int, default=6, help="runs per search (default: %(default)s)")
    parser.add_argument(
        "--few", type=int, default=32, help="streams of the calm run and of the parts' times (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="keep the model there, for other runs as well")
    parser.add_argument("--make", action="store_true", help="make the model and no more")
    add_options(parser)
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
        contexts = [[int(part) for part in each.split(",")] for each in given.contexts]
        weights = make(given.model or Path(folder), tiny=given.tiny, device=device, dtype=dtype, contexts=contexts)
        paces = [round(pace, 1) for _, pace in weights.blanks.values()]
        kind = "20-word model" if given.tiny else "0.6b architecture, random weights"
        machine = (
            f"{where}; {dtype}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
            f"torch {torch.__version__}, NeMo {version('nemo_toolkit')}; "
            f"{kind}, {min(paces)} to {max(paces)} tokens/s; streams of {given.seconds:g} s"
        )
        print(machine)
        if given.make:
            return 0
        print(HEAD, flush=True)
        contenders: tuple[Contender, ...] = (Ours(weights, device, dtype), Pipeline(weights, device, dtype))
        gc.collect()
        gc.freeze()
        rows: list[dict[str, Any]] = []
        for context in given.contexts:
            for contender in contenders:
                rows.append(measured(context, contender, given))
                print(row(rows[-1]), flush=True)
                save(given, {"rows": rows, "machine": machine}, picture(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
