"""Two gateways at one server, and what is asked of callers that come back."""

import base64
import contextlib

import numpy as np

from bus.events import MicAudio
from bus.keys import session_key
from tests.bus.fake_server import fake_connector
from tests.gateway.realtime_client import RATE, voice
from tests.stack import running_stack

LONG = "One two three four five. " * 12


@contextlib.asynccontextmanager
async def two_gateways(*, stt=None, llm=None, **settings):
    """Two gateways at one server; the workers are the first one's."""
    make_client = fake_connector()
    async with (
        running_stack(make_client=make_client, stt=stt, llm=llm, **settings) as first,
        running_stack(make_client=make_client, stt=False, llm=False, tts=False, **settings) as second,
    ):
        yield first, second


def freeze(gateway):
    """The gateway does nothing more for its sessions, and does not know it: as one that was stopped, or is cut off."""
    for session in gateway.sessions.values():
        for task in session._tasks:
            task.cancel()
        session.stagehand.close()
        session._journal._write = lambda entry: None


def extended(url):
    return f"{url}&extensions=bargein"


async def session_of(call):
    return (await call.get("session.created"))["session"]["id"].removeprefix("sess_")


async def spoken(call):
    """The caller asks something; returns once the answer is being heard."""
    await call.audio(voice(0.6) + bytes(RATE * 2), pace=0.0)
    await call.get("response.output_audio.delta", 3)


def samples(call, response):
    """Audio of a response that came."""
    deltas = [event["delta"] for event in call.all("response.output_audio.delta") if event["response_id"] == response]
    return sum(len(base64.b64decode(delta)) // 2 for delta in deltas)


def text(call, response):
    deltas = call.all("response.output_audio_transcript.delta")
    return "".join(event["delta"] for event in deltas if event["response_id"] == response)


async def mic(bus, session):
    """The mic stream's audio, which has no gap."""
    found = [entry.event for entry in await bus.replay(session_key(session, "mic"))]
    audio = [event for event in found if isinstance(event, MicAudio)]
    end = 0
    for event in audio:
        assert event.offset == end
        end += len(event.pcm) // 2
    return np.frombuffer(b"".join(event.pcm for event in audio), "<i2")
