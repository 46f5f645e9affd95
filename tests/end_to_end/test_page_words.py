"""The page against a stand-in gateway: what it says and shows, and how it looks at any width."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.page_browser import at, begin_sweep, chromium, opened, state, sweep, talking, with_microphone
from tests.end_to_end.page_stand_in import ALL_READY, RATE, StandIn, ms_of

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Chromium with the fake microphone, one for all tests here."""
    async with with_microphone(tmp_path_factory.mktemp("microphone")) as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def gateway() -> AsyncIterator[StandIn]:
    """A stand-in on a free port."""
    async with StandIn().serve() as stand_in:
        yield stand_in


async def test_the_conversation_shows_both_sides(browser: Any, gateway: StandIn) -> None:
    """Partial words are marked and replaced; noise without words leaves nothing; the wait for an answer is shown."""
    async with opened(browser, at(gateway)) as page:
        call = await talking(page, gateway)
        await page.wait_for_function("bargein.sessionId === 's0-0123456789ab'")
        await call.speech_started("u0")
        await page.wait_for_function("bargein.floor === 'caller'")
        assert await page.text_content("#floor") == "You are speaking"
        await call.speech_stopped("u0")
        await page.wait_for_function("bargein.floor === 'thinking'")
        await call.final("u0", "")
        await page.wait_for_function("bargein.floor === 'nobody' && bargein.conversation.length === 0")

        await call.speech_started("u1")
        await call.partial("u1", "how old is")
        partial = page.locator(".entry.caller.partial .words")
        await partial.wait_for()
        light = await partial.evaluate("(element) => getComputedStyle(element).color")
        await call.partial("u1", "how old is the bridge")
        await page.wait_for_function("bargein.conversation[0].text === 'how old is the bridge'")
        await call.speech_stopped("u1")
        await call.final("u1", "How old is the bridge?")
        final = page.locator(".entry.caller:not(.partial) .words")
        await final.wait_for()
        assert await final.text_content() == "How old is the bridge?"
        assert await final.evaluate("(element) => getComputedStyle(element).color") != light

        for step, moment in [("end_of_speech", 5000), ("final_text", 5100), ("turn", 5101)]:
            await call.step(1, step, moment)
        await call.step(1, "first_sentence", 5300)
        await call.step(1, "first_audio", 5450)
        await call.started("r1")
        await call.step(1, "first_out", 5455)
        await call.deltas("r1", sweep(0.4, 200, 400, RATE), [(200, "It opened"), (400, " in 1883.")])
        await page.wait_for_function("bargein.floor === 'assistant'")
        await call.done("r1")
        await page.wait_for_function("bargein.conversation[1]?.final")
        wait = await page.text_content(".entry.assistant .wait")
        assert await page.text_content(".entry.assistant .words") == "It opened in 1883."
        assert "450 ms to answer" in wait and "hearing 100 · thinking 200 · voice 150" in wait
        assert await page.text_content("#announcer") == "You: How old is the bridge?Assistant: It opened in 1883."
        await page.wait_for_function("bargein.floor === 'nobody'")


async def test_words_appear_when_they_are_heard(browser: Any, gateway: StandIn) -> None:
    """Words that came with audio which is not played yet are not shown yet."""
    async with opened(browser, at(gateway)) as page:
        call = await talking(page, gateway)
        await call.started("r1")
        await call.delta("r1", sweep(0.5, 200, 300, RATE))
        await call.words("r1", "first")
        await call.delta("r1", sweep(3, 200, 300, RATE))
        await call.words("r1", " second")
        await page.wait_for_function("bargein.conversation[0]?.text.startsWith('first')")
        snapshot = await page.evaluate("[bargein.conversation[0].text, bargein.playedSamples.r1]")
        assert snapshot[0] == "first" and RATE * 0.5 <= snapshot[1] < RATE * 3.5
        await page.wait_for_function("bargein.conversation[0].text === 'first second'")
        assert (await state(page, "playedSamples"))["r1"] == RATE * 3.5


async def test_a_lost_connection_is_said_and_comes_back(browser: Any, gateway: StandIn) -> None:
    """After a loss the page says so, counts down, connects again by itself and measures from 0 again.

    What the new connection calls by the name of something old is something new.
    """
    async with opened(browser, at(gateway), quiet=False) as page:
        call = await talking(page, gateway)
        await begin_sweep(call, "r1")
        await page.wait_for_function("bargein.playedSamples.r1 > 12000")
        gateway.refuse = True
        await call.hang_up(1011, "broken")
        await page.wait_for_function("bargein.notice?.kind === 'connection'")
        notice = await state(page, "notice")
        assert notice["title"] == "Connection lost" and notice["text"].startswith("broken. Trying again in ")
        assert await page.locator(".notice-title").is_visible()
        assert await page.text_content("#floor") in ("Not connected", "Connecting")
        await page.wait_for_function("bargein.silent && bargein.conversation[0].cut !== null")
        for _ in range(2):
            await asyncio.wait_for(gateway.refusals.get(), 15)
        gateway.refuse = False
        again = await gateway.call()
        await page.wait_for_function("bargein.phase === 'live' && bargein.notice === null")
        await again.until(lambda: again.received_ms > 200)
        notes = [entry["text"] for entry in await state(page, "conversation") if entry["kind"] == "note"]
        assert notes == ["Connection lost", "Connected again. The assistant starts afresh."]
        assert abs(ms_of(await state(page, "sentSamples")) - again.received_ms) < 500
        await again.started("r1")
        await again.delta("r1", sweep(0.2, 200, 300, RATE))
        await again.words("r1", "again")
        await again.done("r1")
        await page.wait_for_function(
            "bargein.conversation.at(-1).text === 'again' && bargein.playedSamples.r1 === 4800"
        )
        await page.get_by_role("button", name="Hang up").click()
        await asyncio.wait_for(again.ended.wait(), 5)
        await page.wait_for_function("bargein.phase === 'idle'")


async def test_a_response_that_is_announced_once_more_is_heard(browser: Any, gateway: StandIn) -> None:
    """A gateway that dies may have announced what the next one announces again, under the same name."""
    async with opened(browser, at(gateway), quiet=False) as page:
        gateway.resume_s = 10.0
        call = await talking(page, gateway)
        await call.started("r1")
        await page.wait_for_function("bargein.conversation.length === 1")
        await call.hang_up(1011, "broken")
        again = await gateway.call()
        await page.wait_for_function("bargein.phase === 'live'")
        await again.started("r1")
        await again.delta("r1", sweep(0.2, 200, 300, RATE))
        await again.words("r1", "here")
        await again.done("r1")
        await page.wait_for_function("bargein.playedSamples.r1 === 4800")
        said = [entry for entry in await state(page, "conversation") if entry["kind"] == "assistant"]
        assert [entry["text"] for entry in said] == ["here"]
    gateway.resume_s = 0.0


@asynccontextmanager
async def unready(gateway: StandIn) -> AsyncIterator[None]:
    """While it lasts the gateway has no voice and refuses calls."""
    gateway.stages = {**ALL_READY, "tts": []}
    gateway.refuse = True
    yield
    gateway.stages = dict(ALL_READY)
    gateway.refuse = False


async def test_a_server_that_is_not_ready_is_named_and_awaited(browser: Any, gateway: StandIn) -> None:
    """The page names the stage that is missing, and a call that was asked for begins once the stage is there."""
    async with unready(gateway), opened(browser, at(gateway), quiet=False) as page:
        await page.wait_for_function("bargein.notice?.kind === 'readiness'")
        assert (await state(page, "notice"))["title"] == "The server is not ready"
        assert "Still missing: voice." in (await state(page, "notice"))["text"]
        assert await page.text_content("#engine-tts") == "nobody"
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.notice?.kind === 'connection'")
        assert (await state(page, "notice"))["title"] == "The server is not ready"
        gateway.stages = dict(ALL_READY)
        gateway.refuse = False
        await gateway.call()
        await page.wait_for_function("bargein.phase === 'live'")
        await page.wait_for_function("bargein.readiness.ready && bargein.notice === null")
        assert await page.text_content("#engine-tts") == "espeak"


async def test_an_error_of_the_server_is_shown_in_its_words(browser: Any, gateway: StandIn) -> None:
    """An error event becomes a notice that can be dismissed; a race's error does not. So does a refusal's reason."""
    async with opened(browser, at(gateway)) as page:
        call = await talking(page, gateway)
        await call.send("error", error={"code": "response_cancel_not_active", "message": "Cancellation failed"})
        await call.send("error", error={"code": "overloaded", "message": "No recogniser is free."})
        await page.wait_for_function("bargein.notice?.text === 'No recogniser is free.'")
        await page.get_by_role("button", name="Dismiss").click()
        assert await state(page, "notice") is None
        gateway.complaint = "All seats are taken."
        await call.hang_up(1012)
        await page.wait_for_function("bargein.notice?.text.startsWith('All seats are taken. Trying again in ')")
        gateway.complaint = None
        call = await gateway.call()
        await page.wait_for_function("bargein.phase === 'live' && bargein.notice === null")
        await call.hang_up(1000, "The call is over.")
        await page.wait_for_function("bargein.phase === 'idle'")
        assert (await state(page, "notice"))["text"] == "The call is over."


async def test_a_refused_microphone_is_said(gateway: StandIn) -> None:
    """A refusal is told from everything else, says what to do, and Talk may be pressed again."""
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny")
    async with chromium(*flags) as refusing, opened(refusing, at(gateway)) as page:
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.notice?.kind === 'microphone'")
        assert (await state(page, "notice"))["title"] == "The microphone was refused"
        assert await page.get_by_role("alert").is_visible()
        assert await page.get_by_role("button", name="Talk").is_enabled()
        assert await state(page, "phase") == "idle"
    assert gateway.calls.empty()


async def test_a_missing_microphone_and_an_insecure_page_are_said(gateway: StandIn) -> None:
    """Without a device the page says there is none; at an address that is not secure it says that, and why."""
    rules = "--host-resolver-rules=MAP voice.example 127.0.0.1"
    async with chromium("--use-fake-ui-for-media-stream", rules) as bare:
        async with opened(bare, at(gateway)) as page:
            await page.get_by_role("button", name="Talk").click()
            await page.wait_for_function("bargein.notice?.kind === 'microphone'")
            assert (await state(page, "notice"))["title"] == "No microphone was found"
        async with opened(bare, f"http://voice.example:{gateway.port}/") as page:
            await page.wait_for_function("bargein.notice?.kind === 'insecure'")
            assert f"http://localhost:{gateway.port}" in (await state(page, "notice"))["text"]
            assert await page.get_by_role("button", name="Talk").is_disabled()


@pytest.mark.parametrize("width,height", [(360, 640), (390, 844), (844, 390), (1280, 800)])
async def test_nothing_is_wider_than_the_window(browser: Any, gateway: StandIn, width: int, height: int) -> None:
    """Before and within a conversation with a long word and a notice, no part reaches beyond the window."""
    inside = """() => {
      const beyond = [...document.querySelectorAll("body *")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
        .map((element) => element.tagName + "#" + element.id + "." + element.className);
      const { scrollWidth, scrollHeight } = document.documentElement;
      const button = document.querySelector("#talk").getBoundingClientRect();
      return { beyond, wide: scrollWidth > innerWidth, high: scrollHeight > innerHeight,
               button: button.bottom <= innerHeight && button.top >= 0 && button.height >= 44 };
    }"""
    fits = {"beyond": [], "wide": False, "high": False, "button": True}
    viewport = {"width": width, "height": height}
    async with opened(browser, at(gateway), viewport=viewport, reduced_motion="reduce") as page:
        assert await page.evaluate(inside) == fits
        call = await talking(page, gateway)
        await call.final("u1", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft")
        await call.started("r1")
        await call.delta("r1", sweep(0.5, 200, 300, RATE))
        await call.words("r1", "It opened")
        await call.held("r1", call.received_ms)
        await call.step(1, "end_of_speech", 100)
        await call.step(1, "first_audio", 800)
        await call.done("r1", "cancelled", reason="turn_detected")
        await call.send("error", error={"code": "overloaded", "message": "No recogniser is free. " * 3})
        await page.wait_for_function("bargein.notice?.kind === 'server'")
        await page.wait_for_selector(".entry.interruption .outcome.confirmed")
        assert await page.evaluate(inside) == fits


async def test_the_keyboard_is_enough(browser: Any, gateway: StandIn) -> None:
    """Tab reaches the one button with a visible focus; Space begins a call and Enter ends it."""
    async with opened(browser, at(gateway)) as page:
        await page.keyboard.press("Tab")
        focus = "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        assert await page.evaluate(focus) == ["talk", "solid"]
        await page.keyboard.press("Space")
        call = await gateway.call()
        await page.wait_for_function("bargein.phase === 'live'")
        assert await page.evaluate("document.activeElement.id") == "talk"
        await page.keyboard.press("Enter")
        await asyncio.wait_for(call.ended.wait(), 5)
        await page.wait_for_function("bargein.phase === 'idle'")


async def test_nothing_comes_from_elsewhere(browser: Any, gateway: StandIn) -> None:
    """Every request of the page goes to its own server."""
    async with opened(browser, "about:blank") as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.goto(at(gateway))
        await talking(page, gateway)
    own = (f"http://127.0.0.1:{gateway.port}/", "blob:", "data:")
    assert len(requests) > 10
    assert [url for url in requests if not url.startswith(own)] == []
