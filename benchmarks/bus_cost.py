"""What one session costs each part: commands and bytes of Redis, its memory, and the CPU of every process.

The product runs as it is, its Procfile under honcho, with scripted engines that cost next to nothing; so many calls
speak, are answered, and speak again. What is measured first without any call is subtracted. The callers are in this
process, which is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from benchmarks.figures import machine
from benchmarks.picture import Bars, Picture, add_options, save
from gateway.client import Call
from tests.engines import ScriptedLlm, ScriptedStt, ScriptedTts
from tests.product import Product, running_product
from tests.speech import path as speech

PARTS = ("gateway", "stt", "llm", "tts", "jobs")
TICKS = os.sysconf("SC_CLK_TCK")
MANY = 500


class Stt(ScriptedStt):
    capacity = MANY


class Llm(ScriptedLlm):
    capacity = MANY

    def __init__(self) -> None:
        super().__init__("One two three four five six. Seven eight nine ten eleven twelve.", pace=0.02)


class Tts(ScriptedTts):
    capacity = MANY


@dataclass
class Reading:
    """What had been used by a moment: seconds of CPU by part, commands, bytes in and out, bytes of memory."""

    at: float
    commands: int
    received: int
    sent: int
    memory: int
    cpu: dict[str, float] = field(default_factory=dict)
    by_command: dict[str, int] = field(default_factory=dict)


def read(product: Product, redis: Redis) -> Reading:
    """The counters now."""
    info = redis.info("all")
    reading = Reading(
        time.monotonic(), info["total_commands_processed"], info["total_net_input_bytes"],
        info["total_net_output_bytes"], info["used_memory"],
    )  # fmt: skip
    for part in PARTS:
        reading.cpu[part] = cpu(product.worker(part))
    reading.cpu["redis"] = cpu(info["process_id"])
    reading.by_command = {
        name.removeprefix("cmdstat_"): row["calls"] for name, row in info.items() if name.startswith("cmdstat_")
    }
    return reading


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def talk(url: str, until: float) -> int:
    """One call: ask, listen to the answer, ask again; how many answers."""
    answers = 0
    async with Call(url) as call:
        while time.monotonic() < until:
            await call.say(speech("time"))
            await call.reply(timeout=60)
            answers += 1
    return answers


async def measure(product: Product, sessions: int, seconds: float) -> dict[str, float]:
    """Print the table, and return what it says of one session."""
    with Redis.from_url(product.redis_url) as redis:
        idle = read(product, redis)
        await asyncio.sleep(min(10.0, seconds))
        still = read(product, redis)
        until = time.monotonic() + seconds + 5
        calls = [asyncio.create_task(talk(product.extended, until)) for _ in range(sessions)]
        await asyncio.sleep(5)
        began = read(product, redis)
        await asyncio.sleep(seconds)
        ended = read(product, redis)
        answers = await asyncio.gather(*calls)
    lasted, rested = ended.at - began.at, still.at - idle.at

    def each(first: float, last: float, before: float, after: float) -> float:
        return ((last - first) / lasted - (after - before) / rested) / sessions

    print(f"{machine()}; {sessions} sessions for {lasted:.0f} s, {sum(answers)} answers heard")
    rows = [
        ("redis: commands/s", each(began.commands, ended.commands, idle.commands, still.commands), "0f"),
        ("redis: kB/s in", each(began.received, ended.received, idle.received, still.received) / 1000, "1f"),
        ("redis: kB/s out", each(began.sent, ended.sent, idle.sent, still.sent) / 1000, "1f"),
        ("redis: MB of memory", (ended.memory - still.memory) / sessions / 1e6, "2f"),
    ]
    for part in ("redis", *PARTS):
        rows.append(
            (
                f"{part}: % of a core",
                100 * each(began.cpu[part], ended.cpu[part], idle.cpu[part], still.cpu[part]),
                "2f",
            )
        )
    print(f"{'per session':30}")
    for name, value, form in rows:
        print(f"  {name:28}{value:10.{form}}")
    print(f"without any session: {(still.commands - idle.commands) / rested:.0f} commands/s")
    calls_of = {name: ended.by_command[name] - began.by_command.get(name, 0) for name in ended.by_command}
    most = sorted(calls_of.items(), key=lambda item: -item[1])[:12]
    print("most used: " + ", ".join(f"{name} {count / lasted / sessions:.1f}/s" for name, count in most))
    return {name: value for name, value, _ in rows}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bus_cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=10, help=f"calls at a time, up to {MANY} (10)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long is measured (20)")
    add_options(parser)
    options = parser.parse_args(argv)
    engines = {f"{stage.upper()}_ENGINE": f"benchmarks.bus_cost:{stage.title()}" for stage in ("stt", "llm", "tts")}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_product(Path(folder), **engines, MAX_SESSIONS=str(MANY)) as product,
    ):
        rows = asyncio.run(measure(product, options.sessions, options.seconds))
    cpu = {name.partition(":")[0]: value for name, value in rows.items() if name.endswith("core")}
    rest = {name.removeprefix("redis: "): value for name, value in rows.items() if not name.endswith("core")}
    panels = [Bars("CPU of a session", cpu, "% of one core"), Bars("Redis, of a session", rest)]
    save(options, {"sessions": options.sessions, "per_session": rows}, Picture("What a session costs", panels))
    return 0


if __name__ == "__main__":
    sys.exit(main())
