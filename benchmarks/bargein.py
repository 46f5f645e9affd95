"""From the caller's onset to silence: ``make bench-bargein``.

Starts the whole product on free ports, calls it, interrupts it again and again, and prints distributions in ms of

    held       from the energy onset of what the caller says to silence at a client that plays its buffer out
      speech   ... of which until the gateway knew that somebody speaks (the detector's own latency, audio in flight)
      gateway  ... of which from there until the gateway had held its output
      wire     ... of which from there to silence at the client
    decided    from the energy onset to the confirmed interruption
    playback, tts, llm
               from the decision until the gateway heard that the stage had stopped; a stage that had finished before
               the cancel is counted apart
    response   from the caller's last sound to the first sound of the reply

and what the voice had made in vain. Times at the gateway are mapped to the client's clock by the quickest message of
the call. ``--engines real`` takes PocketSphinx, the demonstration talker and espeak (a quarter of a core a call);
``scripted`` takes engines that cost next to nothing and answer as fast as model servers do; ``chatterbox`` takes those
for hearing and thinking, and for the voice the real chatterbox-tts with a tiny model of random weights
(``make install-chatterbox``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.figures import machine, percentile
from benchmarks.picture import Panel, Picture, Spreads, add_options, save
from gateway.client import Call, NoReply
from tests.product import Product, running_product
from tests.speech import FOLDER

SCRIPTED = {
    "STT_ENGINE": "benchmarks.engines:Stt",
    "LLM_ENGINE": "benchmarks.engines:Llm",
    "TTS_ENGINE": "benchmarks.engines:Tts",
}
CHATTERBOX = SCRIPTED | {
    "TTS_ENGINE": "tests.workers.tts.random_chatterbox:RandomChatterbox",
    "TTS_PYTHON": os.environ.get("CHATTERBOX", ".venv-chatterbox") + "/bin/python",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
ENGINES: dict[str, dict[str, str]] = {"real": {}, "scripted": SCRIPTED, "chatterbox": CHATTERBOX}
ROWS = ("held", "speech", "gateway", "wire", "decided", "playback", "tts", "llm", "response")
Samples = dict[str, list[float]]


async def interrupt(call: Call, rng: random.Random, over: Path, found: Samples) -> None:
    """Let the reply that begins be heard for a while, say ``over`` over it, and note what happened when."""
    reply = await call.reply_started(30)
    await call.clock.sleep_until(call.clock.now() + 800 + 1000 * rng.random())
    seen = len(call.events)
    spoken = await call.say(over)
    cut = await call.reply(30)
    assert cut is reply
    await call.wait_for("response.created", 30, after=seen)
    note(call, seen, spoken.onset, cut, found)


def note(call: Call, seen: int, onset: float | None, cut: object, found: Samples) -> None:
    """Add the times of one interruption, from the events after index ``seen``."""
    holds = [hold for hold in getattr(cut, "holds", []) if hold.after_onset is not None]
    if onset is None or not holds:
        found["missed"].append(1)
        return
    steps = [(at, e) for at, e in call.events if e.get("type") == "bargein.step"]
    ahead = min(at - e["at_ms"] for at, e in steps)
    times = {}
    for _, event in [pair for pair in call.events[seen:] if pair[1].get("type") == "bargein.step"]:
        times.setdefault(event["step"], (event["at_ms"] + ahead, event["detail"]))
    silent = onset + holds[0].after_onset
    if "onset" not in times or "held" not in times or "cancelled" not in times:
        found["missed"].append(1)
        return
    found["held"].append(silent - onset)
    found["speech"].append(times["onset"][0] - onset)
    found["gateway"].append(max(0.0, times["held"][0] - times["onset"][0]))
    found["wire"].append(silent - times["held"][0])
    found["decided"].append(times["cancelled"][0] - onset)
    for stage in ("playback", "tts", "llm"):
        at, detail = times.get(f"stopped:{stage}", (None, ""))
        if at is None:
            found[f"{stage} silent"].append(1)
        elif detail.startswith("finished"):
            found[f"{stage} had finished"].append(1)
        else:
            found[stage].append(at - times["cancelled"][0])
        if stage == "tts":
            for name, unit in (("unheard", "samples unheard"), ("steps", "steps after"), ("tokens", "tokens")):
                if number := re.search(rf"(\d+) {unit}", detail):
                    found[name].append(float(number[1]))


async def one_call(
    product: Product, number: int, interruptions: int, question: Path, over: Path | None, found: Samples
) -> None:
    """One call with its interruptions, and the response times of its replies."""
    rng = random.Random(number)
    await asyncio.sleep(number * 0.2)
    async with Call(product.extended) as call:
        await call.say(question)
        for _ in range(interruptions):
            try:
                await interrupt(call, rng, over or question, found)
                if over:
                    await call.reply(30)
                    await call.say(question)
            except NoReply:
                found["lost"].append(1)
                return
        found["stale"].append(call.stale_samples)
        ends = [spoken.last_sound for spoken in call.spoken if spoken.last_sound is not None]
        for reply in call.replies:
            before = [end for end in ends if reply.started is not None and end < reply.started]
            if before and reply.started is not None:
                found["response"].append(reply.started - max(before))


async def measure(
    product: Product, calls: int, interruptions: int, question: Path, over: Path | None = None
) -> Samples:
    """Several calls at once."""
    found: Samples = defaultdict(list)
    each = -(-interruptions // calls)
    await asyncio.gather(*(one_call(product, n, each, question, over, found) for n in range(calls)))
    return found


def table(calls: int, engines: str, found: Samples) -> str:
    """The distributions as text."""
    lines = [f"{calls} call{'s' * (calls > 1)} at once, {engines} engines, {len(found['held'])} interruptions; ms"]
    lines.append(f"{'':10}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'n':>6}")
    for row in ROWS:
        if values := found.get(row):
            cells = [percentile(values, share) for share in (0.5, 0.95, 0.99)] + [max(values)]
            indent = "  " if row in ("speech", "gateway", "wire") else ""
            lines.append(f"{indent + row:10}" + "".join(f"{cell:8.1f}" for cell in cells) + f"{len(values):6}")
    wasted = ("stale", "unheard", "steps", "tokens")
    apart = {name: len(v) for name, v in found.items() if name not in (*ROWS, *wasted)}
    if apart:
        lines.append("counted apart: " + ", ".join(f"{name} {count}" for name, count in sorted(apart.items())))
    if unheard := found.get("unheard"):
        made = f"p50 {percentile(unheard, 0.5):.0f}, max {max(unheard):.0f}"
        lines.append(f"made by the voice and not heard: {made} samples")
    for name, what in (
        ("steps", "steps of the voice's model begun after the cancel"),
        ("tokens", "its tokens in vain"),
    ):
        if values := found.get(name):
            shares = ", ".join(f"p{share * 100:.0f} {percentile(values, share):.0f}" for share in (0.5, 0.95))
            lines.append(f"{what}: {shares}, max {max(values):.0f}, n {len(values)}")
    lines.append(f"stale samples: {sum(found['stale']):.0f}")
    return "\n".join(lines)


def panels(calls: int, found: Samples) -> list[Panel]:
    """The distributions drawn."""
    stages = {row: found[row] for row in ROWS if row not in ("decided", "response") and row in found}
    whole = {row: found[row] for row in ("decided", "response") if row in found}
    return [Spreads(f"{calls} at once, stages", stages), Spreads(f"{calls} at once", whole)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.bargein", description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[1], metavar="N", help="calls at once (default 1)")
    parser.add_argument("--interruptions", type=int, default=30, metavar="N", help="in all, per row (default 30)")
    parser.add_argument("--engines", choices=("auto", *ENGINES), default="auto")
    parser.add_argument("--question", type=Path, default=FOLDER / "story.wav", help="what the caller says")
    parser.add_argument("--over", type=Path, help="what is said over the replies (default: the question again)")
    add_options(parser)
    options = parser.parse_args()
    for file in filter(None, (options.question, options.over)):
        if not file.exists():
            parser.error(f"{file}: no such file; make speech writes the default question")
    print(machine(), flush=True)
    failed, runs, drawn = False, [], list[Panel]()
    for calls in options.calls:
        engines = options.engines if options.engines != "auto" else "real" if calls < 4 else "scripted"
        settings = ENGINES[engines]
        with tempfile.TemporaryDirectory() as folder, running_product(Path(folder), **settings) as product:
            found = asyncio.run(measure(product, calls, options.interruptions, options.question, options.over))
        print("\n" + table(calls, engines, found), flush=True)
        runs.append({"calls": calls, "engines": engines, **found})
        drawn += panels(calls, found)
        failed |= bool(sum(found["stale"]) or found.get("lost")) or not found["held"]
    save(options, {"runs": runs}, Picture("Barge-in, stage by stage", drawn))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
