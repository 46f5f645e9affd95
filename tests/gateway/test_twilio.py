"""Phone calls through Twilio's Media Streams, against a line that plays out in real time."""

import asyncio
import re
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bus.history import read
from gateway.carriers import signature
from gateway.codecs import PCMU
from gateway.duplex import Duplex
from gateway.playback import Frame
from gateway.protocols.twilio_outlet import TwilioOutlet
from tests.engines import ScriptedLlm
from tests.gateway.twilio_line import Playout, line
from tests.stack import running_stack

LONG = "One two three four five. " * 12
WORD = 1600
"""Codes of a scripted word: 200 ms."""


def url(stack):
    return stack.ws.partition("/v1")[0] + "/twilio"


@pytest_asyncio.fixture
async def stack():
    async with running_stack() as running:
        yield running


async def test_no_echo_canceller_is_waited_for_on_the_phone(stack):
    """The network has cancelled the line's echo: an interruption of the first reply needs no longer speech."""
    async with line(url(stack)) as call:
        await call.say()
        (session,) = stack.sessions.values()
        assert session.state.rules.settle == 0.0 < Duplex().settle


def test_the_line_plays_in_real_time_and_sends_marks_back():
    """The simulator itself: a mark comes when all before it was played, at a clear at once, played or not."""
    playout = Playout()
    playout.media(bytes(1600), 10.0)
    assert playout.mark("a", 10.0) == []
    playout.media(bytes([1]) * 1600, 10.0)
    assert playout.mark("b", 10.1) == []
    assert playout.advance(10.199) == [] and playout.advance(10.2) == ["a"]
    assert playout.clear(10.3) == ["b"]
    assert playout.played == bytes(1600) + bytes([1]) * 800 and playout.buffered == 0
    assert playout.mark("c", 10.4) == ["c"]


def outlet():
    sent, told = [], []
    made = TwilioOutlet("s0-1", "MZ1", sent.append)
    made.heard_of = made.cut_at = lambda turn, ms: told.append((turn, ms))
    made.turn_opened(1, "", False)
    return made, sent, told


def test_only_marks_that_came_back_before_the_clear_count_as_heard():
    """What comes back after it was thrown away; a later turn starts from nothing."""
    made, sent, told = outlet()
    for start in range(0, 4800, 800):
        made.audio(Frame(1, start, bytes(1600), ""))
    names = [each["mark"]["name"] for each in sent if each["event"] == "mark"]
    assert len(names) == 6
    made.marked(names[0])
    made.marked(names[1])
    made.held(1, 0)
    for name in names[2:]:
        made.marked(name)
    assert told == [(1, 200.0)] and made.heard_ms == 200
    assert [each["event"] for each in sent][-1] == "clear"
    made.turn_closed(1, "cancelled", "turn_detected", "", 450)
    assert told[-1] == (1, 200)
    made.turn_opened(2, "", False)
    assert made.heard_ms == 0


async def test_a_phone_call(stack):
    """The caller is heard and answered: every code of the reply is played, in order, and marked."""
    async with line(url(stack)) as call:
        await call.say()
        await call.until(lambda: len(call.playout.played) >= 8 * WORD - 160)
        heard = np.frombuffer(PCMU.decode(bytes(call.playout.played)), "<i2").astype(float)
        for word in range(8):
            piece = heard[word * WORD + 200 : word * WORD + 1400]
            piece = piece * np.hanning(len(piece))
            loudest = np.argmax(np.abs(np.fft.rfft(piece))) * 8000 / len(piece)
            assert abs(loudest - (300 + 20 * (word % 4))) < 10
        assert stack.llm.prompts[-1][-1] == ("user", "hello there")
        assert call.sent("clear") == []
        assert len(call.sent("mark")) >= 8


async def test_a_barge_in_clears_what_is_buffered_and_the_history_has_what_was_heard():
    """At the onset a clear; at most the output's lead was buffered; nothing of the turn after it; the heard words are
    those that the caller's ear got, to the word."""
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, line(url(stack)) as call:
        await call.say()
        await call.until(lambda: len(call.playout.played) >= 8000)
        await call.say()
        await call.until(lambda: bool(call.sent("clear")))
        await call.until(lambda: len(stack.llm.prompts) == 2)
        assert call.at_clear[0] <= 0.25 * 8000
        heard = stack.llm.prompts[1][2][1]
        cleared = next(n for n, (_, message) in enumerate(call.messages) if message["event"] == "clear")
        first = [m for _, m in call.messages[:cleared] if m["event"] == "media"]
        assert first, "the first turn was played before"
        whole = sum(len(m["media"]["payload"]) * 3 // 4 for m in first)
        reached = (whole - call.at_clear[0]) / WORD
        words = len(heard.split())
        assert LONG.startswith(heard) and reached - 1.6 <= words <= reached + 0.1
        (session,) = stack.sessions
        said = await read(stack.bus, session)
        assert said[1].text == heard and not said[1].complete


async def test_a_cough_is_no_interruption():
    """The buffer is cleared at the sound and sent again from where marks say that the caller was: no word is lost."""
    async with running_stack(llm=ScriptedLlm("One two three four. Five six seven eight.")) as stack:
        stack.stt.texts = ["hello there", "", "hello there"]
        async with line(url(stack)) as call:
            await call.say()
            await call.until(lambda: len(call.playout.played) >= 4000)
            await call.say(0.15, 1.0)
            await call.until(lambda: len(call.playout.played) >= 8 * WORD - 160)
            assert len(call.sent("clear")) == 1
            heard = np.frombuffer(PCMU.decode(bytes(call.playout.played)), "<i2").astype(float)
            loudest = []
            for start in range(0, len(heard) - 800, 400):
                piece = heard[start : start + 800] * np.hanning(800)
                loudest.append(round((np.argmax(np.abs(np.fft.rfft(piece, 8000))) - 300) / 20) % 4)
            found = [tone for n, tone in enumerate(loudest) if n == 0 or loudest[n - 1] != tone]
            assert len(found) >= 8 and found[-4:] == [0, 1, 2, 3]
            assert len(heard) <= 8 * WORD + 0.5 * 8000


async def test_keys_of_the_phone_reach_the_model(stack):
    """Digits within a pause are one number, # ends it at once; the reply that goes on stops at the first key."""
    async with line(url(stack)) as call:
        for digit in "42#":
            await call.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})
        await call.until(lambda: bool(call.playout.played))
        assert stack.llm.prompts[-1][-1] == ("user", "(pressed on the phone: 42#)")
        await call.send("dtmf", dtmf={"track": "inbound_track", "digit": "7"})
        await call.until(lambda: bool(call.sent("clear")))
        await call.until(lambda: len(stack.llm.prompts) == 2)
        assert stack.llm.prompts[-1][-1] == ("user", "(pressed on the phone: 7)")


async def test_custom_parameters_set_the_call_up(stack):
    """Greeting and language are the session's; the model is told the others."""
    async with line(url(stack), greeting="Good day.", language="de-DE", customer="Ada") as call:
        await call.until(lambda: len(call.playout.played) >= 2 * WORD - 160)
        assert stack.llm.prompts == [] and stack.tts.spoken == ["Good day."]
        (session,) = stack.sessions
        assert (await stack.bus.config(session))["language"] == "de-DE"
        await call.say()
        await call.until(lambda: bool(stack.llm.prompts))
        assert ("system", "About this call: customer: Ada") in stack.llm.prompts[-1]


async def test_rubbish_is_left_out_and_the_call_goes_on(stack):
    async with line(url(stack)) as call:
        media = '{"event":"media","media":{"payload":"%"}}'
        dtmf = '{"event":"dtmf","dtmf":{"digit":"xx"}}'
        for rubbish in (
            "",
            "[",
            "[]",
            '{"event":7}',
            '{"event":"media"}',
            media,
            '{"event":"mark","mark":1}',
            dtmf,
            b"\xff",
        ):
            await call._socket.send(rubbish)
        await call.say()
        await call.until(lambda: bool(call.playout.played))


async def test_the_end_of_a_call_leaves_nothing(stack):
    """A stop message, or a line that breaks: the session is closed."""
    for way in ("stop", "break"):
        async with line(url(stack)) as call:
            await call.say(0.1, 0.1)
            assert len(stack.sessions) == 1
            if way == "stop":
                await call.send("stop", stop={"accountSid": "AC1", "callSid": "CA1"})
                await call._socket.wait_closed()
        async with asyncio.timeout(5):
            while stack.sessions:
                await asyncio.sleep(0.01)


async def test_twiml_connects_a_call_once_and_only_twilio_gets_it():
    """The signature over the public address; the ticket lets one call in, no other, and none without."""
    settings = {"twilio_auth_token": "twilio's token", "public_url": "https://voice.example.com/bot"}
    async with running_stack(**settings) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        fields = [("CallSid", "CA1"), ("From", "+15550100"), ("To", "+15550199"), ("Empty", "")]
        address = "https://voice.example.com/bot/twilio/voice?greeting=Good+day."
        headers = {"X-Twilio-Signature": signature("twilio's token", address, fields)}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer = await http.post("/twilio/voice?greeting=Good+day.", content=urlencode(fields), headers=headers)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/xml")
        assert '<Stream url="wss://voice.example.com/bot/twilio">' in answer.text
        parameters = dict(re.findall(r'<Parameter name="(\w+)" value="([^"]*)"/>', answer.text))
        assert parameters["From"] == "+15550100" and parameters["greeting"] == "Good day."
        async with line(url(stack), **parameters) as call:
            await call.until(lambda: bool(call.playout.played))
        for wrong in (parameters, {}, {"ticket": "ek_none"}):
            async with line(url(stack), **wrong) as call:
                await call._socket.wait_closed()
                assert call._socket.close_code == 1008
        fields[1] = ("From", "+15550101")
        forged = await http.post("/twilio/voice?greeting=Good+day.", content=urlencode(fields), headers=headers)
        assert forged.status_code == 403


async def test_a_caller_is_asked_to_call_again_while_a_stage_is_missing():
    """TwiML in any case: Twilio would otherwise say that an application error has occurred."""
    async with running_stack(tts=False) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        answer = await http.post("/twilio/voice")
        assert answer.status_code == 200 and "<Say>" in answer.text and "<Stream" not in answer.text


def test_twilios_own_example_has_that_signature():
    """The worked example of Twilio's documentation."""
    fields = [("CallSid", "CA1234567890ABCDE"), ("Caller", "+12349013030"), ("Digits", "1234"),
              ("From", "+12349013030"), ("To", "+18005551212")]  # fmt: skip
    found = signature("12345", "https://mycompany.com/myapp.php?foo=1&bar=2", fields)
    assert found == "0/KCTR6DLpKmkAf8muzZqo1nDgQ="


async def test_with_keys_and_no_token_nobody_gets_a_call_connected():
    """Without Twilio's token nobody can know who asks; a call with an API key among its parameters gets in."""
    key = "sk-phone-0123456789"
    async with running_stack(api_keys=key) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        refused = await http.post("/twilio/voice")
        assert refused.status_code == 403 and "TWILIO_AUTH_TOKEN" in refused.text
        async with line(url(stack), key=key, greeting="Yes?") as call:
            await call.until(lambda: bool(call.playout.played))
        async with connect(url(stack)) as socket:
            await socket.send('{"event":"start","streamSid":"MZ1","start":{}}')
            with pytest.raises(ConnectionClosed):
                await socket.recv()


async def test_a_stream_that_broke_is_gone_on_with_by_its_call(stack):
    """Twilio asks what to do now, is told to connect again, and the reply goes on; the model is told of the loss."""
    stack.llm.answer = LONG
    async with line(url(stack), CallerName="Ann") as call:
        await call.say()
        await call.until(lambda: len(call.playout.played) >= 6 * WORD)
        session = next(iter(stack.sessions))
        call._socket.transport.abort()
        played = len(call.playout.played)
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{stack.http}/twilio/after", data={"CallSid": "CA1"})
    assert "<Stream" in answer.text and "/twilio" in answer.text
    await asyncio.sleep(0.3)
    async with line(url(stack)) as call:
        await call.say(0.0, 0.3)
        assert list(stack.sessions) == [session]
        rest = len(LONG.split()) * WORD - played
        await call.until(lambda: len(call.playout.played) >= rest - 2 * WORD, 30)
        async with asyncio.timeout(10):
            while stack.sessions[session].state.live is not None:
                await asyncio.sleep(0.02)
        assert len(call.playout.played) <= rest + 4 * WORD
        await call.send("stop", stop={})
    async with asyncio.timeout(5):
        while stack.sessions:
            await asyncio.sleep(0.01)
    said = await read(stack.bus, session)
    assert [m.role for m in said] == ["system", "user", "system", "assistant"]
    assert "Ann" in said[0].text and "was not heard" in said[2].text and said[3].text == LONG.strip()
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{stack.http}/twilio/after", data={"CallSid": "CA1"})
    assert "<Hangup/>" in answer.text


async def test_another_client_does_not_get_a_phone_call(stack):
    """A call's session is the phone's: the Realtime door has no such session."""
    async with line(url(stack)) as call:
        await call.say(0.0, 0.2)
        session = next(iter(stack.sessions))
        async with connect(f"{stack.ws}&session_id={session}") as socket:
            assert "session_not_found" in await socket.recv()
        assert stack.sessions[session].pen.fence == 1
