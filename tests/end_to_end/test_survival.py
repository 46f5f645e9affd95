"""Processes that die under a running product."""

import asyncio
import contextlib

import pytest

from bus.history import read
from bus.keys import live_key, work_key
from bus.streams import Bus, connector
from gateway.client import Call, HungUp
from tests.product import running_product
from tests.speech import path as speech

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A product of its own: its workers are killed."""
    with running_product(tmp_path_factory.mktemp("victim"), RESUME_S="1") as running:
        yield running


async def converse(product):
    async with Call(product.extended) as call:
        await call.say(speech("time"))
        return await call.reply()


@pytest.mark.parametrize("stage", ["stt", "llm", "tts", "jobs"])
async def test_after_a_worker_was_killed_a_new_call_works(victim, stage):
    """kill -9 of each worker in turn: it is run again, and a call made afterwards is answered."""
    await victim.until_respawned(stage, victim.kill(stage))
    reply = await converse(victim)
    assert reply.status == "completed" and reply.heard_ms > 500


async def test_a_killed_voice_does_not_lose_the_call(victim):
    """kill -9 of the TTS worker in mid-reply: another takes the turn over and the caller hears all of it."""
    async with Call(victim.extended) as call:
        await call.say(speech("brooklyn"))
        reply = await call.reply_started()
        dead = victim.kill("tts")
        whole = await call.reply(timeout=90)
        assert whole is reply and whole.status == "completed"
        assert whole.transcript.endswith("the longest one in the world."), whole.transcript
        assert whole.transcript.count("Brooklyn Bridge") == 1
        words, seconds = len(whole.transcript.split()), whole.heard_ms / 1000
        assert 1.0 < words / seconds < 5.0
        assert call.stale_samples == 0
    await victim.until_respawned("tts", dead)


async def test_a_killed_gateway_comes_back_and_ends_what_it_left(victim):
    """A moment after a gateway died calls are taken again; one to which nobody comes back is closed as heard."""
    bus = Bus(connector(victim.redis_url))
    try:
        with contextlib.suppress(HungUp):
            async with Call(victim.extended, returns=False) as call:
                await call.say(speech("story"))
                await call.reply_started()
                await call.clock.sleep_until(call.clock.now() + 1500)
                dead = victim.kill("gateway")
                await call.reply()
        session = call.session_id
        await victim.until_respawned("gateway", dead)
        assert (await converse(victim)).status == "completed"
        async with asyncio.timeout(30):
            while await bus.commands.sismember(live_key(0), session):
                await asyncio.sleep(0.1)
        said = await read(bus, session)
        assert [(message.role, message.complete) for message in said] == [("user", True), ("assistant", False)]
        async with asyncio.timeout(10):
            for stage in ("stt", "llm", "tts"):
                while await bus.commands.xlen(work_key(0, stage)):
                    await asyncio.sleep(0.1)
    finally:
        await bus.close()


async def test_several_workers_of_a_stage_and_ctrl_c(tmp_path):
    """``honcho start -c stt=2,tts=3``: all are there, calls are answered, and Ctrl-C leaves no process behind."""
    with running_product(tmp_path, "stt=2,tts=3") as running:
        async with asyncio.timeout(30):
            while [len(running.ready()["stages"][stage]) for stage in ("stt", "llm", "tts")] != [2, 1, 3]:
                await asyncio.sleep(0.2)
        replies = await asyncio.gather(converse(running), converse(running))
        assert [reply.status for reply in replies] == ["completed", "completed"]
        took = await asyncio.to_thread(running.interrupt)
        assert took < 8
        assert running.processes() == {}
        assert "Traceback" not in running.log
