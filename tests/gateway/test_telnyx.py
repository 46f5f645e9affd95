"""Phone calls through Telnyx' media streaming, against a line made from its documentation; never tried at Telnyx."""

import base64
import re
import time
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bus.history import read
from gateway.carriers import problem
from gateway.codecs import PCMU
from gateway.playback import Frame
from gateway.protocols.dialect import TELNYX
from gateway.protocols.twilio_outlet import TwilioOutlet
from gateway.settings import GatewaySettings
from tests.engines import ScriptedLlm
from tests.gateway.twilio_line import TelnyxLine, line
from tests.stack import running_stack

LONG = "One two three four five. " * 12
WORD = 1600
"""Codes of a scripted word: 200 ms."""


class OtherLaw(TelnyxLine):
    """A call whose audio could not be had in mu-law."""

    encoding = "PCMA"


class Wideband(TelnyxLine):
    encoding = "G722"

    def encode(self, pcm):
        return pcm


def url(stack):
    return stack.ws.partition("/v1")[0] + "/telnyx"


@pytest.mark.parametrize("kind", [TelnyxLine, OtherLaw])
async def test_a_call_is_answered_and_interrupted(kind):
    """The caller is understood in either law and hears mu-law; at the onset a clear; the model is shown the words that
    the marks say were heard; parameters of the call and its keys reach the model."""
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, line(url(stack), kind=kind, customer="Ada") as call:
        await call.say()
        await call.until(lambda: len(call.playout.played) >= 8000)
        heard = np.frombuffer(PCMU.decode(bytes(call.playout.played[200:1400])), "<i2").astype(float)
        loudest = np.argmax(np.abs(np.fft.rfft(heard * np.hanning(len(heard))))) * 8000 / len(heard)
        assert abs(loudest - 300) < 10
        await call.say()
        await call.until(lambda: len(stack.llm.prompts) == 2)
        assert call.sent("clear")[0] == {"event": "clear"}
        assert ("system", "About this call: customer: Ada") in stack.llm.prompts[0]
        told = next(text for role, text in stack.llm.prompts[1] if role == "assistant")
        words = len(call.playout.played) / WORD
        assert LONG.startswith(told) and 4 <= len(told.split()) <= words + 0.1
        await call.send("dtmf", occurred_at="2026-11-26T04:00:00Z", dtmf={"digit": "#"})
        await call.until(lambda: len(stack.llm.prompts) == 3)
        assert stack.llm.prompts[2][-1] == ("user", "(pressed on the phone: #)")
        await call.send("error", payload={"code": 100003, "title": "malformed_frame"})
        await call.send("stop", stop={"user_id": "3E6F995F", "call_control_id": call.call})
        await call._socket.wait_closed()


def test_no_piece_of_sound_is_shorter_than_telnyx_takes():
    """The last piece of a turn is filled up with silence, and its mark counts the sound alone."""
    sent = []
    outlet = TwilioOutlet("s0-1", "x", sent.append, TELNYX)
    outlet.turn_opened(1, "", False)
    outlet.audio(Frame(1, 0, b"\x10\x10" * 50, "word"))
    media, mark = sent
    codes = base64.b64decode(media["media"]["payload"])
    assert len(codes) == 160 and set(codes[50:]) == {0xFF} and media.keys() == {"event", "media"}
    outlet.marked(mark["mark"]["name"])
    assert outlet.heard_ms == 50 * 1000 // 8000


async def test_audio_that_cannot_be_read_is_refused_at_once(caplog):
    async with running_stack() as stack, line(url(stack), kind=Wideband) as call:
        await call._socket.wait_closed()
        assert call._socket.close_code == 1003 and "G722" in caplog.text


async def test_texml_connects_a_call_once_and_only_telnyx_gets_it():
    """Signed over time and body, and lately; what stands behind the stream asks what to do when it has ended."""
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()

    def headers(body, at=None, by=key):
        at = str(int(time.time()) if at is None else at)
        made = base64.b64encode(by.sign(f"{at}|{body}".encode())).decode()
        return {"telnyx-timestamp": at, "telnyx-signature-ed25519": made,
                "content-type": "application/x-www-form-urlencoded"}  # fmt: skip

    settings = {"telnyx_public_key": public, "public_url": "https://voice.example.com/bot"}
    async with running_stack(**settings) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        body = urlencode({"CallSid": TelnyxLine.call, "From": "+15550100", "To": "+15550199"})
        answer = await http.post("/telnyx/voice?greeting=Good+day.", content=body, headers=headers(body))
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/xml")
        stream = re.search(r"<Connect><Stream ([^>]*)>", answer.text)[1]
        assert dict(re.findall(r'(\w+)="([^"]*)"', stream)) == {
            "url": "wss://voice.example.com/bot/telnyx", "track": "inbound_track", "codec": "PCMU",
            "bidirectionalMode": "rtp", "bidirectionalCodec": "PCMU",
        }  # fmt: skip
        assert '<Redirect method="POST">https://voice.example.com/bot/telnyx/after</Redirect>' in answer.text
        parameters = dict(re.findall(r'<Parameter name="(\w+)" value="([^"]*)"/>', answer.text))
        assert parameters["From"] == "+15550100" and parameters["greeting"] == "Good day."
        async with line(url(stack), kind=TelnyxLine, **parameters) as call:
            await call.until(lambda: bool(call.playout.played))
        async with line(url(stack), kind=TelnyxLine, **parameters) as call:
            await call._socket.wait_closed()
            assert call._socket.close_code == 1008
        stranger = Ed25519PrivateKey.generate()
        for wrong in (headers(body, by=stranger), headers(body, at=int(time.time()) - 400), headers(body + "x"), {}):
            for door in ("voice", "after"):
                assert (await http.post(f"/telnyx/{door}", content=body, headers=wrong)).status_code == 403
        assert "<Hangup/>" in (await http.post("/telnyx/after", content=body, headers=headers(body))).text


async def test_a_stream_that_broke_is_gone_on_with_by_its_call():
    async with running_stack(llm=ScriptedLlm(LONG)) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        async with line(url(stack), kind=TelnyxLine) as call:
            await call.say()
            await call.until(lambda: len(call.playout.played) >= 2 * WORD)
            (session,) = stack.sessions
            call._socket.transport.abort()
        answer = await http.post("/telnyx/after", data={"CallSid": TelnyxLine.call})
        assert "<Stream" in answer.text and "/telnyx" in answer.text
        async with line(url(stack), kind=TelnyxLine) as call:
            await call.until(lambda: len(call.playout.played) >= 2 * WORD)
            assert list(stack.sessions) == [session]
            assert [said.role for said in await read(stack.bus, session)][:1] == ["user"]


def test_a_key_with_which_nothing_can_be_checked_is_refused(monkeypatch):
    key = base64.b64encode(bytes(32)).decode()
    assert GatewaySettings(_env_file=None, telnyx_public_key=key).telnyx_public_key == key
    for wrong in ("x", "nonsense!", base64.b64encode(bytes(31)).decode()):
        with pytest.raises(ValueError, match="base64 of 32 bytes"):
            GatewaySettings(_env_file=None, telnyx_public_key=wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "bargein[telnyx]" in problem(key)


async def test_with_keys_and_no_public_key_nobody_gets_a_call_connected():
    key = "sk-phone-0123456789"
    async with running_stack(api_keys=key) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        refused = await http.post("/telnyx/voice")
        assert refused.status_code == 403 and "TELNYX_PUBLIC_KEY" in refused.text
        async with line(url(stack), kind=TelnyxLine, key=key, greeting="Yes?") as call:
            await call.until(lambda: bool(call.playout.played))
