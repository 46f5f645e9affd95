"""The TTS worker: speaks one turn per claim, from its sentences to audio chunks on the speech stream.

It never runs further ahead of what is being heard than its credit, so that a barge-in wastes little.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import ClassVar

from bus.cancel import CancelToken
from bus.events import Played, ReplyEnd, Sentence, SpeakOffer, SpeechAudio, SpeechEnd, Stopped
from bus.keys import session_key
from bus.leases import Lease
from workers.engines import EngineError
from workers.process import main
from workers.runtime import Worker, Writer, until_cancelled
from workers.tts.engine import Waste

log = logging.getLogger(__name__)

CREDIT = 3.0
"""Seconds of audio that may be written beyond what has been played."""


class TtsWorker(Worker):
    """Speaks turns. Its engine is a ``TtsEngine``."""

    stage: ClassVar[str] = "tts"

    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Speak a turn; a cancelled one stops within the model and is acknowledged with what was made in vain."""
        speech = _Speech(self, lease, token)
        if token.cancelled:
            self.acknowledge(lease, Stopped(lease.turn, self.stage, "never_started"))
            return
        try:
            took = await until_cancelled(token, speech.speak())
        finally:
            speech.close()
        if took is not None:
            waste = self.engine.wasted(token) if hasattr(self.engine, "wasted") else Waste()
            ack = Stopped(
                lease.turn, self.stage, "stopped", took, samples=speech.unheard + waste.samples, tokens=waste.tokens,
                last=speech.chunks - 1, detail=waste.detail, steps=waste.steps,
            )  # fmt: skip
            self.acknowledge(lease, ack)

    async def give_up(self, lease: Lease, error: str) -> None:
        """Tell the session that the turn has no more sound."""
        end = SpeechEnd(lease.turn, lease.fence, "failed", 0, 0, error)
        await self.bus.post_guarded(lease.session, "speech", end, stage=self.stage, turn=lease.turn, fence=lease.fence)


class _Speech:
    """One turn's sound on its way."""

    def __init__(self, worker: TtsWorker, lease: Lease, token: CancelToken) -> None:
        offer = lease.offer
        assert isinstance(offer, SpeakOffer)
        self.chunks = 0
        self.samples = 0
        self._worker = worker
        self._lease = lease
        self._token = token
        self._writer = Writer(worker.bus, lease, token)
        self._sentence = 0
        """Index of the sentence to speak next."""
        self._played_ms = 0
        self._error = ""
        self._replies = worker.bus.follow(session_key(lease.session, "reply"), offer.after)
        self._playback = worker.bus.follow(session_key(lease.session, "playback"))
        self._following = asyncio.create_task(self._follow_playback())
        self._moved = asyncio.Event()

    @property
    def unheard(self) -> int:
        """Samples written that were never played."""
        rate: int = self._worker.engine.rate
        return max(0, self.samples - self._played_ms * rate // 1000)

    def close(self) -> None:
        """Stop following."""
        self._replies.close()
        self._playback.close()
        self._following.cancel()

    async def speak(self) -> None:
        """Speak the turn's sentences in order until its end."""
        lease, bus = self._lease, self._worker.bus
        if lease.fence > 1 and await self._take_up():
            return
        config = await bus.config(lease.session)
        voice, language = config.get("voice", ""), config.get("language", "en-US")
        async for entry in self._replies:
            event = entry.event
            if getattr(event, "turn", 0) != lease.turn:
                continue
            if isinstance(event, Sentence) and event.index == self._sentence:
                await self._say(event, voice, language)
                self._sentence += 1
            elif isinstance(event, ReplyEnd):
                self._end("failed" if self._error and not self.samples else "done")
                return

    async def _take_up(self) -> bool:
        """Find where the worker before this one had got to; whether nothing is left to do.

        A sentence is spoken again from its beginning unless the next one had begun: the gateway leaves out what it
        has already.
        """
        entries = await self._worker.bus.replay(session_key(self._lease.session, "speech"))
        for entry in entries:
            event = entry.event
            if isinstance(event, SpeechEnd) and event.turn == self._lease.turn:
                return True
            if isinstance(event, SpeechAudio) and event.turn == self._lease.turn and event.sentence >= self._sentence:
                if event.sentence > self._sentence or self.chunks == 0:
                    self._sentence, self.samples = event.sentence, event.offset
                self.chunks = event.index + 1
        return False

    async def _say(self, sentence: Sentence, voice: str, language: str) -> None:
        engine, lease = self._worker.engine, self._lease
        # A space between sentences belongs to the one that follows: all texts joined are the turn's text.
        prefix = " " if sentence.index else ""
        try:
            async with aclosing(engine.speak(sentence.text, voice, language, self._token)) as chunks:
                async for chunk in chunks:
                    await self._credit(len(chunk.pcm) // 2)
                    self._token.check()
                    alignment = "exact" if chunk.exact else "estimated"
                    text, prefix = (prefix + chunk.text, "") if chunk.text else ("", prefix)
                    self._writer.write(
                        "speech",
                        SpeechAudio(
                            lease.turn, lease.fence, self.chunks, sentence.index, self.samples, engine.rate, text,
                            alignment, chunk.pcm,
                        ),
                    )  # fmt: skip
                    self.chunks += 1
                    self.samples += len(chunk.pcm) // 2
        except EngineError as error:
            # The turn goes on with its next sentence: half an answer is worth more than none.
            self._error = str(error)
            log.error("turn %d of %s: a sentence cannot be spoken: %s", lease.turn, lease.session, error)

    async def _credit(self, samples: int) -> None:
        """Wait while ``samples`` more would make more than CREDIT seconds of audio beyond what has been played."""
        rate = self._worker.engine.rate
        while (self.samples + samples) * 1000 // rate - self._played_ms > CREDIT * 1000:
            self._moved.clear()
            await self._moved.wait()

    async def _follow_playback(self) -> None:
        async for entry in self._playback:
            event = entry.event
            if isinstance(event, Played) and event.turn == self._lease.turn:
                self._played_ms = max(self._played_ms, event.end)
                self._moved.set()

    def _end(self, reason: str) -> None:
        lease = self._lease
        self._writer.write("speech", SpeechEnd(lease.turn, lease.fence, reason, self.chunks, self.samples, self._error))


if __name__ == "__main__":
    main(TtsWorker)
