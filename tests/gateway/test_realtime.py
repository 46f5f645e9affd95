import asyncio
import base64
import json

import pytest
import pytest_asyncio

from bus.history import read
from tests.engines import ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import RATE, client
from tests.stack import running_stack


@pytest_asyncio.fixture
async def stack():
    async with running_stack() as running:
        yield running


LONG = "One two three four five. " * 12


async def test_a_spoken_conversation_in_the_protocols_order(stack):
    """Every event a stock client may wait for comes, in the protocol's order."""
    async with client(stack.ws) as call:
        await call.get("session.created")
        await call.speak()
        done = await call.get("response.done")
        order = [
            "session.created",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        seen = [kind for kind in call.kinds() if kind not in ("response.output_audio_transcript.delta",)]
        once = [kind for n, kind in enumerate(seen) if n == 0 or seen[n - 1] != kind]
        assert once == order
        assert done["response"]["status"] == "completed"
        said = done["response"]["output"][0]["content"][0]["transcript"]
        assert said == stack.llm.answer
        assert len(call.audio_of(done["response"]["id"])) == 2 * 8 * 200 * RATE // 1000
        assert call.all("conversation.item.input_audio_transcription.completed")[0]["transcript"] == "hello there"


async def test_a_barge_in_cancels_and_the_next_turn_knows_what_was_heard():
    """speech_started first, then the response's closing events, no audio after; the prompt holds what was heard."""
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, client(stack.ws) as call:
        await call.speak()
        first = await call.get("response.created")
        await call.get("response.output_audio.delta", 60)
        await call.speak()
        done = await call.get("response.done")
        assert done["response"]["id"] == first["response"]["id"]
        assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert done["response"]["output"][0]["status"] == "incomplete"
        second = await call.get("response.created", 2)
        assert second["response"]["id"] != first["response"]["id"]
        await call.get("response.output_audio.delta", len(call.all("response.output_audio.delta")) + 5)
        kinds = call.kinds()
        assert kinds.index("input_audio_buffer.speech_started", 5) < kinds.index("response.done")
        after = call.events[call.events.index(done) :]
        assert not [e for e in after if "audio" in e["type"] and e.get("response_id") == first["response"]["id"]]
        (prompt,) = [p for p in stack.llm.prompts if len(p) > 2]
        heard = prompt[2][1]
        assert prompt[1] == ("user", "hello there") and prompt[2][0] == "assistant"
        assert LONG.startswith(heard) and 3 <= len(heard.split()) < 40
        assert stack.tts.cut + stack.llm.closed >= 1


class SlowStt(ScriptedStt):
    """Its texts come when they may."""

    def __init__(self, text):
        super().__init__(text)
        self.may = asyncio.Event()

    async def open(self, language):
        recogniser = await super().open(language)
        flush = recogniser.flush

        async def slow():
            await self.may.wait()
            return await flush()

        async def feed(pcm):
            return ""

        recogniser.flush, recogniser.feed = slow, feed
        return recogniser


async def test_a_short_interruption_whose_text_comes_after_its_end_is_told_whole():
    """Its words confirm it: the client hears of it as of any other, started, stopped, committed and with its text."""
    stt = SlowStt(["hello there", "stop"])
    stt.may.set()
    async with running_stack(llm=ScriptedLlm(LONG), stt=stt) as stack, client(stack.ws) as call:
        await call.speak()
        await call.get("response.output_audio.delta", 40)
        (session,) = stack.sessions.values()
        stt.may.clear()
        await call.speak(0.3, 1.0)
        async with asyncio.timeout(5):
            while not any(utterance.ended for utterance in session.state.utterances):
                await asyncio.sleep(0.01)
        assert not call.all("response.done"), "it may have been a cough"
        stt.may.set()
        told = await call.get("conversation.item.input_audio_transcription.completed", 2)
        assert told["transcript"] == "stop"
        stopped = (await call.get("input_audio_buffer.speech_stopped", 2))["audio_end_ms"]
        assert stopped < session.microphone.position_ms
        kinds = [event["type"] for event in call.events if event.get("item_id") == told["item_id"]]
        assert kinds == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
        ]
        assert (await call.get("response.done"))["response"]["status"] == "cancelled"


async def test_an_extended_client_is_told_to_hold_at_once_and_resumes_from_where_it_was():
    """A cough holds the output and plays on from the sample the client says it had played; nothing is lost."""
    async with running_stack(llm=ScriptedLlm(LONG)) as stack:
        stack.stt.texts = ["hello there", "", "hello there"]
        async with client(stack.ws + "&extensions=bargein") as call:
            await call.speak()
            await call.get("response.output_audio.delta", 40)
            sending = asyncio.create_task(call.speak(0.15, 1.0))
            held = await call.get("bargein.output.held")
            await call.send("bargein.output.played", response_id=held["response_id"], audio_end_ms=777)
            resumed = await call.get("bargein.output.resumed")
            assert resumed["audio_start_ms"] == 777
            await sending
            await call.get("response.output_audio.delta", len(call.all("response.output_audio.delta")) + 10)
            assert call.all("response.done") == []
            parts = {"before": b"", "held": b"", "after": b""}
            part = "before"
            for event in call.events:
                part = {"bargein.output.held": "held", "bargein.output.resumed": "after"}.get(event["type"], part)
                if event["type"] == "response.output_audio.delta":
                    parts[part] += base64.b64decode(event["delta"])
            assert parts["held"] == b""
            overlap = parts["before"][777 * RATE // 1000 * 2 :]
            assert overlap and parts["after"].startswith(overlap)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("this is not json", "invalid_json"),
        ("[1, 2]", "invalid_value"),
        ('{"no": "type"}', "missing_required_parameter"),
        ('{"type": "make.coffee"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_value"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 10_000_000}), "invalid_value"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        ('{"type": "response.cancel"}', "response_cancel_not_active"),
        ('{"type": "conversation.item.delete", "item_id": "none"}', "item_retrieve_invalid_item_id"),
        ('{"type": "session.update", "session": {"type": "transcription"}}', "invalid_value"),
        (
            '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "x"}}}}}',
            "invalid_value",
        ),
        ('{"type": "session.update", "session": {"output_modalities": "audio"}}', "invalid_value"),
        ('{"type": "bargein.output.played", "response_id": "x", "audio_end_ms": "soon"}', "invalid_value"),
        ("[" * 100_000, "invalid_json"),
        (b"\xff\xfe\x00", "invalid_json"),
    ],
)  # fmt: skip
async def test_bad_input_is_answered_and_the_conversation_goes_on(stack, frame, code):
    """Whatever is wrong is said in an error event; the call is served as before."""
    async with client(stack.ws) as call:
        await call.get("session.created")
        await call.socket.send(frame)
        error = (await call.get("error"))["error"]
        assert error["code"] == code and error["type"] == "invalid_request_error" and error["message"]
        await call.send("response.create")
        assert (await call.get("response.done"))["response"]["status"] == "completed"


async def test_the_clients_event_id_comes_back_with_its_error(stack):
    async with client(stack.ws) as call:
        await call.send("response.cancel", event_id="mine")
        assert (await call.get("error"))["error"]["event_id"] == "mine"


async def test_a_session_update_is_a_deep_partial_merge(stack):
    """A missing field keeps its value, null clears turn detection, a refused change changes nothing."""
    async with client(stack.ws) as call:
        created = (await call.get("session.created"))["session"]
        await call.send("session.update", session={"type": "realtime", "instructions": "Speak like a pirate."})
        updated = (await call.get("session.updated"))["session"]
        assert updated == {**created, "instructions": "Speak like a pirate."}
        change = {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}
        await call.send("session.update", session=change)
        detection = (await call.get("session.updated", 2))["session"]["audio"]["input"]["turn_detection"]
        assert detection == {
            "type": "semantic_vad", "eagerness": "auto", "create_response": True, "interrupt_response": True,
        }  # fmt: skip
        await call.send("session.update", session={"audio": {"output": {"format": {"type": "audio/opus"}}}})
        assert (await call.get("error"))["error"]["param"].startswith("session.audio.output")
        await call.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        final = (await call.get("session.updated", 3))["session"]
        assert final["audio"]["input"]["turn_detection"] is None
        assert final["instructions"] == "Speak like a pirate."
        await call.send("response.create")
        await call.get("response.done")
        assert stack.llm.prompts[-1][0] == ("system", "Speak like a pirate.")


async def test_manual_turns_are_committed_and_answered_when_asked(stack):
    """turn_detection null: append, commit, response.create, with whatever silence is in the audio."""
    async with client(stack.ws) as call:
        await call.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await call.audio(bytes(RATE))
        await call.send("input_audio_buffer.commit")
        await call.send("response.create", response={"metadata": {"who": "me"}})
        created = await call.get("response.created")
        assert created["response"]["metadata"] == {"who": "me"}
        done = await call.get("response.done")
        assert done["response"]["metadata"] == {"who": "me"}
        assert stack.llm.prompts[-1][-1] == ("user", "hello there")
        assert stack.stt.heard == [pytest.approx(8000, abs=2400)]


async def test_text_in_and_text_out(stack):
    """Items are added, listed, deleted; a text-only response has no audio."""
    async with client(stack.ws) as call:
        await call.send("session.update", session={"output_modalities": ["text"]})
        for text in ("I like tea.", "What do I like?"):
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            await call.send("conversation.item.create", item=item)
        doomed = (await call.get("conversation.item.done", 1))["item"]["id"]
        kept = (await call.get("conversation.item.done", 2))["item"]["id"]
        assert call.all("conversation.item.added")[1]["previous_item_id"] == doomed
        await call.send("conversation.item.delete", item_id=doomed)
        await call.get("conversation.item.deleted")
        await call.send("conversation.item.retrieve", item_id=kept)
        assert (await call.get("conversation.item.retrieved"))["item"]["id"] == kept
        await call.send("response.create")
        done = await call.get("response.done")
        assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": stack.llm.answer}]
        assert "response.output_audio.delta" not in call.kinds()
        assert stack.llm.prompts[-1][1:] == [("user", "What do I like?")]


async def test_a_second_response_is_refused_and_a_cancel_stops_the_first():
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta", 3)
        await call.send("response.create")
        assert (await call.get("error"))["error"]["code"] == "conversation_already_has_active_response"
        await call.send("response.cancel")
        done = await call.get("response.done")
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        await call.send("response.cancel")
        error = (await call.get("error", 2))["error"]
        assert error["message"].startswith("Cancellation failed")


async def test_a_truncation_is_never_an_error_and_amends_what_was_heard(stack):
    """Clients truncate also what was fully played; the history keeps the words they really played."""
    async with client(stack.ws) as call:
        await call.send("response.create")
        item = (await call.get("response.done"))["response"]["output"][0]["id"]
        for position in (99_999, 450, -5):
            where = {"item_id": item, "content_index": 0, "audio_end_ms": position}
            await call.send("conversation.item.truncate", **where)
        await call.get("conversation.item.truncated", 3)
        await call.send("conversation.item.truncate", item_id="unknown", content_index=0, audio_end_ms=1)
        await call.get("conversation.item.truncated", 4)
        assert call.all("error") == []
        where = {"item_id": item, "content_index": 0, "audio_end_ms": 450}
        await call.send("conversation.item.truncate", **where)
        await call.get("conversation.item.truncated", 5)
        (session,) = stack.sessions
        await stack.bus.outbox.drain()
        assert [said.text for said in await read(stack.bus, session)] == ["One two"]


async def test_the_assistant_may_speak_first():
    """GREETING opens the first turn, spoken as it stands, and joins the history."""
    async with running_stack(greeting="Good morning, how can I help?") as stack, client(stack.ws) as call:
        done = await call.get("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "Good morning, how can I help?"
        assert stack.llm.prompts == []


async def test_a_session_may_have_its_own_greeting_and_language(stack):
    """What the environment says is a default: the address of the WebSocket may ask for another."""
    async with client(stack.ws + "&greeting=Guten+Tag.&language=de-DE") as call:
        done = await call.get("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"] == "Guten Tag."
        (session,) = stack.sessions
        assert (await stack.bus.config(session))["language"] == "de-DE"


async def test_half_duplex_does_not_hear_the_caller_while_it_speaks():
    """ENABLE_BARGE_IN=false: the reply is heard to its end, the microphone ignored meanwhile."""
    async with running_stack(enable_barge_in=False) as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta", 10)
        await call.speak(0.6, 0.0)
        assert (await call.get("response.done"))["response"]["status"] == "completed"
        assert call.all("input_audio_buffer.speech_started") == []


async def test_whole_utterances_when_streaming_is_off():
    """STREAMING_STT=false: no partial text, the same final one, every sample fed once."""
    async with running_stack(streaming_stt=False) as stack, client(stack.ws + "&extensions=bargein") as call:
        await call.speak()
        done = await call.get("response.done")
        assert done["response"]["status"] == "completed"
        assert call.all("bargein.transcript.partial") == []
        assert len(stack.stt.heard) == 1


async def test_a_model_that_fails_is_said_to_the_client():
    """Before a word: response.done failed. In mid-reply: what was said is heard first."""
    llm = ScriptedLlm()
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        llm.fail_after = 0
        await call.send("response.create")
        failed = await call.get("response.done")
        assert failed["response"]["status"] == "failed"
        assert "500" in failed["response"]["status_details"]["error"]["message"]
        llm.fail_after = 6
        await call.send("response.create")
        late = await call.get("response.done", 2)
        assert late["response"]["status"] == "failed"
        assert late["response"]["output"][0]["content"][0]["transcript"].startswith("One two three four.")
        llm.fail_after = None
        await call.send("response.create")
        assert (await call.get("response.done", 3))["response"]["status"] == "completed"


async def test_an_eager_reply_is_there_when_the_callers_turn_ends():
    """EAGER_REPLY: the model has answered what was said before the end is known; the client hears of it at the end."""
    async with running_stack(eager_reply=True) as stack, client(stack.ws + "&extensions=bargein") as call:
        await call.speak()
        done = await call.get("response.done")
        assert done["response"]["status"] == "completed"
        assert stack.llm.prompts[-1][-1] == ("user", "hello there")
        steps = [event["step"] for event in call.all("bargein.step")]
        assert steps.index("first_sentence") < steps.index("end_of_speech") < steps.index("first_out")
        kinds = call.kinds()
        assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index("response.created")
        (session,) = stack.sessions
        await stack.bus.outbox.drain()
        assert [(said.role, said.text) for said in await read(stack.bus, session)] == [
            ("user", "hello there"),
            ("assistant", stack.llm.answer),
        ]


async def test_an_eager_reply_to_half_a_question_is_never_heard():
    """The caller goes on after a pause: the guess is cancelled, and the whole question answered."""
    async with (
        running_stack(eager_reply=True) as stack,
        client(stack.ws + "&extensions=bargein") as call,
    ):
        await call.speak(0.6, 0.38)
        await call.speak(0.6, 0.9)
        done = await call.get("response.done")
        assert done["response"]["status"] == "completed"
        assert len(call.all("response.created")) == 1
        steps = [(event["turn"], event["step"]) for event in call.all("bargein.step")]
        assert (1, "cancelled") in steps and (2, "released") in steps


async def test_a_reply_can_be_forbidden_to_be_interrupted():
    """metadata interruptible "false": it is heard out, and what was said over it is answered afterwards."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.send("response.create", response={"metadata": {"interruptible": "false"}})
        await call.get("response.output_audio.delta", 10)
        await call.speak(0.5, 0.7)
        assert (await call.get("response.done"))["response"]["status"] == "completed"
        assert (await call.get("response.done", 2))["response"]["status"] == "completed"
        assert stack.llm.prompts[-1][-1] == ("user", "hello there")
