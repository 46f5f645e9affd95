"""A caller at the page in a real Chromium: a file is its microphone, what leaves for its loudspeaker is recorded."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.async_api import Error

from benchmarks import numbered
from tests.chaos.caller import Story
from tests.chaos.recorded import RATE, RecordedCaller, Words
from tests.end_to_end.page_browser import TAPS, chromium, joined, opened, state, tapped


class PageCaller(RecordedCaller):
    """One call."""

    most = 2

    async def run(self) -> Story:
        address = self.url.replace("ws://", "http://").partition("/v1")[0]
        with tempfile.TemporaryDirectory() as folder:
            file, pcm = Path(folder) / "microphone.wav", self.script()
            await asyncio.to_thread(soundfile.write, file, pcm, RATE)
            flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
            try:
                async with (
                    chromium(*flags, f"--use-file-for-fake-audio-capture={file}%noloop") as browser,
                    opened(browser, f"{address}/?audio=raw", TAPS, quiet=False) as page,
                ):
                    await self._call(page, len(pcm) / RATE)
            except (Error, pytest.skip.Exception) as error:
                self.story.ended = str(error)
            finally:
                self.begun.set()
        return self.story

    async def _call(self, page: Any, seconds: float) -> None:
        story = self.story
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.phase === 'live' && bargein.sessionId !== null")
        self.begun.set()
        story.session = await state(page, "sessionId")
        await asyncio.sleep(seconds)
        if (session := await state(page, "sessionId")) != story.session:
            story.ended = f"the page is {await state(page, 'phase')}, in session {session}"
        entries = await state(page, "conversation")
        texts = {kind: [entry["text"] for entry in entries if entry["kind"] == kind] for kind in ("caller", "note")}
        story.understood = numbered.numbers_in(" ".join(texts["caller"]))
        spoken, heard = [words_of(*await tapped(page, kind)) for kind in ("microphone", "speaker")]
        self.judge(spoken, heard, sum(text.startswith("Connected again") for text in texts["note"]))
        await page.get_by_role("button", name="Hang up").click()
        await page.wait_for_function("bargein.phase === 'idle'")


def words_of(frames: np.ndarray, samples: np.ndarray) -> Words:
    """What sounded in the blocks that begin at ``frames`` of the page's clock."""
    if len(frames) == 0:
        return []
    pcm = np.clip(joined(frames, samples) * 32_768, -32_768, 32_767).astype(np.int16)
    begin = int(frames[0]) * 1000 / RATE
    return [(number, begin + at) for number, at in numbered.placed(pcm, RATE)]
