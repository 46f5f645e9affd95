"""bargein, Pipecat and LiveKit Agents under the same phone calls: ``make bench-peers``.

Each side in turn, at each number of calls, with a fresh server: every caller speaks, hears the reply for a while, and
interrupts it, again and again. All sides ask the same scripted model servers (100 ms to a text, 150 ms to the first
token and 40 tokens a second, 80 ms to the first audio, four times as fast as it is heard). Then 200 short calls each,
six at a time, for the memory that they leave behind, and one call each whose server is killed. What is measured, and
how to read it: docs/benchmarks.md.

With ``--from FILE`` nothing is measured: the tables of that run are printed. ``--docs`` puts them and the picture into
docs/benchmarks.md. The whole run takes 21 minutes; the peers are installed first, into build/peers (1 GB).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import machine
from benchmarks.peers import kill, run, table
from benchmarks.peers.phone import Speech
from benchmarks.peers.sides import FORGETFUL, SIDES
from benchmarks.picture import add_options, save
from gateway.client_audio import AudioError
from tests.product import ROOT
from tests.speech import FOLDER

SENTENCES = [FOLDER / f"{name}.wav" for name in ("time", "count", "story")]
VARIANTS = ("bargein-300", "bargein-eager", "pipecat-0.6")
"""The same server with another setting: its memory over short calls and its end by kill -9 are no others."""


def measure(options: argparse.Namespace, sentences: Sequence[Speech]) -> dict[str, Any]:
    """The whole run. What is known so far is kept in the JSON file, if there is one."""
    seen: dict[str, Any] = {"sides": {side.name: side.about for side in options.sides}, "steps": []}
    seen |= {"short_calls": {}, "killed": {}}
    whole = [side for side in options.sides if side.name not in VARIANTS]

    def keep() -> None:
        save(argparse.Namespace(json=options.json, picture=None), seen, table.Picture(""))

    for step in run.steps(options.sides, options.calls, options.seconds, sentences):
        seen["steps"].append(asdict(step))
        print(table.row(step), flush=True)
        keep()
    if options.short_calls:
        short = [each for side in whole for each in ((side, FORGETFUL) if side.name == "bargein" else (side,))]
        for name, sizes in run.memory(short, options.short_calls, sentences):
            seen["short_calls"][name] = sizes
            print(f"{name}: {sizes[0][1]:.0f} MB, after {sizes[-1][0]} short calls {sizes[-1][1]:.0f}", flush=True)
            keep()
    if options.kill:
        for what, became in kill.run(whole, sentences):
            seen["killed"][what] = became
            print(f"kill -9 of {what}: {became}", flush=True)
            keep()
    return seen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--calls", default="1,5,10,25,50", help="at once, comma-separated (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="that a step is measured for (default: 30, 18, 10, 10, 10)")
    parser.add_argument("--short-calls", type=int, default=200, metavar="N", help="0: none (default: %(default)s)")
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="kill no server")
    parser.add_argument("--speech", type=Path, nargs="+", default=SENTENCES, help="sound files: what callers say")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a run's JSON: measure nothing")
    parser.add_argument(
        "--docs", action="store_true", help="with --from: put its tables and its picture into docs/benchmarks.md"
    )
    add_options(parser)
    options = parser.parse_args(argv)
    if options.source:
        seen = json.loads(options.source.read_text())
        print(table.markdown(seen))
        if options.docs:
            drawn = ROOT / "docs" / "images" / "peers.svg"
            drawn.write_text(table.picture(seen).svg())
            table.into(ROOT / "docs" / "benchmarks.md", f"{table.markdown(seen)}\n\n![{table.ABOUT}](images/peers.svg)")
        save(argparse.Namespace(json=None, picture=options.picture), seen, table.picture(seen))
        return 0
    try:
        options.sides = [SIDES[name] for name in options.sides.split(",")]
        options.calls = [int(number) for number in options.calls.split(",")]
        sentences = [Speech.load(file) for file in options.speech]
    except KeyError as error:
        parser.error(f"no such side: {error}; there are: {', '.join(SIDES)}")
    except (ValueError, AudioError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is ended
    for side in options.sides:
        side.install()
    print(f"machine: {machine()}")
    print(table.HEAD, flush=True)
    seen = measure(options, sentences)
    save(options, seen, table.picture(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
