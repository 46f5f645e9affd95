"""How many calls a machine holds: ``make bench-load``.

Starts the whole product with the HTTP engines, a scripted model server behind them (100 ms to a text, 150 ms to the
first token and 40 tokens a second, 80 ms to the first audio), and callers, all on this machine. For each step so many
calls go on at once: each caller speaks, hears the reply for a while, and interrupts every second one. Printed per step

    held        from the onset of what interrupts to the server's word that the output is held, in ms (p50, p95)
    response    from the caller's last sound to the first audio, in ms (p50, p95)
    underruns   replies in which the client's buffer ran empty; each is heard
    missing     replies that did not come within 15 s, and calls that were refused or cut
    CPU         % of one core by process, and of one call; memory in MB

``--gateways 2`` runs that many gateway processes on one port. It stops after the first step that is not held: p95 of
held beyond 200 ms, an underrun, or a reply missing; ``--all`` goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks import numbered
from benchmarks.figures import machine, percentile
from benchmarks.picture import Lines, Picture, add_options, save
from gateway.client_audio import FRAME_MS, PER_MS, load, sounding
from tests.product import Product, free_port, running_product
from tests.speech import path

LIMIT_MS = 200.0
PATIENCE = 15.0
PROCESSES = {
    "gateway.app": "gateway", "workers.stt.worker": "stt", "workers.llm.worker": "llm", "workers.tts.worker": "tts",
    "workers.jobs.worker": "jobs", "valkey-server": "redis", "redis-server": "redis",
}  # fmt: skip
NAMES = ("gateway", "stt", "llm", "tts", "redis", "models", "callers")
BEGINNINGS = ("time", "count", "story")
BEGINNING_MS = 300
"""Each utterance begins like one of these recordings, for so long: an onset is a voice's, not that of the tones that
are played over one."""
NOISE = 16.0
"""RMS of the noise on the callers' lines: -66 dBFS. Below ``gateway.silero.QUIET`` a line is cheaper for the server."""


@dataclass
class Step:
    """What was seen with so many calls at once. Times in ms; CPU in % of one core, memory in MB, by process."""

    calls: int
    gateways: int
    held: list[float] = field(default_factory=list)
    response: list[float] = field(default_factory=list)
    replies: int = 0
    underruns: int = 0
    missing: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether so many calls are held."""
        return bool(self.held) and percentile(self.held, 0.95) <= LIMIT_MS and not self.underruns and not self.missing

    def line(self) -> str:
        """For the table."""

        def shown(values: list[float]) -> str:
            return f"{percentile(values, 0.5):.0f}/{percentile(values, 0.95):.0f}" if values else "-"

        cells = [str(self.calls), shown(self.held), shown(self.response), str(self.underruns), str(self.missing)]
        cells += [f"{self.cpu.get(name, 0):.0f}" for name in NAMES]
        total = sum(self.cpu.get(name, 0) for name in NAMES[:5])
        cells += [f"{total / self.calls:.1f}", f"{sum(self.memory.get(name, 0) for name in NAMES[:5]):.0f}"]
        return "| " + " | ".join(cells) + " |"


HEAD = (
    "| calls | held | response | underruns | missing | gateway % | stt % | llm % | tts % | redis % | models % "
    "| callers % | % a call | MB |\n|" + "---|" * 14
)


class Caller:
    """One call, as cheap as a caller can be: what it says was encoded before."""

    spoken: Sequence[tuple[list[str], float, float]] = ()
    """What may be said: (frames, onset in ms, last sound in ms)."""
    hush: Sequence[str] = ()
    """A second of the line's noise."""
    onset_ms = last_ms = 0.0

    def __init__(self, url: str, step: Step, rng: random.Random) -> None:
        self._url = url
        self._step = step
        self._rng = rng
        self._saying: list[str] = []
        self._news = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self.counting = False
        self._began = 0.0
        """When the first frame of what is said entered the microphone (s)."""
        self._asked = self._created = self._interrupts = False
        self._audio_until = 0.0
        self._starved = False
        self._sounding = False
        self._done = 0

    @classmethod
    def prepare(cls, level: float) -> None:
        """Encode what every caller says, over noise of an RMS of ``level``."""
        size, noise = FRAME_MS * PER_MS, np.random.default_rng(1)
        cls.spoken = []
        for name in BEGINNINGS:
            voice = load(path(name))
            begin = round(sounding(voice)[0] * PER_MS)
            pcm = np.concatenate([voice[begin : begin + BEGINNING_MS * PER_MS], numbered.spoken([1, 2, 3, 4])])
            pcm = pcm[: len(pcm) // size * size]
            cls.spoken.append((_frames(pcm + noise.normal(0, level, len(pcm))), *sounding(pcm)))
        cls.hush = _frames(noise.normal(0, level, 1000 * PER_MS))

    async def run(self) -> None:
        """Call until cancelled."""
        try:
            async with connect(self._url, compression=None, max_size=1 << 24, proxy=None) as socket:
                speaking = asyncio.create_task(self._speak(socket))
                talking = asyncio.create_task(self._talk())
                try:
                    async for text in socket:
                        self._hear(str(text))
                    self._step.missing += 1
                finally:
                    speaking.cancel()
                    talking.cancel()
                    await asyncio.gather(speaking, talking, return_exceptions=True)
        except (OSError, WebSocketException):
            self._step.missing += 1

    async def _speak(self, socket: ClientConnection) -> None:
        due = self._clock() + self._rng.random() * FRAME_MS / 1000
        while True:
            due += FRAME_MS / 1000
            await asyncio.sleep(due - self._clock())
            await socket.send(self._saying.pop(0) if self._saying else self._rng.choice(self.hush))

    async def _talk(self) -> None:
        while True:
            self._say()
            await self._until(lambda: self._sounding)
            if self._rng.random() < 0.5:
                await asyncio.sleep(0.8 + self._rng.random())
                self._interrupts = self._sounding
            else:
                done = self._done
                await self._until(lambda done=done: self._done > done)  # type: ignore[misc]
                await asyncio.sleep(max(0.0, self._audio_until - self._clock()) + 0.3)

    def _say(self) -> None:
        frames, self.onset_ms, self.last_ms = self._rng.choice(self.spoken)
        self._saying = list(frames)
        self._began, self._asked, self._sounding, self._created = self._clock(), True, False, False

    async def _until(self, condition) -> None:  # type: ignore[no-untyped-def]
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            if self.counting:
                self._step.missing += 1

    def _hear(self, text: str) -> None:
        now = self._clock()
        if text.startswith('{"type":"response.output_audio.delta"'):
            seconds = len(json.loads(text)["delta"]) * 3 / 4 / 2 / 1000 / PER_MS
            if self._asked and self._created:
                self._asked, self._sounding, self._audio_until = False, True, now
                if self.counting:
                    self._step.replies += 1
                    self._step.response.append((now - self._began) * 1000 - self.last_ms)
            elif not self._asked and now > self._audio_until and not self._starved and self.counting:
                self._starved = True
                self._step.underruns += 1
            self._audio_until = max(now, self._audio_until) + seconds
        elif text.startswith('{"type":"bargein.output.held"'):
            if self._interrupts and self.counting:
                self._step.held.append((now - self._began) * 1000 - self.onset_ms)
            self._interrupts = False
            self._audio_until = now + 3600
        elif text.startswith('{"type":"bargein.output.resumed"'):
            self._audio_until = now
        elif text.startswith('{"type":"response.created"'):
            self._starved, self._created = False, True
        elif text.startswith('{"type":"response.done"'):
            self._done += 1
        else:
            return
        self._news.set()


def _frames(samples: np.ndarray) -> list[str]:
    """The events that carry audio, a frame each."""
    pieces = samples.round().astype("<i2").reshape(-1, FRAME_MS * PER_MS)
    return [
        json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece.tobytes()).decode()})
        for piece in pieces
    ]


def usage(product: Product, others: dict[int, str]) -> dict[int, tuple[str, float, float]]:
    """pid -> (name, seconds of CPU so far, MB resident) of every process that works."""
    found = {}
    known = {
        pid: name
        for pid, words in product.processes().items()
        for word, name in PROCESSES.items()
        if any(word in part for part in words)
    } | others
    if pid := product.server():
        known[pid] = "redis"
    for pid, name in known.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks = int(fields[11]) + int(fields[12])
        found[pid] = (name, ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
    return found


async def measure(product: Product, calls: int, options: argparse.Namespace, others: dict[int, str]) -> Step:
    """One step: the calls begin one after the other, and when all are in, it is counted."""
    step = Step(calls, options.gateways)
    callers = [Caller(product.extended, step, random.Random(number)) for number in range(calls)]
    tasks = []
    for caller in callers:
        tasks.append(asyncio.create_task(caller.run()))
        await asyncio.sleep(0.1)
    await asyncio.sleep(options.warm_up)
    for caller in callers:
        caller.counting = True
    before, began = await asyncio.to_thread(usage, product, others), time.monotonic()
    await asyncio.sleep(options.seconds)
    after, took = await asyncio.to_thread(usage, product, others), time.monotonic() - began
    cpu: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    for pid, (name, seconds, resident) in after.items():
        cpu[name] += (seconds - before.get(pid, (name, 0.0, 0.0))[1]) * 100 / took
        memory[name] += resident
    step.cpu, step.memory = dict(cpu), dict(memory)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return step


async def run(product: Product, options: argparse.Namespace, others: dict[int, str]) -> list[Step]:
    """The steps, until one is not held."""
    steps = []
    for calls in options.steps:
        steps.append(await measure(product, calls, options, others))
        print(steps[-1].line(), flush=True)
        if not steps[-1].holds and not options.all:
            break
        await asyncio.sleep(2)
    return steps


def picture(steps: Sequence[Step]) -> Picture:
    """The steps drawn over the number of calls."""

    def cut(values: str) -> dict[str, list[tuple[float, float]]]:
        return {
            f"p{share * 100:.0f}": [(s.calls, percentile(got, share)) for s in steps if (got := getattr(s, values))]
            for share in (0.5, 0.95)
        }

    def each(values: str) -> dict[str, list[tuple[float, float]]]:
        return {name: [(s.calls, getattr(s, values).get(name, 0)) for s in steps] for name in NAMES}

    x, dashed = "calls at once", frozenset(("p95",))
    panels = [
        Lines("Onset → held (ms)", cut("held"), x, dashed=dashed),
        Lines("Last sound → reply (ms)", cut("response"), x, dashed=dashed),
        Lines("CPU (% of one core)", each("cpu"), x),
        Lines("Memory (MB)", each("memory"), x),
    ]
    return Picture("How many calls a machine holds", panels)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=lambda text: [int(part) for part in text.split(",")], default=[1, 5, 10, 25, 50]
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="that a step is measured for")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before that, with all calls there")
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--noise", type=float, default=NOISE, help="RMS of 32768 on each line (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="go on after a step that is not held")
    add_options(parser)
    options = parser.parse_args(argv)
    Caller.prepare(options.noise)
    port = free_port()
    models = f"http://127.0.0.1:{port}/v1"
    settings = {
        "STT_ENGINE": "http", "LLM_ENGINE": "openai", "TTS_ENGINE": "http",
        "STT_URL": models, "LLM_URL": models, "TTS_URL": models, "LOG_LEVEL": "WARNING",
        "STT_CAPACITY": "1000", "LLM_CAPACITY": "1000", "TTS_CAPACITY": "1000", "MAX_SESSIONS": "1000",
        "GATEWAY_SHARES_PORT": str(options.gateways > 1).lower(), "RETENTION_S": "5",
    }  # fmt: skip
    print(f"machine: {machine()}; {options.gateways} gateways, {options.seconds:g} s a step")
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.model_server", str(port)])
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            running_product(Path(folder), f"gateway={options.gateways}", **settings) as product,
        ):
            print(HEAD)
            others = {server.pid: "models", os.getpid(): "callers"}
            try:
                import uvloop

                steps = uvloop.run(run(product, options, others))
            except ImportError:
                steps = asyncio.run(run(product, options, others))
    finally:
        server.terminate()
        server.wait()
    held = max((step.calls for step in steps if step.holds), default=0)
    print(f"held: {held} calls with p95 of held within {LIMIT_MS:g} ms, no underrun and no missing reply")
    save(options, {"gateways": options.gateways, "steps": [asdict(step) for step in steps]}, picture(steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
