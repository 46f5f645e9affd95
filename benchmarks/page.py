"""How long the page's audio is on its way, in a real Chromium: ``python -m benchmarks.page``. Needs Debian's chromium.

One call on loopback, gateway and workers (scripted engines) in this process, the browser beside it. Prints, in ms,

    page to gateway   from WebSocket.send of 20 ms of the microphone until the gateway takes the message
    gateway to page   from the moment at which the gateway queues audio until the page's message handler has it
    chunk spacing     between two sends of the page: 20 is its pace

The page's clock is mapped to the gateway's by the quickest of many looks at it; what that may be off stands beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.picture import Picture, Spreads, add_options, save
from gateway.protocols.connection import Connection
from gateway.protocols.realtime import RealtimeConnection
from tests.end_to_end.page_browser import FLAGS
from tests.stack import running_stack

CHROMIUM = "/usr/bin/chromium"
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
RATE = 16_000
WATCH = """
(() => {
  const seen = (window.seen = { sent: [], received: {} });
  const now = () => performance.timeOrigin + performance.now();
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (data.includes('"input_audio_buffer.append"')) seen.sent.push(now());
    return send.call(this, data);
  };
  const take = Object.getOwnPropertyDescriptor(WebSocket.prototype, "onmessage");
  Object.defineProperty(WebSocket.prototype, "onmessage", {
    ...take,
    set(handler) {
      take.set.call(this, (event) => {
        const at = now();
        const match = /"event_id":"(event_\\d+)"/.exec(event.data.slice(0, 120));
        if (match) seen.received[match[1]] = at;
        handler(event);
      });
    },
  });
})();
"""


async def main(folder: str) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="The page's audio on its way.")
    parser.add_argument("--seconds", type=float, default=30, help="how long the call is watched; default: %(default)s")
    add_options(parser)
    options = parser.parse_args()
    if not await asyncio.to_thread(Path(CHROMIUM).exists):
        print(f"{CHROMIUM} is missing (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    from playwright.async_api import async_playwright

    queued: dict[str, float] = {}
    taken: list[float] = []
    queue, take = Connection.queue, RealtimeConnection.take

    def watched_queue(self: Connection, event: dict) -> None:
        if event["type"] == "response.output_audio.delta":
            queued[event["event_id"]] = time.time() * 1000
        queue(self, event)

    async def watched_take(self: RealtimeConnection, raw: str | bytes) -> None:
        if '"input_audio_buffer.append"' in str(raw[:60]):
            taken.append(time.time() * 1000)
        await take(self, raw)

    Connection.queue, RealtimeConnection.take = watched_queue, watched_take  # type: ignore[method-assign]
    said = "One two three four five. " * 200
    async with (
        running_stack(greeting=said, barge_in_min_ms=10_000, max_session_s=0) as stack,
        async_playwright() as playwright,
    ):
        silence = Path(folder) / "silence.wav"
        soundfile.write(silence, np.zeros(10 * RATE, np.int16), RATE)
        flags = [*FLAGS, *FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={silence}"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = await browser.new_page()
        await page.add_init_script(WATCH)
        await page.goto(f"{stack.http}/?audio=raw")
        await page.get_by_role("button", name="Talk").click()
        await page.wait_for_function("bargein.phase === 'live'")
        await asyncio.sleep(options.seconds)
        offset, uncertain = await mapped(page)
        seen = json.loads(await page.evaluate("JSON.stringify(window.seen)"))
        version = browser.version
        await browser.close()
    up = [gateway - (sent + offset) for sent, gateway in zip(seen["sent"], taken, strict=False)]
    down = [at + offset - queued[name] for name, at in seen["received"].items() if name in queued]
    spacing = [after - before for before, after in zip(seen["sent"], seen["sent"][1:], strict=False)]
    print(
        f"Chromium {version}, Python {platform.python_version()}, {platform.machine()}; clocks within {uncertain:.1f}"
    )
    print(f"{'ms':<16}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}{'n':>7}")
    ways = {"page to gateway": up, "gateway to page": down, "chunk spacing": spacing}
    for name, values in ways.items():
        print(row(name, values))
    save(options, {"chromium": version, "ms": ways}, Picture("The page's audio", [Spreads("On its way", ways)]))
    return 0 if up and down else 1


async def mapped(page) -> tuple[float, float]:
    """(what to add to the page's milliseconds to have the gateway's, half the quickest look's duration)."""
    looks = []
    for _ in range(200):
        before = time.time() * 1000
        there = await page.evaluate("performance.timeOrigin + performance.now()")
        after = time.time() * 1000
        looks.append((after - before, (before + after) / 2 - there))
    quickest, offset = min(looks)
    return offset, quickest / 2


def row(name: str, values: list[float]) -> str:
    """A line of the table."""
    if len(values) < 2:
        return f"{name:<16}{'-':>8}{'-':>8}{'-':>8}{'-':>8}{len(values):>7}"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"{name:<16}{cuts[49]:>8.1f}{cuts[94]:>8.1f}{cuts[98]:>8.1f}{max(values):>8.1f}{len(values):>7}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        raise SystemExit(asyncio.run(main(temporary)))
