"""The gateway's doors: who is let in, who works, cancelling by hand, and what a session leaves behind."""

import asyncio
import json

import httpx
import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from bus.keys import session_key
from gateway.client import Call
from tests.engines import ScriptedLlm, ScriptedStt
from tests.gateway.realtime_client import client
from tests.stack import running_stack


@pytest_asyncio.fixture
async def stack():
    async with running_stack() as running:
        yield running


async def test_cancelling_by_hand():
    """POST /cancel names the turn it cancelled, also when only playing audio is left, and says when there is none."""
    async with running_stack(llm=ScriptedLlm("One two three four five.")) as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta", 10)
        (session,) = stack.sessions
        async with asyncio.timeout(5):
            while not stack.sessions[session].output.playback.complete:
                await asyncio.sleep(0.005)
        async with httpx.AsyncClient(base_url=stack.http) as http:
            assert (await http.post(f"/cancel/{session}")).json() == {"session": session, "cancelled": 1}
            assert (await call.get("response.done"))["response"]["status"] == "cancelled"
            assert (await http.post(f"/cancel/{session}")).json() == {"session": session, "cancelled": None}
            assert (await http.post("/cancel/s0-0123456789ab")).status_code == 404
            wrong = await http.post("/cancel/nonsense")
            assert wrong.status_code == 400 and "nonsense" in wrong.json()["error"]


async def test_the_door_is_closed_while_a_stage_is_missing():
    """Without a TTS worker a client is refused at once, with what is missing; /ready says the same."""
    async with running_stack(tts=False) as stack:
        async with httpx.AsyncClient(base_url=stack.http) as http:
            ready = await http.get("/ready")
            assert ready.status_code == 503 and ready.json()["missing"] == ["tts"]
            assert (await http.get("/health")).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            async with client(stack.ws):
                pass
        assert refused.value.response.status_code == 503
        assert "tts" in json.loads(refused.value.response.body)["error"]["message"]


async def test_no_more_calls_than_the_recognisers_can_listen_to():
    """A call beyond the STT workers' capacity is refused at the door; when one ends, the next is let in."""
    stt = ScriptedStt()
    stt.capacity = 1
    async with running_stack(stt=stt) as stack:
        async with client(stack.ws):
            with pytest.raises(InvalidStatus) as refused:
                async with client(stack.ws):
                    pass
            assert refused.value.response.status_code == 503
            assert "busy" in json.loads(refused.value.response.body)["error"]["message"]
        async with asyncio.timeout(5):
            while stack.sessions:
                await asyncio.sleep(0.005)
        async with client(stack.ws) as call:
            assert await call.get("session.created")


async def test_ready_names_the_workers(stack):
    async with httpx.AsyncClient(base_url=stack.http) as http:
        body = (await http.get("/ready")).json()
    assert body["ready"] and {stage: [w["engine"] for w in ws] for stage, ws in body["stages"].items()} == {
        "stt": ["scripted"], "llm": ["scripted"], "tts": ["scripted"],
    }  # fmt: skip


async def test_another_sites_page_may_not_use_the_microphone(stack):
    """A foreign origin is refused; the page's own is let in."""
    with pytest.raises(InvalidStatus) as refused:
        async with client(stack.ws, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with client(stack.ws, origin=stack.http) as call:
        await call.get("session.created")


async def test_the_beta_shape_is_refused_clearly(stack):
    """A client of the removed beta is told so instead of being left in silence."""
    async with client(stack.ws, additional_headers={"OpenAI-Beta": "realtime=v1"}) as call:
        assert (await call.get("error"))["error"]["code"] == "beta_api_shape_disabled"
        await call.socket.wait_closed()
        assert call.socket.close_code == 4000


async def test_a_browsers_subprotocol_is_selected(stack):
    """The JavaScript SDK offers ``realtime`` and its key; a browser fails unless one is selected."""
    async with client(stack.ws, subprotocols=["realtime", "openai-insecure-api-key.x"]) as call:
        assert call.socket.subprotocol == "realtime"


async def test_a_session_that_ended_leaves_keys_that_expire(stack):
    """After the client left every key of the session has a time to live and no work is pending."""
    async with client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.done")
        (session,) = stack.sessions
    async with asyncio.timeout(5):
        while stack.sessions or await stack.bus.commands.xlen("bargein:{s0}:sessions"):
            await asyncio.sleep(0.01)
    keys = await stack.bus.commands.keys(f"*{session}*")
    assert keys and session_key(session, "lease:gateway").encode() not in keys
    assert all([0 < await stack.bus.commands.ttl(key) <= 300 for key in keys])
    for work in ("sessions", "turns", "speak"):
        assert await stack.bus.commands.xlen(f"bargein:{{s0}}:{work}") == 0


@pytest.mark.parametrize(
    ("setting", "query", "recorded"),
    [("false", "&record=true", False), ("ask", "", False), ("ask", "&record=true", True), (True, "", True)],
)
async def test_a_call_is_recorded_only_where_both_sides_say_so(monkeypatch, setting, query, recorded):
    """RECORD_CALLS says whether, and with ``ask`` the client; it is asked for once, after the call."""
    asked = []

    async def enqueue(settings, session):
        asked.append(session)

    monkeypatch.setattr("gateway.app.enqueue_recording", enqueue)
    async with running_stack(record_calls=setting) as stack:
        async with Call(f"{stack.ws}&extensions=bargein{query}") as call:
            assert stack.sessions[call.session_id].profile.record is recorded
        async with asyncio.timeout(10):
            while stack.sessions:
                await asyncio.sleep(0.005)
    assert asked == ([call.session_id] if recorded else [])
