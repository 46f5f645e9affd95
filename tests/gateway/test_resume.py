"""Clients that come back to their session, at the same gateway and at another: what they find, and what they cannot."""

import asyncio

import numpy as np
import pytest
from websockets.asyncio.client import connect

from bus.events import Input, TurnRecord
from bus.history import read
from bus.keys import live_key, session_key
from gateway.client import Call, HungUp
from gateway.protocols.connection import TAKEN_OVER
from gateway.reconnect import NOT_FOUND
from gateway.rerun import rerun
from tests.engines import CallingLlm, ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import RATE, Client, client, voice
from tests.gateway.two_gateways import LONG, extended, freeze, samples, session_of, spoken, text, two_gateways
from tests.stack import running_stack
from workers.llm.tools import Call as FunctionCall
from workers.llm.tools import CallPiece


async def test_a_stock_client_finds_its_conversation_and_the_turn_goes_on_elsewhere(pair):
    """The first gateway is frozen in mid-reply: the second says the rest, under the same names, from a word on."""
    first, second = pair
    async with client(first.ws) as call:
        session = await session_of(call)
        await spoken(call)
        response = call.all("response.created")[0]["response"]["id"]
        await asyncio.sleep(1.0)
        freeze(first)
        async with client(f"{second.ws}&session_id={session}") as again:
            assert (await again.get("session.created"))["session"]["id"] == f"sess_{session}"
            item = (await again.get("conversation.item.added"))["item"]
            assert item["role"] == "user" and item["content"][0]["transcript"] == "hello there"
            assert (await again.get("response.created"))["response"]["id"] == response
            done = (await again.get("response.done", limit=30))["response"]
            assert done["status"] == "completed"
            assert text(again, response) == LONG.strip()
            words = len(LONG.split())
            rest = samples(again, response) / RATE / 0.2
            assert 0 < rest < words - 3, "what was heard is not said again"
        said = await read(second.bus, session)
        assert [(m.role, m.text) for m in said if m.role != "system"] == [
            ("user", "hello there"),
            ("assistant", LONG.strip()),
        ]


async def test_the_one_before_is_closed_with_a_reason_and_says_nothing_more(pair):
    """A connection that is still served is taken over too: the newer one wins, also at the same gateway."""
    first, second = pair
    for url in (second.ws, first.ws):
        async with client(first.ws) as call:
            session = await session_of(call)
            await spoken(call)
            async with client(f"{url}&session_id={session}") as again:
                await again.get("response.output_audio.delta")
                assert (await call.get("error"))["error"]["code"] == "session_taken_over"
                await call.socket.wait_closed()
                assert call.socket.close_code == TAKEN_OVER
                sent = len(call.all("response.output_audio.delta"))
                await again.get("response.output_audio.delta", 5)
                assert len(call.all("response.output_audio.delta")) == sent
                assert session in (second if url is second.ws else first).sessions
            async with asyncio.timeout(5):
                while session in first.sessions or session in second.sessions:
                    await asyncio.sleep(0.01)


async def test_a_caller_that_hangs_up_after_a_return_has_ended_the_session(pair):
    first, second = pair
    async with client(extended(first.ws)) as call:
        session = await session_of(call)
        await call.audio(bytes(9600))
        async with asyncio.timeout(5):
            while not await first.bus.commands.xlen(session_key(session, "mic")):
                await asyncio.sleep(0.01)
        call.socket.transport.abort()
        async with client(f"{extended(second.ws)}&session_id={session}") as again:
            await again.get("session.created")
    async with asyncio.timeout(5):
        while await first.bus.commands.sismember(live_key(0), session):
            await asyncio.sleep(0.01)


async def test_a_session_rests_while_its_client_is_away(pair):
    """The connection breaks, the gateway lives: nothing of the turn is lost; a stock client's session is ended."""
    first, second = pair
    async with client(extended(first.ws)) as call:
        session = await session_of(call)
        await spoken(call)
        call.socket.transport.abort()
    async with asyncio.timeout(5):
        while session in first.sessions:
            await asyncio.sleep(0.01)
    assert await first.bus.commands.sismember(live_key(0), session)
    assert not await first.bus.commands.exists(session_key(session, "lease:gateway"))
    async with client(f"{extended(second.ws)}&session_id={session}") as again:
        told = await again.get("bargein.session")
        assert told["resumed"] and 1500 < told["audio_end_ms"] <= 1600
        assert (await again.get("response.done", limit=30))["response"]["status"] == "completed"
    async with client(first.ws) as call:
        session = await session_of(call)
        call.socket.transport.abort()
    async with asyncio.timeout(5):
        while await first.bus.commands.sismember(live_key(0), session):
            await asyncio.sleep(0.01)


async def test_a_session_that_nobody_comes_back_to_is_ended():
    async with running_stack(resume_s=1.0) as stack:
        async with client(extended(stack.ws)) as call:
            session = await session_of(call)
            call.socket.transport.abort()
        async with asyncio.timeout(10):
            while await stack.bus.commands.sismember(live_key(0), session):
                await asyncio.sleep(0.05)
        async with client(f"{extended(stack.ws)}&session_id={session}") as call:
            assert (await call.get("error"))["error"]["code"] == "session_not_found"
            await call.socket.wait_closed()
            assert call.socket.close_code == NOT_FOUND


async def test_what_is_no_session_is_refused_with_a_reason(pair):
    first, _ = pair
    for wrong in ("s0-ffffffffffff", "s7-0123456789ab", "nonsense", "s0-0123456789ab.1"):
        async with client(f"{first.ws}&session_id={wrong}") as call:
            error = (await call.get("error"))["error"]
            assert error["code"] == "session_not_found" and wrong in error["message"]


async def test_only_the_key_that_began_a_session_may_go_on_with_it():
    """Another key is told the same as for a session that is not there, and the session is left alone."""
    async with running_stack(api_keys="ann:key-of-ann,bob:key-of-bob", max_sessions_per_key=1, max_sessions=2) as stack:

        def headers(key, **more):
            return {"Authorization": f"Bearer {key}", **more}

        async with connect(extended(stack.ws), additional_headers=headers("key-of-ann")) as socket:
            call = Client(socket)
            session = await session_of(call)
            header = {"X-Bargein-Session": f"sess_{session}"}
            async with connect(extended(stack.ws), additional_headers=headers("key-of-bob", **header)) as other:
                thief = Client(other)
                assert (await thief.get("error"))["error"]["code"] == "session_not_found"
            assert stack.sessions[session].pen.fence == 1
            async with connect(extended(stack.ws), additional_headers=headers("key-of-ann", **header)) as other:
                again = Client(other)
                assert (await again.get("bargein.session"))["resumed"]
                await call.get("error")


async def test_an_out_of_band_response_that_broke_off_has_failed(pair):
    """It does not go on elsewhere: who comes back is told its end, once, with the metadata to know it by."""
    first, second = pair
    aside = {"conversation": "none", "output_modalities": ["text"]}
    async with client(first.ws) as call:
        session = await session_of(call)
        await call.send("response.create", response={**aside, "metadata": {"topic": "over"}})
        await call.get("response.done")
        first.llm.pace = 1.0
        await call.send("response.create", response={**aside, "metadata": {"topic": "open"}})
        broken = (await call.get("response.created", 2))["response"]["id"]
        async with client(f"{second.ws}&session_id={session}") as again:
            done = (await again.get("response.done"))["response"]
            assert (done["id"], done["status"], done["metadata"]) == (broken, "failed", {"topic": "open"})
            assert done["status_details"]["error"]["code"] == "connection_lost"
            first.llm.pace = 0.0
            await again.send("response.create", response={**aside, "metadata": {"topic": "again"}})
            assert (await again.get("response.done", 2))["response"]["status"] == "completed"
            async with client(f"{first.ws}&session_id={session}") as third:
                await third.send("response.create", response=aside)
                assert (await third.get("response.done"))["response"]["status"] == "completed"


async def test_a_session_that_was_gone_on_with_can_be_replayed(pair):
    """Its journal runs through both gateways, decision for decision; every turn has one record."""
    first, second = pair
    async with client(first.ws) as call:
        session = await session_of(call)
        await spoken(call)
        freeze(first)
        async with client(f"{second.ws}&session_id={session}") as again:
            await again.get("response.output_audio.delta", 5)
            await again.audio(voice(1.5) + bytes(RATE * 2), pace=0.018)
            assert (await again.get("response.done"))["response"]["status"] == "cancelled"
            await again.get("response.output_audio.delta", 30)
    async with asyncio.timeout(5):
        while await second.bus.commands.sismember(live_key(0), session):
            await asyncio.sleep(0.01)
    journal = [entry.event for entry in await second.bus.replay(session_key(session, "inputs"))]
    assert [entry.name for entry in journal].count("Resumed") == 1
    done = rerun([entry for entry in journal if isinstance(entry, Input)])
    assert done.difference is None and done.turns == [1, 2]
    records = [entry.event for entry in await second.bus.replay(session_key(session, "records"))]
    assert sorted(event.turn for event in records if isinstance(event, TurnRecord)) == [1, 2]


async def test_the_client_here_comes_back_by_itself():
    """Its connection breaks in mid-reply and while it speaks: it hears every sample of the reply once, from a word on
    where it broke, and each of its utterances is understood once."""
    async with running_stack(llm=ScriptedLlm(LONG), stt=ScriptedStt(["one", "two"])) as stack:
        told = []
        question = np.frombuffer(voice(0.6), "<i2")
        async with Call(extended(stack.ws), listener=lambda at, event: told.append(event["type"])) as call:
            await call.say(question)
            reply = await call.reply_started()
            await call.clock.sleep_until(call.clock.now() + 1500)
            call._socket.transport.abort()
            await call.wait_for("bargein.output.resumed", 20)
            assert (await call.reply(60)) is reply and reply.status == "completed"
            assert reply.transcript == LONG.strip()
            words = len(LONG.split()) * 200
            assert words - 100 <= reply.heard_ms <= words + 300 and reply.stale_samples == 0
            again = call.play(question)
            await call.clock.sleep_until(call.clock.now() + 300)
            call._socket.transport.abort()
            await again.ended.wait()
            assert (await call.reply(60)).status == "completed"
            session = call.session_id
        assert told.count("client.lost") == told.count("client.returned") == 2
        assert not told.count("bargein.input.lost") and not told.count("error")
        said = await read(stack.bus, session)
        assert [m.text for m in said if m.role == "user"] == ["one", "two"]


async def test_the_client_here_goes_on_at_the_next_address_it_was_given(pair):
    """Its gateway takes nobody any more when the connection breaks: the other one says the rest."""
    first, second = pair
    async with Call([extended(first.ws), extended(second.ws)]) as call:
        await call.say(np.frombuffer(voice(0.6), "<i2"))
        reply = await call.reply_started()
        first.app.state.gateway.draining = True
        call._socket.transport.abort()
        assert (await call.reply(60)) is reply and reply.status == "completed"
        assert reply.transcript == LONG.strip() and call.url == extended(second.ws)
        assert call.session_id in second.sessions and not first.sessions


async def test_a_text_that_is_told_again_by_the_next_gateway_is_told_once(pair):
    """The first one dies after it has told what was said and before anything of that is written: the next one decides
    it anew, under the same names, and whoever calls hears of it once."""
    first, second = pair
    completed = "conversation.item.input_audio_transcription.completed"
    told = []
    async with Call([extended(first.ws), extended(second.ws)], listener=lambda at, event: told.append(event)) as call:
        (session,) = first.sessions.values()
        write, dead = session.pen.post, asyncio.Event()

        def until_the_end(key, event):
            if getattr(event, "name", "") == "SpeechEnded":
                dead.set()
            return asyncio.get_running_loop().create_future() if dead.is_set() else write(key, event)

        session.pen.post = until_the_end
        await call.say(np.frombuffer(voice(0.6), "<i2"))
        item = (await call.wait_for(completed))["item_id"]
        freeze(first)
        first.app.state.gateway.draining = True
        call._socket.transport.abort()
        assert (await call.reply(60)).status == "completed"
        again = [event for event in told if event["type"] == "input_audio_buffer.committed"]
        assert [event["item_id"] for event in again] == [item, item], "it was decided anew"
        assert [event["item_id"] for event in told if event["type"] == completed] == [item]
        assert [event["item_id"] for _, event in call.events if event["type"] == completed] == [item]
        said = await read(second.bus, call.session_id)
        assert [message.item for message in said if message.role == "user"] == [item]


async def test_the_client_here_says_when_its_session_is_gone():
    async with running_stack(resume_s=1.0) as stack, Call(extended(stack.ws)) as call:
        await stack.bus.commands.srem(live_key(0), call.session_id)
        call._socket.transport.abort()
        with pytest.raises(HungUp, match="session_not_found"):
            await call.wait_for("never", 20)


async def test_a_call_that_was_being_written_is_told_anew_from_its_beginning():
    """A client that comes back in mid-arguments is told all of them, and of one call."""
    first, second = [CallPiece(0, "weather", start, text) for start, text in ((0, '{"city":'), (8, '"Rome"}'))]
    llm = CallingLlm([first, second, FunctionCall("", "weather", first.text + second.text)], pace=0.5)
    async with two_gateways(llm=llm) as (one, other), client(one.ws) as call:
        session = await session_of(call)
        await call.send("response.create", response={"tools": [{"type": "function", "name": "weather"}]})
        piece = await call.get("response.function_call_arguments.delta")
        freeze(one)
        async with client(f"{other.ws}&session_id={session}") as again:
            assert (await again.get("response.done"))["response"]["status"] == "completed"
            told = again.all("response.function_call_arguments.delta")
            (done,) = again.all("response.function_call_arguments.done")
            assert "".join(each["delta"] for each in told) == done["arguments"] == '{"city":"Rome"}'
            assert {each["call_id"] for each in told} == {piece["call_id"]}
