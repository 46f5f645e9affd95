"""The client against a scripted server. Calls run SPEED times as fast as real ones."""

import asyncio
import re

import numpy as np
import pytest

from gateway.client import Call, HungUp, NoReply, Unreachable
from gateway.client_audio import PER_MS
from tests.gateway.realtime_stand_in import RATE, SPEED, Scripted, StandIn, nobody, ramp, tone


def call(url, **options):
    return Call(url, speed=SPEED, **options)


async def heard_for(talk, reply, seconds):
    """Wait until a reply has been heard for so long."""
    began = talk.clock.now() if reply.started is None else reply.started
    await talk.clock.sleep_until(began + seconds * 1000)


# -- a call -----------------------------------------------------------------------------------------------------


async def test_a_reply_is_heard_whole():
    """Every sample that was sent is heard once and in order, and the call remembers when."""
    async with StandIn(Scripted(ramp(1.0), "Since 1883.")) as server, call(server.extended_url) as talk:
        spoken = await talk.say(tone(0.3))
        reply = await talk.reply(20)
    assert np.array_equal(reply.pcm, ramp(1.0))
    assert (reply.status, reply.transcript, reply.heard_ms) == ("completed", "Since 1883.", 1000.0)
    assert spoken.last_sound < reply.created <= reply.started < reply.ended
    assert reply.ended - reply.started >= 999.9
    assert talk.stale_samples == 0
    recording = talk.recording()
    assert np.flatnonzero(recording)[0] == round(reply.started * PER_MS)
    assert np.array_equal(recording[recording != 0], ramp(1.0))
    assert talk.events[0][1]["type"] == "session.created"
    assert all(early <= late for (early, _), (late, _) in zip(talk.events, talk.events[1:], strict=False))


async def test_the_microphone_stays_open():
    """What is said arrives sample by sample, with silence before, between and after, at real-time pace."""
    async with StandIn() as server, call(server.url) as talk:
        await talk.clock.sleep_until(200)
        first = await talk.say(tone(0.25))
        await talk.clock.sleep_until(talk.clock.now() + 300)
        second = await talk.say(tone(0.25))
        await talk.clock.sleep_until(talk.clock.now() + 500)
        elapsed = talk.clock.now()
    audio = np.frombuffer(bytes(server.audio), "<i2")
    loud = np.flatnonzero(audio)
    assert np.array_equal(audio[loud], np.concatenate([tone(0.25), tone(0.25)]))
    assert second.started - first.started >= 550 - 20
    gap = np.diff(loud).max() / PER_MS
    assert abs(gap - (second.started - first.started - 250)) < 1
    assert 0 <= elapsed - len(audio) / PER_MS < 200
    assert len(audio) - loud[-1] >= 300 * PER_MS


async def test_a_barge_in_silences_at_once():
    """On held everything buffered is dropped and what was played is told to the ms; the next reply is whole."""
    script = Scripted(ramp(6.0), "Long."), Scripted(ramp(0.4, 9_000), "Short.")
    async with StandIn(*script) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 1.0)
        stop = talk.play(tone(0.4))
        first, second = await talk.reply(20), await talk.reply(20)
    (hold,) = first.holds
    assert (first.status, first.reason) == ("cancelled", "turn_detected")
    assert np.array_equal(first.pcm, ramp(6.0)[: len(first.pcm)])
    assert len(first.pcm) < first.received
    assert server.events("bargein.output.played") == [
        {"type": "bargein.output.played", "response_id": "resp_1", "audio_end_ms": round(hold.played, 3)}
    ]
    assert hold.played == len(first.pcm) / PER_MS == first.heard_ms
    assert hold.resumed_from is None
    assert hold.after_onset == pytest.approx(hold.at - stop.onset)
    assert hold.after_onset > 0
    assert talk.stale_samples == 0
    after = talk.recording()[round(hold.at * PER_MS) + 1 : round(second.started * PER_MS) - 1]
    assert len(after)
    assert not after.any()
    assert np.array_equal(second.pcm, ramp(0.4, 9_000))


async def test_a_reply_taken_back_goes_on_where_it_stopped():
    """After resumed the reply is heard to its end, every sample once."""
    async with StandIn(Scripted(ramp(3.0), verdict="resume")) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.7)
        talk.play(tone(0.1))
        reply = await talk.reply(20)
    (hold,) = reply.holds
    assert hold.resumed_from == round(hold.played, 3)
    assert reply.status == "completed"
    assert np.array_equal(reply.pcm, ramp(3.0))
    assert reply.position == 3 * RATE
    assert talk.stale_samples == 0


@pytest.mark.parametrize(("stale", "held"), [(481, 0), (0, 240), (481, 240)])
async def test_stale_audio_is_counted_and_not_heard(stale, held):
    """Audio of a cancelled or held response is what a server must never send; the client proves that it did not."""
    script = Scripted(ramp(6.0), stale=stale, stale_while_held=held), Scripted(ramp(0.2))
    async with StandIn(*script) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.5)
        talk.play(tone(0.3))
        reply = await talk.reply(20)
        await talk.reply(20)
    assert talk.stale_samples == reply.stale_samples == stale + held
    assert np.array_equal(reply.pcm, ramp(6.0)[: len(reply.pcm)])


@pytest.mark.parametrize("stale", [0, 480])
async def test_without_the_extension_it_is_a_stock_client(stale):
    """speech_started is final: the buffer is dropped and the server told how much was played."""
    script = Scripted(ramp(6.0), stale=stale), Scripted(ramp(0.2))
    async with StandIn(*script) as server, call(server.url) as talk:
        await talk.say(tone(0.3))
        await heard_for(talk, await talk.reply_started(20), 0.5)
        talk.play(tone(0.3))
        reply = await talk.reply(20)
        await talk.reply(20)
    assert server.events("bargein.output.played") == []
    assert server.events("conversation.item.truncate") == [
        {
            "type": "conversation.item.truncate",
            "item_id": "item_1",
            "content_index": 0,
            "audio_end_ms": int(reply.heard_ms),
        }
    ]
    assert np.array_equal(reply.pcm, ramp(6.0)[: len(reply.pcm)])
    assert talk.stale_samples == stale


async def test_a_cancel_from_elsewhere_silences_too():
    """A response that is cancelled without having been held (POST /cancel) is cut short and truncated."""
    async with StandIn(Scripted(ramp(0.3), status="cancelled", lead=20)) as server, call(server.extended_url) as talk:
        await talk.say(tone(0.3))
        reply = await talk.reply(20)
        assert reply.status == "cancelled"
        assert reply.heard_ms < 300
        assert talk.recording().size == len(reply.pcm) + (round(reply.started * PER_MS) if reply.started else 0)
        assert reply.received == 0.3 * RATE


async def test_the_session_is_set_up_as_asked():
    async with StandIn() as server:
        async with call(server.url, session={"instructions": "Be brief."}) as talk:
            await talk.say(tone(0.1))
        assert server.received[0] == {
            "type": "session.update",
            "session": {"type": "realtime", "instructions": "Be brief."},
        }


@pytest.mark.parametrize(
    "session, known",
    [({"id": "sess_s0-4f1c09aa31d2"}, "s0-4f1c09aa31d2"), ({"id": "sess_of_somebody_else"}, ""), ({}, "")],
)
async def test_the_session_id_is_known_on_entering(session, known):
    """It comes with the first event, so that nobody who asks at once is told nothing."""
    async with StandIn(greet=[{"type": "session.created", "session": session}]) as server, call(server.url) as talk:
        assert talk.session_id == known


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancel_that_comes_with_an_event_is_not_lost(steps):
    """Whoever waits for something is cancelled at once, though something else happened a few steps before."""
    async with StandIn() as server, call(server.url) as talk:
        waiting = asyncio.create_task(talk.wait_for("nothing.of.the.kind", 60))
        await asyncio.sleep(0)
        talk._wake()
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=2)
        assert done and waiting.cancelled()


# -- calls that fail --------------------------------------------------------------------------------------------


async def test_nobody_listens():
    with pytest.raises(Unreachable, match="connection refused"):
        async with call(nobody()):
            pass


async def test_the_next_address_has_the_call_when_the_first_does_not_take_it():
    """One where nobody listens and one that refuses are passed over at once."""
    async with StandIn(refuse="draining") as busy, StandIn() as server:
        async with call([nobody(), busy.url, server.url]) as talk:
            assert talk.url == server.url
        with pytest.raises(Unreachable, match="503: draining"):
            async with call([nobody(), busy.url]):
                pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refuse": "no live worker: tts"}, "503: no live worker: tts"),
        ({"refuse": '{"error": {"message": "not ready"}}'}, "503: not ready"),
        ({"greet": []}, "no session.created came"),
        ({"greet": [{"type": "error", "error": {"message": "beta is gone"}}]}, "beta is gone"),
        ({"greet": ["hello"]}, "what the protocol does not have"),
        ({"greet": ["[]"]}, "what the protocol does not have"),
    ],
)
async def test_a_server_that_does_not_take_the_call(options, said):
    async with StandIn(**options) as server:
        with pytest.raises(Unreachable, match=re.escape(said)):
            async with call(server.url, connect_timeout=0.5):
                pass


@pytest.mark.parametrize("url", ["http://127.0.0.1/v1", "127.0.0.1:8080", "ws:///v1", "", [], [nobody(), "there"]])
def test_another_kind_of_address(url):
    with pytest.raises(ValueError, match="expected ws://"):
        Call(url)


async def test_no_reply_in_time():
    async with StandIn() as server, call(server.url) as talk:
        await talk.say(tone(0.2))
        with pytest.raises(NoReply, match=r"response 1 did not end within 1 s"):
            await talk.reply(1)
        with pytest.raises(NoReply, match=r"nothing of response 1 was heard"):
            await talk.reply_started(0)
        with pytest.raises(NoReply, match=r"no response\.done came"):
            await talk.wait_for("response.done", 0)


async def test_the_server_hangs_up():
    """Whatever is being waited for ends with the server's own reason; what was heard is kept."""
    async with StandIn(Scripted(ramp(5.0)), hang_up_after=60) as server, call(server.url) as talk:
        await talk.say(tone(0.3))
        with pytest.raises(HungUp, match=r"code 1011, scripted end"):
            await talk.reply(20)
        with pytest.raises(HungUp):
            await talk.send({"type": "response.create"})
        assert len(talk.recording())
