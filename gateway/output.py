"""A session's output: from the speech stream, resampled and paced, to the client, with the account of what was heard.

Audio of any turn but the present one is dropped at the door, whatever the reason it is late for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import soxr

from bus.events import SpeechAudio
from gateway.echo import Played
from gateway.outlet import Outlet
from gateway.playback import Frame, Playback

log = logging.getLogger(__name__)

REPORT = 0.1
"""Seconds between two reports of what has been played."""
STARVED = 10.0
"""Seconds without any new audio of a turn that is not complete after which its voice counts as failed."""
LONGEST_REPEAT = 1000
"""Milliseconds that are heard once more, at most, so that what goes on after a break begins with a word."""
REMEMBERED = 20
"""Turns whose words' positions are kept, for truncations that arrive late."""

Report = Callable[[int, int, int], None]
"""Called with (turn, start ms, end ms) when so much more has been heard."""


class Output:
    """Belongs to one session. ``clock`` gives seconds of any monotonic clock."""

    def __init__(
        self,
        outlet: Outlet,
        clock: Callable[[], float],
        *,
        lead: float,
        report: Report,
        on_played_out: Callable[[int], None],
        on_starved: Callable[[int], None],
        played: Played | None = None,
        away: Callable[[float], bool] = lambda seconds: False,
    ) -> None:
        """``played`` is told what the client plays when, for an echo canceller; ``away``: whether Redis did not answer
        at some time in the last so many seconds."""
        self._away = away
        self._outlet = outlet
        self._played = played
        self._clock = clock
        self._report = report
        self._on_played_out = on_played_out
        self._on_starved = on_starved
        self.playback = Playback(outlet.rate, lead)
        self._received = 0
        """Samples of the turn taken so far, at the voice's own rate."""
        self._saying, self._said = (0, 0), 0
        """(attempt, sentence) being taken, and how many characters of it."""
        self._told: dict[int, int] = {}
        """Sentence -> how many of its characters are here."""
        self._made: dict[int, tuple[int, int, int]] = {}
        """Sentence -> (attempt, samples of it that came by it, at most by those before it)."""
        self.repeated = 0
        """Samples of the turn that are heard once more, at most: a voice that was taken over and does not speak a
        sentence twice alike says it again from its beginning."""
        self._resampler: soxr.ResampleStream | None = None
        self._reported = 0
        self._reported_at = 0.0
        self._fed_at = 0.0
        self._wake = asyncio.Event()
        self._texts: OrderedDict[int, list[tuple[int, str]]] = OrderedDict()
        self.first_frame: Callable[[Frame], None] | None = None

    def played_by(self, played: Played | None) -> None:
        """Another echo canceller is to be told what the client plays."""
        self._played = played

    def begin(self, turn: int, *, kept_back: bool = False) -> None:
        """Make room for a turn; ``kept_back``: nothing of it leaves until ``resume``."""
        self.playback.rate = self._outlet.rate
        self.playback.begin(turn)
        self.playback.held = kept_back
        self._received, self._resampler, self._reported = 0, None, 0
        self._fed_at = self._clock()
        self._texts[turn] = []
        self._saying, self._said = (0, 0), 0
        self._told.clear()
        self._made.clear()
        self.repeated = 0
        while len(self._texts) > REMEMBERED:
            self._texts.popitem(last=False)

    def repetition(self, turn: int) -> str:
        """What of a turn was said twice, because its voice was taken over, in words; empty for nothing."""
        return (
            f", {self.repeated} samples of the voice repeated" if self.playback.turn == turn and self.repeated else ""
        )

    def take_up(self, turn: int, heard_ms: int, chunks: Sequence[SpeechAudio]) -> None:
        """Go on with a turn of which ``heard_ms`` were heard and ``chunks`` are there: held, at that position."""
        self.begin(turn, kept_back=True)
        if chunks:
            self._received = chunks[0].offset
            self.playback.skip(round(chunks[0].offset * self.playback.rate / chunks[0].rate))
        for chunk in chunks:
            self.take(chunk)
        self.playback.correct(turn, heard_ms * self.playback.rate // 1000)
        self._reported = heard_ms

    def tell_anew(self, *, to_word: bool) -> tuple[float, str]:
        """While held: (position in ms to the sample, the turn's text before it); the text after it is told once more.

        ``to_word``: go back before, to the beginning of the word that was cut, at most LONGEST_REPEAT.
        """
        playback = self.playback
        if to_word:
            self.correct(playback.turn, playback.word_before(LONGEST_REPEAT * playback.rate // 1000))
        text = playback.retell()
        return round(playback.position * 1000 / playback.rate, 3), text

    def take(self, event: SpeechAudio) -> bool:
        """Take a chunk of the present turn; false when it was dropped: of another turn, or had already.

        A voice that was taken over by another worker repeats a sentence from its beginning; what is here already is
        left out by position. What stands at another position is heard, and counted as ``repeated``.
        """
        if event.turn != self.playback.turn:
            return False
        samples = np.frombuffer(event.pcm, "<i2")
        missing = event.offset - self._received
        if missing > 0:
            log.warning("turn %d: %d samples of speech never came", event.turn, missing)
        samples = samples[max(0, -missing) :]
        self._count(event, len(event.pcm) // 2, len(samples))
        if not len(samples) and not event.text:
            return False
        end = event.offset + len(event.pcm) // 2
        self._received = max(self._received, end)
        self._fed_at = self._clock()
        fresh = self._fresh(event)
        text = [(end * 1000 // event.rate, fresh)] if fresh else []
        self._texts[event.turn] += text
        self.playback.push(event.turn, self._resampled(samples, event.rate), text)
        self._wake.set()
        return True

    def _count(self, event: SpeechAudio, came: int, kept: int) -> None:
        attempt, made, before = self._made.get(event.sentence, (event.attempt, 0, 0))
        if event.attempt != attempt:
            made, before = 0, max(made, before)
        self.repeated += min(kept, max(0, before - made))
        self._made[event.sentence] = (event.attempt, made + came, before)

    def _fresh(self, event: SpeechAudio) -> str:
        """The part of a chunk's text that is not here yet: a voice that was taken over says a sentence's words again,
        not always at the same sample."""
        if (event.attempt, event.sentence) != self._saying:
            self._saying, self._said = (event.attempt, event.sentence), 0
        start, known = self._said, self._told.get(event.sentence, 0)
        self._said += len(event.text)
        self._told[event.sentence] = max(known, self._said)
        return event.text[max(0, known - start) :]

    def finish(self, turn: int) -> None:
        """No more audio of ``turn`` follows."""
        if turn != self.playback.turn:
            return
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(np.zeros(0, "<i2"), last=True)
            self.playback.push(turn, rest.tobytes(), [])
        self.playback.finish(turn)
        self._wake.set()

    def hold(self) -> int:
        """Silence; the position heard, in ms."""
        now = self._clock()
        heard = self.playback.hold(now, client_drops=self._outlet.drops)
        if self._played is not None and self._outlet.drops:
            self._played.drop(now)
        self._tell(now)
        return heard * 1000 // self.playback.rate

    def correct(self, turn: int, position: int) -> None:
        """While held: the client says that it really played ``position`` samples of ``turn``; that is reported now."""
        now = self._clock()
        self.playback.correct(turn, position)
        heard = self.playback.heard(now) * 1000 // self.playback.rate
        if self.playback.held and self.playback.turn == turn and heard < self._reported:
            self._report(turn, heard, heard)
            self._reported = heard
        else:
            self._tell(now)

    def resume(self) -> float:
        """Go on; the position from which, in ms to the sample."""
        self._fed_at = self._clock()
        start = self.playback.resume()
        self._wake.set()
        return round(start * 1000 / self.playback.rate, 3)

    def heard(self) -> tuple[str, int]:
        """(text, milliseconds) of the present turn whose sound was completely heard."""
        now = self._clock()
        return self.playback.heard_text(now).strip(), self.playback.heard(now) * 1000 // self.playback.rate

    def text_until(self, turn: int, position_ms: int) -> str | None:
        """The text of a turn complete at ``position_ms``; None when the turn is too old to be known."""
        texts = self._texts.get(turn)
        if texts is None:
            return None
        return "".join(text for at, text in texts if at <= position_ms).strip()

    def drop(self) -> int:
        """Throw away what was not sent; milliseconds of it."""
        self._tell(self._clock())
        dropped = self.playback.drop() * 1000 // self.playback.rate
        self._wake.set()
        return dropped

    async def run(self) -> None:
        """Send what is due, when it is due, for ever."""
        while True:
            now = self._clock()
            if (frame := self.playback.pull(now)) is not None:
                if self.first_frame is not None and frame.start == 0:
                    self.first_frame(frame)
                self._outlet.audio(frame)
                if self._played is not None:
                    self._played.send(frame.pcm, now)
            if now - self._reported_at >= REPORT:
                self._tell(now)
            turn = self.playback.turn
            if self.playback.played_out(now):
                self._tell(now)
                self._on_played_out(turn)
                if self.playback.turn == turn:
                    self.playback.drop()
            elif self._starved(now):
                self._on_starved(turn)
            await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        due = self.playback.next_due(now)
        if self.playback.turn and not self.playback.held:
            # What was played is told on time, and a voice that died is noticed, though nothing is due.
            due = min(due if due is not None else now + REPORT, now + REPORT)
        self._wake.clear()
        if due is not None and due <= now:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(None if due is None else due - now):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _starved(self, now: float) -> bool:
        playback = self.playback
        return bool(
            playback.turn and not playback.held and self._received and not playback.complete
            and now - self._fed_at > STARVED and playback.next_due(now) is None and not self._away(STARVED)
        )  # fmt: skip

    def _tell(self, now: float) -> None:
        if not self.playback.turn:
            return
        self._reported_at = now
        heard = self.playback.heard(now) * 1000 // self.playback.rate
        if heard > self._reported:
            self._report(self.playback.turn, self._reported, heard)
            self._reported = heard

    def _resampled(self, samples: np.ndarray, rate: int) -> bytes:
        if rate == self.playback.rate:
            return samples.tobytes()
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(rate, self.playback.rate, 1, dtype="int16", quality="MQ")
        resampled: np.ndarray = self._resampler.resample_chunk(samples)
        return resampled.tobytes()
