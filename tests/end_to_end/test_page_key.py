"""The page of a gateway that asks for a key, in a real Chromium."""

import pytest

from tests.end_to_end.page_browser import chromium, opened
from tests.stack import running_stack

pytestmark = pytest.mark.browser

KEY = "sk-page-0123456789"


async def test_the_page_asks_for_the_key_once_and_again_after_a_wrong_one():
    """A wrong key is forgotten; the right one connects, and is not asked for again in this tab."""
    answers = ["sk-wrong-0123456789", KEY]
    asked = []

    async def answer(dialog):
        asked.append(dialog.message)
        await dialog.accept(answers.pop(0))

    async with (
        running_stack(api_keys=KEY) as stack,
        chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser,
        opened(browser, f"{stack.http}/?audio=raw", quiet=False) as page,
    ):
        page.on("dialog", answer)
        await page.wait_for_function("bargein.readiness.ready")
        for phase in ("lost", "live", "live"):
            await page.get_by_role("button", name="Talk").click()
            await page.wait_for_function(f"bargein.phase === '{phase}'")
            await page.get_by_role("button", name="Hang up").click()
            await page.wait_for_function("bargein.phase === 'idle'")
        assert len(asked) == 2 and "key" in asked[0]
