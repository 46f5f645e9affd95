"""Who may call, with which key, for how long, and how much at once."""

import asyncio
import json
import time

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError
from websockets.exceptions import InvalidStatus

from bus.settings import load
from gateway.app import main
from gateway.keys import PHONE as PHONES
from gateway.keys import ApiKeys, Caller, issue, read_keys
from gateway.limits import Limits
from gateway.settings import GatewaySettings
from tests.bus.fake_server import fake_connector
from tests.gateway.realtime_client import client
from tests.stack import running_stack

LAPTOP, PHONE = "sk-laptop-0123456789", "sk-phone-0123456789"
KEYS = f"laptop:{LAPTOP},{PHONE}"
CLOSED = {"api_keys": KEYS}


def bearer(key):
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


async def refusal(url, **options):
    """(status, error) with which a connection is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with client(url, **options):
            pass
    response = refused.value.response
    return response.status_code, json.loads(response.body)["error"]


async def test_a_key_opens_the_door():
    """Bearer, or a browser's subprotocol with ``realtime`` selected; none or a wrong one is refused by the code that
    clients do not try again."""
    async with running_stack(**CLOSED) as stack:
        for key in (LAPTOP, PHONE):
            async with client(stack.ws, **bearer(key)) as call:
                await call.get("session.created")
        offered = ["realtime", f"openai-insecure-api-key.{PHONE}", "openai-agents-sdk.0.20.0"]
        async with client(stack.ws, subprotocols=offered) as call:
            await call.get("session.created")
            assert call.socket.subprotocol == "realtime"
        for options in ({}, bearer("sk-wrong-0123456789"), {"subprotocols": ["realtime", f"{offered[1]}x"]}):
            status, error = await refusal(stack.ws, **options)
            assert (status, error["code"]) == (401, "invalid_api_key") and LAPTOP not in str(error)
        async with httpx.AsyncClient(base_url=stack.http) as http:
            assert (await http.post("/cancel/s0-0123456789ab")).status_code == 401
            allowed = await http.post("/cancel/s0-0123456789ab", headers={"Authorization": f"Bearer {LAPTOP}"})
            assert allowed.status_code == 404
            assert (await http.get("/ready")).json()["key_required"] is True


async def test_an_ephemeral_key_of_the_sdk_opens_it_at_any_gateway():
    """client_secrets.create: a key for a browser, that another gateway takes too, with the session it was made for."""
    make = fake_connector()
    async with running_stack(make_client=make, **CLOSED) as one, running_stack(make_client=make, **CLOSED) as two:
        sdk = AsyncOpenAI(api_key=LAPTOP, base_url=f"{one.http}/v1")
        wanted = {"type": "realtime", "instructions": "Speak like a pirate.", "output_modalities": ["text"]}
        after = {"anchor": "created_at", "seconds": 60}
        async with sdk:
            secret = await sdk.realtime.client_secrets.create(expires_after=after, session=wanted)
        assert secret.value.startswith("ek_") and 50 <= secret.expires_at - time.time() <= 61
        assert secret.session.instructions == wanted["instructions"]
        for stack in (one, two):
            offered = ["realtime", f"openai-insecure-api-key.{secret.value}"]
            async with client(stack.ws, subprotocols=offered) as call:
                created = (await call.get("session.created"))["session"]
                assert created["instructions"] == wanted["instructions"]
                await call.send("response.create")
                assert (await call.get("response.done"))["response"]["output_modalities"] == ["text"]
        asked = [prompt[0] for prompt in one.llm.prompts + two.llm.prompts]
        assert asked == [("system", wanted["instructions"])] * 2
        keys = [key.decode() for key in await one.bus.commands.keys("bargein:secret:*")]
        assert len(keys) == 1 and secret.value not in keys[0]
        assert 0 < await one.bus.commands.ttl(keys[0]) <= 60
        await one.bus.commands.delete(keys[0])
        status, _ = await refusal(one.ws, subprotocols=offered)
        assert status == 401
        async with AsyncOpenAI(api_key="sk-wrong-0123", base_url=f"{one.http}/v1") as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.realtime.client_secrets.create()


async def test_a_session_is_its_own_keys_to_stop_and_to_see():
    """At any gateway: another key is answered as if there were no such session; an operator's may do both, an
    ephemeral one made with it may not."""
    bob = "sk-bob-0123456789"
    make, settings = fake_connector(), {"api_keys": f"{KEYS},bob:{bob}", "operators": "bob"}
    async with (
        running_stack(make_client=make, **settings) as one,
        running_stack(make_client=make, stt=False, llm=False, tts=False, **settings) as two,
        httpx.AsyncClient() as http,
        client(one.ws, **bearer(LAPTOP)) as call,
    ):
        session = (await call.get("session.created"))["session"]["id"].removeprefix("sess_")
        await call.send("response.create")
        await call.get("response.output_audio.delta")

        def headers(key):
            return {"Authorization": f"Bearer {key}"}

        made = await http.post(f"{one.http}/v1/realtime/client_secrets", headers=headers(bob))
        for stack in (one, two):
            for key in (PHONE, made.json()["value"]):
                answer = await http.post(f"{stack.http}/cancel/{session}", headers=headers(key))
                assert (answer.status_code, answer.json()) == (404, {"error": f"no live session {session}"})
            console = f"{stack.http}/console/sessions"
            seen = {}
            for key in (LAPTOP, PHONE, bob):
                seen[key] = [
                    each["session"] for each in (await http.get(console, headers=headers(key))).json()["sessions"]
                ]
            assert seen == {LAPTOP: [session], PHONE: [], bob: [session]}
            told = [(await http.get(f"{console}/{session}", headers=headers(key))).status_code for key in seen]
            assert told == [200, 404, 200]
        assert not call.all("response.done")
        answer = await http.post(f"{two.http}/cancel/{session}", headers=headers(LAPTOP))
        assert (answer.status_code, answer.json()) == (202, {"session": session, "forwarded": True})
        assert (await call.get("response.done"))["response"]["status"] == "cancelled"
        await call.send("response.create")
        await call.get("response.created", 2)
        assert (await http.post(f"{one.http}/cancel/{session}", headers=headers(bob))).json()["cancelled"] == 2


def test_the_only_key_is_an_operators_and_an_unknown_one_is_refused():
    def named(operators, keys=KEYS):
        return GatewaySettings(_env_file=None, api_keys=keys, operators=operators).operating()

    assert (named("laptop, key-2"), named("")) == ({"laptop", "key-2"}, set())
    assert (named("", f"laptop:{LAPTOP}"), named("", "")) == ({"laptop"}, set())
    with pytest.raises(ValueError, match="OPERATORS: no API key is called nobody"):
        named("laptop,nobody")


def test_no_key_can_be_the_phones():
    assert PHONES not in read_keys(f"{PHONES}:sk-0123456789", None)


async def test_a_phone_calls_ticket_opens_no_other_door():
    async with running_stack(**CLOSED) as stack:
        ticket, _ = await issue(stack.bus, Caller(PHONES), {}, 60)
        assert await refusal(stack.ws, **bearer(ticket)) == await refusal(stack.ws, **bearer("ek_none"))


async def test_an_ephemeral_key_cannot_be_renewed_by_itself():
    """Whoever has stolen one has it until it expires: it issues no other."""
    async with running_stack(**CLOSED) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        secrets = "/v1/realtime/client_secrets"
        made = (await http.post(secrets, headers={"Authorization": f"Bearer {LAPTOP}"})).json()["value"]
        again = await http.post(secrets, headers={"Authorization": f"Bearer {made}"})
        assert (again.status_code, again.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"expires_after": {"seconds": 5}}, "expires_after.seconds"),
        ({"session": {"output_modalities": ["video"]}}, "session.output_modalities.0"),
        ({"session": [1]}, "session"),
        ([1], None),
    ],
)
async def test_a_wrong_request_for_a_key_is_told_what_is_wrong(body, where):
    async with running_stack() as stack, httpx.AsyncClient(base_url=stack.http) as http:
        answer = await http.post("/v1/realtime/client_secrets", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == where


async def test_without_keys_any_key_is_taken_on_loopback():
    """Clients that insist on a key may bring whatever they like."""
    async with running_stack() as stack:
        for options in ({}, bearer("anything")):
            async with client(stack.ws, **options) as call:
                await call.get("session.created")


def test_an_open_address_without_a_key_is_not_served(monkeypatch, tmp_path, capsys):
    """The gateway does not start, and says what to set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "GATEWAY_HOST=0.0.0.0" in said and "API_KEYS" in said
    monkeypatch.setenv("API_KEYS", LAPTOP)
    assert load(GatewaySettings).keys() == {"key-1": LAPTOP}


def test_keys_come_from_a_file_too(tmp_path):
    """One on a line, named or not, with comments; a wrong one is told by its place, never by itself."""
    file = tmp_path / "keys"
    file.write_text(f"# ours\nlaptop:{LAPTOP}  # at home\n\n{PHONE}\n")
    assert read_keys("", file) == {"laptop": LAPTOP, "key-2": PHONE}
    assert ApiKeys(read_keys(PHONE, None)).name_of(PHONE) == "key-1"
    for text, problem in ((f"laptop:{LAPTOP}\nlaptop:{PHONE}", "differ"), ("short", "at least"), ("# none", "no key")):
        file.write_text(text)
        with pytest.raises(ValueError, match=problem) as wrong:
            read_keys("", file)
        assert LAPTOP not in str(wrong.value) and "API_KEYS_FILE" in str(wrong.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_keys("", tmp_path / "missing")


async def test_a_key_has_so_many_sessions_at_a_time():
    """One more is refused with 429 while another key's still get in; a place is free again when a session has ended."""
    async with running_stack(max_sessions_per_key=1, **CLOSED) as stack:
        async with client(stack.ws, **bearer(LAPTOP)) as call:
            await call.get("session.created")
            status, error = await refusal(stack.ws, **bearer(LAPTOP))
            assert (status, error["code"]) == (429, "rate_limit_exceeded")
            async with client(stack.ws, **bearer(PHONE)) as other:
                await other.get("session.created")
        async with asyncio.timeout(5):
            while stack.sessions:
                await asyncio.sleep(0.01)
        async with client(stack.ws, **bearer(LAPTOP)) as call:
            await call.get("session.created")


async def test_a_message_that_is_too_big_is_left_out():
    """It gets its error; the session goes on."""
    async with running_stack(max_message_bytes=65_536) as stack, client(stack.ws) as call:
        await call.send("input_audio_buffer.append", audio="A" * 70_000, event_id="big")
        assert (await call.get("error"))["error"]["code"] == "message_too_big"
        await call.send("response.create")
        assert (await call.get("response.done"))["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("settings", "code"), [({"max_session_s": 0.4}, "session_expired"), ({"max_idle_s": 0.4}, "session_idle")]
)
async def test_a_session_ends_at_its_limits(settings, code):
    """The client is told why, then the socket is closed and nothing of the session is left."""
    async with running_stack(**settings) as stack, client(stack.ws) as call:
        assert (await call.get("error"))["error"]["code"] == code
        await call.socket.wait_closed()
        assert call.socket.close_code == 1000
        async with asyncio.timeout(5):
            while stack.sessions:
                await asyncio.sleep(0.01)


def test_limits_count_from_the_beginning_and_from_the_last_message():
    limits = Limits(session=100, idle=10)
    assert limits.due(0, 0) == 10 and limits.due(0, 95) == 100
    assert limits.reached(0, 95, 99) is None
    assert limits.reached(0, 95, 100)[0] == "session_expired"
    assert limits.reached(0, 80, 90)[0] == "session_idle"
    assert Limits().due(0, 0) is None and Limits().reached(0, 0, 1e9) is None
