"""The console in a real Chromium, over a whole stack in this process: one call with an interruption, live and after."""

import asyncio
import json
import re

import httpx
import numpy as np
import pytest
import soundfile

from bus import sessions
from gateway.client import Call
from tests.end_to_end.page_browser import chromium, opened
from tests.gateway.realtime_client import voice
from tests.stack import running_stack

pytestmark = pytest.mark.browser
QUESTION = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])
ANSWER = "One two three four. Five six seven eight. Nine ten eleven twelve."


async def interrupted(call):
    """Ask, interrupt, and hear the next answer to its end; (heard of the first, heard of the second)."""
    await call.say(QUESTION)
    await call.reply_started()
    await asyncio.sleep(0.8)
    await call.say(QUESTION)
    first, second = await call.reply(), await call.reply()
    assert (first.status, second.status) == ("cancelled", "completed")
    return first, second


def stack_of(tmp_path, **settings):
    from tests.engines import ScriptedLlm

    llm = ScriptedLlm(ANSWER)
    return running_stack(llm=llm, end_of_turn_ms=300, recordings_dir=tmp_path, **settings)


async def shown(page, session):
    await page.wait_for_function(f"bargeinConsole.session === '{session}'")
    await page.wait_for_selector("#entries li")


async def test_a_call_is_seen_live_and_afterwards_and_heard_at_a_click(tmp_path):
    """What was heard stands there, what was not is struck through; marks, waterfall, recording; all by keyboard too."""
    async with (
        stack_of(tmp_path) as stack,
        chromium("--autoplay-policy=no-user-gesture-required") as browser,
        opened(browser, f"{stack.http}/console") as page,
    ):
        await page.get_by_text("No session is live").wait_for()
        async with Call(f"{stack.ws}&extensions=bargein") as call:
            session = call.session_id
            first, _ = await interrupted(call)
            await page.get_by_text("1 live call").wait_for()
            await page.locator("#sessions a").focus()
            await page.keyboard.press("Enter")
            await shown(page, session)
            assert await page.locator("#play").is_hidden()
            await page.wait_for_function("document.querySelectorAll('#entries li').length === 4")
        heard = await page.locator("#entries .assistant .words").first.evaluate("e => e.firstChild.textContent")
        never = await page.locator("#entries .assistant del").first.inner_text()
        assert heard and first.transcript.startswith(heard) and f"{heard} {never}" == ANSWER
        assert await page.locator("#entries .assistant").nth(1).locator("del").count() == 0
        assert "interrupted" in await page.locator("#entries .assistant .who").first.inner_text()

        details = page.locator("#entries details").first
        await details.locator("summary").focus()
        await page.keyboard.press("Enter")
        rows = await details.locator("th").all_inner_texts()
        assert {"listens", "thinks", "speaks", "held", "voice stops", "model stops", "output stops"} <= set(rows)
        assert "everything stopped within" in await details.locator("summary").inner_text()

        wav = np.zeros((16_000 * 4, 2), np.int16)
        wav[16_000:, 1] = 8000
        await asyncio.to_thread(soundfile.write, tmp_path / f"{session}.wav", wav, 16_000)
        play = page.locator("#play")
        await play.wait_for(state="visible")
        await page.wait_for_function("bargeinConsole.seconds === 4")
        await page.locator("#waves").focus()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowRight")
        assert await page.evaluate("bargeinConsole.position") == 2
        assert await page.locator("#waves").get_attribute("aria-valuetext") == "0:02.0 of 0:04.0"
        await page.keyboard.press(" ")
        await page.wait_for_function("bargeinConsole.playing && bargeinConsole.position > 2.1")
        assert await page.locator("#play").inner_text() == "Pause"
        await play.click()
        await page.wait_for_function("!bargeinConsole.playing")
        box = await page.locator("#waves").bounding_box()
        await page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 80)
        assert abs(await page.evaluate("bargeinConsole.position") - 1) < 0.02
        moment = page.locator("#entries .moment-button").nth(1)
        at = await moment.inner_text()
        await moment.click()
        await page.wait_for_function("bargeinConsole.playing")
        minutes, seconds = at.split(":")
        assert await page.evaluate("bargeinConsole.position") >= int(minutes) * 60 + float(seconds) - 0.06
        await page.screenshot(path=str(tmp_path / "console.png"))


async def test_the_console_wants_a_key_where_calls_do(tmp_path):
    """Without the key nothing is told, neither to a script nor to the page; with it, both."""
    async with stack_of(tmp_path, api_keys="ops:correct-horse-battery") as stack:
        async with httpx.AsyncClient(base_url=stack.http) as http:
            for path in ("sessions", "sessions/s0-0000beef", "sessions/s0-0000beef/recording"):
                assert (await http.get(f"/console/{path}")).status_code == 401
            key = {"authorization": "Bearer correct-horse-battery"}
            assert (await http.get("/console/sessions", headers=key)).json() == {"sessions": []}
            elsewhere = {**key, "origin": "http://elsewhere.example"}
            assert (await http.get("/console/sessions", headers=elsewhere)).status_code == 403
            made = await http.post("/v1/realtime/client_secrets", headers=key, json={})
            ephemeral = {"authorization": f"Bearer {made.json()['value']}"}
            assert (await http.get("/console/sessions", headers=ephemeral)).status_code == 401
        async with chromium() as browser, opened(browser, "about:blank", quiet=False) as page:
            page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept("correct-horse-battery")))
            await page.goto(f"{stack.http}/console")
            await page.get_by_text("No session is live").wait_for()


@pytest.mark.parametrize("name", ["s0-0000beef", "s9-0000beef", "nonsense", "..%2f..%2fetc%2fpasswd"])
async def test_what_is_not_kept_is_said(tmp_path, name):
    """404 with a reason, for the story and for the recording, whatever stands in the address."""
    async with stack_of(tmp_path) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        for path in (f"/console/sessions/{name}", f"/console/sessions/{name}/recording"):
            answer = await http.get(path)
            assert answer.status_code == 404
            assert "nothing is kept" in answer.text or answer.text == "Not Found"


async def test_page_console_and_inspect_tell_the_same(tmp_path):
    """The client's account of a call, the story and the records agree on what was heard of each turn."""
    async with stack_of(tmp_path) as stack, httpx.AsyncClient(base_url=stack.http) as http:
        async with Call(f"{stack.ws}&extensions=bargein") as call:
            replies = await interrupted(call)
            session = call.session_id
        story = (await http.get(f"/console/sessions/{session}")).json()
        said = [entry for entry in story["entries"] if entry["who"] == "assistant"]
        # Words reach the client with the frame they end in, up to the lead before that is heard.
        assert all(reply.transcript.startswith(entry["text"]) for entry, reply in zip(said, replies, strict=True))
        assert [f"{entry['text']} {entry['unheard']}".strip() for entry in said] == [ANSWER, ANSWER]
        records = await sessions.records(stack.bus, session)
        assert [turn["outcome"] for turn in story["turns"]] == [record.outcome for record in records]
        assert [mark["name"] for mark in story["marks"]] == ["onset", "onset", "held", "cancelled"]
        onset, held = story["marks"][1]["at"], story["marks"][2]["at"]
        assert 0 <= held - onset < 0.3
        bar = story["bar_ms"] / 1000
        silent = story["levels"]["assistant"][round(held / bar) + 3 : round(story["turns"][1]["spans"][0]["end"] / bar)]
        assert not any(silent), "the assistant is heard after it was held"
        assert re.fullmatch(r"[0-9.]+", json.dumps(story["clock"])) and len(story["levels"]["caller"]) > 20
