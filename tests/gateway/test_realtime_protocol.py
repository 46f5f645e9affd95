"""The Realtime protocol beyond a plain conversation: items in any place, manual turns, idle callers, asides."""

import asyncio

import fakeredis
import pytest
import pytest_asyncio

from bus.history import read
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError
from gateway.settings import GatewaySettings
from tests.engines import ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import RATE, client, voice
from tests.stack import running_stack
from workers.engines import EngineError

LONG = "One two three four five. " * 12


@pytest_asyncio.fixture
async def stack():
    async with running_stack() as running:
        yield running


def message(text, role="user", **more):
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


@pytest.fixture
def config():
    return RealtimeConfig(GatewaySettings(_env_file=None).profile(), "any", frozenset({"tone"}))


async def test_items_go_where_the_client_puts_them(stack):
    """previous_item_id: after an item, "root" in front; the model is shown that order; an unknown one is refused."""
    async with client(stack.ws) as call:
        await call.send("conversation.item.create", item=message("second", id="b"))
        await call.send("conversation.item.create", item=message("fourth", role="assistant", id="d"))
        await call.send("conversation.item.create", item=message("third", id="c"), previous_item_id="b")
        await call.send(
            "conversation.item.create", item=message("first", role="system", id="a"), previous_item_id="root"
        )
        await call.send("conversation.item.create", item=message("x"), previous_item_id="nowhere")
        assert (await call.get("error"))["error"]["param"] == "previous_item_id"
        followed = [event.get("previous_item_id") for event in call.all("conversation.item.added")]
        assert followed == [None, "b", "b", None]
        await call.send("conversation.item.create", item=message("again", id="c"))
        assert (await call.get("error", 2))["error"]["code"] == "item_create_duplicate_item_id"
        await call.send("response.create", response={"output_modalities": ["text"]})
        await call.get("response.done")
        assert [text for _, text in stack.llm.prompts[-1][1:]] == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"type": "mcp_approval_response", "id": "m", "approval_request_id": "r", "approve": True}, "type"),
        (message("", content=[{"type": "input_image", "image_url": "data:,"}]), "content[0].type"),
        (message("", content=[{"type": "input_audio", "audio": "AAAA"}]), "content[0].type"),
    ],
)
async def test_an_item_that_cannot_be_held_here_is_refused_by_name(stack, item, where):
    """In the conversation as in a response's own input; the session goes on, and nothing of it has joined."""
    async with client(stack.ws) as call:
        await call.send("conversation.item.create", item=item)
        await call.send("response.create", response={"input": [item]})
        told = [(await call.get("error", n))["error"] for n in (1, 2)]
        assert [each["param"] for each in told] == [f"item.{where}", f"response.input[0].{where}"]
        assert {each["code"] for each in told} == {"invalid_value"} and not call.all("conversation.item.added")


async def test_a_buffer_that_this_transport_does_not_have_is_cleared_without_a_word():
    """output_audio_buffer.clear is WebRTC's; some clients send it anyway, and some die of an error."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta")
        await call.send("output_audio_buffer.clear")
        assert (await call.get("response.done"))["response"]["status"] == "completed" and not call.all("error")


async def test_an_item_that_was_deleted_may_come_again(stack):
    """Clients that replay a conversation delete and create items under the same ids."""
    async with client(stack.ws) as call:
        for text in ("old", "new"):
            await call.send("conversation.item.create", item=message(text, id="same"))
            if text == "old":
                await call.send("conversation.item.delete", item_id="same")
        await call.get("conversation.item.added", 2)
        await call.send("response.create")
        await call.get("response.done")
        assert stack.llm.prompts[-1][1:] == [("user", "new")]


async def test_a_response_may_differ_from_its_session(stack):
    """response.create: own instructions, text only, own limit, metadata echoed; the session stays as it is."""
    async with client(stack.ws) as call:
        wanted = {"instructions": "Rhyme.", "output_modalities": ["text"], "metadata": {"a": "b"}}
        await call.send("response.create", response={**wanted, "max_output_tokens": 50})
        done = (await call.get("response.done"))["response"]
        assert (done["metadata"], done["max_output_tokens"]) == ({"a": "b"}, 50)
        assert done["output"][0]["content"] == [{"type": "output_text", "text": stack.llm.answer}]
        assert stack.llm.prompts[-1][0] == ("system", "Rhyme.")
        await call.send("response.create")
        done = (await call.get("response.done", 2))["response"]
        assert "metadata" not in done and done["output"][0]["content"][0]["type"] == "output_audio"
        assert stack.llm.prompts[-1][0] != ("system", "Rhyme.")


async def test_usage_is_counted(stack):
    """Every response says how many tokens it cost, also one that was cancelled."""
    async with client(stack.ws) as call:
        await call.send("response.create")
        usage = (await call.get("response.done"))["response"]["usage"]
        assert usage["output_tokens"] == len(stack.llm.answer.split()) and usage["input_tokens"] > 10
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        await call.send("response.create")
        await call.get("response.created", 2)
        await call.send("response.cancel")
        assert (await call.get("response.done", 2))["response"]["usage"]["total_tokens"] >= 0


async def test_a_clients_own_turns_are_not_told_as_speech(stack):
    """turn_detection null: no speech events, which some clients take for an interruption; a commit is answered."""
    async with client(stack.ws) as call:
        await call.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await call.get("session.updated")
        await call.audio(voice(0.4))
        await call.send("input_audio_buffer.commit")
        committed = await call.get("input_audio_buffer.committed")
        done = await call.get("conversation.item.input_audio_transcription.completed")
        assert done["item_id"] == committed["item_id"] and done["transcript"] == "hello there"
        assert not [kind for kind in call.kinds() if "speech" in kind or kind.startswith("response")]
        await call.audio(voice(0.2))
        await call.send("input_audio_buffer.clear")
        await call.get("input_audio_buffer.cleared")
        await call.send("input_audio_buffer.commit")
        assert (await call.get("error"))["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_a_commit_without_speech_is_said_to_be_empty(stack):
    """With turn detection on, a commit ends the utterance that goes on; when there is none, nothing is committed."""
    async with client(stack.ws) as call:
        await call.audio(bytes(RATE))
        await call.send("input_audio_buffer.commit")
        assert (await call.get("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
        await call.audio(voice(0.4))
        await call.send("input_audio_buffer.commit")
        await call.get("input_audio_buffer.committed")
        assert (await call.get("response.done"))["response"]["status"] == "completed"


async def test_interrupt_response_false_only_tells_of_speech():
    """The answer goes on while the caller speaks, is never cancelled, and what was said is answered afterwards."""
    async with running_stack() as stack, client(stack.ws) as call:
        detection = {"type": "server_vad", "interrupt_response": False}
        await call.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        await call.send("response.create")
        await call.get("response.output_audio.delta", 5)
        await call.speak(0.5, 0.7)
        assert [(await call.get("response.done", n))["response"]["status"] for n in (1, 2)] == ["completed"] * 2


async def test_create_response_false_leaves_the_answer_to_the_client(stack):
    """The utterance joins the conversation; a response comes when it is asked for."""
    async with client(stack.ws) as call:
        detection = {"type": "semantic_vad", "create_response": False}
        await call.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        await call.speak()
        await call.get("conversation.item.input_audio_transcription.completed")
        assert "response.created" not in call.kinds()
        await call.send("response.create")
        await call.get("response.done")
        assert stack.llm.prompts[-1][-1] == ("user", "hello there")


async def test_a_silent_caller_is_spoken_to(stack):
    """idle_timeout_ms after a reply: timeout_triggered, committed, and a response; once, not for ever."""
    async with client(stack.ws) as call:
        detection = {"type": "server_vad", "idle_timeout_ms": 1000}
        await call.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        await call.send("response.create")
        await call.get("response.done")
        triggered = await call.get("input_audio_buffer.timeout_triggered")
        committed = await call.get("input_audio_buffer.committed")
        assert committed["item_id"] == triggered["item_id"]
        await call.get("response.output_audio.delta", len(call.all("response.output_audio.delta")) + 1)
        assert stack.llm.prompts[-1][-1] == ("user", "(silence)")
        await call.send("session.update", session={"audio": {"input": {"turn_detection": {"idle_timeout_ms": None}}}})
        await call.get("response.done", 2)


async def test_an_aside_runs_beside_the_conversation():
    """conversation "none": its own input, text, metadata; at the same time as a reply; nothing of it is remembered."""
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, client(stack.ws) as call:
        await call.send("conversation.item.create", item=message("I like tea.", id="tea"))
        await call.send("response.create")
        await call.get("response.output_audio.delta", 3)
        wanted = {"conversation": "none", "output_modalities": ["text"], "instructions": "Classify."}
        await call.get("response.output_audio.delta", 4)
        reference = {"type": "item_reference", "id": "tea"}
        given = [reference, message("What is it about?")]
        await call.send("response.create", response={**wanted, "metadata": {"topic": "1"}, "input": given})
        done = (await call.get("response.done"))["response"]
        assert done["metadata"] == {"topic": "1"} and "conversation_id" not in done
        assert done["output"][0]["content"][0]["text"] == LONG.strip()
        asked = [("system", "Classify."), ("user", "I like tea."), ("user", "What is it about?")]
        assert stack.llm.prompts[-1] == asked
        assert not [e for e in call.all("conversation.item.added") if e["item"]["id"] == done["output"][0]["id"]]
        await call.send("response.create", response={**wanted, "metadata": {"topic": "2"}})
        done = (await call.get("response.done", 2))["response"]
        assert done["metadata"] == {"topic": "2"} and stack.llm.prompts[-1] == asked[:2]
        await call.send("response.create", response={"conversation": "none"})
        aside = (await call.get("response.created", 4))["response"]["id"]
        await call.send("response.cancel", response_id=aside)
        done = (await call.get("response.done", 3))["response"]
        assert (done["id"], done["status"]) == (aside, "cancelled")
        assert len(call.all("response.done")) == 3, "the conversation's own reply goes on"
        (session,) = stack.sessions
        assert [said.text for said in await read(stack.bus, session)] == ["I like tea."]


async def test_too_many_asides_are_refused_and_leave_with_the_client():
    """A client cannot start any number of them, and none outlives its connection."""
    async with running_stack(llm=ScriptedLlm(LONG, pace=0.05)) as stack:
        async with client(stack.ws) as call:
            await call.get("session.created")
        await until_alone(stack)
        before = len(asyncio.all_tasks())
        async with client(stack.ws) as call:
            for _ in range(5):
                await call.send("response.create", response={"conversation": "none"})
            assert (await call.get("error"))["error"]["code"] == "rate_limit_exceeded"
        await until_alone(stack)
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.01)


async def test_an_aside_that_redis_does_not_take_has_failed():
    """Its client is told the end, and does not wait for ever; asked once more it is answered."""
    server = fakeredis.FakeServer()

    def make(timeout):
        return fakeredis.FakeAsyncRedis(server=server, protocol=2, socket_timeout=timeout)

    wanted = {"conversation": "none", "output_modalities": ["text"], "metadata": {"topic": "1"}}
    async with running_stack(make_client=make) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"instructions": "Be brief."})
        await call.get("session.updated")  # the session has begun
        server.connected = False
        await call.send("response.create", response=wanted)
        done = (await call.get("response.done", limit=20))["response"]
        assert (done["status"], done["metadata"]) == ("failed", {"topic": "1"})
        assert (await call.get("response.created"))["response"]["id"] == done["id"]
        server.connected = True
        async with asyncio.timeout(20):
            while (done := (await asked_again(call, wanted))["status"]) == "failed":
                pass
        assert done == "completed"


async def asked_again(call, wanted):
    known = len(call.all("response.done"))
    await call.send("response.create", response=wanted)
    return (await call.get("response.done", known + 1, limit=20))["response"]


async def until_alone(stack):
    async with asyncio.timeout(10):
        while stack.sessions:
            await asyncio.sleep(0.01)


async def test_a_truncation_is_clamped_and_the_item_says_what_was_heard(stack):
    """The acknowledgement never names more than there was; a retrieved item has the words that were heard."""
    async with client(stack.ws) as call:
        await call.send("response.create")
        item = (await call.get("response.done"))["response"]["output"][0]["id"]
        for position in (99_999, 450):
            await call.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=position)
        ends = [(await call.get("conversation.item.truncated", n))["audio_end_ms"] for n in (1, 2)]
        assert ends == [8 * 200, 450]
        await call.send("conversation.item.retrieve", item_id=item)
        content = (await call.get("conversation.item.retrieved"))["item"]["content"]
        assert content == [{"type": "output_audio", "transcript": "One two"}]


async def test_an_utterance_that_was_not_understood_is_said_so():
    """A recogniser's failure is transcription.failed for that item, no error event: some clients end at those."""

    class Failing(ScriptedStt):
        async def open(self, language):
            recognizer = await super().open(language)

            async def flush():
                raise EngineError("the recogniser is out of order")

            recognizer.flush = flush
            return recognizer

    async with running_stack(stt=Failing()) as stack, client(stack.ws) as call:
        await call.speak()
        failed = await call.get("conversation.item.input_audio_transcription.failed")
        assert "out of order" in failed["error"]["message"]
        assert failed["item_id"] == (await call.get("input_audio_buffer.committed"))["item_id"]
        assert call.all("error") == []


@pytest.mark.parametrize(("eagerness", "silence", "incomplete"), [("low", 1000, 8000), ("high", 300, 2000)])
def test_eagerness_moves_the_end_of_a_turn(config, eagerness, silence, incomplete):
    """semantic_vad: low waits longer, high shorter, auto as the gateway is set."""
    auto = config.update({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}).endpointing
    assert (auto.silence_ms, auto.incomplete_ms) == (500, 1500)
    change = {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": eagerness}}}}
    found = config.update(change).endpointing
    assert (found.silence_ms, found.incomplete_ms) == (silence, incomplete)


def test_a_partial_update_leaves_the_rest_alone(config):
    """Deep: one field of turn detection, the flags that a client's type does not have; nulls fall back to defaults."""
    before = config.view("x")
    config.update({"audio": {"input": {"turn_detection": {"threshold": 0.7}}}})
    config.update({"instructions": None, "tools": None, "tracing": "auto", "made_up": 1, "audio": {"input": {"x": 2}}})
    after = config.view("x")
    assert after["audio"]["input"]["turn_detection"].pop("threshold") == 0.7
    del before["audio"]["input"]["turn_detection"]["threshold"]
    assert after == {**before, "tracing": "auto"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "session.tools[0].type"),
        ({"tools": [{"type": "function"}]}, "session.tools[0].name"),
        ({"tool_choice": {"type": "function", "name": "nobody"}}, "session.tool_choice"),
        ({"max_output_tokens": -1}, "session.max_output_tokens"),
        ({"output_modalities": ["video"]}, "session.output_modalities"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}, "session.audio.input.format"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": "soon"}}}},
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name_and_changes_nothing(config, change, where):
    before = config.view("x")
    with pytest.raises(ProtocolError) as refused:
        config.update(change)
    assert refused.value.param.startswith(where.partition(".idle")[0]) and refused.value.message
    assert config.view("x") == before


async def test_half_a_surrogate_pair_and_numbers_that_are_none_harm_nobody(stack):
    """What JSON may escape but no UTF-8 may hold comes back replaced; NaN and 1e999 are not JSON."""
    async with client(stack.ws) as call:
        text = '{"type":"conversation.item.create","item":{"type":"message","role":"user","id":"s","content":[{"type":'
        await call.socket.send(text + '"input_text","text":"a\\ud800b"}]}}')
        assert (await call.get("conversation.item.added"))["item"]["content"][0]["text"] == "a?b"
        for number in ("NaN", "1e999"):
            played = '{"type":"bargein.output.played","response_id":"x","audio_end_ms":'
            await call.socket.send(f"{played}{number}}}")
        assert [(await call.get("error", n))["error"]["code"] for n in (1, 2)] == ["invalid_json"] * 2


async def test_leaving_manual_turns_lets_go_of_what_was_not_committed(stack):
    """Nobody would ever end that utterance: with turn detection on, the next words are one of their own."""
    async with client(stack.ws) as call:
        await call.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await call.audio(voice(0.3))
        await call.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
        await call.get("session.updated", 2)
        (session,) = stack.sessions.values()
        assert session.state.utterances == ()
        await call.speak()
        assert (await call.get("response.done"))["response"]["status"] == "completed"
