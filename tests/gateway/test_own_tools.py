"""The gateway's own functions: ending a call, handing it over, pressing keys."""

import json

import httpx
import numpy as np
import pytest

from gateway import tones
from gateway.codecs import PCMU
from gateway.own_tools import specs, targets, wanted
from tests.engines import CallingLlm
from tests.gateway.realtime_client import client
from tests.gateway.twilio_line import line
from tests.stack import running_stack
from workers.llm.tools import Call

BYE = Call("", "end_call", "{}")


async def test_the_model_ends_the_call_once_its_goodbye_was_heard():
    """The client hears all of it, no call, no error, and a normal close."""
    llm = CallingLlm(["Good bye my friend. ", BYE])
    async with running_stack(llm=llm) as stack, client(stack.ws + "&own_tools=end_call,transfer") as call:
        await call.send("response.create")
        done = (await call.get("response.done"))["response"]
        await call.socket.wait_closed()
        assert (done["status"], call.socket.close_code) == ("completed", 1000)
        assert [item["type"] for item in done["output"]] == ["message"]
        assert [tool["name"] for tool in llm.requests[0].tools] == ["end_call"]
        assert call.all("error") == []


async def test_a_caller_who_interrupts_the_goodbye_keeps_the_call():
    """The model is told that the call goes on."""
    llm = CallingLlm(["Good bye my friend, it was so nice to talk with you all this long time. ", BYE])
    async with running_stack(llm=llm) as stack, client(stack.ws + "&own_tools=end_call") as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta", 20)
        await call.speak()
        await call.get("response.done", 2)
        results = [json.loads(m.text) for m in llm.messages[1] if m.role == "tool"]
        assert results == [{"status": "not done: the caller went on speaking"}]
        assert len(stack.sessions) == 1


async def test_without_being_asked_for_there_are_none():
    llm = CallingLlm()
    async with running_stack(llm=llm) as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.done")
        assert llm.requests[0].tools == ()


async def test_a_phone_call_is_handed_over():
    """After the words were heard the line is given back, and Twilio is told whom to dial: once."""
    llm = CallingLlm(["One moment please. ", Call("", "transfer", '{"to":"sales"}')])
    settings = {"own_tools": "transfer", "transfer_to": "sales:+15550100", "greeting": ""}
    async with running_stack(llm=llm, **settings) as stack:
        async with line(stack.ws.partition("/v1")[0] + "/twilio") as call:
            await call.say()
            await call._socket.wait_closed()
            assert call._socket.close_code == 1000 and len(call.playout.played) >= 3 * 1600 - 800
        assert llm.requests[0].tools[0]["parameters"]["properties"]["to"]["enum"] == ["sales"]
        async with httpx.AsyncClient(base_url=stack.http) as http:
            answers = [(await http.post("/twilio/after", data={"CallSid": "CA1"})).text for _ in range(2)]
        assert "<Dial>+15550100</Dial>" in answers[0] and "<Hangup/>" in answers[1]


async def test_keys_are_pressed_as_tones_and_the_model_goes_on():
    """The caller's side hears the two tones of each key; what cannot be pressed is said to the model."""
    pressed = [Call("", "send_dtmf", '{"keys":"5"}'), Call("", "send_dtmf", '{"keys":"call mum"}')]
    llm = CallingLlm(pressed[:1], pressed[1:])
    async with (
        running_stack(llm=llm, own_tools="send_dtmf") as stack,
        line(stack.ws.partition("/v1")[0] + "/twilio") as call,
    ):
        await call.say()
        await call.until(lambda: len(llm.messages) == 3 and len(call.playout.played) >= 3000)
        sound = np.frombuffer(PCMU.decode(bytes(call.playout.played[:800])), "<i2").astype(float)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(800)))
        found = sorted(int(each) * 10 for each in np.argsort(spectrum)[-6:])
        assert any(abs(each - 770) <= 10 for each in found) and any(abs(each - 1336) <= 10 for each in found)
        results = [json.loads(m.text)["status"] for m in llm.messages[2] if m.role == "tool"]
        assert results[0] == "the keys were pressed" and results[1].startswith("nothing was pressed")


def test_every_key_has_its_two_tones():
    for key, low, high in (("1", 697, 1209), ("0", 941, 1336), ("#", 941, 1477), ("D", 941, 1633)):
        sound = np.frombuffer(tones.keys(key, 8000), "<i2")[:800].astype(float)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(800), 8000))
        assert (
            abs(int(np.argmax(spectrum[:1100])) - low) <= 3 and abs(int(np.argmax(spectrum[1100:])) + 1100 - high) <= 3
        )
    assert len(tones.keys("w5", 8000)) == 2 * (4000 + 1600) and tones.keys("", 8000) == b""


def test_who_may_be_called_is_set_not_said():
    """Only configured numbers can be dialled; without any there is no such function."""
    assert targets("sales:+15550100, my support:15550101") == {"sales": "+15550100", "my support": "15550101"}
    for wrong in ("sales", "sales:x", ":+15550100"):
        with pytest.raises(ValueError):
            targets(wrong)
    assert wanted("transfer, end_call,x") == ["end_call", "transfer"]
    assert [each["name"] for each in specs(["end_call", "transfer"], {})] == ["end_call"]
