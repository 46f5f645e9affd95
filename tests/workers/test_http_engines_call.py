"""A call whose recogniser and voice are servers of OpenAI's kind, end to end in one process."""

import asyncio
import contextlib
from itertools import count

import numpy as np

from tests.engines import ScriptedLlm
from tests.gateway.realtime_client import RATE, client, voice
from tests.stack import running_stack
from tests.workers.audio_stand_in import HEAR, SPEAK, AudioStandIn, cut, stalls, streams, tone, understands
from workers.stt.engines.http import Http as HttpStt
from workers.tts.engines.http import Http as HttpTts


class WatchedTts(HttpTts):
    """Notes the loop's time at which each turn that is being spoken learns of its cancel."""

    def __init__(self):
        super().__init__()
        self.cancelled_at: dict[int, float] = {}

    async def speak(self, text, voice, language, cancel):
        loop = asyncio.get_running_loop()
        cancel.on_cancel(lambda: self.cancelled_at.setdefault(cancel.turn, loop.time()))
        async with contextlib.aclosing(super().speak(text, voice, language, cancel)) as chunks:
            async for chunk in chunks:
                yield chunk


@contextlib.asynccontextmanager
async def calling(monkeypatch, server, llm):
    """A stack with both http engines at ``server``, and whole utterances."""
    monkeypatch.setenv("STT_URL", server.url)
    monkeypatch.setenv("TTS_URL", server.url + "/v1")
    tts = WatchedTts()
    async with running_stack(stt=HttpStt(), llm=llm, tts=tts, streaming_stt=False) as stack, client(stack.ws) as call:
        yield stack, call


async def test_a_whole_call_through_two_servers(monkeypatch):
    """The utterance reaches the server whole, its text the model, and the server's sound the caller to the sample."""
    sounds = [tone(0.5), tone(0.7)]
    plays = [streams(*cut(sound, 4096)) for sound in sounds]
    async with AudioStandIn(hear=[understands("How old is the bridge?")], speak=plays) as server:
        llm = ScriptedLlm("It opened in 1883. That is old.")
        async with calling(monkeypatch, server, llm) as (_, call):
            await call.speak(1.0)
            done = await call.get("response.done")
            assert done["response"]["status"] == "completed"
            assert call.audio_of(done["response"]["id"]) == b"".join(sounds)
            assert done["response"]["output"][0]["content"][0]["transcript"] == "It opened in 1883. That is old."
            assert llm.prompts[0][-1] == ("user", "How old is the bridge?")
        assert [request.fields["input"] for request in server.of(SPEAK)] == ["It opened in 1883.", "That is old."]
        (heard,) = server.of(HEAR)
        assert heard.wav == (1, 2, 16_000) and heard.fields["language"] == "en"
        # The second of speech with its pre-roll and the silence that ended it, at the loudness it was said with.
        pcm, said = np.frombuffer(heard.pcm, "<i2"), np.frombuffer(voice(1.0), "<i2")
        assert 1.0 < len(pcm) / 16_000 < 2.0
        energy = [(wave.astype(float) ** 2).sum() / rate for wave, rate in ((pcm, 16_000), (said, RATE))]
        assert 0.8 < energy[0] / energy[1] < 1.2


async def test_a_barge_in_closes_the_voice_servers_connection(monkeypatch):
    """While sound streams, and while its server hangs: the cancel reaches the socket, and the next turn is spoken."""
    endless = streams(*cut(tone(60.0), 1920), pace=0.01)
    plays = [endless, stalls(tone(2.0)), endless]
    async with AudioStandIn(hear=[understands("hello there")], speak=plays) as server:
        llm = ScriptedLlm("One long sentence that goes on and on.")
        async with calling(monkeypatch, server, llm) as (stack, call):
            await call.speak()
            for turn in (1, 2):
                spoken = await server.asked(SPEAK, turn)
                response = (await call.get("response.created", turn))["response"]["id"]
                async with asyncio.timeout(20):
                    for number in count(1):
                        delta = await call.get("response.output_audio.delta", number)
                        if delta["response_id"] == response:
                            break
                assert not spoken.gone.is_set()
                await call.speak(1.0)
                done = await call.get("response.done", turn)
                assert done["response"]["id"] == response
                assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
                async with asyncio.timeout(5):
                    await spoken.gone.wait()
                assert spoken.gone_at - stack.tts.cancelled_at[turn] < 0.2
                assert spoken.sent < len(tone(60.0))
            await server.asked(SPEAK, 3)
            await call.get("response.created", 3)
        assert len(server.of(SPEAK)) == len(server.of(HEAR)) == 3
