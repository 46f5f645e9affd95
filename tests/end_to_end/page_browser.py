"""The page in a real Chromium: a fake microphone of known sound, and taps on what really leaves for the speaker.

The taps sit on the page's own audio graph and record every sample, so that the page's word about what it played and
when it fell silent can be checked against what sounded.
"""

from __future__ import annotations

import asyncio
import base64
import os
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from tests.end_to_end.page_stand_in import RATE, StandIn, StandInCall

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MIC_RATE = 44_100
FADE = 63
"""Samples that fade to zero after sound is cut off, beyond what counts as played."""
MIC_ONSET_S = 1.0
MIC_TONE_S = 2.0

TAPS = """
(() => {
  const worklet = `registerProcessor("tap", class extends AudioWorkletProcessor {
    process(inputs) {
      if (inputs[0][0]) this.port.postMessage({ frame: currentFrame, samples: inputs[0][0].slice() });
      return true;
    }
  })`;
  const url = URL.createObjectURL(new Blob([worklet], { type: "text/javascript" }));
  const taps = { speaker: [], microphone: [] };
  const connect = AudioNode.prototype.connect;
  const loaded = new WeakMap();
  AudioNode.prototype.connect = function (to, ...rest) {
    const kind = to instanceof AudioDestinationNode ? "speaker" : "microphone";
    const context = this.context;
    if (!loaded.has(context)) loaded.set(context, context.audioWorklet.addModule(url));
    loaded.get(context).then(() => {
      const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
      tap.port.onmessage = ({ data }) => taps[kind].push(data);
      connect.call(this, tap);
    });
    return connect.call(this, to, ...rest);
  };
  window.tapped = (kind) => {
    const blocks = taps[kind].filter(({ samples }) => samples.some((sample) => sample !== 0));
    const size = blocks[0]?.samples.length ?? 128;
    const all = new Float32Array(blocks.length * size);
    blocks.forEach(({ samples }, index) => all.set(samples, index * size));
    let text = "";
    for (const byte of new Uint8Array(all.buffer)) text += String.fromCharCode(byte);
    return { frames: blocks.map(({ frame }) => frame), size, samples: btoa(text) };
  };
})();
"""

REFUSE_OTHER_RATES = """
(() => {
  const source = AudioContext.prototype.createMediaStreamSource;
  AudioContext.prototype.createMediaStreamSource = function (stream) {
    if (this.sampleRate === 24000) throw new DOMException("another sample-rate", "NotSupportedError");
    return source.call(this, stream);
  };
})();
"""


def rising(time: np.ndarray, seconds: float, low: float, high: float) -> np.ndarray:
    """A tone that rises from ``low`` to ``high`` Hz within ``seconds``, at ``time`` in seconds.

    Every stretch of it is unlike every other, and its first sample is not zero.
    """
    return 0.5 * np.sin(1 + 2 * np.pi * (low * time + (high - low) / (2 * seconds) * time**2))


def sweep(seconds: float, low: float, high: float, rate: int) -> np.ndarray:
    """All of a rising tone at a rate."""
    return rising(np.arange(int(seconds * rate)) / rate, seconds, low, high)


def microphone_signal(rate: int) -> np.ndarray:
    """What the fake microphone plays: silence for 1 s, a tone rising from 300 to 3000 Hz for 2 s, silence."""
    tone = sweep(MIC_TONE_S, 300, 3000, rate)
    return np.concatenate([np.zeros(int(MIC_ONSET_S * rate)), tone, np.zeros(60 * rate)])


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation (-1..1) of two signals of one length."""
    return float(np.dot(one, other) / np.sqrt(np.dot(one, one) * np.dot(other, other)))


def found(part: np.ndarray, whole: np.ndarray, fine: int = 4) -> float:
    """How alike (-1..1) a signal is to where it lies in another, both at 24 kHz, to a ``fine``-th of a sample.

    Two resamplers differ by a fraction of a sample: an eighth of one at 3 kHz is a likeness of 0.995.
    """
    part, whole = soxr.resample(part, RATE, fine * RATE), soxr.resample(whole, RATE, fine * RATE)
    start = best_offset(part, whole)
    return likeness(part, whole[start : start + len(part)])


def best_offset(part: np.ndarray, whole: np.ndarray) -> int:
    """Where ``part`` lies in ``whole``, in samples."""
    size = 1 << (len(part) + len(whole)).bit_length()
    product = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size)), size)
    return int(np.argmax(product[: len(whole) - len(part) + 1]))


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Any]:
    """A browser with further flags; skips where there is none, except in CI."""
    missing = None
    has_chromium = await asyncio.to_thread(CHROMIUM.exists)
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        missing = "the Python package playwright is not installed"
    if not has_chromium:
        missing = f"{CHROMIUM} is missing (Debian: apt-get install chromium)"
    if missing is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the page cannot be tested: {missing}")
        pytest.skip(f"the page is not tested: {missing}")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


def record(path: Path) -> Path:
    """Write the WAV of the fake microphone."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MIC_RATE)
        file.writeframes(np.round(microphone_signal(MIC_RATE) * 32767).astype("<i2").tobytes())
    return path


@asynccontextmanager
async def with_microphone(folder: Path) -> AsyncIterator[Any]:
    """A browser with a microphone that everybody may use and that plays ``microphone_signal``."""
    async with chromium(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={record(folder / 'microphone.wav')}%noloop",
    ) as browser:
        yield browser


@asynccontextmanager
async def opened(browser: Any, address: str, *scripts: str, quiet: bool = True, **options: Any) -> AsyncIterator[Any]:
    """The page in a window of its own. With ``quiet``, any error on its console fails the test."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        for script in scripts:
            await context.add_init_script(script)
        page = await context.new_page()
        page.set_default_timeout(15_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.extend([message.text] if message.type == "error" else []))
        await page.goto(address)
        yield page
        if quiet:
            assert errors == []
    finally:
        await context.close()


def at(gateway: StandIn, query: str = "?audio=raw") -> str:
    """The page's address."""
    return f"http://127.0.0.1:{gateway.port}/{query}"


async def talking(page: Any, gateway: StandIn) -> StandInCall:
    """Press Talk; the call once the page is live."""
    await page.get_by_role("button", name="Talk").click()
    call = await gateway.call()
    await page.wait_for_function("bargein.phase === 'live'")
    return call


async def state(page: Any, name: str) -> Any:
    """A part of what the page says of itself."""
    return await page.evaluate(f"bargein.{name}")


async def tapped(page: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """All blocks with sound at the speaker or the microphone: (first frames, samples as rows)."""
    tap = await page.evaluate(f"tapped('{kind}')")
    samples = np.frombuffer(base64.b64decode(tap["samples"]), dtype="<f4").reshape(-1, tap["size"])
    return np.array(tap["frames"]), samples


def joined(frames: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Blocks in their places, with silence between them, from the first to the last."""
    size = samples.shape[1]
    whole = np.zeros(frames[-1] - frames[0] + size, np.float32)
    for frame, block in zip(frames - frames[0], samples, strict=True):
        whole[frame : frame + size] = block
    return whole


async def heard(page: Any) -> list[tuple[int, np.ndarray]]:
    """What left for the speaker, as stretches between silences: (frame of the first sample, samples)."""
    frames, samples = await tapped(page, "speaker")
    if len(frames) == 0:
        return []
    size = samples.shape[1]
    starts = np.flatnonzero(np.diff(frames, prepend=-size) != size)
    stretches = []
    for first, last in zip(starts, [*starts[1:], len(frames)], strict=True):
        stretch = samples[first:last].ravel()
        loud = np.flatnonzero(stretch)
        stretches.append((int(frames[first] + loud[0]), stretch[loud[0] : loud[-1] + 1]))
    return stretches


async def begin_sweep(call: StandInCall, response: str) -> np.ndarray:
    """A response that is a rising tone of 4 s with a word every 100 ms, sent at once: its samples.

    At once, and its beginning in one piece, so that a busy machine makes no gap in it.
    """
    audio = sweep(4, 200, 2500, RATE)
    words = [(at, f" w{at}") for at in range(100, 4000, 100)]
    await call.started(response)
    await call.deltas(response, audio, words, lead_ms=4000, first_ms=400)
    return audio
