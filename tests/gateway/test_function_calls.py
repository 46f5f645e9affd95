"""Function calls end to end: told as they are written, once, answered once, never lost to an interruption."""

import asyncio

from bus.events import ToolCall
from bus.history import read
from tests.engines import CallingLlm
from tests.gateway.realtime_client import client
from tests.stack import running_stack
from workers.llm.tools import PENDING, Call, CallPiece

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


async def test_one_call_at_a_time_may_be_asked_for():
    """parallel_tool_calls of the session, and of one response, reaches the model's server; absent, its own default."""
    llm = CallingLlm()
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        for number, (session, response) in enumerate([({}, {}), ({"parallel_tool_calls": False}, {}),
                                                      ({}, {"parallel_tool_calls": True})], 1):  # fmt: skip
            await call.send("session.update", session={"tools": [WEATHER], **session})
            await call.send("response.create", response={"output_modalities": ["text"], **response})
            await call.get("response.done", number)
        assert [request.parallel for request in llm.requests] == [None, False, True]


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


def pieces(call, *sizes, number=0):
    """A call's arguments in pieces of so many characters, the last of them the rest."""
    found, start = [], 0
    for size in (*sizes, len(call.arguments)):
        found.append(CallPiece(number, call.name, start, call.arguments[start : start + size]))
        start += size
    return found


class Waits(CallingLlm):
    """Before the script's last part it waits until it is let go on."""

    def __init__(self, *script):
        super().__init__(*script)
        self.go_on = asyncio.Event()

    async def respond(self, messages, language, cancel, request):
        last = self.script[0][-1] if self.script else None
        async for part in super().respond(messages, language, cancel, request):
            if part is last:
                await self.go_on.wait()
            yield part


async def test_arguments_are_told_as_the_model_writes_them():
    """The first piece is at the client before the call is complete; all of them together are the arguments."""
    llm = Waits([*pieces(PARIS, 3, 5), PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        first, second, third = [await call.get("response.function_call_arguments.delta", n) for n in (1, 2, 3)]
        assert call.all("response.function_call_arguments.done") == []
        added = call.all("conversation.item.added")[-1]["item"]
        assert (added["status"], added["name"], added["arguments"]) == ("in_progress", "weather", "")
        llm.go_on.set()
        await call.get("response.done")
        done = call.all("response.function_call_arguments.done")[0]
        assert first["delta"] + second["delta"] + third["delta"] == done["arguments"] == PARIS.arguments
        assert {(each["item_id"], each["call_id"], each["output_index"]) for each in (first, second, third, done)} == {
            (added["id"], added["call_id"], 0)
        }
        assert len(call.all("response.function_call_arguments.delta")) == 3


async def test_an_interruption_in_mid_arguments_leaves_no_half_call():
    """Whole as the text may look: nothing says that the call is done, in any event that some client executes; the
    conversation, the client's and the model's, is without it, and what the model had yet to say of it comes to nothing.
    """
    llm = Waits([*pieces(PARIS, 3), PARIS])
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        piece = await call.get("response.function_call_arguments.delta", 2)
        await call.send("response.cancel")
        done = (await call.get("response.done"))["response"]
        assert (done["status"], done["output"]) == ("cancelled", [])
        assert (await call.get("conversation.item.deleted"))["item_id"] == piece["item_id"]
        llm.go_on.set()
        await call.send("response.create")
        assert (await call.get("response.done", 2))["response"]["status"] == "completed"
        assert call.all("response.function_call_arguments.done") == []
        assert all(event["item"]["type"] == "message" for event in call.all("response.output_item.done"))
        assert all(not message.calls and message.role != "tool" for message in llm.messages[-1])
        await call.send("conversation.item.create", item=output(piece["call_id"], "22 degrees"))
        assert (await call.get("error"))["error"]["param"] == "item.call_id"


async def test_a_call_that_was_begun_anew_is_made_once():
    """The worker died, or its server broke off: the half call is taken back at the turn's end, the whole one made."""
    half = pieces(PARIS, 3)[0]
    async with running_stack(llm=CallingLlm([half, *pieces(ROME, 6), ROME])) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"tools": [WEATHER]})
        done = (await call.get("response.done"))["response"]
        (made,) = call.all("response.function_call_arguments.done")
        assert [item["arguments"] for item in done["output"]] == [made["arguments"]] == [ROME.arguments]
        deleted = await call.get("conversation.item.deleted")
        assert deleted["item_id"] not in (made["item_id"], None)
        assert (await call.get("conversation.item.done"))["item"]["status"] == "completed"


async def test_pieces_of_a_call_ahead_of_the_end_wait_for_the_end():
    """EAGER_REPLY: nothing of a call is told before the turn is; then what there is of it so far at once."""
    llm = CallingLlm([*pieces(PARIS, 3), PARIS], [*pieces(ROME, 3), ROME])
    async with running_stack(llm=llm, eager_reply=True) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"tools": [WEATHER]})
        await call.get("session.updated")
        await call.speak(0.6, 0.38)
        await call.speak(0.6, 0.9)
        await call.get("response.done")
        deltas = call.all("response.function_call_arguments.delta")
        assert "".join(each["delta"] for each in deltas) == ROME.arguments
        assert call.kinds().index("response.created") < call.kinds().index("response.function_call_arguments.delta")


async def test_the_gateways_own_functions_are_told_in_no_piece():
    end = Call("", "end_call", "{}")
    llm = CallingLlm(["Goodbye. ", CallPiece(0, "end_call", 0, "{}"), end])
    async with running_stack(llm=llm, own_tools="end_call") as stack, client(stack.ws) as call:
        await call.send("response.create")
        assert (await call.get("response.done"))["response"]["status"] == "completed"
        assert not [kind for kind in call.kinds() if "function_call" in kind]
        assert all(event["item"]["type"] == "message" for event in call.all("conversation.item.added"))
