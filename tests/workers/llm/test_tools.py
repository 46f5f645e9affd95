"""Function calls in the prompt, and with an OpenAI-compatible server."""

import pytest

from bus.cancel import CancelToken
from bus.events import Said
from tests.workers.llm.llm_stand_in import DONE, Scripted, chunk, drops, says
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.prompt import prompt
from workers.llm.tools import PENDING, Call, CallPiece, Finish, Request, arranged, read_request

TOOL = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}}
ASKED = [Message("user", "How is it?")]


def call(call_id, turn=1, text="{}"):
    return Said(f"item {call_id}", "tool_call", text, turn, call_id=call_id, name="weather")


def result(call_id, text):
    return Said(f"out {call_id}", "tool", text, call_id=call_id)


def test_a_result_stands_behind_its_call_whenever_it_came():
    """The turn's words first, then its calls, then the outputs, though the caller spoke in between."""
    caller = Said("u2", "user", "and Rome?")
    spoken = [Said("u1", "user", "Paris?"), call("a"), call("b"), caller, result("b", "sun"), Said("t1", "assistant",
        "Let me see.", 1), result("a", "rain"), result("a", "snow"), result("nobody", "x")]  # fmt: skip
    assert prompt("", spoken) == [
        Message("user", "Paris?"),
        Message("assistant", "Let me see.", (Call("a", "weather", "{}"), Call("b", "weather", "{}"))),
        Message("tool", "rain", call_id="a"),
        Message("tool", "sun", call_id="b"),
        Message("user", "and Rome?"),
    ]


def test_a_call_under_way_is_shown_as_such():
    """So the model neither waits for it nor makes it again."""
    shown = prompt("", [call("a"), Said("u", "user", "hello?")])
    assert [message.text for message in shown if message.role == "tool"] == [PENDING]


def test_calls_of_two_turns_are_two_messages():
    calls = arranged([call("a", 1), result("a", "1"), call("b", 2), result("b", "2")])
    assert [said.call_id for said in calls] == ["a", "a", "b", "b"]
    assert [len(message.calls) for message in prompt("", calls)] == [1, 0, 1, 0]


def test_what_an_offer_asks_for_comes_back():
    request, given = read_request('{"tools":[{"name":"f"}],"tool_choice":"none","max_tokens":5,"parallel":false}')
    assert (request, given) == (Request(({"name": "f"},), "none", 5, False), None)
    assert read_request("") == (Request(), None)
    _, given = read_request('{"conversation":[{"role":"user","text":"hi"},{"role":"tool","call_id":"c"}]}')
    assert [(said.role, said.text, said.call_id) for said in given] == [("user", "hi", ""), ("tool", "", "c")]


def piece(index, name=None, arguments=None):
    return chunk({"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]})


async def everything(engine, messages=ASKED, request=None):
    answer = engine.respond(messages, "en-US", CancelToken("s0-abcdef", 1), request or Request((TOOL,), "auto", 7))
    return [each async for each in answer]


async def test_calls_are_put_together_from_their_pieces(engine_for):
    """Names and arguments in pieces, told as they come; then the calls, whole; the server's own counts last."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}}\n\n'
    pieces = [piece(0, "weather", ""), piece(0, None, '{"city":'), piece(0, None, '"Paris"}'), piece(1, "weather", "")]
    script = says(chunk("Let me see. "), *pieces, chunk({}, finish="tool_calls"), usage, b"data: [DONE]\n\n")
    async with Scripted(script) as server:
        engine = await engine_for(server.url)
        got = await everything(engine)
        assert got == [
            "Let me see. ", CallPiece(0, "weather", 0, '{"city":'), CallPiece(0, "weather", 8, '"Paris"}'),
            Call("", "weather", '{"city":"Paris"}'), Call("", "weather", "{}"), Finish("tool_calls", 11, 5),
        ]  # fmt: skip
        (request,) = [r for r in server.requests if r.method == "POST"]
        function = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
        assert request.body["tools"] == [{"type": "function", "function": function}]
        assert (request.body["tool_choice"], request.body["max_tokens"]) == ("auto", 7)


async def test_calls_and_results_go_to_the_server_as_it_takes_them(engine_for):
    messages = [*ASKED, Message("assistant", "", (Call("c1", "weather", "{}"),)), Message("tool", "rain", call_id="c1")]
    async with Scripted(says(chunk("It rains."), DONE)) as server:
        engine = await engine_for(server.url)
        await everything(engine, messages, Request((TOOL,), {"type": "function", "name": "weather"}, parallel=False))
        (request,) = [r for r in server.requests if r.method == "POST"]
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        assert request.body["messages"][1:] == [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ]
        assert request.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        assert request.body["parallel_tool_calls"] is False


@pytest.mark.parametrize("arguments", ['{"city":', "[1]", "Paris"])
async def test_arguments_that_are_no_object_are_never_passed_on(engine_for, arguments):
    """No call comes of them; what cannot be the beginning of an object is not even told as a piece."""
    got = []
    async with Scripted(says(piece(0, "weather", arguments), DONE)) as server:
        engine = await engine_for(server.url)
        with pytest.raises(EngineError, match="weather"):
            async for each in engine.respond(ASKED, "en-US", CancelToken("s0-abcdef", 1), Request((TOOL,))):
                got.append(each)
    assert {each.text for each in got} == ({arguments} if arguments.startswith("{") else set())


async def test_calls_are_told_apart_by_when_they_begin(engine_for):
    """Two calls' pieces mixed, numbered by the server as it likes: each piece says which call it goes on with."""
    mixed = [piece(7, "weather", '{"a'), piece(2, "time", "{"), piece(7, None, '":1}'), piece(2, None, "} ")]
    async with Scripted(says(*mixed, DONE)) as server:
        got = await everything(await engine_for(server.url))
    assert [(each.number, each.start, each.text) for each in got if isinstance(each, CallPiece)] == [
        (0, 0, '{"a'), (1, 0, "{"), (0, 3, '":1}'), (1, 1, "} "),
    ]  # fmt: skip
    assert [each for each in got if isinstance(each, Call)] == [Call("", "weather", '{"a":1}'), Call("", "time", "{} ")]


async def test_a_connection_that_breaks_in_a_calls_arguments_is_tried_once_more(engine_for):
    """Nothing was said and nothing called: the answer begins anew, the pieces with it."""
    broken, whole = drops(piece(0, "weather", '{"city":')), says(piece(0, "weather", '{"city":"Rome"}'), DONE)
    async with Scripted(broken, whole) as server:
        got = await everything(await engine_for(server.url))
    assert [each.start for each in got if isinstance(each, CallPiece)] == [0, 0]
    assert Call("", "weather", '{"city":"Rome"}') in got
