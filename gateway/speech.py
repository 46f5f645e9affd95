"""The caller's speech: voice activity, onset, pause, end of turn.

Silero v6.2.3 gives a probability of speech for each 32 ms of 16 kHz audio. One chunk at or above the threshold is an
onset (measured: 50 ms median, 112 ms p90 after the energy onset in quiet; 1 false start in 145 at 20 dB SNR), which
is why an onset only holds output and something else confirms it.

An utterance ends after a silence. A model of the end of turn (``gateway.end_of_turn``) is asked at each pause; its
answer changes how long that one silence has to be, and counts from the window after which it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from gateway.end_of_turn import HEARD_S, EndOfTurn
from gateway.inputs import SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted

log = logging.getLogger(__name__)

RATE = 16_000
WINDOW = 512
ASKED_PRE_ROLL_MS = 300
"""Audio before an utterance's onset that a model of the end of turn is given too."""

Speech = SpeechStarted | SpeechPaused | SpeechResumed | SpeechEnded
Probability = Callable[[bytes], float]
"""The probability (0 to 1) that 512 samples of 16 kHz 16-bit audio, following those before, hold speech."""


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When speech begins and ends. Times in milliseconds, threshold 0 to 1."""

    threshold: float = 0.5
    pause_ms: int = 200
    """Silence after which the recogniser is flushed; the utterance may still go on."""
    silence_ms: int = 500
    """Silence after which the utterance has ended."""
    complete_ms: int = 300
    """The same, at most, after a pause that a model takes for the end."""
    incomplete_ms: int = 1500
    """The same, at least, after a pause that a model does not take for the end."""


class SpeechDetector:
    """Turns a session's audio into onsets, pauses, resumptions and ends."""

    def __init__(
        self,
        probability: Probability,
        endpointing: Endpointing | None = None,
        *,
        end_of_turn: EndOfTurn | None = None,
    ) -> None:
        self.endpointing = endpointing or Endpointing()
        self._end_of_turn = end_of_turn
        self._heard = bytearray()
        """What a model is given when asked: the end of what was heard, since the pre-roll of the utterance."""
        self._question: Future[float] | None = None
        self._told: set[str] = set()
        self._probability = probability
        self._rest = b""
        self._position = 0
        """Sample at which ``_rest`` begins."""
        self._speaking = False
        self._paused = False
        self._silent_since = 0

    def take_up(self, position: int, *, speaking: bool, silent_since: int | None) -> None:
        """Go on at sample ``position``; ``speaking``: in an utterance, silent from ``silent_since`` on if given."""
        self._position, self._speaking = position, speaking
        self._paused = speaking and silent_since is not None
        self._silent_since = position if silent_since is None else silent_since

    def feed(self, pcm: bytes, at: float) -> list[Speech]:
        """Take 16 kHz mono 16-bit audio of any length, heard at time ``at`` (seconds); what it showed, in order."""
        found: list[Speech] = []
        self._rest += pcm
        while len(self._rest) >= WINDOW * 2:
            window, self._rest = self._rest[: WINDOW * 2], self._rest[WINDOW * 2 :]
            self._keep(window)
            found += self._step(self._probability(window), at)
            self._position += WINDOW
        return found

    @property
    def missing(self) -> int:
        """Samples after which there is something new to say: the rest of a window."""
        return WINDOW - len(self._rest) // 2

    def skip(self, pcm: bytes) -> None:
        """Audio that is not looked at, so that positions go on: what was begun before it is left as it is."""
        self._position += (len(self._rest) + len(pcm)) // 2
        self._rest = b""

    def end(self, at: float) -> list[Speech]:
        """The audio is over: end an utterance that goes on."""
        if not self._speaking:
            return []
        self._speaking = False
        self._withdraw()
        return [SpeechEnded(at, self._position)]

    def _step(self, probability: float, at: float) -> list[Speech]:
        settings = self.endpointing
        start, end = self._position, self._position + WINDOW
        # Hysteresis of 0.15, as in Silero's own iterator: speech goes on down to threshold - 0.15.
        if probability >= settings.threshold - (0.15 if self._speaking else 0.0):
            self._silent_since = end
            if not self._speaking:
                self._speaking, self._paused = True, False
                return [SpeechStarted(at, start)]
            if self._paused:
                self._paused = False
                self._withdraw()
                return [SpeechResumed(at, start)]
            return []
        if not self._speaking:
            return []
        silent = (end - self._silent_since) * 1000 // RATE
        found: list[Speech] = []
        if silent >= settings.pause_ms and not self._paused:
            self._paused = True
            found.append(SpeechPaused(at, end))
            if self._end_of_turn is not None and silent < settings.silence_ms:
                self._question = self._end_of_turn.ask(bytes(self._heard))
        if silent >= self._silence_needed():
            if self._question is not None and not self._question.done():
                self._tell_once("a pause ended the utterance before the end-of-turn model had answered")
            self._speaking = self._paused = False
            self._withdraw()
            found.append(SpeechEnded(at, end))
        return found

    def _silence_needed(self) -> int:
        """Milliseconds of silence that end the utterance, as far as is known of this pause."""
        settings, question = self.endpointing, self._question
        if question is None or not question.done() or question.cancelled():
            return settings.silence_ms
        if (error := question.exception()) is not None:
            self._tell_once(f"the end-of-turn model failed, silence alone decides: {type(error).__name__}: {error}")
            return settings.silence_ms
        if question.result() >= 0.5:
            return min(settings.silence_ms, settings.complete_ms)
        return max(settings.silence_ms, settings.incomplete_ms)

    def _withdraw(self) -> None:
        """This pause is over: an answer to it no longer counts."""
        if self._question is not None:
            self._question.cancel()
            self._question = None

    def _keep(self, window: bytes) -> None:
        if self._end_of_turn is None:
            return
        self._heard += window
        limit = HEARD_S * RATE if self._speaking else ASKED_PRE_ROLL_MS * RATE // 1000
        del self._heard[: max(0, len(self._heard) - limit * 2)]

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", what)


def silero() -> Probability:
    """Silero's model, for one session."""
    from gateway.silero import Detector

    return Detector()
