import asyncio
import json
import socket

import pytest

from bus.cancel import CancelToken
from tests.workers.llm.llm_stand_in import DONE, Scripted, chunk, drops, refuses, says, stalls
from workers.engines import EngineError
from workers.llm.engine import ContextTooLong, Message

HELLO = [Message("system", "Be brief."), Message("user", "Hello, Zoë")]
ROLE = chunk({"role": "assistant", "content": ""})


def token(turn=1):
    return CancelToken("s0-abcdef", turn)


async def read(engine, said=None):
    """Everything an engine says; ``said`` holds it also when it fails."""
    said = [] if said is None else said
    async for delta in engine.reply(HELLO, "en-US", token()):
        said.append(delta)
    return "".join(said)


async def test_an_answer_streams_delta_by_delta(engine_for):
    """The deltas come as the server sent them, and it was asked what the settings say, streaming."""
    async with Scripted(says(ROLE, chunk("Hel"), chunk("lo, "), chunk("Zoë."), DONE)) as server:
        engine = await engine_for(server.url, llm_model="m1", llm_temperature=0.3, llm_max_tokens=99)
        said = []
        assert await read(engine, said) == "Hello, Zoë." and len(said) == 3
        (request,) = [r for r in server.requests if r.method == "POST"]
        assert request.body == {
            "model": "m1", "stream": True, "temperature": 0.3, "max_tokens": 99,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, Zoë"}],
        }  # fmt: skip


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/deep/v1"])
async def test_the_address_may_end_in_v1_or_not(engine_for, suffix):
    async with Scripted(says(chunk("Yes."), DONE)) as server:
        engine = await engine_for(server.url + suffix)
        if suffix == "/deep/v1":
            with pytest.raises(EngineError, match="404: not found"):
                await read(engine)
            assert server.requests[-1].path == "/deep/v1/chat/completions"
            assert server.requests[0].path == "/deep/props"
        else:
            assert await read(engine) == "Yes."


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
async def test_events_split_anywhere_are_put_together(engine_for, size):
    """Pieces that end within a line, within a UTF-8 character or hold many events lose nothing; pings are ignored."""
    whole = b": ping\n\n" + ROLE + chunk("Zoë ") + b": ping\n\n" + chunk("\U0001f600 ") + chunk("ok") + DONE
    whole = whole.replace(b"\n\n", b"\r\n\r\n")
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    async with Scripted(says(*pieces)) as server:
        assert await read(await engine_for(server.url)) == "Zoë \U0001f600 ok"


async def test_only_content_is_spoken(engine_for):
    """Usage alone, empty choices, reasoning, a null delta and a role say nothing."""
    stream = [
        ROLE,
        chunk({"reasoning_content": "Hmm, let me think."}),
        chunk({"reasoning": "More thoughts."}),
        chunk({"content": None}),
        chunk(),
        chunk("Four."),
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":null,"finish_reason":null}]}\n\n',
        chunk(finish="stop"),
        chunk(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}),
        b"data: [DONE]\n\n",
    ]
    async with Scripted(says(*stream)) as server:
        assert await read(await engine_for(server.url)) == "Four."


async def test_reasoning_does_not_count_as_a_first_word(engine_for):
    """A model that thinks for ever is a stall: the caller hears nothing of it."""
    async with Scripted(stalls(ROLE, chunk({"reasoning_content": "Hmm."}))) as server:
        engine = await engine_for(server.url, llm_first_token_s=0.3)
        with pytest.raises(EngineError, match=r"did not send its first word within 0.3 s"):
            await read(engine)


async def test_an_answer_without_a_word_is_an_error_unless_the_model_stopped_by_itself(engine_for):
    """Silence by choice is an answer; tokens used up by reasoning are not, and the message says what to do."""
    async with Scripted(says(ROLE, DONE)) as server:
        assert await read(await engine_for(server.url)) == ""
    async with Scripted(says(ROLE, chunk(finish="length"), b"data: [DONE]\n\n")) as server:
        with pytest.raises(EngineError, match="raise LLM_MAX_TOKENS"):
            await read(await engine_for(server.url))
    async with Scripted(says(ROLE)) as server:
        with pytest.raises(EngineError, match="ended without a word"):
            await read(await engine_for(server.url))


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_passing_failure_is_retried_once(engine_for, status):
    """One failure is not noticed by the caller; the second is told with what the server said."""
    body = {"error": {"message": f"out of\n memory {'x' * 500}"}}
    async with Scripted(refuses(status, body), says(chunk("Yes."), DONE)) as server:
        assert await read(await engine_for(server.url)) == "Yes."
    async with Scripted(refuses(status, body)) as server:
        with pytest.raises(EngineError, match=f"answered {status}: out of memory x") as failed:
            await read(await engine_for(server.url))
        assert len([r for r in server.requests if r.method == "POST"]) == 2
        assert len(str(failed.value)) < 260


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": {"message": "Invalid key", "code": "invalid_api_key"}}, "401: Invalid key"),
        (404, {"error": "no such model"}, "404: no such model"),
        (400, {"message": "bad request"}, "400: bad request"),
        (403, b"<html>Forbidden</html>", "403: "),
        (422, [1, 2], "422: "),
    ],
)
async def test_a_refusal_is_told_at_once(engine_for, status, body, said):
    """Asking again for what was refused would only cost the caller time."""
    async with Scripted(refuses(status, body)) as server:
        with pytest.raises(EngineError, match=said) as failed:
            await read(await engine_for(server.url))
        assert not isinstance(failed.value, ContextTooLong)
        assert len([r for r in server.requests if r.method == "POST"]) == 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "request (9000 tokens) exceeds the available context size", "type": "exceed_context_size_error"},
        {"message": "This model's maximum context length is 4096 tokens.", "code": "context_length_exceeded"},
        {"message": "Please reduce the length", "code": "context_length_exceeded"},
    ],
)
async def test_a_prompt_that_is_too_long_is_told_apart(engine_for, error):
    """llama-server's, vLLM's and OpenAI's words for it: whoever made the prompt can make a shorter one."""
    async with Scripted(refuses(400, {"error": error})) as server:
        with pytest.raises(ContextTooLong):
            await read(await engine_for(server.url))
        assert len([r for r in server.requests if r.method == "POST"]) == 1


async def test_a_stall_before_the_first_word_is_retried_once(engine_for):
    """The first request's connection is closed before the second is made; a second stall is the end."""
    async with Scripted(stalls(), says(chunk("Yes."), DONE)) as server:
        engine = await engine_for(server.url, llm_first_token_s=0.3)
        assert await read(engine) == "Yes."
        async with asyncio.timeout(2):
            await (await server.asked(1)).gone.wait()
    async with Scripted(stalls(ROLE)) as server:
        engine = await engine_for(server.url, llm_first_token_s=0.2)
        with pytest.raises(EngineError, match=r"did not send its first word within 0.2 s"):
            await read(engine)
        assert len([r for r in server.requests if r.method == "POST"]) == 2


async def test_a_stall_in_the_middle_is_not_retried(engine_for):
    """What was said stands, and is not said twice; the connection is closed."""
    async with Scripted(stalls(chunk("One "), chunk("two "))) as server:
        engine = await engine_for(server.url, llm_stall_s=0.2)
        said = []
        with pytest.raises(EngineError, match=r"did not send its next word within 0.2 s"):
            await read(engine, said)
        assert said == ["One ", "two "]
        async with asyncio.timeout(2):
            await (await server.asked(1)).gone.wait()
        assert len([r for r in server.requests if r.method == "POST"]) == 1


async def test_slow_words_within_the_limit_are_no_stall(engine_for):
    """The limit counts from word to word, not from the request, and not while the words are being used."""

    async def slow(request, wire):
        await wire.begin()
        for word in "abcdef":
            await asyncio.sleep(0.15)
            await wire.send(chunk(word))
        await wire.send(DONE)
        await wire.end()

    async with Scripted(slow) as server:
        engine = await engine_for(server.url, llm_first_token_s=0.5, llm_stall_s=0.5)
        said = ""
        async for delta in engine.reply(HELLO, "en-US", token()):
            said += delta
            await asyncio.sleep(0.6 if delta == "c" else 0)
        assert said == "abcdef"


async def test_a_body_that_stays_open_after_the_end_is_no_stall(engine_for):
    """The answer is over with its finish reason, whatever the server does with the connection."""
    async with Scripted(stalls(chunk("Yes."), DONE)) as server:
        assert await read(await engine_for(server.url, llm_stall_s=0.2)) == "Yes."


async def test_a_connection_that_breaks(engine_for):
    """Before the first word: once more. After it: an error, and what was said stands."""
    async with Scripted(drops(ROLE), says(chunk("Yes."), DONE)) as server:
        assert await read(await engine_for(server.url)) == "Yes."
    async with Scripted(drops(chunk("One "))) as server:
        said = []
        with pytest.raises(EngineError, match=r"cannot be reached|broke off"):
            await read(await engine_for(server.url), said)
        assert said == ["One "]


@pytest.mark.parametrize("junk", [b"data: {not json}\n\n", b'data: {"error": {"message": "slot lost"}}\n\n'])
async def test_an_error_within_the_stream(engine_for, junk):
    """What is no chunk ends the answer with an error, and with the server's words where it has any."""
    async with Scripted(says(chunk("One "), junk)) as server:
        said = []
        with pytest.raises(EngineError, match="slot lost" if b"slot" in junk else "broke off"):
            await read(await engine_for(server.url), said)
        assert said == ["One "]


async def test_a_server_that_is_down_is_an_error_of_the_turn_only(engine_for):
    """Loading succeeds without a server; the turn says that it cannot be reached; once it is up, turns are answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = await engine_for(f"http://127.0.0.1:{port}")
    with pytest.raises(EngineError, match=r"cannot be reached: ConnectionRefusedError|cannot be reached: ConnectError"):
        await read(engine)
    server = Scripted(says(chunk("Yes."), DONE))
    server._server = await asyncio.start_server(server._connect, "127.0.0.1", port)
    try:
        assert await read(engine) == "Yes."
    finally:
        await server.__aexit__()


@pytest.mark.parametrize("pieces", [(), (ROLE,), (ROLE, chunk("One "))])
async def test_stopping_closes_the_connection_at_once(engine_for, pieces, record_property):
    """Wherever the answer is, the server sees the end of the connection; how soon is recorded."""
    async with Scripted(stalls(*pieces)) as server:
        engine = await engine_for(server.url)
        said = []
        reading = asyncio.create_task(read(engine, said))
        request = await server.asked(1)
        async with asyncio.timeout(5):
            while len(said) < (len(pieces) == 2):
                await asyncio.sleep(0.001)
        began = asyncio.get_running_loop().time()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        closed = asyncio.get_running_loop().time() - began
        async with asyncio.timeout(2):
            await request.gone.wait()
        noticed = asyncio.get_running_loop().time() - began
        record_property("closed_ms", round(closed * 1000, 1))
        record_property("noticed_ms", round(noticed * 1000, 1))
        assert closed < 0.5 and noticed < 0.5


async def test_closing_the_iterator_closes_the_connection(engine_for):
    """A reader that simply goes away stops the server too, before ``aclose`` returns on this side."""
    async with Scripted(stalls(chunk("One "))) as server:
        engine = await engine_for(server.url)
        stream = engine.reply(HELLO, "en-US", token())
        assert await anext(stream) == "One "
        await stream.aclose()
        async with asyncio.timeout(2):
            await server.requests[-1].gone.wait()


async def test_a_server_without_slots_has_only_its_stream_closed(engine_for):
    """It is asked for nothing that it may not know, and nothing is claimed about it."""
    async with Scripted(says(chunk("Yes."), DONE)) as server:
        engine = await engine_for(server.url)
        cancel = token()
        async for _ in engine.reply(HELLO, "en-US", cancel):
            pass
        seen = await engine.confirm_stopped(cancel)
        assert (seen.idle, seen.detail) == (False, "stream closed")
        assert [r.path for r in server.requests] == ["/props", "/v1/chat/completions"]
        assert not {"id_slot", "return_progress"} & set(server.requests[-1].body)


async def test_many_turns_at_once_get_their_own_words(engine_for):
    """No delta crosses from one answer into another."""

    async def echo(request, wire):
        await wire.begin()
        for word in request.body["messages"][-1]["content"].split():
            await wire.send(chunk(word + " "))
            await asyncio.sleep(0.001)
        await wire.send(DONE)
        await wire.end()

    async with Scripted(echo) as server:
        engine = await engine_for(server.url)

        async def ask(number):
            text = f"{number} " * 20
            messages = [Message("user", text)]
            return "".join([d async for d in engine.reply(messages, "en-US", token(number))]) == text

        assert all(await asyncio.gather(*(ask(number) for number in range(20))))


def test_the_stand_ins_chunks_are_what_the_protocol_has():
    """The tests' own events are ones the package reads."""
    from openai.types.chat import ChatCompletionChunk

    data = json.loads(chunk("Hi", "stop").removeprefix(b"data: "))
    assert ChatCompletionChunk.model_validate(data).choices[0].delta.content == "Hi"
