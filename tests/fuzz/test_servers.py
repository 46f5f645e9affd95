"""What model servers and webhooks answer: any status, any headers, any bytes, cut anywhere, or no HTTP at all."""

import asyncio
import contextlib
import json

import httpx2
import pytest
from hypothesis import strategies as st

from bus.cancel import CancelToken
from bus.connect import connector
from bus.embedded import Problem
from bus.server import answers
from tests.fuzz.garbage import fuzzed, json_text
from workers.engines import EngineError
from workers.jobs import webhook
from workers.llm.engine import Message
from workers.llm.engines.openai import OpenAI
from workers.llm.tools import Request
from workers.stt.engines.http import Http as HttpStt
from workers.tts.engines.http import Http as HttpTts

STATUS = st.sampled_from([200] * 6 + [100, 204, 301, 400, 401, 404, 429, 500, 503, 999])
HEADERS = st.lists(st.sampled_from([
    "content-type: application/json", "content-type: text/event-stream", "content-type: audio/pcm", "content-type: ;;;",
    "content-type: audio/wav; rate=24000", "content-type: audio/pcm; rate=1", "content-type: text/html; charset=x",
    "content-encoding: gzip", "content-encoding: br, deflate", "content-length: 5", "content-length: -1",
    "content-length: x", "transfer-encoding: chunked", "x-sample-rate: 8000", "x-sample-rate: ٣", "location: /",
    "no colon", "x: \xff", "set-cookie: a=b", "retry-after: 1e9",
]), max_size=4)  # fmt: skip
DELTA = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
    {"index": 0, "delta": {"role": "assistant", "content": "Hello there. "}, "finish_reason": None}]}  # fmt: skip
CALLED = {"choices": [{"index": 0, "finish_reason": "tool_calls", "delta": {"tool_calls": [
    {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}  # fmt: skip
CHUNKS = json_text([DELTA, DELTA, CALLED, {"error": {"message": "overloaded", "code": 1}}, {"choices": []}])
LINES = CHUNKS.map(lambda text: f"data: {text}\n\n") | st.sampled_from([
    "data: [DONE]\n\n", ": ping\n\n", "\n", "data:", "event: error\ndata: x\n\n", "data: {}\n\n", "\r\r\n", "data: 1",
    "id: 1\nretry: x\n", "\0", "data: " + "x" * 70_000 + "\n\n",
])  # fmt: skip
STREAMS = st.lists(LINES, max_size=6).map(lambda lines: "".join(lines).encode("utf-8", "surrogatepass"))
TEXTS = json_text([{"text": "hello"}, {"text": "\ud83d"}, {"error": {"message": "no"}}, {"detail": [{"msg": "no"}]}])
WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\xc0]\0\0\x80\xbb\0\0\x02\0\x10\0data\0\0\0\0"
SOUNDS = st.binary(max_size=4000) | st.binary(max_size=400).map(lambda pcm: WAV + pcm) | st.builds(
    lambda at, pcm: WAV[:at] + pcm + WAV[at:], st.integers(0, len(WAV)), st.binary(max_size=9)
)  # fmt: skip


@st.composite
def http(draw, bodies):
    """An answer, mostly HTTP: (its bytes, whether the connection is closed behind them)."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    body = draw(bodies)
    body = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    headers = draw(HEADERS)
    if "transfer-encoding: chunked" in headers and draw(st.booleans()):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = f"HTTP/1.1 {draw(STATUS)} Any\r\n" + "".join(f"{line}\r\n" for line in headers) + "connection: close\r\n\r\n"
    return head.encode("latin-1", "replace") + body


class Server:
    """Reads a request, sends ``answer``, closes."""

    def __init__(self):
        self.answer = b""

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].split(b":")[1]))
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@contextlib.contextmanager
def serving():
    """A loop with a server in it: (the runner, the server, its host and port)."""
    server = Server()
    with asyncio.Runner() as runner:
        yield runner, server, runner.run(server.start())


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No waits between attempts, and the machine's own settings left out."""
    for stage in ("STT", "TTS", "LLM"):
        monkeypatch.delenv(f"{stage}_API_KEY", raising=False)
    for module in ("workers.stt.engines.http", "workers.tts.engines.http"):
        monkeypatch.setattr(f"{module}.RETRY_S", 0)


async def told(engine):
    """All that the model says."""
    token = CancelToken("s0-abcd", 1)
    deltas = engine.respond([Message("user", "hi")], "en-US", token, Request())
    try:
        return [delta async for delta in deltas]
    finally:
        await deltas.aclose()


def test_any_answer_of_a_language_model(monkeypatch):
    """Text, calls and an end; or an EngineError. Nothing else, whatever the server streams."""
    with serving() as (runner, server, where):
        monkeypatch.setenv("LLM_URL", f"http://{where}/v1")
        engine = OpenAI()
        engine._recognised = True  # that it is no llama-server; what it shows of itself is fuzzed below
        runner.run(engine.load())

        @fuzzed(http(STREAMS), cost=2)
        def ask(answer):
            server.answer = answer
            try:
                runner.run(told(engine))
            except EngineError as error:
                assert str(error)

        ask()


def test_whatever_shows_itself_beside_the_model(monkeypatch):
    """A server is taken for a llama-server or not; a turn is answered in either case."""
    with serving() as (runner, server, where):
        monkeypatch.setenv("LLM_URL", f"http://{where}/v1")
        shown = json_text([{"total_slots": 1}, [{"id": 0, "is_processing": False, "id_task": 1}]])

        @fuzzed(http(shown), cost=2)
        def look(answer):
            server.answer = answer
            engine = OpenAI()
            runner.run(engine.load())
            with contextlib.suppress(EngineError):
                runner.run(told(engine))

        look()


def test_any_answer_of_a_recogniser(monkeypatch):
    """One line of text, or an EngineError."""
    with serving() as (runner, server, where):
        monkeypatch.setenv("STT_URL", f"http://{where}/v1")
        engine = HttpStt()
        runner.run(engine.load())

        @fuzzed(http(TEXTS), cost=2)
        def hear(answer):
            server.answer = answer
            try:
                text = runner.run(engine.transcribe(bytes(3200), "en"))
            except EngineError as error:
                assert str(error)
            else:
                assert text == " ".join(text.split())

        hear()


def test_any_answer_of_a_voice(monkeypatch):
    """Chunks of whole samples, of 60 ms at most, whose texts joined are the sentence; or an EngineError."""
    with serving() as (runner, server, where):
        monkeypatch.setenv("TTS_URL", f"http://{where}/v1")
        engine = HttpTts()
        runner.run(engine.load())

        async def spoken():
            return [chunk async for chunk in engine.speak("One two.", "", "en-US", CancelToken("s0-abcd", 1))]

        @fuzzed(http(SOUNDS | TEXTS), cost=2)
        def speak(answer):
            server.answer = answer
            try:
                chunks = runner.run(spoken())
            except EngineError as error:
                assert str(error)
            else:
                assert "".join(chunk.text for chunk in chunks) == "One two."
                assert all(len(c.pcm) % 2 == 0 and len(c.pcm) <= engine.rate * 60 // 1000 * 2 for c in chunks)

        speak()


class Endless(Server):
    """Sends ``answer`` again and again; ``sent`` counts its bytes."""

    async def _serve(self, reader, writer):
        self.sent = 0
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + self.answer)
            while True:
                writer.write(b"x" * (1 << 16))
                self.sent += 1 << 16
                await writer.drain()


@pytest.mark.parametrize("begin", [b"", b'{"text": "', b"data: "])
@pytest.mark.parametrize("stage", ["stt", "llm"])
async def test_an_answer_without_an_end_is_refused(stage, begin, monkeypatch):
    """A body or a line that never ends is given up after some MB, with an EngineError, not when memory is gone."""
    server = Endless()
    server.answer = begin
    where = await server.start()
    monkeypatch.setenv(f"{stage.upper()}_URL", f"http://{where}/v1")
    engine = {"stt": HttpStt, "llm": OpenAI}[stage]()
    if stage == "llm":
        engine._recognised = True
    await engine.load()
    with pytest.raises(EngineError):
        await (engine.transcribe(bytes(3200), "en") if stage == "stt" else told(engine))
    assert server.sent < 64 << 20


def test_any_answer_to_a_webhook(monkeypatch, tmp_path):
    """The receiver has it (200 to 299), or NotDelivered is raised, upon which it is tried again."""
    monkeypatch.setenv("RECORDINGS_DIR", str(tmp_path))
    (tmp_path / "s0-abcd.json").write_text(json.dumps({"session": "s0-abcd", "seconds": 1, "messages": []}))
    monkeypatch.setenv("WEBHOOK_SECRET", "x" * 24)
    monkeypatch.setenv("WEBHOOK_URL", "http://receiver/")
    given = None

    def post(url, content, headers, timeout):
        transport = httpx2.MockTransport(lambda request: httpx2.Response(given[0], content=given[1]))
        with httpx2.Client(transport=transport) as client:
            return client.post(url, content=content, headers=headers)

    monkeypatch.setattr(webhook.httpx2, "post", post)

    @fuzzed(st.integers(200, 599), st.binary(max_size=60))
    def deliver(status, body):
        nonlocal given
        given = (status, body)
        try:
            webhook.deliver("s0-abcd")
        except webhook.NotDelivered:
            assert not 200 <= status < 300
        else:
            assert 200 <= status < 300

    deliver()


def test_whatever_answers_where_redis_should_be():
    """It is Redis, or nobody is there yet, or Problem says what is wrong."""
    import threading

    loop, server = asyncio.new_event_loop(), Anything()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    where = asyncio.run_coroutine_threadsafe(server.start(), loop).result()

    @fuzzed(
        st.binary(max_size=60) | st.sampled_from([b"+PONG\r\n" * 9, b"-ERR x\r\n" * 9, b"$9999999999\r\n", b":1\r\n"])
    )
    def look(answer):
        server.answer = answer
        try:
            answers(connector(f"redis://{where}/0").address)
        except Problem as error:
            assert str(error)

    look()
    loop.call_soon_threadsafe(loop.stop)


class Anything(Server):
    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(self.answer)
            await writer.drain()
        writer.close()
