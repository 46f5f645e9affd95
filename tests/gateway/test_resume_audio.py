"""The caller's audio when a client comes back: what stands once, what is told to be lost."""

import asyncio

import numpy as np

from bus.events import Final
from bus.history import read
from bus.keys import session_key
from tests.gateway.realtime_client import RATE, client, voice
from tests.gateway.two_gateways import extended, freeze, mic, session_of


async def test_audio_that_is_sent_once_more_stands_once(pair):
    """A client sends again from before what is there, and goes on: the stream is what was said, the words come once."""
    first, second = pair
    said = bytes(RATE) + voice(1.0) + bytes(RATE * 3)
    cut, back = 960 * 45, 960 * 30
    async with client(extended(first.ws)) as call:
        session = await session_of(call)
        await call.audio(said[:cut], pace=0.002)
        async with asyncio.timeout(5):
            while len(await mic(first.bus, session)) < cut // 3 - 800:
                await asyncio.sleep(0.01)
        freeze(first)
        async with client(f"{extended(second.ws)}&session_id={session}") as again:
            told = await again.get("bargein.session")
            assert back // 48 < told["audio_end_ms"] <= cut // 48
            await again.send("bargein.input.resumed", audio_start_ms=back / 48)
            await again.audio(said[back:], pace=0.002)
            await again.get("response.done", limit=40)
            assert not again.all("bargein.input.lost") and not again.all("error")
        stream = await mic(second.bus, session)
        whole = np.frombuffer(said, "<i2")
        loud = np.flatnonzero(np.abs(stream.astype(int)) > 2000)
        wanted = np.flatnonzero(np.abs(whole.astype(int)) > 2000)
        assert abs(loud[0] * 1.5 - wanted[0]) < 30 and abs(loud[-1] * 1.5 - wanted[-1]) < 30
        users = [message.text for message in await read(second.bus, session) if message.role == "user"]
        assert users == ["hello there"]
        finals = [e.event for e in await second.bus.replay(session_key(session, "transcript"))]
        finals = [(event.utterance, event.revision) for event in finals if isinstance(event, Final)]
        assert len(finals) == len(set(finals))


async def test_what_could_not_be_sent_again_is_silence_and_told(pair):
    """The client's own memory did not reach back: the gap keeps its length, the model and the client know of it."""
    first, second = pair
    async with client(extended(first.ws)) as call:
        session = await session_of(call)
        await call.audio(bytes(RATE * 2), pace=0.001)
        async with asyncio.timeout(5):
            while len(await mic(first.bus, session)) < 13_000:
                await asyncio.sleep(0.01)
        freeze(first)
        async with client(f"{extended(second.ws)}&session_id={session}") as again:
            there = (await again.get("bargein.session"))["audio_end_ms"]
            await again.send("bargein.input.resumed", audio_start_ms=there + 2500)
            await again.audio(bytes(48_000), pace=0.001)
            lost = await again.get("bargein.input.lost")
            assert lost["lost_ms"] == 2500
            await again.send("bargein.input.resumed", audio_start_ms=0)  # too late to mean anything
            await again.send("bargein.input.resumed", audio_start_ms="soon")
            assert (await again.get("error"))["error"]["param"] == "audio_start_ms"
            async with asyncio.timeout(5):
                while len(await mic(second.bus, session)) < (there + 3000) * 16 - 3000:
                    await asyncio.sleep(0.01)
        said = await read(second.bus, session)
        assert [(m.role, "2.5 s" in m.text) for m in said] == [("system", True)]
        assert [event["error"]["code"] for event in again.all("error")] == ["invalid_value"], "told once"


async def test_a_stock_client_is_told_what_was_lost(pair):
    """It sends nothing again: the time without audio is what was lost; an error event and an item of the conversation
    say so."""
    first, second = pair
    async with client(first.ws) as call:
        session = await session_of(call)
        await call.audio(bytes(RATE), pace=0.001)
        async with asyncio.timeout(5):
            while not len(await mic(first.bus, session)):
                await asyncio.sleep(0.01)
        freeze(first)
        await asyncio.sleep(0.6)
        async with client(f"{second.ws}&session_id={session}") as again:
            await again.audio(bytes(4800))
            item = (await again.get("conversation.item.added"))["item"]
            assert item["role"] == "system" and "was not heard" in item["content"][0]["text"]
            lost = second.sessions[session].resumption.lost_ms
            assert lost >= 500
            error = (await again.get("error"))["error"]
            assert error["code"] == "audio_lost" and error["message"].startswith(f"{lost} ms of the caller's audio")
