"""``make chaos``: calls with numbered words go on while a seeded script kills, stops and cuts off what serves them.

For each fault one round: N calls begin, each caller says numbered words and hears numbered words, and what is said is
counted in both directions. The table says, per fault, how many calls lived, how many words were lost or came twice, how
much stale audio was heard, and how long the longest silence was in which somebody waited for speech (``none`` shows it
without a fault). ``--short`` is what CI runs; ``--faults all`` every row that is built.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import machine
from benchmarks.picture import Panel, Picture, Spreads, add_options, save
from bus.history import read
from bus.keys import SESSION_STREAMS, call_key, live_key, session_key, work_key
from bus.streams import Bus, connector
from tests.chaos.caller import Caller, Story
from tests.chaos.faults import FAULTS, SHORT, Fault
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.page import PageCaller
from tests.chaos.phone import PhoneCaller
from tests.chaos.stock import StockCaller
from tests.chaos.verdict import Row, table

CALLERS: dict[str, type[Caller]] = {
    "client": Caller, "page": PageCaller, "stock": StockCaller, "phone": PhoneCaller,
}  # fmt: skip
BEGIN = 4.0
"""Seconds of a round before the first strike: every call is in its first turn or second."""
BETWEEN = 6.0
"""Seconds from the end of a strike to the next, at least."""
AFTER = 5.0
"""Seconds of a round after the last strike in which callers still begin to speak."""


def schedule(fault: Fault, rng: random.Random) -> list[float]:
    """The seconds to wait before each strike, from the round's beginning or from the end of the strike before."""
    return [(BETWEEN if strike else BEGIN) + 2 * rng.random() for strike in range(fault.strikes)]


async def play(fleet: Fleet, fault: Fault, seed: int, calls: int, words: int, traces: Path | None) -> Row:
    """One round."""
    rng = random.Random(f"{fault.name} {seed}")
    waits = schedule(fault, rng)
    seconds = sum(waits) + fault.strikes * fault.lasts + AFTER
    kind = CALLERS[fault.caller]
    callers = [kind(fleet.url, words, random.Random(rng.random()), seconds) for _ in range(min(calls, kind.most))]
    row = Row(fault.name, seed)

    async def script() -> None:
        for caller in callers:
            await caller.begun.wait()
        for wait in waits:
            await asyncio.sleep(wait)
            await fault.strike(fleet, rng)

    async def one(caller: Caller, after: float) -> None:
        await asyncio.sleep(after)
        await caller.run()

    await asyncio.gather(script(), *(one(caller, 0.3 * number) for number, caller in enumerate(callers)))
    bus = Bus(connector(fleet.redis_url))
    try:
        for caller in callers:
            story, known = caller.story, len(row.wrong)
            if story.call and (session := await bus.commands.get(call_key(story.call))):
                story.session = session.decode()
            row.add(story, await read(bus, story.session) if story.session else [])
            if traces is not None and story.session and len(row.wrong) > known:
                await trace(bus, story, traces)
        row.wrong += await left_over(bus)
    finally:
        await bus.close()
    return row


async def trace(bus: Bus, story: Story, folder: Path) -> None:
    """Write down a call in which something went wrong: what its client received, and its streams without audio."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    lines = [f"{at:9.0f} {json.dumps(event)}" for at, event in story.events]
    for name in SESSION_STREAMS:
        entries = await bus.replay(session_key(story.session, name))
        lines += [
            f"{name} {entry.id} {entry.fence} {asdict(entry.event)}"
            for entry in entries
            if "pcm" not in entry.event.__slots__
        ]
    await asyncio.to_thread((folder / story.session).write_text, "\n".join(lines) + "\n")


async def left_over(bus: Bus) -> list[str]:
    """What stands in Redis of calls that are over: within 3 s nothing may be live, offered or leased."""
    wrong: list[str] = []
    for _ in range(30):
        wrong = [
            f"{session.decode()} is over and counts as live" for session in await bus.commands.smembers(live_key(0))
        ]
        for stage in ("stt", "llm", "tts"):
            if left := await bus.commands.xlen(work_key(0, stage)):
                wrong.append(f"{left} offers of {stage} are left")
        if not wrong:
            break
        await asyncio.sleep(0.1)
    return wrong


async def run(options: argparse.Namespace, faults: list[Fault]) -> list[Row]:
    """All rounds, over one product."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(options.log or f"{folder}/log")
        async with running_fleet(Path(folder), log, options.workers, options.words, RETENTION_S="120") as fleet:
            for number, fault in enumerate(faults * options.rounds):
                await fleet.staffed(options.workers)
                seed, traces = options.seed + number // len(faults), Path(options.traces) if options.traces else None
                row = await play(fleet, fault, seed, options.calls, options.words, traces)
                rows.append(row)
                print(" ".join(row.cells()), file=sys.stderr, flush=True)
    return rows


def chosen(named: str) -> list[Fault]:
    """The faults that a list names. Raises ValueError."""
    if named == "all":
        return list(FAULTS.values())
    unknown = [name for name in named.split(",") if name not in FAULTS]
    if unknown:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    return [FAULTS[name] for name in named.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and of the callers")
    parser.add_argument("--rounds", type=int, default=1, help="how often, each with the next seed")
    parser.add_argument("--faults", default="all", help="comma-separated, or all: " + ", ".join(FAULTS))
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--calls", type=int, default=6, help="at a time")
    parser.add_argument("--workers", type=int, default=2, help="of each stage, and gateways")
    parser.add_argument("--words", type=int, default=16, help="of a reply")
    add_options(parser)
    parser.add_argument("--log", help="write what the processes print to this file")
    parser.add_argument("--traces", help="write each call in which something went wrong to a file in this folder")
    options = parser.parse_args(argv)
    try:
        faults = chosen(",".join(SHORT) if options.short else options.faults)
    except ValueError as error:
        parser.error(str(error))
    print(f"machine: {machine()}; {options.calls} calls, {options.workers} of each process")
    rows = asyncio.run(run(options, faults))
    print(table(rows))
    for row in [each for each in rows if not each.zero]:
        waits = ", ".join(
            f"{wait:.1f} s" for wait in schedule(FAULTS[row.fault], random.Random(f"{row.fault} {row.seed}"))
        )
        print(f"\n{row.fault}, seed {row.seed}: strikes after {waits}; again: ", end="")
        print(f"make chaos ARGS='--seed {row.seed} --calls {options.calls} --faults {row.fault}'")
        print("\n".join(f"  {line}" for line in row.wrong))
    waits: dict[str, list[float]] = {}
    for row in rows:
        waits.setdefault(row.fault, []).extend(row.went_on)
    drawn: list[Panel] = [Spreads("Longest wait for speech in a call", waits, "s")]
    save(options, {"rows": [row.as_json() for row in rows]}, Picture("What a call survives", drawn))
    return 0 if all(row.zero for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
