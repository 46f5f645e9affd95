"""The scripted model servers of the comparison: ``benchmarks.model_server``, with a record of who let go when.

Every reply is a number of its own (``coded``), so its audio says which request it came from. ``GET /seen`` answers what
was asked since the last time, and forgets it: the stage, the reply's number, when it began and ended (monotonic
seconds), whether its client dropped it before its end, and how many messages the model was shown.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import uvloop

from benchmarks.model_server import RATE, ModelServer, Pace, serve, whole
from benchmarks.peers import coded

STAGES = {"/v1/audio/transcriptions": "stt", "/v1/chat/completions": "llm", "/v1/audio/speech": "tts"}
WORDS, SENTENCE = 161, 7
"""Words of a reply, and of each of its sentences: it is written for 4 s and spoken for 48."""
UNDERSTOOD = "Please tell me more about that."


@dataclass(slots=True)
class Asked:
    """One request. ``ended`` is None while it is answered."""

    stage: str
    began: float
    reply: int = -1
    ended: float | None = None
    dropped: bool = False
    messages: int = 0


class SeenModels(ModelServer):
    """The three endpoints, and the record."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(pace)
        self.routes["/seen"] = self._tell
        self._asked: list[Asked] = []
        self._current: ContextVar[Asked] = ContextVar("asked")
        self._replies = 0

    async def serve(self, path: str, body: bytes, writer: asyncio.StreamWriter, ahead: asyncio.Future[bytes]) -> None:
        stage = STAGES.get(path)
        if stage is None:
            await super().serve(path, body, writer, ahead)
            return
        asked = Asked(stage, time.monotonic())
        self._asked.append(asked)
        self._current.set(asked)
        try:
            await super().serve(path, body, writer, ahead)
        except ConnectionError:
            asked.dropped = True
            raise
        finally:
            asked.ended = time.monotonic()

    def text(self, pcm: np.ndarray) -> str:
        return UNDERSTOOD

    def reply(self, messages: list[dict[str, Any]]) -> str:
        asked = self._current.get()
        self._replies = (self._replies + 1) % coded.COUNT
        asked.reply, asked.messages = self._replies, len(messages)
        return coded.text(self._replies, self.pace.words, SENTENCE)

    def sound(self, text: str) -> bytes:
        number, words = coded.number_in(text)
        self._current.get().reply = number
        return coded.sound(number, words, RATE).tobytes() if words else bytes(RATE // 5)

    async def _tell(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        told, self._asked = self._asked, [each for each in self._asked if each.ended is None]
        whole(writer, 200, [asdict(each) for each in told if each.ended is not None])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.models", description=__doc__.split("\n")[0])
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    uvloop.run(serve(options.port, SeenModels(Pace(words=WORDS))))


if __name__ == "__main__":
    main()
