"""The page of the running product in a real Chromium: a person asks, is answered, and interrupts."""

import numpy as np
import pytest
import soundfile

from tests.end_to_end.page_browser import chromium, opened, state
from tests.speech import path as speech

pytestmark = [pytest.mark.browser, pytest.mark.end_to_end]

RATE = 16_000


def conversation(folder, *spoken):
    """A WAV for the fake microphone: what is ``spoken`` as (name, seconds of silence after it), two seconds before it.

    By default a question, six seconds to be answered in, another question over the answer.
    """
    parts = [np.zeros(2 * RATE, np.int16)]
    for name, silence in spoken or (("story", 6), ("time", 40)):
        pcm, rate = soundfile.read(speech(name), dtype="int16")
        assert rate == RATE
        parts += [pcm, np.zeros(silence * RATE, np.int16)]
    file = folder / "conversation.wav"
    soundfile.write(file, np.concatenate(parts), RATE)
    return file


async def test_a_person_talks_to_it_and_interrupts_it(product, tmp_path):
    """Words of both sides, the interruption with its milliseconds, the cut, and the next answer stand on the page."""
    async with (
        chromium(
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={conversation(tmp_path)}%noloop",
        ) as browser,
        opened(browser, f"{product.http}/?audio=raw") as page,
    ):
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.phase === 'live'")
        await page.wait_for_function(
            "bargein.conversation.filter((entry) => entry.kind === 'assistant' && entry.final).length >= 2",
            timeout=60_000,
        )
        entries = await state(page, "conversation")
        said = {kind: [entry for entry in entries if entry["kind"] == kind] for kind in ("caller", "assistant")}
        assert "story" in said["caller"][0]["text"] and "time" in said["caller"][-1]["text"]
        assert said["assistant"][0]["cut"] is not None and "time" in said["assistant"][-1]["text"].lower()
        confirmed = [entry for entry in await state(page, "interruptions") if entry["outcome"] == "confirmed"]
        assert len(confirmed) == 1 and 0 <= confirmed[0]["ms"] < 1000
        body = await page.inner_text("body")
        assert "confirmed" in body and "pocketsphinx" in body and "espeak" in body
        await page.screenshot(path=str(tmp_path / "page.png"))
        await page.get_by_role("button", name="Hang up").click()
        await page.wait_for_function("bargein.phase === 'idle'")
