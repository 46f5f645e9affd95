"""The TTS worker: speaks one turn per claim, from its sentences to audio chunks on the speech stream.

It never runs further ahead of what is being heard than its credit, so that a barge-in wastes little.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from bus.cancel import CancelToken
from bus.events import Played, ReplyEnd, Sentence, SpeechAudio, SpeechEnd, Stopped
from bus.keys import session_key
from bus.leases import Lease
from bus.offers import SpeakOffer
from bus.settings import BusSettings, load, no_arguments
from bus.streams import Bus
from workers.engines import EngineError
from workers.process import main
from workers.runtime import HandOver, Life, Worker, until_cancelled
from workers.tts.engine import Waste
from workers.tts.tempo import at_speed
from workers.writer import Writer

log = logging.getLogger(__name__)


class SpeechSettings(BusSettings):
    """How far a voice runs ahead."""

    tts_credit_s: float = Field(default=3.0, ge=0.2, le=60)
    """Seconds of audio that may be written beyond what has been played: so much of it a barge-in wastes at most."""


class Abandoned(Exception):
    """The gateway that would play this has died, and no other has taken its session."""


class TtsWorker(Worker):
    """Speaks turns. Its engine is a ``TtsEngine``."""

    stage: ClassVar[str] = "tts"

    def __init__(self, bus: Bus, engine: Any, life: Life | None = None, *, credit: float | None = None) -> None:
        """``credit`` in seconds is taken from the environment when it is None."""
        super().__init__(bus, engine, life)
        self.credit = load(SpeechSettings).tts_credit_s if credit is None else credit

    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Speak a turn; a cancelled one stops within the model and is acknowledged with what was made in vain."""
        speech = _Speech(self, lease, token)
        if token.cancelled:
            self.acknowledge(lease, Stopped(lease.turn, self.stage, "never_started"))
            return
        try:
            took = await until_cancelled(token, speech.speak())
        except Abandoned:
            log.info("turn %d of %s was left without a gateway; nobody hears it", lease.turn, lease.session)
            return
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


@dataclass(frozen=True, slots=True)
class _Manner:
    """How a session is spoken to."""

    voice: str
    language: str
    speed: float

    @classmethod
    def of(cls, config: Mapping[str, str]) -> _Manner:
        """From a session's config."""
        return cls(config.get("voice", ""), config.get("language", "en-US"), float(config.get("speed") or 1.0))

    def speak(self, engine: Any, text: str, token: CancelToken) -> Any:
        """An iterator of a sentence's chunks: by the engine's own speed if it has one, else stretched here."""
        if self.speed == 1.0:
            return engine.speak(text, self.voice, self.language, token)
        if getattr(engine, "own_speed", False):
            return engine.speak(text, self.voice, self.language, token, speed=self.speed)
        return at_speed(engine.speak(text, self.voice, self.language, token), engine.rate, self.speed)


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
        self._offer = offer
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
        """Speak the turn's sentences in order until its end. Raises HandOver between two of them."""
        lease, bus = self._lease, self._worker.bus
        if lease.fence > 1 and await self._take_up():
            return
        own = json.loads(self._offer.manner or "{}")
        manner = _Manner.of({**await bus.config(lease.session), **own})
        async for entry in self._replies:
            event = entry.event
            if getattr(event, "turn", 0) != lease.turn:
                continue
            if isinstance(event, Sentence) and event.index == self._sentence:
                await self._say(event, manner)
                self._sentence += 1
                lease.offer = replace(self._offer, first=self._sentence)
                if self._worker.draining.is_set():
                    raise HandOver
            elif isinstance(event, ReplyEnd):
                self._end("failed" if self._error and not self.samples else "done")
                return

    async def _take_up(self) -> bool:
        """Find where the worker before this one had got to; whether nothing is left to do.

        A sentence is spoken again from its beginning unless the next one had begun. The gateway leaves out what it has
        already by position; where the engine does not speak a sentence twice alike, that might leave out words that
        were never heard, so that all of it is heard again, and counted.
        """
        end = 0
        entries = await self._worker.bus.replay(session_key(self._lease.session, "speech"))
        for entry in entries:
            event = entry.event
            if isinstance(event, SpeechEnd) and event.turn == self._lease.turn:
                return True
            if isinstance(event, SpeechAudio) and event.turn == self._lease.turn and event.sentence >= self._sentence:
                if event.sentence > self._sentence or self.chunks == 0:
                    self._sentence, self.samples = event.sentence, event.offset
                self.chunks, end = event.index + 1, event.offset + len(event.pcm) // 2
        if self._sentence < self._offer.first:
            self._sentence, self.samples = self._offer.first, end  # handed over: all before it is whole
        elif self.chunks:
            lease, again = self._lease, getattr(self._worker.engine, "repeatable", False)
            how = "left out by position" if again else "heard again"
            log.warning(
                "turn %d of %s: sentence %d is spoken again; %d samples of it were there and are %s",
                lease.turn, lease.session, self._sentence, end - self.samples, how,
            )  # fmt: skip
            self.samples = self.samples if again else end
        return False

    async def _say(self, sentence: Sentence, manner: _Manner) -> None:
        engine, lease = self._worker.engine, self._lease
        # A space between sentences belongs to the one that follows: all texts joined are the turn's text.
        prefix = " " if sentence.index else ""
        try:
            async with aclosing(manner.speak(engine, sentence.text, self._token)) as chunks:
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
        """Wait while ``samples`` more would make more audio beyond what has been played than the worker's credit."""
        rate, credit = self._worker.engine.rate, self._worker.credit * 1000
        while (self.samples + samples) * 1000 // rate - self._played_ms > credit:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._worker.life.idle):
                    await self._moved.wait()
            except TimeoutError:
                if await self._worker.abandoned(self._lease.session):
                    raise Abandoned from None

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
    no_arguments("workers.tts.worker", __doc__)
    main(TtsWorker)
