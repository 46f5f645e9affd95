"""Whatever a client sends: an error event or nothing, no task dies, no session leaks, and memory stays flat."""

import asyncio
import base64
import gc
import json
import logging
import random
import tracemalloc
from collections import Counter

import pytest

from gateway.protocols.realtime_events import EVENTS as EVENT_TYPES
from tests.engines import CallingLlm
from tests.fuzz.garbage import DEEP, mutated
from tests.gateway.realtime_client import client
from tests.gateway.schema_events import schema_event
from tests.gateway.twilio_line import Line, TelnyxLine, line
from tests.stack import running_stack

SEEDS = range(10)
WARM = 2
"""Index of the call after which tasks and memory are the measure for the later ones."""
EVENTS = 1_000
"""Events of each seed; a tenth as many raw frames come on top."""
AUDIO = base64.b64encode(bytes(4800)).decode()
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
VALID = [
    {"type": "session.update", "session": {
        "type": "realtime", "instructions": "x", "tools": [TOOL], "tool_choice": "auto", "output_modalities": ["audio"],
        "max_output_tokens": 50, "audio": {
            "input": {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": {"model": "m", "language": "en"},
                      "turn_detection": {"type": "server_vad", "threshold": 0.5, "idle_timeout_ms": 5000,
                                         "create_response": True}, "noise_reduction": {"type": "near_field"}},
            "output": {"format": {"type": "audio/pcmu"}, "voice": "alloy", "speed": 1.0}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}},
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcma"}}}}},
    {"type": "input_audio_buffer.append", "audio": AUDIO},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.create", "previous_item_id": "root", "item": {
        "type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}},
    {"type": "conversation.item.create", "item": {
        "type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "hi"}]}},
    {"type": "conversation.item.create", "item": {
        "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}},
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "1"}},
    {"type": "conversation.item.retrieve", "item_id": "a"},
    {"type": "conversation.item.delete", "item_id": "a"},
    {"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": 100},
    {"type": "response.create"},
    {"type": "response.create", "response": {
        "instructions": "x", "metadata": {"a": "b"}, "output_modalities": ["text"], "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "f"}, "max_output_tokens": "inf"}},
    {"type": "response.create", "response": {"conversation": "none", "input": [
        {"type": "item_reference", "id": "a"}, {"type": "message", "role": "user", "content": []}]}},
    {"type": "response.cancel", "response_id": "r"},
    {"type": "output_audio_buffer.clear"},
    {"type": "response.create", "response": {"audio": {"output": {"voice": "tone", "format": {"type": "audio/pcm"}}}}},
    {"type": "bargein.output.played", "response_id": "r", "audio_end_ms": 5},
    {"type": "bargein.input.resumed", "audio_start_ms": 5},
]  # fmt: skip
JUNK = (
    None, True, False, 0, -1, 1, 10**30, 0.5, -1e300, "", "x", "null", "audio/pcm", "a" * 5000, "\u0000", "\U0001f600",
    "\ud800", [], {}, [[]], [None], {"": None}, {"type": "message"}, {"type": "function"}, [TOOL] * 3, AUDIO, "r" * 600,
)  # fmt: skip


def changed(event, rng):
    """An event that is mutated, its type rarely."""
    event = mutated(event, rng, keep={("type",)}, junk=JUNK)
    if rng.random() < 0.02:
        event["type"] = rng.choice(JUNK)
    return event


def raw(rng):
    """A frame that is no event: bytes, broken JSON, JSON of another kind."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        text = json.dumps(rng.choice(VALID))
        return text[: rng.randrange(len(text))]
    if kind == 2:
        return json.dumps(rng.choice(JUNK))
    return rng.choice((*DEEP, "NaN", '"' * 99, "\ufeff{}"))


async def one_call(stack, seed):
    """Send everything of a seed; what came back."""
    rng = random.Random(seed)
    async with client(stack.ws, ping_timeout=None) as call:
        await call.get("session.created")
        for number in range(EVENTS):
            event = changed(rng.choice(VALID) if number % 2 else schema_event(rng), rng)
            # Some answer to names that exist by now.
            if rng.random() < 0.3 and (items := call.all("conversation.item.added")):
                event["item_id"] = rng.choice(items)["item"]["id"]
            await call.socket.send(json.dumps(event))
            if number % 10 == 0:
                await call.socket.send(raw(rng))
            if number % 50 == 0:
                await call.send("conversation.item.retrieve", item_id="nothing", event_id=f"sync {number}")
                await until_answered(call, f"sync {number}")
        sane = {"format": {"type": "audio/pcm"}, "turn_detection": {"type": "server_vad", "idle_timeout_ms": None}}
        await call.send("response.cancel")
        await call.send("session.update", session={"audio": {"input": sane}, "tools": [], "tool_choice": "auto"})
        await call.send("response.create", response={"metadata": {"last": "1"}, "output_modalities": ["text"]})
        try:
            async with asyncio.timeout(60):
                while not [e for e in call.all("response.done") if e["response"].get("metadata") == {"last": "1"}]:
                    await asyncio.sleep(0.5)
                    if call.all("error")[-1]["error"]["code"] == "conversation_already_has_active_response":
                        await call.send("response.cancel")
                        await call.send("response.create", response={"metadata": {"last": "1"}})
        except TimeoutError:
            told = [event["error"]["code"] for event in call.all("error")[-6:]]
            raise AssertionError(f"seed {seed} is not served at the end: {told}, {call.kinds()[-12:]}") from None
        codes = {event["error"]["code"] for event in call.all("error")}
        assert "internal_error" not in codes and call._wrong is None
        return codes


async def until_answered(call, name):
    """Return once the error that names an event of ours has come: all before it has been handled."""
    async with asyncio.timeout(120):
        while not [e for e in call.all("error")[-40:] if e["error"].get("event_id") == name]:
            assert not call._reading.done(), (call._wrong, call.kinds()[-5:])
            await asyncio.sleep(0.005)


async def until_gone(stack):
    async with asyncio.timeout(60):
        while stack.sessions:
            await asyncio.sleep(0.01)


def tasks_of_ours():
    """How many tasks there are of each coroutine, by its name; without the pretended server's, which has one for as
    long as a read blocks and none between two reads."""
    names = (task.get_coro().__qualname__ for task in asyncio.all_tasks())
    return Counter(name for name in names if not name.startswith("AsyncFakeSocket."))


async def at_rest(before=None):
    """The tasks once there are none beyond ``before``, or 10 s later; without ``before``, the most of each in 1 s."""
    most = Counter()
    for _ in range(100 if before is None else 1000):
        now = tasks_of_ours()
        if before is not None and not now - before:
            return now
        most |= now
        await asyncio.sleep(0.01)
    return most if before is None else now


async def forget_other_tests():
    """Let what other tests left behind, clients of closed loops for example, complain before this one listens."""
    for _ in range(3):
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)


def test_every_type_of_event_is_among_them():
    """Both among the examples and among those made from the SDK's types; the latter are valid there."""
    made = [schema_event(random.Random(seed)) for seed in range(400)]
    assert {event["type"] for event in VALID} == set(EVENT_TYPES)
    assert {event["type"] for event in made} == {kind for kind in EVENT_TYPES if not kind.startswith("bargein.")}
    for event in made:
        if (model := EVENT_TYPES[event["type"]]) is not None:
            model.model_validate(event)


async def test_ten_thousand_events_harm_nobody(caplog):
    """Schema-based and raw, over ten calls: each goes on to the end and is served then, with every event that comes
    back valid; nothing is logged as unexpected; afterwards there are as many tasks and as much memory as before."""
    await forget_other_tests()
    caplog.set_level(logging.ERROR)
    caplog.clear()
    async with running_stack(llm=CallingLlm(), max_session_s=0) as stack:
        tasks, memory, codes = [], [], set()
        tracemalloc.start()
        for seed in SEEDS:
            codes |= await one_call(stack, seed)
            await until_gone(stack)
            await stack.bus.outbox.drain()
            for key in await stack.bus.commands.keys("bargein:{s0}:s0-*"):
                await stack.bus.commands.delete(key)
            stack.llm.prompts.clear(), stack.llm.messages.clear(), stack.llm.requests.clear(), stack.stt.heard.clear()
            stack.tts.spoken.clear()
            gc.collect()
            tasks.append(await at_rest(tasks[WARM] if len(tasks) > WARM else None))
            memory.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert {"invalid_json", "invalid_value", "missing_required_parameter", "response_cancel_not_active"} <= codes
    unexpected = [record.getMessage() for record in caplog.records if "could not be handled" in record.getMessage()]
    unexpected += [record.getMessage() for record in caplog.records if record.exc_info]
    assert unexpected == []
    # What is made at its first use, a worker's reader for example, has been made within three calls.
    assert tasks[-1] - tasks[WARM] == Counter()
    assert memory[-1] - memory[WARM] < 3_000_000, memory


@pytest.mark.parametrize(("seed", "kind"), [(0, Line), (1, Line), (2, TelnyxLine)])
async def test_a_phone_line_of_rubbish_harms_nobody(seed, kind, caplog):
    """The same for the phone's doors: random messages, then a call that is served."""
    rng = random.Random(seed)
    valid = [
        {"event": "media", "media": {"track": "inbound", "payload": base64.b64encode(b"\xff" * 160).decode()}},
        {"event": "mark", "mark": {"name": "1.1"}},
        {"event": "dtmf", "dtmf": {"digit": "1"}},
        {"event": "connected"},
    ]
    path = "/twilio" if kind is Line else "/telnyx"
    async with running_stack() as stack, line(stack.ws.partition("/v1")[0] + path, kind=kind) as call:
        for _ in range(300):
            await call._socket.send(json.dumps(changed(rng.choice(valid), rng)))
            await call._socket.send(raw(rng))
        await call.say()
        await call.until(lambda: bool(call.playout.played))
    assert [record for record in caplog.records if "could not be handled" in record.getMessage()] == []
