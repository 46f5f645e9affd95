"""A session's voice and speed, as a client asks for them."""

import asyncio

import pytest

from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError
from gateway.settings import GatewaySettings, Profile
from tests.engines import ScriptedTts
from tests.gateway.realtime_client import client
from tests.stack import running_stack

VOICES = frozenset({"anna", "en-US", "bob"})


def asked(voices=VOICES, **output):
    """The profile that a session.update of ``audio.output`` gives."""
    profile = Profile(voice="anna", speed=1.1)
    return RealtimeConfig(profile, "bargein", voices).update({"audio": {"output": output}})


@pytest.mark.parametrize(
    ("voice", "found"),
    [("bob", "bob"), ("default", "anna"), ("anna", "anna"), ("en-US+f3", "en-US+f3"), ({"id": "bob"}, "bob")],
)
def test_a_voice_that_there_is(voice, found):
    assert asked(voice=voice).voice == found


@pytest.mark.parametrize("voice", ["alloy", "marin", "cedar"])
def test_what_stock_clients_ask_for_is_the_default_voice(voice):
    """They send one of OpenAI's names though nobody chose it; where a voice is called so, it is that one."""
    assert asked(voice=voice).voice == "anna"
    assert asked(VOICES | {voice}, voice=voice).voice == voice


def test_a_voice_that_there_is_not_is_refused_with_those_there_are():
    """Nothing of the update is taken then."""
    config = RealtimeConfig(Profile(), "bargein", VOICES)
    with pytest.raises(ProtocolError, match=r"is 'zoe'; expected one of: default, anna, bob, en-US") as error:
        config.update({"instructions": "Be brief.", "audio": {"output": {"voice": "zoe"}}})
    assert (error.value.code, error.value.param) == ("invalid_value", "session.audio.output.voice")
    assert config.profile().voice == "" and config.profile().instructions != "Be brief."


def test_any_voice_is_passed_to_an_engine_that_does_not_list_its_voices():
    """A server's voices are not known here: it says itself what is wrong with a name."""
    assert asked(frozenset(), voice="nova").voice == "nova"


def test_speed_is_asked_for_and_by_default_the_gateways():
    assert asked(voice="bob").speed == 1.1
    assert asked(speed=0.8).speed == 0.8
    for wrong in (0.1, 2.0):
        with pytest.raises(ProtocolError, match=rf"speed is {wrong}; expected a number from 0\.25 to 1\.5"):
            asked(speed=wrong)


def test_the_environment_says_what_is_default(monkeypatch):
    monkeypatch.setenv("TTS_SPEED", "1.2")
    monkeypatch.setenv("TTS_VOICE", "bob")
    profile = GatewaySettings(_env_file=None).profile()
    assert profile.shared()["speed"] == "1.2" and profile.shared()["voice"] == "bob"


class Choosy(ScriptedTts):
    """Notes how it was asked to speak."""

    voices = ("anna", "bob")
    own_speed = True

    def __init__(self):
        super().__init__()
        self.asked = []

    async def speak(self, text, voice, language, cancel, *, speed=1.0):
        self.asked.append((voice, speed))
        async for chunk in super().speak(text, voice, language, cancel):
            yield chunk


async def test_a_session_is_spoken_to_as_it_asked():
    """From the client's update to the engine; a refused one is an error and the session goes on as before."""
    async with running_stack(tts=Choosy()) as stack, client(stack.ws) as call:
        await call.get("session.created")
        await call.send("session.update", session={"audio": {"output": {"voice": "bob", "speed": 1.25}}})
        updated = await call.get("session.updated")
        assert updated["session"]["audio"]["output"]["voice"] == "bob"
        await call.send("session.update", session={"audio": {"output": {"voice": "zoe"}}})
        error = await call.get("error")
        assert "expected one of: default, anna, bob" in error["error"]["message"]
        async with asyncio.timeout(20):
            await call.speak()
            done = await call.get("response.done")
        assert done["response"]["status"] == "completed"
        assert set(stack.tts.asked) == {("bob", 1.25)}


async def test_a_response_is_spoken_by_the_voice_it_asks_for():
    """It alone, and one beside the conversation too; each response says whose voice it has."""
    async with running_stack(tts=Choosy(), tts_voice="anna") as stack, client(stack.ws) as call:
        bob = {"audio": {"output": {"voice": "bob", "format": {"type": "audio/pcm", "rate": 24000}}}}
        for number, more in enumerate((bob, {}, bob | {"conversation": "none"}), 1):
            await call.send("response.create", response=more)
            done = (await call.get("response.done", number))["response"]
            output = {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "bob" if more else "anna"}
            assert (done["status"], done["audio"]) == ("completed", {"output": output})
        assert list(dict.fromkeys(stack.tts.asked[:-1])) == [("bob", 1.0), ("anna", 1.0)]
        assert stack.tts.asked[-1] == ("bob", 1.0)


async def test_the_default_voice_may_be_asked_for_where_the_session_has_another():
    async with running_stack(tts=Choosy()) as stack, client(stack.ws) as call:
        await call.send("session.update", session={"audio": {"output": {"voice": "bob"}}})
        await call.send("response.create", response={"audio": {"output": {"voice": "default"}}})
        assert (await call.get("response.done"))["response"]["audio"]["output"]["voice"] == "default"
        assert {voice for voice, _ in stack.tts.asked} == {""}


@pytest.mark.parametrize(
    ("output", "where", "expected"),
    [
        ({"voice": "zoe"}, "voice", "expected one of: default, anna, bob"),
        ({"format": {"type": "audio/pcmu"}}, "format", "expected the session's, audio/pcm"),
    ],
)
async def test_how_a_response_cannot_sound_is_refused_before_it_begins(output, where, expected):
    async with running_stack(tts=Choosy()) as stack, client(stack.ws) as call:
        await call.send("response.create", response={"audio": {"output": output}})
        error = (await call.get("error"))["error"]
        assert error["param"] == f"response.audio.output.{where}" and expected in error["message"]
        await call.send("response.create")
        await call.get("response.done")
        assert len(call.all("response.created")) == 1


async def test_another_voice_or_speed_is_the_next_replys():
    """A reply goes on as it began, whatever the client changes meanwhile."""
    async with running_stack(tts=Choosy()) as stack, client(stack.ws) as call:
        await call.send("response.create")
        await call.get("response.output_audio.delta")
        await call.send("session.update", session={"audio": {"output": {"voice": "bob", "speed": 0.8}}})
        await call.get("response.done")
        before = len(stack.tts.asked)
        await call.send("response.create")
        await call.get("response.done", 2)
        assert set(stack.tts.asked[:before]) == {("", 1.0)} and set(stack.tts.asked[before:]) == {("bob", 0.8)}
