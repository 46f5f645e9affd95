"""The gateway is killed in the midst of a call: who speaks goes on speaking, who listens hears the rest."""

import asyncio

import pytest

from bus.events import Final
from bus.history import read
from bus.keys import live_key, session_key
from bus.streams import Bus, connector
from gateway.client import Call
from gateway.client_audio import load
from tests.end_to_end.page_browser import chromium, opened, state
from tests.end_to_end.test_page import conversation
from tests.product import running_product
from tests.speech import path as speech

pytestmark = pytest.mark.end_to_end

BRIDGE_ENDS = "the longest one in the world."


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A product of its own: its gateway is killed."""
    with running_product(tmp_path_factory.mktemp("victim")) as running:
        yield running


async def until_ended(bus, session):
    async with asyncio.timeout(10):
        while await bus.commands.sismember(live_key(0), session):
            await asyncio.sleep(0.05)


async def test_a_reply_goes_on_after_the_gateway_was_killed(victim):
    """kill -9 in mid-reply: the client is back in its session, hears the rest from a word on, and nothing is stale."""
    bus = Bus(connector(victim.redis_url))
    try:
        async with Call(victim.extended) as call:
            await call.say(speech("brooklyn"))
            reply = await call.reply_started()
            await call.clock.sleep_until(call.clock.now() + 2000)
            dead = victim.kill("gateway")
            whole = await call.reply(timeout=90)
            assert whole is reply and whole.status == "completed"
            assert whole.transcript.endswith(BRIDGE_ENDS) and whole.transcript.count("Brooklyn Bridge") == 1
            words, seconds = len(whole.transcript.split()), whole.heard_ms / 1000
            assert 1.0 < words / seconds < 5.0 and call.stale_samples == 0
            back = [event for _, event in call.events if event["type"] == "bargein.session"]
            assert [event["resumed"] for event in back] == [False, True]
        await until_ended(bus, call.session_id)
        said = await read(bus, call.session_id)
        assert [(m.role, m.complete) for m in said] == [("user", True), ("assistant", True)]
        assert said[1].text == whole.transcript
        await victim.until_respawned("gateway", dead)
    finally:
        await bus.close()


@pytest.mark.parametrize("after", [0.15, 0.9], ids=["early", "late"])
async def test_an_utterance_over_the_gateways_death_is_understood_once(victim, after):
    """kill -9 while the caller speaks: every sample reaches the recogniser once, and so does the answer the caller."""
    bus = Bus(connector(victim.redis_url))
    try:
        async with Call(victim.extended) as call:
            spoken = call.play(load(speech("time")))
            await call._until(lambda: spoken.onset is not None, 10, "nothing was said")
            await call.clock.sleep_until(spoken.onset + after * 1000)
            dead = victim.kill("gateway")
            reply = await call.reply(timeout=90)
            assert reply.status == "completed" and "time" in reply.transcript
            session = call.session_id
            assert not [event for _, event in call.events if event["type"] == "bargein.input.lost"]
        await until_ended(bus, session)
        users = [message.text for message in await read(bus, session) if message.role == "user"]
        assert len(users) == 1 and "time" in users[0]
        finals = [entry.event for entry in await bus.replay(session_key(session, "transcript"))]
        finals = [(event.utterance, event.revision) for event in finals if isinstance(event, Final)]
        assert len(finals) == len(set(finals))
        await victim.until_respawned("gateway", dead)
    finally:
        await bus.close()


@pytest.mark.browser
async def test_the_page_goes_on_after_the_gateway_was_killed(victim, tmp_path):
    """kill -9 while the page plays a reply: it says so, is back by itself, and the reply goes on in the same entry."""
    async with (
        chromium(
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={conversation(tmp_path, ('brooklyn', 60))}%noloop",
        ) as browser,
        opened(browser, f"{victim.http}/?audio=raw", quiet=False) as page,
    ):
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.floor === 'assistant'", timeout=60_000)
        await page.wait_for_function("Object.values(bargein.playedSamples)[0] > 48000")
        dead = victim.kill("gateway")
        await page.wait_for_function("bargein.phase === 'lost'")
        assert (await state(page, "notice"))["title"] == "Connection lost"
        await page.wait_for_function("bargein.phase === 'live' && bargein.floor === 'assistant'", timeout=60_000)
        await page.wait_for_function(
            "bargein.conversation.find((entry) => entry.kind === 'assistant')?.final", timeout=60_000
        )
        entries = await state(page, "conversation")
        said = [entry for entry in entries if entry["kind"] == "assistant"]
        assert len(said) == 1 and said[0]["cut"] is None and not said[0]["failed"]
        assert said[0]["text"].endswith(BRIDGE_ENDS) and said[0]["text"].count("Brooklyn Bridge") == 1
        assert [e["text"] for e in entries if e["kind"] == "note"] == ["Connection lost", "Connected again."]
        assert await state(page, "interruptions") == []
        await page.get_by_role("button", name="Hang up").click()
        await page.wait_for_function("bargein.phase === 'idle'")
        await victim.until_respawned("gateway", dead)
