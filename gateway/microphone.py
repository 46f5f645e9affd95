"""The caller's audio on its way to the recogniser: the mic stream, its marks, and the detection of speech.

Positions are samples at 16 kHz since the session began. Audio for the recogniser is some 40 ms behind the detector's
(see ``gateway.hearing``), so a mark may name a sample that is still to come, never one whose audio is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bus.events import (
    MIC_RATE,
    Event,
    HungUp,
    MicAudio,
    UtteranceEnded,
    UtterancePaused,
    UtteranceResumed,
    UtteranceStarted,
)  # fmt: skip
from bus.keys import session_key
from gateway.backlog import Backlog
from gateway.echo import EchoCanceller
from gateway.end_of_turn import EndOfTurn
from gateway.hearing import Hearing
from gateway.inputs import SpeechCleared, SpeechEnded, SpeechStarted
from gateway.pen import FENCED, Pen
from gateway.speech import Endpointing, Probability, Speech, SpeechDetector

PRE_ROLL_MS = 300
ENTRY_MS = 100
"""Audio in one entry of the stream while nobody speaks: nobody waits for it. Speech goes in windows of the detector's,
of 32 ms."""
STALL_S = 2.0
"""Seconds without audio that count as silence: longer than networks and schedulers pause."""
KEPT_MS = 30_000
"""Audio kept on the stream behind the present, and behind the start of an utterance that goes on: what a recogniser
that takes over needs as left context."""


def mic_ms(samples: int) -> int:
    """Samples of the mic stream in milliseconds."""
    return samples * 1000 // MIC_RATE


class Microphone:
    """One session's input."""

    def __init__(
        self,
        pen: Pen,
        session: str,
        rate: int,
        probability: Probability,
        *,
        keep_all: bool,
        streaming: bool = True,
        canceller: EchoCanceller | None = None,
        end_of_turn: EndOfTurn | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        """``rate`` in Hz is what the client sends; ``keep_all`` keeps the whole call on the stream, for a recording.

        ``backlog`` bounds what is kept while Redis is away.
        """
        self._backlog = backlog
        self.detector = SpeechDetector(probability, end_of_turn=end_of_turn)
        self.pre_roll_ms = PRE_ROLL_MS
        self.by_hand = False
        """Whether the client itself says when an utterance ends, instead of the detector."""
        self.position = 0
        """Samples that stand on the stream."""
        self.on_published: Callable[[int], None] = lambda position: None
        """Called every second or so with how many of the samples stand on the stream for certain."""
        self._pen = pen
        self._key = session_key(session, "mic")
        self._canceller = canceller
        self._hearing = Hearing(rate)
        self._raw = bytearray()
        """The client's audio that has not been heard: together with what the detector has it is no window of it."""
        self._clean = bytearray()
        """Audio for the recogniser that is no entry yet."""
        self._keep_all = keep_all
        self._streaming = streaming
        self._open = False
        self._heard_at = 0.0
        self._known_until = 0
        """Sample up to which audio is in the text of an utterance before: where a pre-roll may begin."""
        self._marks: list[tuple[int, str]] = []
        """(position, entry id) every second or so: where the stream may be cut."""
        self._noted = 0
        self._utterance_start: int | None = None

    @property
    def rate(self) -> int:
        """Sample rate in Hz of what the client sends."""
        return self._hearing.rate

    @property
    def position_ms(self) -> int:
        """``position`` in milliseconds."""
        return mic_ms(self.position)

    @property
    def arrived(self) -> int:
        """Samples that came from the client: the present, in the microphone's time. What of it is no entry yet counts,
        but for what the resampler holds back."""
        return self.position + len(self._clean) // 2 + len(self._raw) // 2 * MIC_RATE // self.rate

    def endpoint(self, endpointing: Endpointing, pre_roll_ms: int) -> None:
        """Change when speech begins and ends."""
        self.detector.endpointing = endpointing
        self.pre_roll_ms = pre_roll_ms

    def take_up(self, position: int, known_until: int, utterance_start: int | None) -> None:
        """Go on with a stream that ends at sample ``position``; ``utterance_start`` of the utterance that goes on."""
        self.position = self._noted = position
        self._known_until, self._utterance_start = known_until, utterance_start
        self._open = self.by_hand and utterance_start is not None

    def reformat(self, rate: int, canceller: EchoCanceller | None, at: float) -> list[Speech]:
        """From now on the client's audio comes at ``rate`` Hz; what the detector found in what was still held back."""
        if self._hearing.rate == rate:
            self._canceller = canceller
            return []
        found = self._hear_gathered(at)
        fast, clean = self._hearing.finish()
        self._hearing, self._canceller = Hearing(rate), canceller
        found += self._heard(fast, clean, at)
        self._write()
        return found

    def hear(self, pcm: bytes, at: float, *, muted: bool) -> list[Speech]:
        """Take the client's audio, heard at time ``at`` (seconds); what the detector found in it.

        ``muted`` audio counts as silence, so that positions go on.
        """
        if self._canceller is not None:
            pcm = self._canceller.feed(pcm)
        if muted:
            pcm = bytes(len(pcm))
        self._heard_at = at
        self._raw += pcm
        if self.by_hand or len(self._raw) * MIC_RATE >= self.detector.missing * 2 * self.rate:
            return self._hear_gathered(at)
        return []

    def _hear_gathered(self, at: float) -> list[Speech]:
        pcm = bytes(self._raw)
        self._raw.clear()
        return self._heard(*self._hearing.feed(pcm), at)

    def _heard(self, fast: bytes, clean: bytes, at: float) -> list[Speech]:
        found: list[Speech] = []
        if self.by_hand:
            self.detector.skip(fast)
            if not self._open and fast:
                self._open = True
                found = [SpeechStarted(at, self.position)]
        else:
            found = self.detector.feed(fast, at)
        self._clean += clean
        waited_for = found or self.by_hand or self._utterance_start is not None
        if waited_for or len(self._clean) >= ENTRY_MS * MIC_RATE // 1000 * 2:
            self._write()
        return found

    def _write(self) -> None:
        """What there is for the recogniser becomes an entry."""
        if not self._clean:
            return
        entry = self._post(MicAudio(self.position, bytes(self._clean)))
        samples = len(self._clean) // 2
        self._clean.clear()
        if self._backlog is not None:
            self._backlog.add(entry, self.position, samples)
        self.position += samples
        self._remember(entry)

    def commit(self, at: float) -> list[Speech]:
        """The client says that the utterance ends here."""
        if not self._open:
            found = self._hear_gathered(at) + self.detector.end(at)
            self._write()
            return found
        self._open = False
        self._flush()
        return [SpeechEnded(at, self.position)]

    def stalled(self, at: float) -> list[Speech]:
        """End an utterance that goes on where no audio has come for STALL_S: a client that was muted sends none."""
        if self.by_hand or at - self._heard_at < STALL_S:
            return []
        ended = self.detector.end(at)
        if ended:
            self._flush()
        return ended

    def clear(self, at: float) -> SpeechCleared:
        """The client takes back what it sent since the last utterance ended."""
        self._open = False
        self._hear_gathered(at)
        self.detector.end(at)
        self._write()
        return SpeechCleared(at, self.position)

    def start(self, utterance: int, offset: int) -> int:
        """Mark an utterance's start, with its pre-roll but nothing of the utterance before; the sample it starts at."""
        start = max(self._known_until, offset - (0 if self.by_hand else self.pre_roll_ms * MIC_RATE // 1000), 0)
        self._utterance_start = start
        self._post(UtteranceStarted(utterance, start))
        return start

    def pause(self, utterance: int, revision: int, offset: int) -> None:
        """Mark a pause: the recogniser flushes."""
        self._known_until = offset
        self._post(UtterancePaused(utterance, revision, offset))

    def resume(self, utterance: int, revision: int) -> None:
        """Mark that the utterance goes on."""
        self._post(UtteranceResumed(utterance, revision))

    def end(self, utterance: int, revision: int, offset: int) -> None:
        """Mark an utterance's end."""
        if not self._streaming:
            self._known_until = offset
        self._utterance_start = None
        self._post(UtteranceEnded(utterance, revision, offset))

    def hang_up(self) -> None:
        """Nothing follows."""
        self._flush()
        self._post(HungUp())

    def trim(self) -> None:
        """Let go of audio that nobody needs any more."""
        limit = self.position if self._utterance_start is None else self._utterance_start
        limit -= KEPT_MS * MIC_RATE // 1000
        cut = None
        while self._marks and self._marks[0][0] <= limit:
            cut = self._marks.pop(0)[1]
        if cut is not None:
            self._pen.trim(self._key, cut)

    def _flush(self) -> None:
        # The resampler holds back up to 40 ms and a canceller up to 20, which would be the end of a word.
        rest = [self._hearing.feed(bytes(self._raw))]
        self._raw.clear()
        if self._canceller is None:
            rest.append(self._hearing.finish())
            self._hearing = Hearing(self._hearing.rate)
        else:
            rest.append(self._hearing.feed(self._canceller.feed(bytes(self._hearing.rate // 10 * 2))))
        for fast, clean in rest:
            self.detector.skip(fast)
            self._clean += clean
        self._write()

    def _remember(self, entry: asyncio.Future[bytes]) -> None:
        if self.position - self._noted < MIC_RATE:
            return
        self._noted = position = self.position

        def note(answer: asyncio.Future[bytes]) -> None:
            if answer.cancelled() or answer.exception() is not None or answer.result() == FENCED:
                return
            if not self._keep_all:
                self._marks.append((position, answer.result().decode()))
            self.on_published(position)

        entry.add_done_callback(note)

    def _post(self, event: Event) -> asyncio.Future[bytes]:
        return self._pen.post(self._key, event)
