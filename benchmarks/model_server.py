"""Model servers for load and for chaos, in one process: what is measured behind them is bargein, not a model.

POST /v1/audio/transcriptions   the numbers that sound in the WAV, as words (``benchmarks.numbered``)
POST /v1/chat/completions       a reply of numbered words, streamed; one that was begun is continued (a prefill)
POST /v1/audio/speech           their sound, streamed as 24 kHz pcm

They take as long as fast servers do: 100 ms for a text, 150 ms to the first token, 80 ms to the first audio. It speaks
HTTP/1.1 over asyncio itself, since it shares the machine with what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import numbered

RATE = 24_000
PIECE_MS = 100


@dataclass(frozen=True)
class Pace:
    """How fast the servers are. Times in seconds."""

    hear: float = 0.1
    token: float = 0.15
    """To the first token."""
    tokens_per_s: float = 40.0
    sound: float = 0.08
    """To the first audio."""
    realtime: float = 4.0
    """Seconds of audio made in a second."""
    words: int = 16
    """Words of a reply, four to a sentence."""


def reply_to(said: list[int], words: int) -> list[int]:
    """The numbers of the reply to an utterance that holds the numbers ``said``: no two near utterances share any."""
    if not said:
        return []
    first = said[-1] // 4 * words
    return [(first + place) % numbered.COUNT for place in range(words)]


def sentences(numbers: list[int]) -> str:
    """Four words to a sentence."""
    groups = [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
    return " ".join(f"{numbered.text(group).capitalize()}." for group in groups) or "Nothing was said."


Route = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class ModelServer:
    """The three endpoints on one port."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.routes: dict[str, Route] = {
            "/v1/audio/transcriptions": self._hear,
            "/v1/chat/completions": self._answer,
            "/v1/audio/speech": self._speak,
        }

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listen on a port of 127.0.0.1."""
        return await asyncio.start_server(self._connect, "127.0.0.1", port, limit=1 << 20)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead = asyncio.ensure_future(reader.read(1))
        try:
            while first := await ahead:
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                ahead = asyncio.ensure_future(reader.read(1))
                await self.serve(head.split(" ", 2)[1], body, writer, ahead)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            ahead.cancel()
            writer.close()

    async def serve(self, path: str, body: bytes, writer: asyncio.StreamWriter, ahead: asyncio.Future[bytes]) -> None:
        """Answer one request. Raises ConnectionError as soon as its client has gone, which ``ahead`` says."""
        route = self.routes.get(path)
        if route is None:
            whole(writer, 404, {"error": {"message": "not found"}})
            return
        answering = asyncio.ensure_future(route(body, writer))
        try:
            await asyncio.wait((answering, ahead), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and (ahead.exception() or not ahead.result()):
                raise ConnectionResetError("the client has gone")
            await answering
        finally:
            answering.cancel()

    # -- what is heard, answered and spoken

    def text(self, pcm: np.ndarray) -> str:
        """What is understood of 16-bit samples."""
        return numbered.text(numbered.heard(pcm, 16_000))

    def reply(self, messages: list[dict[str, Any]]) -> str:
        """What is answered to a conversation whose last message is the user's."""
        said = next((found for m in reversed(messages) if m["role"] == "user" and (found := _numbers(m))), [])
        return sentences(reply_to(said, self.pace.words))

    def sound(self, text: str) -> bytes:
        """How a text sounds: 16-bit samples at RATE."""
        return numbered.tones(numbered.numbers_in(text), RATE).tobytes() or bytes(RATE // 5)

    # -- the endpoints

    async def _hear(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.pace.hear)
        # A WAV with a header of 44 bytes; the form's end follows it.
        at = body.index(b"RIFF")
        size = int.from_bytes(body[at + 40 : at + 44], "little")
        whole(writer, 200, {"text": self.text(np.frombuffer(body[at + 44 : at + 44 + size // 2 * 2], "<i2"))})

    async def _answer(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        messages = json.loads(body)["messages"]
        begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        text = self.reply(messages)
        text = text[len(begun) :] if text.startswith(begun) else text
        _begin(writer, "text/event-stream")
        await asyncio.sleep(self.pace.token)
        for token in re.findall(r"\s*\S+", text):
            _event(writer, {"content": token}, None)
            await writer.drain()
            await asyncio.sleep(1 / self.pace.tokens_per_s)
        _event(writer, {}, "stop")
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")

    async def _speak(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        pcm = self.sound(json.loads(body)["input"])
        _begin(writer, "audio/pcm")
        await asyncio.sleep(self.pace.sound)
        size = RATE * PIECE_MS // 1000 * 2
        for at in range(0, len(pcm), size):
            _chunk(writer, pcm[at : at + size])
            await writer.drain()
            await asyncio.sleep(PIECE_MS / 1000 / self.pace.realtime)
        _chunk(writer, b"")


def _numbers(message: dict[str, object]) -> list[int]:
    return numbered.numbers_in(str(message.get("content", "")))


def whole(writer: asyncio.StreamWriter, status: int, value: object) -> None:
    """Answer with JSON."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def _begin(writer: asyncio.StreamWriter, kind: str) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode())


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError("the client has gone")
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _event(writer: asyncio.StreamWriter, delta: dict[str, str], finish: str | None) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


async def serve(port: int, server: ModelServer) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await server.start(port) as listening:
        listening.is_serving()
        await stop.wait()
        listening.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_server", description=__doc__.split("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--tokens", type=float, default=Pace.tokens_per_s, help="tokens a second")
    parser.add_argument("--words", type=int, default=Pace.words, help="words of a reply")
    parser.add_argument(
        "--realtime", type=float, default=Pace.realtime, help="how much faster than real time it speaks"
    )
    options = parser.parse_args()
    pace = Pace(tokens_per_s=options.tokens, words=options.words, realtime=options.realtime)
    asyncio.run(serve(options.port, ModelServer(pace)))


if __name__ == "__main__":
    main()
