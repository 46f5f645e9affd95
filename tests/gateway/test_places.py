"""What is full is full over all gateways: places, and what a key may have."""

import asyncio
import json

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from gateway import places
from gateway.door import Refused
from gateway.places import Places
from tests.bus.conftest import bus, make_bus  # noqa: F401
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedStt
from tests.gateway.realtime_client import client
from tests.stack import running_stack

KEY = "sk-laptop-0123456789"
BEARER = {"additional_headers": {"Authorization": f"Bearer {KEY}"}}


async def test_two_gateways_share_the_recognisers_places():
    """A call beyond what the recognisers can listen to is refused at once, at any gateway, with Retry-After; the call
    that goes on is not touched, and its end makes room everywhere."""
    make_client = fake_connector()
    small = ScriptedStt()
    small.capacity = 1
    nobody = {"stt": False, "llm": False, "tts": False}
    async with (
        running_stack(make_client=make_client, stt=small) as one,
        running_stack(make_client=make_client, **nobody) as other,
    ):
        async with client(one.ws) as call:
            await call.get("session.created")
            for full in (one, other):
                with pytest.raises(InvalidStatus) as refused:
                    async with client(full.ws):
                        pass
                response = refused.value.response
                assert response.status_code == 503 and response.headers["retry-after"]
                assert "busy" in json.loads(response.body)["error"]["message"]
                async with httpx.AsyncClient(base_url=full.http) as http:
                    assert "call again" in (await http.post("/twilio/voice")).text
            await call.send("input_audio_buffer.clear")
            await call.get("input_audio_buffer.cleared")
        async with asyncio.timeout(10):
            while await other.app.state.gateway.places.taken():
                await asyncio.sleep(0.02)
        async with client(other.ws) as call:
            await call.get("session.created")


async def test_a_keys_sessions_are_counted_over_all_gateways():
    """MAX_SESSIONS_PER_KEY holds for a key wherever it is used."""
    make_client = fake_connector()
    settings = {"api_keys": f"laptop:{KEY}", "max_sessions_per_key": 1}
    async with (
        running_stack(make_client=make_client, **settings) as one,
        running_stack(make_client=make_client, stt=False, llm=False, tts=False, **settings) as other,
        client(one.ws, **BEARER) as call,
    ):
        await call.get("session.created")
        with pytest.raises(InvalidStatus) as refused:
            async with client(other.ws, **BEARER):
                pass
        assert refused.value.response.status_code == 429 and refused.value.response.headers["retry-after"]


async def test_places_of_a_dead_gateway_come_back(bus, monkeypatch):  # noqa: F811
    """A place lasts while it is renewed, also beyond its lifetime, and no longer."""
    monkeypatch.setattr(places, "LIFETIME", 0.3)
    dead, live = Places(bus), Places(bus)
    await dead.take("a", 2, "laptop", 1)
    await live.take("b", 2)
    await live.take("b", 2)
    with pytest.raises(Refused, match="busy"):
        await live.take("c", 2)
    with pytest.raises(Refused, match="1 sessions"):
        await live.take("c", 3, "laptop", 1)
    async with asyncio.timeout(10):
        while await live.taken() == 2:
            await live.renew()
            await asyncio.sleep(0.05)
    await live.renew()
    await live.take("c", 2, "laptop", 1)
    with pytest.raises(Refused):
        await dead.take("d", 2)
    await live.give_back("b")  # of two connections
    assert await live.taken() == 2
    await live.give_back("b")
    assert await live.taken() == 1
    await live.give_back("c", kept=True)
    assert await live.taken() == 1
