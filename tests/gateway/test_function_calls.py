"""Function calls end to end: told once, answered once, never lost to an interruption."""

from bus.events import ToolCall
from bus.history import read
from tests.engines import CallingLlm
from tests.gateway.realtime_client import client
from tests.stack import running_stack
from workers.llm.tools import PENDING, Call

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "x",
    "parameters": {"type": "object", "properties": {}},
}
PARIS, ROME = Call("server's own", "weather", '{"city":"Paris"}'), Call("server's own", "weather", '{"city":"Rome"}')
LONG = "One two three four five. " * 12


def output(call_id, text, **more):
    return {"type": "function_call_output", "call_id": call_id, "output": text, **more}


async def test_a_call_goes_out_and_its_result_is_spoken_about():
    """The protocol's events in order; arguments as the model wrote them; the answer is made from the output."""
    llm = CallingLlm([PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"tools": [WEATHER], "tool_choice": "required"})
        await call.get("session.updated")
        await call.speak()
        done = (await call.get("response.done"))["response"]
        kinds = call.kinds()
        assert kinds[kinds.index("response.created") :] == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        assert [tool["name"] for tool in llm.requests[0].tools] == ["weather"]
        assert llm.requests[0].tool_choice == "required"
        (item,) = done["output"]
        assert (item["name"], item["arguments"], item["status"]) == ("weather", PARIS.arguments, "completed")
        assert (done["status"], done["usage"]["input_tokens"]) == ("completed", 100)
        await call.send("conversation.item.create", item=output(item["call_id"], "22 degrees"))
        await call.send("response.create")
        assert (await call.get("response.done", 2))["response"]["status"] == "completed"
        asked = llm.messages[1]
        assert [message.role for message in asked] == ["system", "user", "assistant", "tool"]
        assert asked[2].calls == (Call(item["call_id"], "weather", PARIS.arguments),)
        assert (asked[3].text, asked[3].call_id) == ("22 degrees", item["call_id"])


async def test_parallel_calls_have_names_of_their_own():
    """Two calls of one turn, though the server gave both the same id; one message with both, then both outputs."""
    llm = CallingLlm(["Let me look. ", PARIS, ROME])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        done = (await call.get("response.done"))["response"]
        calls = [item for item in done["output"] if item["type"] == "function_call"]
        assert len(calls) == 2 and calls[0]["call_id"] != calls[1]["call_id"]
        for each, text in zip(reversed(calls), ("rain", "sun"), strict=True):
            await call.send("conversation.item.create", item=output(each["call_id"], text))
        await call.send("response.create")
        await call.get("response.done", 2)
        asked = llm.messages[1][1:]
        assert [(message.role, message.text) for message in asked] == [
            ("assistant", "Let me look."), ("tool", "sun"), ("tool", "rain"),
        ]  # fmt: skip
        assert [each.arguments for each in asked[0].calls] == [PARIS.arguments, ROME.arguments]


async def test_a_result_that_is_there_before_the_words_are_spoken_waits():
    """A client that is quick asks while the turn still speaks: it is answered right after it, not refused."""
    llm = CallingLlm(["Let me look that up for you now. ", PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        made = await call.get("response.function_call_arguments.done")
        await call.send("conversation.item.create", item=output(made["call_id"], "22 degrees"))
        await call.send("response.create", response={"metadata": {"after": "call"}})
        done = [(await call.get("response.done", n))["response"] for n in (1, 2)]
        assert [each["status"] for each in done] == ["completed", "completed"]
        assert done[1]["metadata"] == {"after": "call"} and call.all("error") == []
        assert llm.messages[1][-1].text == "22 degrees"


async def test_an_interruption_during_a_call_loses_no_result_and_calls_nothing_twice():
    """While the function runs the caller says something: that turn knows of the call, the next its result."""
    llm = CallingLlm(["Let me look that up for you now, it may take a while. ", PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"tools": [WEATHER]})
        await call.send("response.create")
        made = await call.get("response.function_call_arguments.done")
        await call.get("response.output_audio.delta", 20)
        await call.speak()
        cancelled = (await call.get("response.done"))["response"]
        assert cancelled["status_details"]["reason"] == "turn_detected"
        assert [item["type"] for item in cancelled["output"]].count("function_call") == 1
        await call.get("response.created", 2)
        await call.get("response.output_audio.delta", len(call.all("response.output_audio.delta")) + 1)
        assert [m.text for m in llm.messages[1] if m.role == "tool"] == [PENDING]
        await call.send("conversation.item.create", item=output(made["call_id"], "22 degrees", id="result"))
        await call.send("response.create")
        assert (await call.get("response.done", 3))["response"]["status"] == "completed"
        told = llm.messages[2]
        at = next(n for n, message in enumerate(told) if message.calls)
        assert (told[at + 1].role, told[at + 1].text) == ("tool", "22 degrees")
        assert len(call.all("response.function_call_arguments.done")) == 1 and call.all("error") == []


async def test_a_call_has_one_result():
    """A second output of the same call is acknowledged and changes nothing; one of no call is refused by name."""
    llm = CallingLlm([PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        made = await call.get("response.function_call_arguments.done")
        for number, text in enumerate(("first", "second")):
            await call.send("conversation.item.create", item=output(made["call_id"], text, id=f"o{number}"))
        await call.get("conversation.item.done", 3)
        await call.send("conversation.item.create", item=output("call_of_nobody", "x"))
        assert (await call.get("error"))["error"]["param"] == "item.call_id"
        await call.send("response.create")
        await call.get("response.done", 2)
        assert [m.text for m in llm.messages[1] if m.role == "tool"] == ["first"]


async def test_a_call_that_comes_twice_is_made_once():
    """A worker that took over, or a doubled entry: the client hears of a call id once."""
    async with running_stack(llm=CallingLlm([PARIS], pace=0.2)) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        await call.get("response.created")
        (session,) = stack.sessions.values()
        for _ in range(2):
            session.inlet.hear(ToolCall(1, 1, 0, f"call_{session.id.replace('-', '_')}_1_0", "weather", "{}"))
        await call.get("response.done")
        assert len(call.all("response.function_call_arguments.done")) == 1
        await stack.bus.outbox.drain()
        assert [said.role for said in await read(stack.bus, session.id)] == ["tool_call"]


async def test_a_call_made_ahead_of_the_end_waits_for_the_end():
    """EAGER_REPLY: a function is called only once the caller's turn is over; a guess that was wrong calls nothing."""
    llm = CallingLlm([PARIS], [ROME])
    async with running_stack(llm=llm, eager_reply=True) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"tools": [WEATHER]})
        await call.get("session.updated")
        await call.speak(0.6, 0.38)
        await call.speak(0.6, 0.9)
        await call.get("response.done")
        (made,) = call.all("response.function_call_arguments.done")
        assert made["arguments"] == ROME.arguments
        kinds = call.kinds()
        stopped = kinds.index("input_audio_buffer.speech_stopped")
        assert stopped < kinds.index("response.created") < kinds.index("response.function_call_arguments.done")
        (session,) = stack.sessions
        await stack.bus.outbox.drain()
        said = [each for each in await read(stack.bus, session) if each.role == "tool_call"]
        assert [each.text for each in said] == [ROME.arguments]


async def test_a_replayed_conversation_brings_its_calls():
    """A client that reconnects creates the call and its output itself; the model is shown both."""
    llm = CallingLlm()
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        made = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
        for item in (made, output("c1", "rain")):
            await call.send("conversation.item.create", item=item)
        await call.send("response.create")
        await call.get("response.done")
        assert llm.messages[0][1].calls == (Call("c1", "weather", "{}"),)
        assert llm.messages[0][2].text == "rain" and call.all("error") == []
