"""The STT worker: one session at a time per claim, from its mic stream to its transcript stream.

The mic stream is the truth about what the caller said, so a recogniser's state can always be rebuilt from it: whoever
takes a session over reads the stream from where it is kept, leaves out utterances whose final text stands, and writes
only what is new.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import ClassVar

from bus.cancel import CancelToken
from bus.events import (
    MIC_RATE,
    Event,
    Final,
    HungUp,
    MicAudio,
    Partial,
    UtteranceEnded,
    UtterancePaused,
    UtteranceResumed,
    UtteranceStarted,
)  # fmt: skip
from bus.keys import session_key
from bus.leases import Lease
from bus.reader import Subscription, position
from bus.settings import no_arguments
from workers.engines import EngineError
from workers.process import main
from workers.runtime import HandOver, Worker
from workers.stt.engine import Details, Recognizer
from workers.writer import Writer

log = logging.getLogger(__name__)

LATE_MS = 3000
"""How late after its audio a final text may stand for that audio to be found at the first attempt."""
CAUGHT_UP = 0.5
"""Seconds of audio in one step below which whoever takes a session up has caught up with it."""
KEPT = 2 * MIC_RATE
"""Samples kept from before an utterance: its pre-roll lies in them."""


class Ear:
    """The audio of one session and its utterance: what is to be fed next. Offsets in samples at 16 kHz."""

    def __init__(self, context: int = 0) -> None:
        """``context``: samples before an utterance that are kept for a recogniser that has heard nothing yet."""
        self.context = context
        self.earlier = b""
        """That audio, of the utterance that goes on."""
        self.utterance = 0
        self.revision = 0
        self.start = 0
        self.end = 0
        """Sample up to which audio has arrived."""
        self.open = False
        """Whether an utterance is going on, paused or not: its audio is to be fed, a pause's with what follows it."""
        self.paused = False
        self.unfed = bytearray()
        self._before: deque[tuple[int, bytes]] = deque()

    def hear(self, audio: MicAudio) -> None:
        """Take audio as it comes; within an utterance it is to be fed, else it is kept for a pre-roll."""
        samples = len(audio.pcm) // 2
        self.end = audio.offset + samples
        if self.open:
            self.unfed += audio.pcm
        self._before.append((audio.offset, audio.pcm))
        while self._before and self._before[0][0] < self.end - KEPT - self.context:
            self._before.popleft()

    def begin(self, started: UtteranceStarted) -> None:
        """An utterance started: everything since its offset is to be fed."""
        self.utterance, self.revision, self.start = started.utterance, 0, started.offset
        self.open, self.paused = True, False
        self.unfed.clear()
        earlier = bytearray()
        for offset, pcm in self._before:
            at = max(0, started.offset - offset) * 2
            earlier += pcm[:at]
            self.unfed += pcm[at:]
        self.earlier = bytes(earlier[-2 * self.context :]) if self.context else b""

    def cut(self, offset: int) -> None:
        """What arrived from sample ``offset`` on is not this utterance's."""
        if self.end > offset:
            del self.unfed[-(self.end - offset) * 2 :]

    def recall(self) -> bytes:
        """What the recogniser is to hear before the utterance: something the first time, then nothing more."""
        earlier, self.earlier, self.context = self.earlier, b"", 0
        return earlier

    def take(self) -> bytes:
        """What is to be fed now."""
        pcm = bytes(self.unfed)
        self.unfed.clear()
        return pcm


class SttWorker(Worker):
    """Serves sessions. Its engine is an ``SttEngine``."""

    stage: ClassVar[str] = "stt"

    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Follow a session's microphone until it hangs up or its gateway is gone for good."""
        session = lease.session
        config = await self.bus.config(session)
        context = getattr(self.engine, "context", 0) if lease.fence > 1 else 0
        finished, after = await self._so_far(session, context) if lease.fence > 1 else (set(), "0-0")
        mic = self.bus.follow(session_key(session, "mic"), after)
        hearing = _Session(
            Writer(self.bus, lease, token),
            await self.engine.open(config.get("language", "en-US")),
            streaming=config.get("streaming_stt", "1") != "0",
            finished=finished,
            context=context,
            on_behind=lambda seconds: self._behind(session, seconds),
        )
        try:
            await hearing.follow(mic, self.life.idle, lambda: self.abandoned(session), self.draining)
        finally:
            self.behind.discard(session)
            mic.close()
            await hearing.recognizer.close()

    async def give_up(self, lease: Lease, error: str) -> None:
        """Say in the transcript that nothing of this session can be recognised."""
        await self.bus.publish(session_key(lease.session, "transcript"), Final(0, 0, "", 0, 0, error))

    async def _so_far(self, session: str, context: int) -> tuple[set[tuple[int, int]], str]:
        """(utterance, revision) of every final text that stands, and the mic entry after which is all that is needed.

        That is from the start of the newest of them on, which may go on: where it lies on the stream is guessed by the
        clock and looked up, since a session's whole stream takes its time to read.
        """
        entries = await self.bus.replay(session_key(session, "transcript"))
        finals = [(entry.id, entry.event) for entry in entries if isinstance(entry.event, Final)]
        finished = {(final.utterance, final.revision) for _, final in finals}
        if not finals:
            return finished, "0-0"
        entry, last = finals[-1]
        needed = last.start - KEPT - context
        ago = (last.end - needed) * 1000 // MIC_RATE + LATE_MS
        after = f"{max(0, position(entry)[0] - ago)}-0"
        found = await self.bus.replay(session_key(session, "mic"), after, count=50)
        audio = next((each.event for each in found if isinstance(each.event, MicAudio)), None)
        return finished, after if audio is not None and audio.offset <= needed else "0-0"

    def _behind(self, session: str, seconds: float) -> None:
        if seconds <= self.life.behind / 2:
            self.behind.discard(session)
        elif seconds > self.life.behind and session not in self.behind:
            self.behind.add(session)
            self.counts["behind"] += 1
            log.warning("%s: recognition is %.1f s behind; no new sessions are taken", session, seconds)


class _Session:
    """The recognition of one session."""

    def __init__(
        self,
        writer: Writer,
        recognizer: Recognizer,
        *,
        streaming: bool,
        finished: set[tuple[int, int]],
        context: int,
        on_behind: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """``on_behind`` is told how many seconds of audio had gathered while the audio before was recognised."""
        self._on_behind = on_behind
        self._caught_up = False
        self.recognizer = recognizer
        self._writer = writer
        self._streaming = streaming
        self._finished = finished
        self._ear = Ear(context)
        self._text = ""

    async def follow(
        self, mic: Subscription, idle: float, abandoned: Callable[[], Awaitable[bool]], draining: asyncio.Event
    ) -> None:
        """Read the microphone to its end; after ``idle`` seconds of nothing ask whether there is any.

        Raises HandOver between two utterances once ``draining`` is set.
        """
        while True:
            try:
                async with asyncio.timeout(idle):
                    entry = await anext(mic, None)
            except TimeoutError:
                if await abandoned():
                    log.info("a session was left without a gateway; it is over")
                    return
                continue
            before = self._ear.end
            # Everything that is here already goes in one step, up to the next mark.
            while entry is not None:
                if isinstance(entry.event, HungUp):
                    return
                if isinstance(entry.event, MicAudio):
                    self._ear.hear(entry.event)
                else:
                    await self._mark(entry.event)
                entry = mic.take()
            gathered = (self._ear.end - before) / MIC_RATE
            if self._caught_up:
                self._on_behind(gathered)
            self._caught_up |= gathered < CAUGHT_UP
            if draining.is_set() and not self._ear.open:
                raise HandOver
            if self._streaming:
                await self._feed()

    async def _mark(self, event: Event) -> None:
        ear = self._ear
        if isinstance(event, UtteranceStarted):
            ear.begin(event)
            self._text = ""
            await self._attempt(self.recognizer.begin())
        elif getattr(event, "utterance", None) != ear.utterance:
            return
        elif isinstance(event, UtterancePaused):
            ear.revision = event.revision
            ear.paused = True
            if self._streaming:
                await self._final()
        elif isinstance(event, UtteranceResumed):
            ear.paused = False
        elif isinstance(event, UtteranceEnded):
            ear.revision = event.revision
            ear.open = False
            if not self._streaming:
                ear.cut(event.offset)
                await self._final()

    async def _feed(self) -> None:
        if not self._ear.open or self._ear.paused or not self._ear.unfed:
            return
        pcm = self._ear.take()
        text = await self._attempt(self._hear(pcm))
        if text and text != self._text:
            self._text = text
            ear = self._ear
            self._writer.write("transcript", Partial(ear.utterance, ear.revision, text, ear.start, ear.end))

    async def _final(self) -> None:
        ear = self._ear
        if (ear.utterance, ear.revision) in self._finished:
            return  # its audio is fed with what follows, should the utterance go on
        pcm = ear.take()
        error, details = "", Details()
        try:
            if pcm:
                await self._hear(pcm)
            self._text = await self.recognizer.flush()
            details = getattr(self.recognizer, "details", Details)()
        except EngineError as failure:
            error = str(failure)
            log.error("recognition failed: %s", error)
        final = Final(
            ear.utterance, ear.revision, self._text, ear.start, ear.end, error,
            words_as_json(details, ear.start), details.confidence, details.language,
        )  # fmt: skip
        self._writer.write("transcript", final)

    async def _hear(self, pcm: bytes) -> str:
        """Feed audio of the utterance; after a takeover, what the one before had heard comes first."""
        if earlier := self._ear.recall():
            await self.recognizer.feed(earlier)
            await self.recognizer.begin()
        return await self.recognizer.feed(pcm)

    async def _attempt(self, step: Awaitable[str | None]) -> str:
        try:
            return await step or ""
        except EngineError as error:
            log.error("recognition failed: %s", error)
            return ""


def words_as_json(details: Details, start: int) -> str:
    """What ``Final.words`` holds of an utterance that begins at sample ``start``; "" where no words are known."""
    words = [
        {"word": w.text, "start": start + w.start, "end": start + w.end, "confidence": round(w.confidence, 3)}
        for w in details.words
    ]
    return json.dumps(words, ensure_ascii=False, separators=(",", ":")) if words else ""


if __name__ == "__main__":
    no_arguments("workers.stt.worker", __doc__)
    main(SttWorker)
