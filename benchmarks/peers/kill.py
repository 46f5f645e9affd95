"""What becomes of a call when what serves it is killed in the middle of a reply.

The line is connected again as soon as somebody takes it, under the same CallSid, as Twilio does where the TwiML says
so; a peer's process is started again at once, as a supervisor does.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import uvloop

from benchmarks.peers import coded
from benchmarks.peers.phone import Phone, Speech
from benchmarks.peers.run import scripted_models
from benchmarks.peers.sides import Running, Side

HEARD = 1.5
"""Seconds of the reply that are heard before the kill."""
BUFFERED = 4.0
"""Seconds after the kill in which what comes may have been made before."""
GOES_ON = 12.0
"""Seconds in which the reply has to go on."""
STAGES = ("gateway", "stt", "llm", "tts")


class Survivor(Phone):
    """A caller whose server is killed, and who then says something else."""

    killed = 0.0
    went_on = 0.0
    """When audio of the reply came that cannot have been on its way."""
    done = False

    def __init__(self, url: str, sentences: Sequence[Speech], name: str, kill: Callable[[], None]) -> None:
        super().__init__(url, sentences, name, random.Random(name))
        self._kill = kill

    async def talk(self) -> None:
        if not self.killed:
            await self.say(self._sentences[0])
            await asyncio.sleep(HEARD)
            self.killed = self._clock()
            await asyncio.to_thread(self._kill)
        await self.when(lambda: self.went_on, self.killed + GOES_ON - self._clock())
        await self.say(self._sentences[0])
        self.done = True

    def heard(self, codes: bytes, now: float) -> None:
        super().heard(codes, now)
        late = self.killed and not self.went_on and now > self.killed + BUFFERED
        if late and coded.heard(codes) == self.hearing.turns[0].reply:
            self.went_on = now
            self._news.set()


async def one(running: Running, sentences: Sequence[Speech], name: str, models: str) -> str:
    """Kill the process that is called ``name``; what became of the call."""

    def kill() -> None:
        for pid, what in running.processes().items():
            if what == name:
                os.kill(pid, signal.SIGKILL)
        running.again()

    caller = Survivor(running.urls[0], sentences, f"killed-{name}", kill)
    due = time.monotonic() + 40
    while not caller.done and time.monotonic() < due:
        await caller.run()
        await asyncio.sleep(0.2)
    async with httpx.AsyncClient() as http:
        seen = (await http.get(f"{models}/seen")).json()
    turns = caller.hearing.turns
    if not turns or turns[0].answered is None:
        return "was not even answered before"
    reply = "the reply is lost"
    if caller.went_on:
        silence = max(turns[0].gaps, default=0.0)
        reply = f"the reply goes on after {silence * 1000:.0f} ms of silence" if silence else "the reply goes on"
    last = turns[-1]
    if len(turns) < 2 or last.answered is None:
        return f"{reply}; what the caller says next is not answered"
    shown = {each["reply"]: each["messages"] for each in seen if each["stage"] == "llm"}
    knows = shown.get(last.reply, 0) > shown.get(turns[0].reply, 0)
    return f"{reply}; what the caller says next is answered, {'with' if knows else 'without'} what was said before"


def run(sides: Sequence[Side], sentences: Sequence[Speech]) -> Iterator[tuple[str, str]]:
    """(what was killed, what became of the call) of every side, and of bargein for every process."""
    with scripted_models() as (models, _):
        for side in sides:
            for name in STAGES if side.name.startswith("bargein") else ("server",):
                with side.running(f"{models}/v1", 1) as running:
                    became = uvloop.run(one(running, sentences, name, models))
                yield f"{side.name} {name}", became
