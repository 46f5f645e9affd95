"""``make live-check``: a call with four interruptions against whatever engines are configured, seen from every side.

The client that makes the call, the turns' records (``bus.inspect``), the console's story, the recording and the replay
have to tell the same: each interrupted reply cancelled, nothing stale heard, the recording's right channel silent from
each interruption on, within the time that the client reports from the caller's onset to silence, measured on samples.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import soundfile

from benchmarks.figures import machine
from bus import archive, sessions
from bus.events import Input, TurnRecord
from bus.streams import Bus, connector
from gateway.client import Call
from gateway.client_audio import SOUND_SHARE
from gateway.client_ear import Reply
from gateway.rerun import rerun
from tests.product import Product, running_product
from tests.speech import FOLDER

WANTED = 4
ATTEMPTS = 12
"""Replies that may be tried: one that ends before it is interrupted does not count."""
MS = 16
"""Samples of a millisecond of the recording."""
SOUND = 200
"""A sample (of 32768) beyond this is sound."""
MARGIN_MS = 200
"""How long before the next reply is heard the recording is looked at: that is known to two reports of 100 ms."""
TOLERANCE_MS = 60
"""By how much the recording may differ from the client's clock: a report of what was heard stands where the microphone
stood, to two of its frames, and the client's own silence is known to a frame of 20 ms."""


@dataclass
class Findings:
    """What is wrong, and what was seen."""

    wrong: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def expect(self, holds: bool, what: str) -> None:
        """Note ``what`` as wrong unless it holds."""
        if not holds:
            self.wrong.append(what)


async def converse(url: str, question: Path, over: Sequence[Path], last: Path) -> tuple[str, list[Reply], int]:
    """Make the call; (session, replies, stale samples)."""
    async with Call(url) as call:
        await call.say(question)
        done = 0
        for attempt in range(ATTEMPTS):
            await call.reply_started(60)
            await call.clock.sleep_until(call.clock.now() + 900 + 150 * (attempt % 4))
            await call.say(over[attempt % len(over)])
            done += (await call.reply(60)).status == "cancelled"
            if done == WANTED:
                break
        await call.reply_started(60)
        await call.say(last)
        await call.reply(60)
        return call.session_id, list(call.replies), call.stale_samples


async def recorded(folder: Path, session: str) -> Any:
    """The recording as samples ``[n, 2]``, once it is there."""
    path = folder / f"{session}.wav"
    async with asyncio.timeout(90):
        while not (folder / f"{session}.json").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    samples, rate = await asyncio.to_thread(soundfile.read, path, dtype="int16", always_2d=True)
    assert rate == MS * 1000
    return samples


def falls_silent(samples: Any, onset_ms: float, until_ms: float) -> tuple[float, float]:
    """(onset, silence) in ms: where the caller's sound near ``onset_ms`` begins, by the client's own measure of what
    sounds, and where the assistant's ends before ``until_ms``. Both of the recording's own samples."""
    begin = max(0, round(onset_ms) - 400)
    pieces = samples[begin * MS : (begin + 1500) * MS, 0].astype(float)
    frames = pieces[: len(pieces) // (10 * MS) * 10 * MS].reshape(-1, 10 * MS)
    levels = np.sqrt((frames**2).mean(axis=1))
    onset = begin + 10 * int(np.flatnonzero(levels >= SOUND_SHARE * levels.max())[0])
    heard = np.flatnonzero(np.abs(samples[: round(until_ms) * MS, 1].astype(int)) > SOUND)
    return onset, (int(heard[-1]) / MS if len(heard) else 0.0)


def check_recording(found: Findings, story: dict[str, Any], replies: list[Reply], samples: Any) -> None:
    """Each interruption on the samples of the recording, against what the client reports."""
    said = {entry["turn"]: entry for entry in story["entries"] if entry["who"] == "assistant"}
    for turn, reply in enumerate(replies, 1):
        holds = [hold for hold in reply.holds if hold.after_onset is not None and hold.resumed_from is None]
        cut = [mark for mark in story["marks"] if mark["name"] == "cancelled" and mark["turn"] == turn]
        if reply.status != "cancelled" or not holds or not cut:
            continue
        onsets = [mark["at"] for mark in story["marks"] if mark["name"] == "onset" and mark["at"] <= cut[0]["at"]]
        following = [each["at"] for number, each in said.items() if number > turn and each["end"] > each["at"]]
        until = min(following, default=len(samples) / MS / 1000) * 1000
        onset, silence = falls_silent(samples, onsets[-1] * 1000, until - MARGIN_MS)
        reported, measured = holds[0].after_onset or 0.0, silence - onset
        found.seen.append(
            f"turn {turn}: interrupted at {onset / 1000:.2f} s; onset to silence {reported:.0f} ms at the client, "
            f"{max(0.0, measured):.0f} ms on the recording; decided after {cut[0]['at'] * 1000 - onset:.0f} ms"
        )
        found.expect(
            measured <= reported + TOLERANCE_MS,
            f"turn {turn}: the recording sounds {measured:.0f} ms after the onset, the client says {reported:.0f} ms",
        )


def check_stories(found: Findings, story: dict[str, Any], records: list[TurnRecord], replies: list[Reply]) -> None:
    """Client, records and console agree on every turn."""
    ends = {"completed": "done", "cancelled": "cancelled", "failed": "failed"}
    client = [ends.get(reply.status, reply.status) for reply in replies]
    found.expect(client.count("cancelled") >= WANTED, f"only {client.count('cancelled')} replies were interrupted")
    found.expect([each.outcome for each in records] == client, f"records and client differ: {records} {client}")
    found.expect([each["outcome"] for each in story["turns"]] == client, "the console and the client differ")
    unanswered = [each.turn for each in records if each.unanswered]
    found.expect(not unanswered, f"turns {unanswered}: a stage did not say that it stopped")
    said = [entry for entry in story["entries"] if entry["who"] == "assistant"]
    for entry, reply in zip(said, replies, strict=False):
        agree = " ".join(reply.transcript.split()).startswith(" ".join(entry["text"].split()))
        found.expect(agree, f"turn {entry['turn']}: the console has other words than the client")
        cut = reply.status == "cancelled"
        found.expect(cut or not entry["unheard"], f"turn {entry['turn']}: heard to its end, and yet not all of it")


async def check(product: Product, question: Path, over: Sequence[Path], last: Path) -> Findings:
    """The call, and everything about it."""
    found = Findings()
    session, replies, stale = await converse(product.extended, question, over, last)
    found.expect(stale == 0, f"{stale} stale samples were heard")
    samples = await recorded(product.recordings, session)
    bus = Bus(connector(product.redis_url))
    try:
        records = await sessions.records(bus, session)
        rows = await archive.rows(bus, session, "inputs")
    finally:
        await bus.close()
    async with httpx2.AsyncClient(base_url=product.http) as http:
        story = (await http.get(f"/console/sessions/{session}")).json()
    found.seen.append(f"{session}: {len(replies)} replies, {sum(r.status == 'cancelled' for r in replies)} interrupted")
    check_stories(found, story, records, replies)
    check_recording(found, story, replies, samples)
    again = rerun([event for event in archive.events(rows, "inputs") if isinstance(event, Input)])
    found.expect(again.difference is None, f"replayed, it decides otherwise: {again.difference}")
    found.seen.append(f"replayed: {again.decisions} inputs, {len(again.turns)} turns, the same decisions")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_check", description=__doc__)
    parser.add_argument("--question", type=Path, default=FOLDER / "story.wav", help="what the caller says first")
    parser.add_argument(
        "--over", type=Path, nargs="+", default=[FOLDER / "count.wav", FOLDER / "story.wav"],
        help="what the caller says over the replies, in turn; each has to bring about a reply of some seconds",
    )  # fmt: skip
    parser.add_argument("--last", type=Path, default=FOLDER / "thanks.wav", help="what ends the last reply")
    options = parser.parse_args(argv)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"RECORD_CALLS": "true", "RECORDING_FORMAT": "wav", "RETENTION_S": "600"}
        with running_product(Path(folder), **settings) as product:
            stages: Any = product.ready()["stages"]
            print("engines: " + ", ".join(f"{stage} {rows[0]['engine']}" for stage, rows in stages.items()))
            found = asyncio.run(check(product, options.question, options.over, options.last))
    print("\n".join(found.seen))
    for each in found.wrong:
        print(f"WRONG: {each}")
    print("everything tells the same story" if not found.wrong else f"{len(found.wrong)} things are wrong")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
