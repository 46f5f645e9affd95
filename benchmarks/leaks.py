"""Whether anything is left behind: ``make leak-check``.

Thousands of short sessions, several at a time, each with a reply that is cut off by the client's going. Every so
many of them memory, file descriptors and threads of each process are read. Once RETENTION_S has passed after the last,
the keys are those that there were before the first.

It fails when a process has more than 2 % (and 2 MB) more memory at the end than after the first thousand (--after), or
4 file descriptors or threads more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from redis.asyncio import Redis
from websockets.asyncio.client import connect

from benchmarks.figures import machine
from benchmarks.load import PROCESSES
from benchmarks.picture import Lines, Picture, add_options, save
from gateway.upkeep import LATE
from tests.product import Product, free_port, running_product

RETENTION_S, RESUME_S = 3, 1
SHARE, LEAST_MB, MORE = 0.02, 2.0, 4


@dataclass(frozen=True)
class Size:
    """One process at one moment."""

    memory: float
    """MB resident."""
    files: int
    threads: int


def sizes(product: Product) -> dict[str, Size]:
    """Every process that works, by name."""
    found = {}
    for pid, words in product.processes().items():
        name = next((PROCESSES[known] for known in PROCESSES if any(known in word for word in words)), "")
        if name:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            threads, files = (len(os.listdir(f"/proc/{pid}/{what}")) for what in ("task", "fd"))  # noqa: PTH208
            found[name] = Size(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threads)
    return found


async def session(url: str) -> None:
    """One short call: a reply is asked for, begins, and is left."""
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.send('{"type": "response.create"}')
        async with asyncio.timeout(30):
            async for text in socket:
                if '"response.output_audio.delta"' in str(text)[:60]:
                    return
    raise RuntimeError("a call ended before it was answered")


Curve = list[tuple[int, dict[str, Size]]]


async def run(product: Product, options: argparse.Namespace, curve: Curve) -> list[str]:
    """All sessions; what is wrong. ``curve`` gets (sessions so far, every process) at each look."""
    redis = Redis.from_url(product.redis_url)
    mark = min(options.after, options.sessions)
    left, done, first, began = iter(range(options.sessions)), 0, {}, time.monotonic()
    keys = await _keys(redis)
    url = product.ws

    async def some() -> None:
        nonlocal done, first
        for _ in left:
            await session(url)
            done += 1
            if done == mark:
                first = await asyncio.to_thread(sizes, product)
            if done % options.every == 0:
                seen = await asyncio.to_thread(sizes, product)
                curve.append((done, seen))
                shown = ", ".join(
                    f"{n} {s.memory:.1f} MB {s.files} fd {s.threads} thr" for n, s in sorted(seen.items())
                )
                print(f"{done} in {time.monotonic() - began:.0f} s: {shown}", flush=True)

    await asyncio.gather(*(some() for _ in range(options.at_a_time)))
    await asyncio.sleep(LATE + RESUME_S + 2 * RETENTION_S + 4)  # also for one whose end the server did not hear of
    wrong = [f"the key {key} is left" for key in sorted(await _keys(redis) - keys)][:20]
    last = await asyncio.to_thread(sizes, product)
    for name, begun in first.items():
        ended = last[name]
        more = ended.memory - begun.memory
        print(f"{name}: {begun.memory:.1f} -> {ended.memory:.1f} MB ({more / begun.memory * 100:+.1f} %), "
              f"{begun.files} -> {ended.files} fd, {begun.threads} -> {ended.threads} threads")  # fmt: skip
        if more > max(LEAST_MB, SHARE * begun.memory):
            wrong.append(f"{name} has grown by {more:.1f} MB since session {mark}")
        if ended.files > begun.files + MORE or ended.threads > begun.threads + MORE:
            wrong.append(f"{name} has more files or threads than after session {mark}")
    await redis.aclose()
    return wrong


async def _keys(redis: Redis) -> set[str]:
    """The names of all keys but those of who works here and of the queue of jobs."""
    names = {name.decode() async for name in redis.scan_iter(count=1000)}
    return {name for name in names if "{workers}" not in name and not name.startswith("rq:")}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--after", type=int, default=1000, help="sessions after which nothing may grow any more")
    parser.add_argument("--at-a-time", type=int, default=10)
    parser.add_argument("--every", type=int, default=500, help="sessions between two looks")
    add_options(parser)
    options = parser.parse_args(argv)
    port = free_port()
    models = f"http://127.0.0.1:{port}/v1"
    settings = {
        "STT_ENGINE": "http", "LLM_ENGINE": "openai", "TTS_ENGINE": "http",
        "STT_URL": models, "LLM_URL": models, "TTS_URL": models, "LOG_LEVEL": "WARNING", "GREETING": "",
        "RETENTION_S": str(RETENTION_S), "RESUME_S": str(RESUME_S), "MAX_SESSIONS": "1000", "STT_CAPACITY": "1000",
    }  # fmt: skip
    print(f"machine: {machine()}; {options.sessions} sessions, {options.at_a_time} at a time")
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.model_server", str(port)])
    try:
        with tempfile.TemporaryDirectory() as folder, running_product(Path(folder), **settings) as product:
            wrong = asyncio.run(run(product, options, curve := Curve()))
    finally:
        server.terminate()
        server.wait()
    print("\n".join(f"WRONG: {each}" for each in wrong) or "nothing is left behind")
    looks = [(done, {name: asdict(size) for name, size in seen.items()}) for done, seen in curve]
    names = sorted({name for _, seen in curve for name in seen})
    memory = {name: [(done, seen[name].memory) for done, seen in curve if name in seen] for name in names}
    panel = Lines("Memory (MB)", memory, "sessions made", even=False)
    save(options, {"wrong": wrong, "looks": looks}, Picture("What short sessions leave behind", [panel]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
