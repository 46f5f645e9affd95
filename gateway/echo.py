"""Echo cancellation for clients that do not cancel echo themselves: WebRTC's AEC3, by ``livekit`` (extra ``echo``).

A client's loudspeaker comes back through its microphone. ``Played`` is what the client plays, at the time at which it
plays it; ``EchoCanceller`` takes that out of the microphone's audio before anything else hears it. The module works
on pairs of 10 ms: what was played, what was heard. It finds the echo by itself within about 450 ms after its
playing, adapts in about a second of playback, and starts again when that delay jumps.

No noise suppression: the recogniser hears the same audio, and is worse for it (62 against 52 % of words wrong when
both sides speak). Cost, by ``python -m benchmarks.echo`` on two shared cores: 0.11 to 0.15 ms of CPU (0.12 to 0.22 at
48 kHz), and as much on the clock, for each 10 ms of a session, in the event loop.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from gateway.outlet import Outlet

log = logging.getLogger(__name__)

EchoCancellation = Literal["off", "auto", "on"]
"""For nobody; for clients that do not cancel echo themselves, where the extra is installed; for everybody."""

MISSING = "echo cancellation needs an extra: pip install bargein[echo]"

DELAY = {8_000: 88, 16_000: 128, 24_000: 223, 48_000: 430}
"""Samples by which the module's output lags behind its input at each rate in Hz that it takes here, measured."""
KEPT_S = 2.0
"""Seconds for which what has been played is kept: a microphone's audio that comes later has nothing to go with."""
ANCHOR_S = 1.0
"""Seconds of the microphone's audio whose earliest arrival says when it was recorded."""
ANCHOR_JUMP_S = 0.03
"""Change of that time that is followed. Jitter is not: the canceller suffers more from a jump than from an offset."""


def available() -> bool:
    """Whether the extra is installed; it is not imported."""
    return importlib.util.find_spec("livekit") is not None


class Module(Protocol):
    """One stream's canceller: a pair of 10 ms after the other."""

    def cancel(self, played: bytes, heard: bytes) -> bytes:
        """10 ms of 16-bit mono that were heard, less the echo of what was played in these and earlier 10 ms."""


class Played:
    """What a client plays, and when: the reference. Times in seconds of the clock that ``gateway.output`` runs on.

    The law is the account's (``gateway.playback``): what is sent is played at once, or when what was sent before it
    has been played.
    """

    def __init__(self, rate: int) -> None:
        """``rate`` in Hz is that of the audio that the client is sent."""
        self.rate = rate
        self._pieces: deque[tuple[int, np.ndarray]] = deque()
        """(first sample of the clock, samples), in order, not overlapping."""
        self._end = 0

    @property
    def drained_at(self) -> float:
        """When the client will have played everything."""
        return self._end / self.rate

    def send(self, pcm: bytes, now: float) -> None:
        """The client is sent 16-bit mono audio at time ``now``."""
        start = max(self._end, round(now * self.rate))
        samples = np.frombuffer(pcm, "<i2")
        self._pieces.append((start, samples))
        self._end = start + len(samples)
        self._forget(round((now - KEPT_S) * self.rate))

    def drop(self, now: float) -> None:
        """The client throws away what it has not played at time ``now``."""
        limit = min(self._end, round(now * self.rate))
        while self._pieces and self._pieces[-1][0] + len(self._pieces[-1][1]) > limit:
            start, samples = self._pieces.pop()
            if start < limit:
                self._pieces.append((start, samples[: limit - start]))
        self._end = limit

    def at(self, time: float, count: int) -> np.ndarray:
        """``count`` samples played from ``time`` on; silence where nothing was."""
        first = round(time * self.rate)
        found = np.zeros(count, "<i2")
        for start, samples in self._pieces:
            if start >= first + count:
                break
            low, high = max(first, start), min(first + count, start + len(samples))
            if low < high:
                found[low - first : high - first] = samples[low - start : high - start]
        return found

    def _forget(self, limit: int) -> None:
        while self._pieces and self._pieces[0][0] + len(self._pieces[0][1]) < limit:
            self._pieces.popleft()


class EchoCanceller:
    """One session's microphone without the echo of what the session plays.

    Positions stay: sample n of what comes out is sample n of what went in. It holds back the module's delay (8 to
    11 ms) and less than 10 ms to fill a frame; before ``load``, everything.
    """

    def __init__(self, rate: int, played: Played, clock: Callable[[], float]) -> None:
        """``rate`` in Hz is the microphone's, one of DELAY; else ValueError. ``clock`` is that of ``played``."""
        if rate not in DELAY:
            raise ValueError(f"echo cancellation at {rate} Hz; expected one of {', '.join(map(str, DELAY))}")
        self.played = played
        self._clock = clock
        self._rate = rate
        self._module: Module | None = None
        self._frame = rate // 100
        self._rest = b""
        self._lag = DELAY[rate] * 2
        """Bytes of what comes next that precede the first sample."""
        self._position = 0
        """Samples that were cancelled."""
        self._anchor = Anchor()

    def load(self) -> None:
        """Make the module; the first of a process takes about half a second. Raises ImportError without the extra."""
        self._module = WebRtc(self._rate, self.played.rate)

    def feed(self, pcm: bytes) -> bytes:
        """16-bit mono audio of any length that arrives now; what is ready of it, without echo."""
        self._rest += pcm
        arrived = self._position + len(self._rest) // 2
        began = self._anchor.note(arrived / self._rate, self._clock())
        if self._module is None:
            return b""
        size, out = self._frame * 2, bytearray()
        while len(self._rest) >= size:
            heard, self._rest = self._rest[:size], self._rest[size:]
            played = self.played.at(began + self._position / self._rate, self.played.rate // 100)
            out += self._module.cancel(played.tobytes(), heard)
            self._position += self._frame
        early = min(self._lag, len(out))
        self._lag -= early
        return bytes(out[early:])


class Anchor:
    """When a stream of audio began, from when its parts arrived: the earliest of the last second, kept while it is
    right to within ANCHOR_JUMP_S."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._seen: deque[tuple[float, float]] = deque()
        """(position, beginning it speaks for), the beginnings rising: the first is the earliest of the window."""

    def note(self, position: float, at: float) -> float:
        """Seconds of the stream up to ``position`` arrived at time ``at``; the time at which its first sample would
        have."""
        began = at - position
        while self._seen and self._seen[-1][1] >= began:
            self._seen.pop()
        self._seen.append((position, began))
        while self._seen[0][0] < position - ANCHOR_S:
            self._seen.popleft()
        earliest = self._seen[0][1]
        if self._began is None or abs(earliest - self._began) > ANCHOR_JUMP_S:
            self._began = earliest
        return self._began


class WebRtc:
    """WebRTC's audio processing with nothing but echo cancellation. Raises ImportError without the extra."""

    def __init__(self, rate: int, played_rate: int) -> None:
        """Rates in Hz of what is heard and of what is played."""
        try:
            from livekit import rtc
        except ImportError:
            raise ImportError(MISSING) from None
        self._frame = rtc.AudioFrame
        self._rate, self._played_rate = rate, played_rate
        self._apm = rtc.AudioProcessingModule(echo_cancellation=True)

    def cancel(self, played: bytes, heard: bytes) -> bytes:
        """One pair of 10 ms, see ``Module``."""
        self._apm.process_reverse_stream(self._frame(bytearray(played), self._played_rate, 1, self._played_rate // 100))
        frame = self._frame(bytearray(heard), self._rate, 1, self._rate // 100)
        self._apm.process_stream(frame)
        return bytes(frame.data)


def canceller(wanted: EchoCancellation, outlet: Outlet, rate: int, clock: Callable[[], float]) -> EchoCanceller | None:
    """The canceller of a session whose client sends audio at ``rate`` Hz; None where none is needed, or to be had."""
    if wanted == "off" or (wanted == "auto" and outlet.cancels_echo):
        return None
    if not available():
        log.warning("a client does not cancel its own echo; %s", MISSING)
        return None
    return EchoCanceller(rate, Played(outlet.rate), clock)
