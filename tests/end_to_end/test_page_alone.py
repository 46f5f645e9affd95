"""The page against a stand-in gateway: the audio that it sends, plays, drops and measures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soxr

from tests.end_to_end.page_browser import (
    FADE,
    MIC_ONSET_S,
    MIC_RATE,
    MIC_TONE_S,
    REFUSE_OTHER_RATES,
    TAPS,
    at,
    begin_sweep,
    found,
    heard,
    joined,
    opened,
    rising,
    state,
    sweep,
    talking,
    tapped,
    with_microphone,
)
from tests.end_to_end.page_stand_in import RATE, StandIn, ms_of

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


@pytest.mark.parametrize("scripts", [(), (REFUSE_OTHER_RATES,)], ids=["24 kHz", "the device's rate"])
async def test_the_microphone_arrives_as_pcm16_at_24_khz(
    browser: Any, gateway: StandIn, scripts: tuple[str, ...]
) -> None:
    """What the server receives is all that entered the page, at 24 kHz, in chunks of 20 ms; and it is the WAV.

    The browser itself drops parts of its microphone on a busy machine, so the WAV is looked for in pieces.
    In the second case the context refuses the microphone at 24 kHz, as Firefox does, and the page resamples.
    """
    async with opened(browser, at(gateway), TAPS, *scripts) as page:
        call = await talking(page, gateway)
        await call.until(lambda: call.received_ms > (MIC_ONSET_S + MIC_TONE_S + 0.5) * 1000)
        rate = (await state(page, "sound"))["rate"]
        entered = joined(*await tapped(page, "microphone"))
    assert rate == (RATE if not scripts else MIC_RATE)
    assert set(call.append_sizes) == {RATE * 20 // 1000 * 2}
    entered = soxr.resample(entered, rate, RATE)[RATE // 10 : RATE * 19 // 10]
    received = call.audio
    assert found(entered, received, fine=32) > 0.999
    pieces = np.split(sweep(MIC_TONE_S, 300, 3000, RATE), 40)
    assert np.median([found(piece, received) for piece in pieces]) > 0.99
    assert np.abs(received[: int(np.argmax(np.abs(received) > 0.1)) - RATE // 10]).max() < 0.01


async def test_the_browsers_processing_is_on_for_people(browser: Any, gateway: StandIn) -> None:
    """Without ?audio=raw, echo cancellation, noise suppression and gain control are asked for, and sound comes."""
    spy = """
      const ask = MediaDevices.prototype.getUserMedia;
      MediaDevices.prototype.getUserMedia = function (constraints) {
        window.asked = constraints;
        return ask.call(this, constraints);
      };
    """
    async with opened(browser, at(gateway, ""), spy) as page:
        call = await talking(page, gateway)
        await call.until(lambda: call.received_ms > 1500)
        await call.until(lambda: np.abs(call.audio).max() > 0.05)
        asked = await page.evaluate("asked.audio")
        update = await call.event("session.update")
    processing = ("echoCancellation", "noiseSuppression", "autoGainControl")
    assert [asked[name] for name in processing] == [True] * 3
    assert update["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": RATE}


@pytest.mark.parametrize("scripts", [(), (REFUSE_OTHER_RATES,)], ids=["24 kHz", "the device's rate"])
async def test_a_hold_that_is_taken_back_loses_and_repeats_nothing(
    browser: Any, gateway: StandIn, scripts: tuple[str, ...]
) -> None:
    """On held the speaker falls silent and the page says how much was really played; resumed goes on from there.

    What left for the speaker before and after the silence is the response's audio, sample by sample.
    """
    async with opened(browser, at(gateway), TAPS, *scripts) as page:
        call = await talking(page, gateway)
        audio = await begin_sweep(call, "r1")
        await page.wait_for_function("bargein.playedSamples.r1 > 24000")
        played = await call.held("r1", call.received_ms - 40)
        await page.wait_for_function("bargein.silent")
        assert await state(page, "floor") == "caller"
        assert played["response_id"] == "r1"
        await call.delta("r1", audio[-960:])
        await call.resumed("r1", played["audio_end_ms"])
        position = round(played["audio_end_ms"] * RATE / 1000)
        await call.deltas("r1", audio, start=position, lead_ms=4000, first_ms=400)
        await call.done("r1")
        await page.wait_for_function("bargein.conversation.find(({ id }) => id === 'r1').final")
        await page.wait_for_function("bargein.silent && bargein.floor === 'nobody'")
        rate = (await state(page, "sound"))["rate"]
        position_at_end = (await state(page, "playedSamples"))["r1"]
        (begun, before), (gone_on, after) = await heard(page)
        [interruption] = await state(page, "interruptions")
        [reply] = [entry for entry in await state(page, "conversation") if entry["id"] == "r1"]
    assert interruption["outcome"] == "resumed"
    assert position_at_end == pytest.approx(len(audio), abs=2)
    assert reply["cut"] is None and len(reply["breaks"]) == 1
    assert gone_on > begun + len(before)
    before = before[:-FADE]
    assert len(before) * 1000 / rate == pytest.approx(played["audio_end_ms"], abs=1.5)
    expected = rising(np.arange(len(before)) / rate, 4, 200, 2500)
    assert np.abs(before - expected)[edges(rate)].max() < 0.005
    after = after[:-FADE]
    assert len(after) * 1000 / rate == pytest.approx(4000 - played["audio_end_ms"], abs=1.5)
    expected = rising(position / RATE + np.arange(len(after)) / rate, 4, 200, 2500)
    assert np.abs(after - expected)[edges(rate)].max() < 0.005


def edges(rate: int) -> slice:
    """All of a stretch that began or ended hard, but for what a resampling filter makes of that (2 ms)."""
    return slice(None) if rate == RATE else slice(rate // 500, -rate // 500)


async def test_a_cancelled_response_ends_at_once_and_is_never_heard_again(browser: Any, gateway: StandIn) -> None:
    """A confirmed interruption silences the response for good; its words end where the sound ended, marked."""
    async with opened(browser, at(gateway), TAPS) as page:
        call = await talking(page, gateway)
        audio = await begin_sweep(call, "r1")
        await page.wait_for_function("bargein.playedSamples.r1 > 24000")
        played = await call.held("r1", call.received_ms - 40)
        await call.done("r1", "cancelled", reason="turn_detected")
        await call.delta("r1", audio[48_000:60_000])
        await call.words("r1", " stale")
        await page.wait_for_selector(".entry.assistant .cut-mark")
        await call.started("r2")
        await call.delta("r2", np.full(9600, 0.25))
        await call.done("r2")
        await page.wait_for_function("bargein.playedSamples.r2 === 9600 && bargein.silent")
        [(_, first), (_, second)] = await heard(page)
        label = await page.text_content(".entry.assistant .cut-label")
        text = await page.text_content(".entry.assistant .words")
        [interruption] = await state(page, "interruptions")
        outcome = await page.text_content(".entry.interruption .outcome")
    assert ms_of(len(first) - FADE) == pytest.approx(played["audio_end_ms"], abs=1.5)
    assert len(second) == 9600 + FADE
    assert np.allclose(second[:9600], 0.25, atol=1e-4), "something else sounded after the cancel"
    assert interruption["outcome"] == "confirmed" and outcome == "confirmed"
    assert float(label.split()[3]) * 1000 == pytest.approx(played["audio_end_ms"], abs=10)
    last = int(played["audio_end_ms"] // 100 * 100)
    assert f" w{last - 100}" in text and f" w{last + 100}" not in text and "stale" not in text


async def test_a_cancel_without_a_hold_silences_too(browser: Any, gateway: StandIn) -> None:
    """A response that is cancelled from elsewhere (POST /cancel) stops at once, without an interruption entry."""
    async with opened(browser, at(gateway), TAPS) as page:
        call = await talking(page, gateway)
        await begin_sweep(call, "r1")
        await page.wait_for_function("bargein.playedSamples.r1 > 12000")
        await call.done("r1", "cancelled", reason="client_cancelled")
        await page.wait_for_selector(".entry.assistant .cut-mark")
        [(_, sounded)] = await heard(page)
        played = (await state(page, "playedSamples"))["r1"]
        assert await state(page, "silent") and await state(page, "floor") == "nobody"
        assert await state(page, "interruptions") == []
    assert len(sounded) == played + FADE


async def test_onset_to_silence_is_what_the_taps_measured(browser: Any, gateway: StandIn) -> None:
    """The number shown is the time from the onset at the microphone's end to the last sample at the speaker's.

    The stand-in finds the onset in the audio it received, as the real gateway does; the expected number comes from
    taps at both ends of the page's graph. The output latency that the browser states is part of the number.
    """
    async with opened(browser, at(gateway), TAPS) as page:
        call = await talking(page, gateway)
        await begin_sweep(call, "r1")
        await call.until(lambda: call.received_ms > 400 and np.abs(call.audio).max() > 0.2)
        onset = int(np.argmax(np.abs(call.audio) > 0.05))
        await call.held("r1", ms_of(onset))
        await page.wait_for_function("bargein.interruptions[0]?.ms != null")
        [interruption] = await state(page, "interruptions")
        latency = (await state(page, "sound"))["outputLatency"] * 1000
        [(begun, spoken)] = await heard(page)
        frames, samples = await tapped(page, "microphone")
        figure = await page.text_content(".entry.interruption .figure")
    positions = (frames[:, None] + np.arange(samples.shape[1])).ravel()
    captured = positions[np.argmax(np.abs(samples.ravel()) > 0.05)]
    assert interruption["ms"] == pytest.approx(ms_of(begun + len(spoken) - captured) + latency, abs=2)
    assert figure == f"{round(interruption['ms'])} ms"
